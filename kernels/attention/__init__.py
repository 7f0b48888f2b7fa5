"""Attention for every pattern, over packed documents or against a cache. Usable alone."""

from unimodal.kernels.attention.api import attention as attention
from unimodal.kernels.attention.api import attention_with_lse as attention_with_lse
from unimodal.kernels.attention.cached import CachedPlan as CachedPlan
from unimodal.kernels.attention.cached import MaskPlan as MaskPlan
from unimodal.kernels.attention.cached import SlotPlan as SlotPlan
from unimodal.kernels.attention.cached import attend_cached as attend_cached
from unimodal.kernels.attention.cached import plan_cached as plan_cached
from unimodal.kernels.attention.contract import AttentionPlan as AttentionPlan
from unimodal.kernels.attention.contract import PatternLike as PatternLike
from unimodal.kernels.attention.forms import Form as Form
from unimodal.kernels.attention.plan import plan_attention as plan_attention
