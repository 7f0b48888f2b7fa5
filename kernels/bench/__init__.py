"""Microbenchmarks of the operators: numbers only where the results are right. Usable alone.

    unimodal bench --op attention --pattern row          one operator against others
    python -m unimodal.kernels.bench.gpu                 all of them on a GPU (`make bench-gpu`)

`spec` says what is asked and what a contender is; `attention`, `elementwise`, `losses` and
`signals` state the problems; `numerics` checks, `timing` measures, `machine` describes the card and
its roof, `run` puts them together. Nothing here draws or prints.
"""

from unimodal.kernels.bench.run import bench as bench
from unimodal.kernels.bench.spec import Spec as Spec
