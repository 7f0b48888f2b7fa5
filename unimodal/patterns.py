"""Patterns: who may attend to whom.

The rule that all patterns share, written once in `visible`:

- documents never see each other;
- across segments of a document, attention is causal;
- inside a `full` segment every pair is a candidate, inside a causal one every earlier position;
- of those candidates, the pattern of the segment's modality keeps the pairs that its predicate
  allows. Control positions (openers, headers, ends) are always kept.

A pattern is one predicate on two cells, and the form in which kernels read it. The reference and
the CPU evaluate the predicate; kernels the form, from which they also compute which keys a block of
queries can reach. Patterns compose with `&` and `|`. They read `grid`, never RoPE positions.
Outside packages register theirs by decorator, or through the entry point group `unimodal.patterns`.

References: Ramesh et al. 2021 (row, column, convolution), Wu et al. 2021 (3D nearby).
Differs: the convolution does not wrap around the edge of the picture.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from unimodal.errors import ConfigError
from unimodal.kernels.attention.forms import ANY, BEFORE, BOX, COLUMN, ROW, Form
from unimodal.registry import Registry
from unimodal.types import Coordinates


@dataclass(frozen=True)
class Cells:
    """Cells of queries or keys, broadcastable against each other."""

    index: Int[Tensor, "..."]
    t: Int[Tensor, "..."]
    h: Int[Tensor, "..."]
    w: Int[Tensor, "..."]


class Pattern(ABC):
    """Restricts attention between positions of one segment."""

    @abstractmethod
    def allows(self, q: Cells, k: Cells) -> Bool[Tensor, "..."]:
        """Whether query cell `q` may attend to key cell `k`; causality is applied elsewhere."""

    def form(self) -> Form | None:
        """The pattern as kernels read it (`unimodal.kernels.attention.forms`), if it has a form.

        Without one, attention on a GPU falls back to the dense reference, and says so in the log.
        """
        return None

    def __and__(self, other: "Pattern") -> "Pattern":
        return _Both(self, other)

    def __or__(self, other: "Pattern") -> "Pattern":
        return _Either(self, other)

    @property
    def is_dense(self) -> bool:
        """Whether the pattern allows every pair, so that an executor may skip it."""
        return False


patterns: Registry[type[Pattern]] = Registry("pattern", group="unimodal.patterns")


@patterns.register("causal")
@dataclass(frozen=True)
class Causal(Pattern):
    """No restriction beyond the segment's own causality."""

    def allows(self, q: Cells, k: Cells) -> Bool[Tensor, "..."]:
        shape = torch.broadcast_shapes(q.t.shape, k.t.shape)
        return torch.ones(shape, dtype=torch.bool, device=q.t.device)

    def form(self) -> Form:
        return Form.of(BOX, ANY, ANY, ANY)

    @property
    def is_dense(self) -> bool:
        return True


@patterns.register("full")
@dataclass(frozen=True)
class Full(Causal):
    """The same as `Causal`, for configs that say it of a segment with `attend="full"`.

    A pattern only removes pairs: it makes no segment bidirectional.
    """


@patterns.register("prefix")
@dataclass(frozen=True)
class Prefix(Pattern):
    """Every position sees the first `length` cells in t; beyond them only its own t.

    Not a prefix language model: that is a given segment with `attend="full"`.

    Args:
        length: Cells in t, at least 1.
    """

    length: int = 1

    def __post_init__(self) -> None:
        _at_least(self, "length", 1)

    def allows(self, q: Cells, k: Cells) -> Bool[Tensor, "..."]:
        return (k.t < self.length) | (k.t == q.t)

    def form(self) -> Form:
        return Form.of(BEFORE, self.length) | Form.of(BOX, 0, ANY, ANY)


@patterns.register("window")
@dataclass(frozen=True)
class Window(Pattern):
    """Less than `size` cells apart in t, whatever h and w.

    Args:
        size: Number of cells, itself included, at least 1.
    """

    size: int = 128

    def __post_init__(self) -> None:
        _at_least(self, "size", 1)

    def allows(self, q: Cells, k: Cells) -> Bool[Tensor, "..."]:
        return (q.t - k.t).abs() < self.size

    def form(self) -> Form:
        return Form.of(BOX, self.size - 1, ANY, ANY)


@patterns.register("row")
@dataclass(frozen=True)
class Row(Pattern):
    """A raster window back to the cell above: at most one row (w + 1 cells with itself)."""

    def allows(self, q: Cells, k: Cells) -> Bool[Tensor, "..."]:
        same = (q.h == k.h) & ((k.w <= q.w) | (k.index > q.index))
        above = (k.h == q.h - 1) & (k.w >= q.w)
        return (q.t == k.t) & (same | above)

    def form(self) -> Form:
        return Form.of(ROW)


@patterns.register("column")
@dataclass(frozen=True)
class Column(Pattern):
    """`Row` on the transposed grid: down the column, and the rest of the one to the left."""

    def allows(self, q: Cells, k: Cells) -> Bool[Tensor, "..."]:
        same = (q.w == k.w) & ((k.h <= q.h) | (k.index > q.index))
        left = (k.w == q.w - 1) & (k.h >= q.h)
        return (q.t == k.t) & (same | left)

    def form(self) -> Form:
        return Form.of(COLUMN)


