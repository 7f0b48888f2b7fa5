"""What one batch's attention visits, worked out once and used by every layer of the same patterns.

Rows hold packed documents. The plan gathers the documents out of the rows into buckets of similar
length, so that no work is done across documents and little on padding. A bucket whose documents
are plainly causal needs no mask; the others carry one. Where a pattern leaves most pairs out, a
bucket is cut (see `cuts`): keys that all of some queries see, as a picture sees its text, become
one call without a mask, and the rest is visited in blocks of queries. What a query gets from
several calls is put together by their log-sums.

What it costs: 4 ms (one thread) for 16,384 tokens of plainly causal documents. A masked bucket
evaluates its mask whole: some 40 ms (two threads) for documents of one layout of 256 + 32 x 32
positions, as much as half of one layer's attention, for all layers (docs/benchmarks.md).

Not here: the arithmetic of attention (`reference`, `cpu`). Tested by rebuilding the dense mask from
the plan and comparing it with the function that made it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from unimodal.errors import ShapeError
from unimodal.kernels.attention.contract import AttentionPlan, MaskFunction, PatternLike
from unimodal.kernels.attention.cuts import Cut, cut
from unimodal.kernels.attention.forms import MAX_CONDITIONS, Programs, number_programs
from unimodal.kernels.attention.tokens import plan_tokens
from unimodal.kernels.dispatch import choose

if TYPE_CHECKING:
    from unimodal.types import Coordinates

CAUSAL, FULL, MASKED = 0, 1, 2
"""Modes of a task: lower triangle, every pair, or a mask of its own."""

TASK_FIELDS = 14
"""Integers of one row of `GatheredPlan.tasks`; see `Task`."""

MIN_FILL = 0.85
"""The shortest document of a bucket has at least this share of the longest one's length."""

MAX_MASK = 1 << 26
"""Pairs of one masked bucket at most (64 MiB of mask); longer documents go one by one."""


@dataclass(frozen=True)
class Task:
    """One call of the inner attention: some queries of a bucket against some of its keys.

    The queries are those from `q_start` to `q_stop` of each document, in `groups` equal groups of
    which each has keys of its own.

    Attributes:
        start: First slot of the bucket in `GatheredPlan.gather`.
        count: Documents of the bucket.
        length: Slots of each document.
        mode: `CAUSAL`, `FULL` or `MASKED`.
        padded: 1 if some slots of the bucket produce nothing (padding, or queries without keys).
        q_start, q_stop: The queries within each document.
        groups: Groups of queries.
        merged: 1 if an earlier task of the bucket has these queries, too.
        key_start: First key of the first group, where the keys of a group follow one another, those
            of each other group as far behind as its queries; else -1.
        keys: Keys of each group.
        column_start: The keys of all groups within `GatheredPlan.columns`, if `key_start` is -1.
        mask_start: First element in `GatheredPlan.mask`; the mask is [count, groups, queries of a
            group, keys].
        in_place: 1 if the slots are all positions of the batch, in order, and none is silent: then
            nothing has to be gathered.
    """

    start: int
    count: int
    length: int
    mode: int
    padded: int
    q_start: int
    q_stop: int
    groups: int
    merged: int
    key_start: int
    keys: int
    column_start: int
    mask_start: int
    in_place: int = 0

    @property
    def mask_shape(self) -> tuple[int, int, int]:
        """Shape of the task's mask: groups of all documents, queries of a group, keys."""
        return self.count * self.groups, (self.q_stop - self.q_start) // self.groups, self.keys

    def group_keys(self, columns: Tensor) -> Tensor:
        """The keys of each group within a document, int64 (groups, keys)."""
        if self.key_start < 0:
            stop = self.column_start + self.groups * self.keys
            return columns[self.column_start : stop].view(self.groups, self.keys)
        first = torch.arange(self.groups)[:, None] * self.mask_shape[1] + self.key_start
        return (first + torch.arange(self.keys)).to(columns.device)


