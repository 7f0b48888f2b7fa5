"""Which implementation of an operator runs: one rule, and one place that can explain it."""

from unimodal.kernels.dispatch.choice import IMPLS as IMPLS
from unimodal.kernels.dispatch.choice import Explanation as Explanation
from unimodal.kernels.dispatch.choice import choose as choose
from unimodal.kernels.dispatch.choice import explain as explain
from unimodal.kernels.dispatch.choice import is_interpreted as is_interpreted
from unimodal.kernels.dispatch.choice import on_own_device as on_own_device
from unimodal.kernels.dispatch.choice import register as register
from unimodal.kernels.dispatch.choice import using as using
from unimodal.kernels.dispatch.gate import GateCase as GateCase
from unimodal.kernels.dispatch.gate import launch as launch
