"""What an attention benchmark attends over: documents of text and a grid, and a pattern.

Patterns are written as in configs (`row`, `conv(size=11)`, `window(size=64) | prefix(length=4)`)
and become the form that kernels read, so nothing outside `kernels/` is needed. That the forms are
those of `unimodal.patterns` is tested.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from math import isqrt
from typing import Any

import torch
from torch import Tensor

from unimodal.errors import ConfigError
from unimodal.kernels.attention import forms, tokens
from unimodal.kernels.attention.forms import ANY, Form
from unimodal.kernels.bench.spec import Spec

CELL_PATTERNS = ("row", "column", "conv")
"""Patterns of pictures: without `grid`, the largest square that fits follows the text."""


def _prefix(length: int = 1) -> Form:
    return Form.of(forms.BEFORE, length) | Form.of(forms.BOX, 0, ANY, ANY)


def _window(size: int = 128) -> Form:
    return Form.of(forms.BOX, size - 1, ANY, ANY)


def _conv(size: int = 11) -> Form:
    return Form.of(forms.BOX, 0, size // 2, size // 2)


def _nearby(t: int = 1, h: int = 1, w: int = 1) -> Form:
    return Form.of(forms.BOX, t, h, w)


FORMS: Mapping[str, Callable[..., Form | None]] = {
    "causal": lambda: None,
    "full": lambda: None,
    "prefix": _prefix,
    "window": _window,
    "row": lambda: Form.of(forms.ROW),
    "column": lambda: Form.of(forms.COLUMN),
    "conv": _conv,
    "nearby_3d": _nearby,
}


@dataclass(frozen=True)
class BenchPattern:
    """A pattern as `plan_attention` takes it."""

    written: str
    wanted: Form | None

    @property
    def is_dense(self) -> bool:
        """Whether every pair is allowed."""
        return self.wanted is None

    def form(self) -> Form | None:
        """What kernels read."""
        return self.wanted


@dataclass(frozen=True)
class Layout:
    """Coordinates of a batch; `unimodal.types.Coordinates` says what each is."""

    index: Tensor
    document: Tensor
    segment: Tensor
    kind: Tensor
    full: Tensor
    grid: Tensor

    def map(self, change: Callable[[Tensor], Tensor]) -> "Layout":
        """The same with `change` applied to every tensor."""
        return Layout(**{f.name: change(getattr(self, f.name)) for f in fields(self)})


def parse(written: str) -> BenchPattern:
    """A pattern from its written form.

    Raises:
        ConfigError: on an unknown name or argument.
    """
    return BenchPattern(written, _parse(written))


def _parse(written: str) -> Form | None:
    for sign in "|&":
        if sign in written:
            parts = [_parse(part) for part in written.split(sign)]
            held = [part for part in parts if part is not None]
            if sign == "|" and len(held) < len(parts):
                return None
            form = held[0] if held else None
            for part in held[1:]:
                assert form is not None
                form = form | part if sign == "|" else form & part
            return form
    name, _, rest = written.strip().partition("(")
    if name.strip() not in FORMS:
        raise ConfigError(f"`pattern` must be of {', '.join(FORMS)}, but is {written!r}.")
    try:
        items = [item.split("=") for item in rest.strip().removesuffix(")").split(",") if item]
        return FORMS[name.strip()](**{key.strip(): int(value) for key, value in items})
    except (TypeError, ValueError) as error:
        raise ConfigError(f"Pattern `{written}`: {error}.") from None


def layout(spec: Spec) -> Layout:
    """Coordinates of the benchmark's batch: every row holds `documents` of equal length.

    Each document is text, then cells of the grid in raster order, as a segment of its own. `full`
    as the pattern makes the whole document one segment that attends in both directions.

    Raises:
        ConfigError: if a grid does not fit.
    """
    length, rest = divmod(spec.seq, spec.documents)
    if rest:
        raise ConfigError(
            f"`seq` must be a multiple of `documents` ({spec.documents}), but is {spec.seq}."
        )
    t, h, w = grid_of(spec, length)
    cells = t * h * w
    if cells > length:
        raise ConfigError(f"`grid` must fit a document of {length} positions, but has {cells}.")
    axes = torch.meshgrid(*(torch.arange(n) for n in (t, h, w)), indexing="ij")
    text = torch.zeros(length - cells, 3, dtype=torch.int64)
    text[:, 0] = torch.arange(len(text))
    one = torch.cat([text, torch.stack(axes, dim=-1).reshape(-1, 3)])
    of_grid = torch.arange(length) >= len(text)

    def rows(values: Tensor) -> Tensor:
        repeated = values.repeat(spec.documents, *([1] * (values.ndim - 1)))
        return repeated.expand(spec.batch, *repeated.shape).contiguous().to(spec.device)

    is_full = spec.pattern.strip() == "full"
    return Layout(
        index=torch.arange(spec.seq, dtype=torch.int32, device=spec.device)
        .expand(spec.batch, spec.seq)
        .contiguous(),
        document=rows(torch.zeros(length, dtype=torch.int32))
        + torch.arange(spec.documents, device=spec.device, dtype=torch.int32).repeat_interleave(
            length
        ),
        segment=rows(of_grid.int()),
        kind=rows(of_grid.int()),
        full=rows(torch.full((length,), is_full)),
        grid=rows(one.int()),
    )


def grid_of(spec: Spec, length: int) -> tuple[int, int, int]:
    """The cells of each document's last segment."""
    if spec.grid is not None:
        return spec.grid
    name = spec.pattern.strip().partition("(")[0].strip()
    if name in CELL_PATTERNS:
        side = isqrt(length)
        # A power of two, with text before it: 1,280 positions are 256 and 32 x 32.
        side = 1 << (side.bit_length() - 1)
        return 1, side, side
    if name == "nearby_3d":
        side = 1 << max(0, (isqrt(max(1, length // 8)).bit_length() - 1))
        return length // side**2, side, side
    return length, 1, 1


def kinds(spec: Spec) -> list[BenchPattern]:
    """The pattern of each kind: text is causal, the grid has the benchmark's."""
    return [parse("causal"), parse(spec.pattern)]


def visible(q: Layout, k: Layout, by_kind: Sequence[BenchPattern]) -> Tensor:
    """The dense mask bool (..., Tq, Tk), as `plan_attention` asks for it."""
    rule = Rule.of(by_kind)
    q_rows, k_rows = (_table(x, rule.programs) for x in (_batched(q), _batched(k)))
    queries = [row[..., :, None] for row in q_rows]
    keys = [row[..., None, :] for row in k_rows]
    seen = tokens.visible_tokens(queries, keys, rule.parameters, rule.codes)
    return seen if q.index.ndim == 2 else seen[0]


def _batched(x: Layout) -> Layout:
    return x if x.index.ndim == 2 else x.map(lambda tensor: tensor[None])


@dataclass(frozen=True)
class Rule:
    """Programs of all kinds with their tables, for torch."""

    programs: forms.Programs
    parameters: Tensor
    codes: Tensor

    @classmethod
    def of(cls, by_kind: Sequence[BenchPattern]) -> "Rule":
        """The rule of patterns that have forms."""
        programs = forms.number_programs([pattern.form() for pattern in by_kind])
        if programs is None:
            raise ConfigError("`pattern` has more conditions than kernels take.")
        table = torch.tensor([list(c) for c in programs.conditions], dtype=torch.int32)
        return cls(programs, table.reshape(-1, 4), torch.tensor(programs.codes))


def _table(placed: Layout, programs: forms.Programs) -> Tensor:
    # A layout has all that is read of coordinates, whose own module needs more than torch.
    return tokens.token_table(placed, programs)  # type: ignore[arg-type]


def scalar_rule(rule: Rule) -> Callable[[Sequence[Tensor], Sequence[Tensor]], Tensor]:
    """`tokens.visible_tokens` with its integers as constants, for compilers to trace."""
    parameters = _Constants(rule.parameters.tolist())
    codes = _Constants(rule.codes.tolist())

    def sees(q: Sequence[Tensor], k: Sequence[Tensor]) -> Tensor:
        return tokens.visible_tokens(q, k, parameters, codes)  # type: ignore[arg-type]

    return sees


class _Constants:
    """Lists that answer the two calls that are made of the tensors in whose place they stand."""

    def __init__(self, values: list[Any]):
        self.values = values

    def tolist(self) -> list[Any]:
        """All values."""
        return self.values

    def unbind(self, axis: int) -> list[Any]:
        """The rows."""
        assert axis == 0
        return self.values
