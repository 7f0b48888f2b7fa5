"""What a test process needs to trust Triton's interpreter: kernels proven without a GPU.

Set TRITON_INTERPRET=1 before triton is imported: kernels read it when they are decorated, so
interpreted tests run in a process of their own (`make gates`). `triton_patch.patch` mends the
interpreter's arithmetic and must be applied first (`tests/kernels/triton/conftest.py`).
"""

from unimodal.kernels.interpreter.guards import guarded as guarded
from unimodal.kernels.interpreter.guards import guarded_allocations as guarded_allocations
from unimodal.kernels.interpreter.tolerance import assert_as_exact as assert_as_exact
