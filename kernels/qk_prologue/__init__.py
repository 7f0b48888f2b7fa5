"""Per-head RMS norm and rotary position embedding of queries and keys, in one operation."""

from unimodal.kernels.qk_prologue.api import qk_prologue as qk_prologue
from unimodal.kernels.qk_prologue.api import rope_tables as rope_tables
