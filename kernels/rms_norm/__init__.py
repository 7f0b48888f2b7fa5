"""RMS norm, alone or fused with the residual addition before it."""

from unimodal.kernels.rms_norm.api import add_rms_norm as add_rms_norm
from unimodal.kernels.rms_norm.api import rms_norm as rms_norm
