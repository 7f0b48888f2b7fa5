"""What a benchmark is asked, and the parts that every operator's problem has."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from unimodal.errors import ConfigError

DTYPES = {
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
}
DIRECTIONS = ("forward", "backward", "both")
OURS = "unimodal"
PLAIN = {"attention": "sdpa", "decode": "sdpa", "nearest_code": "cdist"}
"""The contender that is torch's plain way; `eager` for operators that are not listed."""


@dataclass(frozen=True, kw_only=True)
class Spec:
    """One benchmark. Operators without heads take `batch * seq` rows of `heads * head_dim`.

    Attributes:
        op: Name of the operator.
        pattern: Attention, decode and prologue: the written form, such as `row` or `conv(size=11)`;
            the prologue brings tokens into the order that it works in.
        batch, seq: Rows, and positions of each.
        heads, kv_heads, head_dim: Query heads, key heads, size of a head.
        classes: Rows of the head or codebook (cross-entropy, nearest code).
        queries: Decode only: new positions of each row, the last of its `seq`.
        page: Decode only: slots of a page of the cache; 0 for a cache of one piece.
        documents: Attention and decode: documents packed in each row.
        grid: Attention and decode: cells (t, h, w) of each document's last segment, after text.
        dtype: Name of the inputs' dtype.
        device: `cpu` or `cuda`.
        layers: Layers that share one plan or mask: its build is counted by this share.
        against: Names of contenders; empty means all that are known.
        seconds: Time to spend on measuring each contender and direction.
        clock: `wall` or `cpu`; see `timing.CLOCKS`.
    """

    op: str
    pattern: str = "causal"
    batch: int = 1
    seq: int = 1280
    heads: int = 8
    kv_heads: int = 8
    head_dim: int = 64
    classes: int = 8192
    queries: int = 1
    page: int = 0
    documents: int = 1
    grid: tuple[int, int, int] | None = None
    dtype: str = "float32"
    device: str = "cpu"
    layers: int = 12
    against: tuple[str, ...] = ()
    seconds: float = 2.0
    clock: str = "wall"

    def __post_init__(self) -> None:
        for name in "batch seq heads kv_heads head_dim classes queries documents layers".split():
            if getattr(self, name) < 1:
                raise ConfigError(f"`{name}` must be at least 1, but is {getattr(self, name)}.")
        if self.heads % self.kv_heads:
            raise ConfigError(
                f"`heads` must be a multiple of `kv_heads` ({self.kv_heads}), but is {self.heads}."
            )
        if self.dtype not in DTYPES:
            raise ConfigError(f"`dtype` must be one of {', '.join(DTYPES)}, but is {self.dtype}.")

    @property
    def torch_dtype(self) -> torch.dtype:
        """The dtype itself."""
        return DTYPES[self.dtype]

    @property
    def rows(self) -> int:
        """Rows of an operator without heads."""
        return self.batch * self.seq

    @property
    def width(self) -> int:
        """Width of an operator without heads."""
        return self.heads * self.head_dim


@dataclass(frozen=True)
class Contender:
    """One way to compute the same thing.

    Attributes:
        forward: Computes the outputs from the problem's inputs, in its dtype.
        prepare: Builds what all layers of a batch share (plan, mask) and keeps it for `forward`.
        has_backward: Whether gradients can be had.
        inputs: Its own inputs, if it needs another precision than the problem's.
        note: What a reader must know of it.
    """

    forward: Callable[[], Sequence[Tensor]]
    prepare: Callable[[], object] | None = None
    has_backward: bool = True
    inputs: Sequence[Tensor] | None = None
    note: str = ""


@dataclass(frozen=True)
class Missing:
    """Why a contender cannot take part here, as a clause."""

    reason: str


Maker = Callable[[], Contender | Missing]


@dataclass(frozen=True, kw_only=True)
class Problem:
    """The inputs of one benchmark, what is right, and who competes.

    Attributes:
        inputs: Leaves; those that require gradients get them.
        grads: Upstream gradient of each output; empty for operators without gradients.
        exact: The reference, from inputs widened to float64 (or float32 where told so).
        plain: The reference in the precision of the inputs: its error sets the tolerance.
        makers: Contenders by name, ours first.
        flops: Operations of the forward pass.
        num_bytes: Bytes that the forward pass must read and write at least.
        backward_flops, backward_bytes: The same for the backward pass, as a multiple of forward.
        judge: Turns outputs into what is compared, where several outputs are right (near ties).
        largest_term: Largest number that is summed into an output, where outputs are smaller.
        directions: What is timed; a loss that makes its gradients in the forward pass has no
            backward pass of its own.
        facts: What else the result states (pairs that are visible, say).
    """

    inputs: Sequence[Tensor]
    grads: Sequence[Tensor]
    exact: Callable[[Sequence[Tensor]], Sequence[Tensor]]
    makers: Mapping[str, Maker]
    flops: float
    num_bytes: float
    backward_flops: float = 2.5
    backward_bytes: float = 2.0
    plain: Callable[[Sequence[Tensor]], Sequence[Tensor]] | None = None
    judge: Callable[[Sequence[Tensor]], Sequence[Tensor]] | None = None
    largest_term: float = 0.0
    directions: Sequence[str] = DIRECTIONS
    facts: Mapping[str, object] = field(default_factory=dict)


def random(
    shape: Sequence[int], spec: Spec, seed: int, scale: float = 1.0, grad: bool = True
) -> Tensor:
    """Normal numbers, the same on every machine, in the benchmark's dtype."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(*shape, generator=generator) * scale
    return values.to(spec.device, spec.torch_dtype).requires_grad_(grad)


def choose(makers: Mapping[str, Maker], against: Sequence[str]) -> dict[str, Maker]:
    """Ours and those that were asked for.

    Raises:
        ConfigError: if a name is not known.
    """
    unknown = [name for name in against if name not in makers]
    if unknown:
        raise ConfigError(
            f"`against` must be of {', '.join(n for n in makers if n != OURS)}, "
            f"but has {', '.join(unknown)}."
        )
    return {name: m for name, m in makers.items() if name == OURS or not against or name in against}