@dataclass(frozen=True)
class GatheredPlan(AttentionPlan):
    """The plan of a batch of B x T positions. Seven tensors, so that it passes through an operator.

    Attributes:
        gather: Flat position (row * T + column) of each slot. int64 [slots].
        silent: Slots whose result is not used (padding, or queries that see no key). bool [slots].
        place: Slot of each position's key and value, `slots` where it has none. int64 [B * T].
        place_out: The same for queries: `slots` also where the query sees no key. int64 [B * T].
        mask: The masks of all tasks, one after another, flat. bool.
        columns: The keys of tasks where they do not follow one another. int64.
        tasks: Fields of every `Task`, on the CPU. int64 [tasks, `TASK_FIELDS`].
        shape: (B, T).
    """

    gather: Tensor
    silent: Tensor
    place: Tensor
    place_out: Tensor
    mask: Tensor
    columns: Tensor
    tasks: Tensor
    shape: tuple[int, int]

    def tensors(self) -> list[Tensor]:
        """The tensors in the order of the attributes, as operators take them."""
        return [
            self.gather,
            self.silent,
            self.place,
            self.place_out,
            self.mask,
            self.columns,
            self.tasks,
        ]

    def to(self, device: torch.device | str) -> "GatheredPlan":
        """The same plan with its tensors on `device`; the table of tasks stays on the CPU."""
        names = ("gather", "silent", "place", "place_out", "mask", "columns")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})

    @property
    def pairs(self) -> int:
        """Query-key pairs that are visited: the cost of the plan."""
        total = 0
        for task in read_tasks(self.tasks):
            count, queries, keys = task.mask_shape
            total += count * queries * keys
        return total


def read_tasks(tasks: Tensor) -> list[Task]:
    """The rows of a table of tasks."""
    return [Task(*row) for row in tasks.tolist()]


def plan_attention(
    coordinates: "Coordinates", by_kind: Sequence[PatternLike], visible: MaskFunction
) -> AttentionPlan:
    """Plan the attention of a batch for one layer's patterns.

    Args:
        coordinates: Of every position, each tensor [B, T] (grid [B, T, 3]). Documents do not span
            rows; positions of document -1 are padding.
        by_kind: The pattern of each kind. Kinds whose pattern is dense need no mask.
        visible: The function that defines who sees whom, called on the gathered documents only.

    Returns:
        A plan on the device of `coordinates`, for the implementation that `dispatch` chooses.

    Raises:
        ShapeError: if `coordinates` is not [B, T].
        BackendUnavailableError: if Triton was asked for by name and cannot run these patterns.
    """
    if coordinates.document.ndim != 2:
        raise ShapeError(
            "`coordinates` must be those of a batch, shape (B, T), but `document` has shape "
            f"{tuple(coordinates.document.shape)}."
        )
    device = coordinates.document.device
    programs, fault = programs_of(by_kind)
    if choose("attention", coordinates.document, unsupported=fault) == "triton":
        assert programs is not None
        return plan_tokens(coordinates, programs)
    shape = (coordinates.document.shape[0], coordinates.document.shape[1])
    flat = coordinates.map(lambda tensor: tensor.detach().cpu().flatten(0, 1))
    builder = _Builder(flat, shape, by_kind, visible)
    return builder.build().to(device)


def programs_of(by_kind: Sequence[PatternLike]) -> tuple[Programs | None, str | None]:
    """What kernels read of the patterns, or why they cannot."""
    forms = [None if pattern.is_dense else pattern.form() for pattern in by_kind]
    for pattern, form in zip(by_kind, forms, strict=True):
        if form is None and not pattern.is_dense:
            return None, f"the pattern {pattern} has no form for kernels"
    programs = number_programs(forms)
    if programs is None:
        return None, f"the patterns have more than {MAX_CONDITIONS} conditions"
    return programs, None