@patterns.register("conv")
@dataclass(frozen=True)
class Conv(Pattern):
    """A square neighbourhood in (h, w) of the same t.

    Args:
        size: Width of the neighbourhood in cells, odd, at least 1.
    """

    size: int = 11

    def __post_init__(self) -> None:
        _at_least(self, "size", 1)
        if self.size % 2 == 0:
            raise ConfigError(f"`Conv.size` must be odd, but is {self.size}.")

    def allows(self, q: Cells, k: Cells) -> Bool[Tensor, "..."]:
        reach = self.size // 2
        return (q.t == k.t) & ((q.h - k.h).abs() <= reach) & ((q.w - k.w).abs() <= reach)

    def form(self) -> Form:
        return Form.of(BOX, 0, self.size // 2, self.size // 2)


@patterns.register("nearby_3d")
@dataclass(frozen=True)
class Nearby3D(Pattern):
    """A box round the query in (t, h, w).

    Args:
        t, h, w: How far the box reaches in each direction, in cells, at least 0.
    """

    t: int = 1
    h: int = 1
    w: int = 1

    def __post_init__(self) -> None:
        for name in ("t", "h", "w"):
            _at_least(self, name, 0)

    def allows(self, q: Cells, k: Cells) -> Bool[Tensor, "..."]:
        return (
            ((q.t - k.t).abs() <= self.t)
            & ((q.h - k.h).abs() <= self.h)
            & ((q.w - k.w).abs() <= self.w)
        )

    def form(self) -> Form:
        return Form.of(BOX, self.t, self.h, self.w)


@dataclass(frozen=True)
class _Both(Pattern):
    left: Pattern
    right: Pattern

    def allows(self, q: Cells, k: Cells) -> Bool[Tensor, "..."]:
        return self.left.allows(q, k) & self.right.allows(q, k)

    def form(self) -> Form | None:
        left, right = self.left.form(), self.right.form()
        return None if left is None or right is None else left & right

    @property
    def is_dense(self) -> bool:
        return self.left.is_dense and self.right.is_dense


@dataclass(frozen=True)
class _Either(Pattern):
    left: Pattern
    right: Pattern

    def allows(self, q: Cells, k: Cells) -> Bool[Tensor, "..."]:
        return self.left.allows(q, k) | self.right.allows(q, k)

    def form(self) -> Form | None:
        left, right = self.left.form(), self.right.form()
        return None if left is None or right is None else left | right

    @property
    def is_dense(self) -> bool:
        return self.left.is_dense or self.right.is_dense


def parse_pattern(text: str) -> Pattern:
    """A pattern from its written form, as configs hold it.

    The grammar is `name`, or `name(key=int, ...)`, joined by `&` (binds tighter) and `|`:
    `row`, `conv(size=11)`, `window(size=64) | prefix(length=4)`.

    Raises:
        ConfigError: on an unknown name or argument.
    """
    if "|" in text:
        return _fold([parse_pattern(part) for part in text.split("|")], _Either)
    if "&" in text:
        return _fold([parse_pattern(part) for part in text.split("&")], _Both)
    name, opened, rest = text.strip().partition("(")
    kind = patterns.get(name.strip())
    if rest.count(")") != len(opened) or not rest.endswith(")" * len(opened)):
        raise ConfigError(f"Pattern `{text}` must close the parenthesis that it opens, at its end.")
    arguments: dict[str, int] = {}
    for item in filter(None, (part.strip() for part in rest.removesuffix(")").split(","))):
        key, _, number = item.partition("=")
        try:
            arguments[key.strip()] = int(number)
        except ValueError:
            raise ConfigError(f"Pattern `{text}`: `{item}` must read key=integer.") from None
    try:
        return kind(**arguments)
    except TypeError as error:
        raise ConfigError(f"Pattern `{text}`: {error}.") from None


def visible(
    q: Coordinates, k: Coordinates, by_kind: Sequence[Pattern]
) -> Bool[Tensor, "*batch Tq Tk"]:
    """The dense mask: which queries see which keys. This function defines what is right.

    Args:
        q: Coordinates of the queries, (..., Tq).
        k: Coordinates of the keys, (..., Tk); the same tensors as `q` in training.
        by_kind: The pattern of each kind (modality) in this layer.
    """
    q_index, k_index = q.index[..., :, None], k.index[..., None, :]
    same_document = (q.document[..., :, None] == k.document[..., None, :]) & (
        q.document[..., :, None] >= 0
    )
    earlier = k_index <= q_index
    same_segment = q.segment[..., :, None] == k.segment[..., None, :]
    inside = earlier | q.full[..., :, None]
    restricted = [n for n, pattern in enumerate(by_kind) if not pattern.is_dense]
    if restricted:
        q_cells = _cells(q, -1)
        k_cells = _cells(k, -2)
        content = (q.grid[..., :, None, 0] >= 0) & (k.grid[..., None, :, 0] >= 0)
        for number in restricted:
            of_kind = (q.kind == number)[..., :, None] & content
            inside = inside & (~of_kind | by_kind[number].allows(q_cells, k_cells))
    return same_document & torch.where(same_segment, inside, earlier)


def _cells(c: Coordinates, axis: int) -> Cells:
    return Cells(
        index=c.index.unsqueeze(axis),
        t=c.grid[..., 0].unsqueeze(axis),
        h=c.grid[..., 1].unsqueeze(axis),
        w=c.grid[..., 2].unsqueeze(axis),
    )


def _fold(parts: list[Pattern], join: Callable[[Pattern, Pattern], Pattern]) -> Pattern:
    result = parts[0]
    for part in parts[1:]:
        result = join(result, part)
    return result


def _at_least(pattern: Pattern, name: str, least: int) -> None:
    value = getattr(pattern, name)
    if value < least:
        raise ConfigError(
            f"`{type(pattern).__name__}.{name}` must be at least {least}, but is {value}."
        )
