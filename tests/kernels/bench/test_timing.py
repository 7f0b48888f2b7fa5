"""What a benchmark does to the allocator."""

import os
import resource
import subprocess
import sys

import pytest

COUNT = """
import ctypes, resource, sys
import numpy as np
from unimodal.kernels.bench.timing import keep_freed_memory
if sys.argv[1] == "kept" and not keep_freed_memory():
    sys.exit(3)
def use():
    return [np.ones(3 << 17) for _ in range(8)]
for _ in range(4):
    use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    tuned = ("MALLOC_", "GLIBC_TUNABLES")
    plain = {name: value for name, value in os.environ.items() if not name.startswith(tuned)}
    done = subprocess.run([sys.executable, "-c", COUNT, how], capture_output=True, env=plain)
    if done.returncode == 3:
        pytest.skip("The allocator of this system has no such option.")
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_kept_memory_is_used_again_without_page_faults() -> None:
    pages = 4 * 8 * (3 << 20) // resource.getpagesize()
    left = faults("left")
    if left < 0.5 * pages:
        pytest.skip("The system keeps memory by itself, or gives it in large pages.")
    assert faults("kept") < 0.05 * pages
