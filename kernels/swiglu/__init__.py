"""The gated activation of the feed-forward layer."""

from unimodal.kernels.swiglu.api import swiglu as swiglu