class _Builder:
    def __init__(
        self,
        flat: "Coordinates",
        shape: tuple[int, int],
        by_kind: Sequence[PatternLike],
        visible: MaskFunction,
    ):
        self.flat, self.shape, self.by_kind, self.visible = flat, shape, by_kind, visible
        self.gather: list[Tensor] = []
        self.silent: list[Tensor] = []
        self.masks: list[Tensor] = []
        self.columns: list[Tensor] = []
        self.tasks: list[Task] = []
        self.slots = self.mask_size = self.column_size = 0

    def build(self) -> GatheredPlan:
        order, starts, lengths = self._documents()
        masked = self._needs_mask(order, starts)
        order = self._by_column(order)
        for wants_mask in (False, True):
            of_kind = np.flatnonzero(masked == wants_mask)
            of_kind = of_kind[np.argsort(-lengths[of_kind], kind="stable")]
            for bucket in _buckets(lengths[of_kind], MAX_MASK if wants_mask else None):
                chosen = of_kind[bucket]
                self._add(order, starts[chosen], lengths[chosen], wants_mask)
        return self._finish()

    def _documents(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Positions ordered by document, where each document starts in them, and its length."""
        document = self.flat.document.numpy().astype(np.int64)
        rows = np.arange(document.size) // self.shape[1]
        held = np.flatnonzero(document >= 0)
        key = rows[held] * (document.max(initial=0) + 1) + document[held]
        order = held[np.argsort(key, kind="stable")]
        key = np.sort(key, kind="stable")
        starts = np.flatnonzero(np.diff(key, prepend=-1))
        return order, starts, np.diff(starts, append=key.size)

    def _needs_mask(self, order: np.ndarray, starts: np.ndarray) -> np.ndarray:
        """Which documents are not plainly causal."""
        if not starts.size:
            return np.zeros(0, dtype=bool)
        special = self.flat.full.numpy()[order]
        restricted = [n for n, pattern in enumerate(self.by_kind) if not pattern.is_dense]
        if restricted:
            kinds = self.flat.kind.numpy()[order]
            special = special | (
                np.isin(kinds, restricted) & (self.flat.grid[:, 0].numpy()[order] >= 0)
            )
        falls = np.diff(self.flat.index.numpy()[order].astype(np.int64), prepend=0) <= 0
        falls[starts] = False
        return np.logical_or.reduceat(special | falls, starts)

    def _by_column(self, order: np.ndarray) -> np.ndarray:
        """The cells of column-major patterns column by column, each document in its place."""
        forms = [None if pattern.is_dense else pattern.form() for pattern in self.by_kind]
        wanted = [n for n, form in enumerate(forms) if form is not None and form.column_major]
        if not wanted or not order.size:
            return order
        t, h, w = (self.flat.grid[:, axis].numpy()[order] for axis in range(3))
        cells = np.isin(self.flat.kind.numpy()[order], wanted) & (t >= 0)
        document, segment = (x.numpy()[order] for x in (self.flat.document, self.flat.segment))
        run = np.stack([order // self.shape[1], document, segment, cells])
        number = np.cumsum(np.any(np.diff(run, prepend=run[:, :1]), axis=0))
        keys = [np.where(cells, axis, 0) for axis in (h, w, t)]
        moved: np.ndarray = order[np.lexsort((*keys, number))]
        return moved

    def _add(
        self, order: np.ndarray, starts: np.ndarray, lengths: np.ndarray, wants_mask: bool
    ) -> None:
        length = int(lengths.max())
        within = np.arange(length)[None, :]
        positions = torch.from_numpy(
            order[starts[:, None] + np.minimum(within, lengths[:, None] - 1)]
        )
        silent = torch.from_numpy(within >= lengths[:, None])
        mode, mask = CAUSAL, None
        if wants_mask:
            # Documents of one layout share what is worked out for the first of them.
            distinct = slice(1 if self._alike(positions, silent) else len(starts))
            mask, silent = self._mask(positions[distinct], silent[distinct])
            mode = MASKED
            if mask.all():
                mode, mask = FULL, None
        cuts = None if mask is None else cut(mask, silent)
        silent = silent.expand(len(starts), -1)
        for one in cuts or [Cut(0, length, keys=slice(0, length), mask=mask)]:
            contiguous = isinstance(one.keys, slice)
            self.tasks.append(
                Task(
                    start=self.slots,
                    count=len(starts),
                    length=length,
                    mode=mode if cuts is None else _mode(one),
                    padded=int(silent.any()),
                    q_start=one.q_start,
                    q_stop=one.q_stop,
                    groups=one.groups,
                    merged=int(one.merged),
                    key_start=one.keys.start if isinstance(one.keys, slice) else -1,
                    keys=one.num_keys,
                    column_start=-1 if contiguous else self.column_size,
                    mask_start=self.mask_size,
                )
            )
            if not isinstance(one.keys, slice):
                self.columns.append(one.keys.flatten())
                self.column_size += one.keys.numel()
            if one.mask is not None:
                self.masks.append(one.mask.expand(len(starts), *one.mask.shape[1:]).flatten())
                self.mask_size += self.masks[-1].numel()
        self.gather.append(positions.flatten())
        self.silent.append(silent.flatten())
        self.slots += positions.numel()

    def _alike(self, positions: Tensor, padding: Tensor) -> bool:
        """Whether all documents of a bucket are laid out as the first."""
        c = self.flat.map(lambda tensor: tensor[positions])
        ordinal = (x - x[:, :1] for x in (c.index, c.document, c.segment))
        return all(bool((x == x[:1]).all()) for x in (*ordinal, c.kind, c.full, c.grid, padding))

    def _mask(self, positions: Tensor, padding: Tensor) -> tuple[Tensor, Tensor]:
        """A bucket's mask and silent slots. Silent queries see one key, to stay finite."""
        gathered = self.flat.map(lambda tensor: tensor[positions])
        mask = self.visible(gathered, gathered, self.by_kind) & ~padding[:, None, :]
        silent = padding | ~mask.any(dim=-1)
        mask[..., 0] |= silent
        mask[..., 1:] &= ~silent[:, :, None]
        return mask, silent

    def _finish(self) -> GatheredPlan:
        def join(parts: list[Tensor], dtype: torch.dtype) -> Tensor:
            return torch.cat(parts) if parts else torch.zeros(0, dtype=dtype)

        gather = join(self.gather, torch.int64)
        silent = join(self.silent, torch.bool)
        size = self.shape[0] * self.shape[1]
        place = torch.full((size,), self.slots)
        # Padding slots repeat their document's last position: written first, so that the slot
        # that holds the position itself wins.
        slots = torch.arange(self.slots)
        first = torch.ones(self.slots, dtype=torch.bool)
        if self.slots:
            first[1:] = gather[1:] != gather[:-1]
        place[gather[first]] = slots[first]
        place_out = place.clone()
        quiet = first & silent
        place_out[gather[quiet]] = self.slots
        in_place = bool(
            all(task.start == 0 for task in self.tasks)
            and not silent.any()
            and torch.equal(gather, torch.arange(size))
        )
        rows = [list(vars(replace(t, in_place=int(in_place))).values()) for t in self.tasks]
        return GatheredPlan(
            gather=gather,
            silent=silent,
            place=place,
            place_out=place_out,
            mask=join(self.masks, torch.bool),
            columns=join(self.columns, torch.int64),
            tasks=torch.tensor(rows, dtype=torch.int64).reshape(-1, TASK_FIELDS),
            shape=self.shape,
        )


def _mode(one: Cut) -> int:
    if one.mask is not None:
        return MASKED
    return CAUSAL if one.causal else FULL


def _buckets(lengths: np.ndarray, max_pairs: int | None) -> list[slice]:
    """Cut documents sorted by falling length where the next one would leave too much padding."""
    cuts: list[slice] = []
    start = 0
    for stop in range(1, len(lengths) + 1):
        longest = int(lengths[start])
        ends = stop == len(lengths) or lengths[stop] < MIN_FILL * longest
        too_many = max_pairs is not None and (stop - start + 1) * longest**2 > max_pairs
        if ends or too_many:
            cuts.append(slice(start, stop))
            start = stop
    return cuts
