"""Requests that are answered together, step by step.

A step feeds the last tokens of all branches, groups the rows by the head set of their next id, and
draws. Runs of steps in which every row stays inside a segment and may draw its whole head set are
planned ahead (positions, rotations) and need no work a row. Forced ids are fed together with
the drawn one before them. Prompts that several branches share are computed once, and their cache is
copied. Finished rows leave the batch.

Not here: the arithmetic of a step (`step`), what may follow (`rows`), random numbers (`sampling`).
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from unimodal.errors import DataError, UnimodalError
from unimodal.generation.branches import Placed
from unimodal.generation.guidance import Guides
from unimodal.generation.requests import Request
from unimodal.generation.rows import Row
from unimodal.generation.sampling import Sampler
from unimodal.generation.step import Stepper
from unimodal.stream import EncodedDocument
from unimodal.types import CONTROL_CELL

PLANNED_TOKENS = 256
"""Tokens of a planned run, over all branches."""
ROOM = 64
"""Slots made ready beyond the longest prompt; a cache grows when it must."""
EMPTY = (-1, -1, -1, -1, 0, CONTROL_CELL, CONTROL_CELL, CONTROL_CELL)
"""Coordinates of a slot that a row leaves empty."""


@dataclass(frozen=True)
class _Drawn:
    """One id a row, with its log-probability before and after guidance."""

    ids: list[int]
    logprobs: list[float]
    guided: list[float]


class RunningBatch:
    """Rows that are answered together.

    Args:
        stepper: The model.
        guided_numbers: Head sets that guidance changes.
        rows: Requests that can be answered.
        on_step: Called after every step or planned run.
    """

    def __init__(
        self,
        stepper: Stepper,
        guided_numbers: frozenset[int],
        rows: Sequence[Row],
        on_step: Callable[[], None] | None = None,
    ):
        self.stepper, self.guided_numbers = stepper, guided_numbers
        self.device = stepper.decoder.device
        self.on_step = on_step
        self._end = stepper.decoder.vocabulary.control("end")
        placed = [_pushed(row, None) for row in rows]
        # A row may be done already: everything that it wants is forced.
        chosen = [n for n, row in enumerate(rows) if not row.done]
        self.rows = [rows[n] for n in chosen]
        if self.rows:
            self._settle()
            self._prefill([placed[n] for n in chosen])

    def run(self) -> None:
        """Until every row is done."""
        while self.rows:
            drawn = self._steady()
            if drawn is None:
                drawn = self._draw_legal()
            self._accept(drawn)
            if self.on_step is not None:
                self.on_step()

    def _settle(self) -> None:
        """What depends on which rows are running."""
        settings = [row.request.sampling for row in self.rows]
        self.sampler = Sampler(settings, self.device)
        self.guides = Guides([s.guidance if s.is_guided else None for s in settings], self.device)
        self.branches = [(n, 0) for n in range(len(self.rows))]
        self.branches += [(n, 1) for n in self.guides.rows]

    def _prefill(self, placed: Sequence[list[list[Placed]]]) -> None:
        """Compute each distinct prompt once, then give every branch its copy."""
        documents: list[EncodedDocument] = []
        place_of: dict[tuple[int, ...], int] = {}
        places = []
        for n, b in self.branches:
            branch, forced = self.rows[n].branches[b], placed[n][b]
            key = (id(branch.prompt), *(token.id for token in forced))
            if key not in place_of:
                place_of[key] = len(documents)
                documents.append(branch.extended(forced))
            places.append(place_of[key])
        self.cache, self.hidden = self.stepper.prefill(documents, ROOM)
        if len(documents) < len(places):
            where = torch.tensor(places, device=self.device)
            self.cache.keep(where)
            self.hidden = self.hidden[where]

    # Runs in which nothing special happens

    def _steady(self) -> _Drawn | None:
        """Draw and feed codes while every row goes on as planned.

        Returns:
            The ids, drawn but not fed, with which some row ended or failed; None if none did.
        """
        ahead = [row.codes_ahead() for row in self.rows]
        limit = max(1, PLANNED_TOKENS // len(self.branches))
        count = min(limit, *(number for _, number in ahead))
        if count < 1:
            return None
        plans = [row.plan(count) for row in self.rows]
        position = np.stack([plans[n][b][0] for n, b in self.branches], axis=1)
        packed = torch.from_numpy(np.stack([plans[n][b][1] for n, b in self.branches], axis=1))
        packed = packed.to(self.device)
        turns = self.stepper.tables(torch.from_numpy(position).to(self.device))
        uniform = self._uniform(count)
        steps: list[_Drawn] = []
        left: _Drawn | None = None
        for i in range(count):
            numbers = [heads[i % len(heads)] for heads, _ in ahead]
            ids, scores, guided = self._draw(numbers, None if uniform is None else uniform[i])
            drawn = _listed(ids, scores, guided)
            if self._end in drawn.ids or not math.isfinite(sum(drawn.logprobs + drawn.guided)):
                left = drawn
                self._give_back(count - i - 1)
                break
            steps.append(drawn)
            self.hidden = self.stepper.step(
                self.guides.spread(ids)[:, None], turns[i][:, None], packed[i][:, None], self.cache
            )
        for n, row in enumerate(self.rows):
            row.commit(
                [step.ids[n] for step in steps],
                [step.logprobs[n] for step in steps],
                [step.guided[n] for step in steps],
                [position for position, _ in plans[n]],
            )
        return left

    def _uniform(self, count: int) -> Tensor | None:
        if self.sampler.greedy:
            return None
        self._taken = [row.uniforms.take(count) for row in self.rows]
        return torch.tensor(self._taken, dtype=torch.float64, device=self.device).t().contiguous()

    def _give_back(self, count: int) -> None:
        """Return random numbers that were taken for steps that did not happen."""
        if count and not self.sampler.greedy:
            for row, taken in zip(self.rows, self._taken, strict=True):
                row.uniforms.give_back(taken[-count:])

    def _draw(self, numbers: list[int], uniform: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """One id a row from its whole head set, with its scores before and after guidance."""
        first = numbers[0]
        if any(number != first for number in numbers):
            return self._draw_mixed(numbers, uniform, [None] * len(numbers))
        allowed = self.stepper.head(first).allowed
        legal = None if allowed is None else allowed[None]
        return self._draw_group(first, self.hidden, self.guides, self.sampler, uniform, legal)

    def _draw_group(
        self,
        number: int,
        hidden: Tensor,
        guides: Guides,
        sampler: Sampler,
        uniform: Tensor | None,
        legal: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """`_draw` for rows of one head set; hidden states of all their branches."""
        head = self.stepper.head(number)
        if not guides.rows or number not in self.guided_numbers:
            logits = self.stepper.logits(hidden[: guides.num_rows], number)
            columns, scores = sampler.draw(logits, uniform, legal)
            return head.ids[columns], scores, scores
        logits = self.stepper.logits(hidden, number)
        columns, guided = sampler.draw(guides.apply(logits, head), uniform, legal)
        own = torch.log_softmax(logits[: guides.num_rows], dim=-1)
        scores = own.gather(1, columns[:, None])[:, 0]
        return head.ids[columns], scores, guided

    # One step in which something may be illegal

    def _draw_legal(self) -> _Drawn:
        numbers, masks = [], []
        alive = []
        for row in self.rows:
            number = row.head_number()
            mask = None
            with _alone(row):
                mask = row.legal(self.stepper.decoder.head_set(number))
            alive.append(row.error is None)
            numbers.append(number)
            masks.append(mask)
        if not all(alive):
            self._keep([n for n, is_alive in enumerate(alive) if is_alive])
            numbers = [x for x, is_alive in zip(numbers, alive, strict=True) if is_alive]
            masks = [x for x, is_alive in zip(masks, alive, strict=True) if is_alive]
            if not self.rows:
                return _Drawn([], [], [])
        uniform = self._uniform(1)
        drawn = self._draw_mixed(numbers, None if uniform is None else uniform[0], masks)
        return _listed(*drawn)

    def _draw_mixed(
        self, numbers: list[int], uniform: Tensor | None, masks: Sequence[Tensor | None]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One id a row, rows grouped by head set."""
        ids = torch.empty(len(numbers), dtype=torch.int64, device=self.device)
        scores, guided = (torch.empty(len(numbers), device=self.device) for _ in range(2))
        for number in sorted(set(numbers)):
            members = [n for n, other in enumerate(numbers) if other == number]
            where = torch.tensor(members, device=self.device)
            head = self.stepper.head(number)
            legal = None if head.allowed is None else head.allowed.expand(len(members), -1)
            if any(masks[n] is not None for n in members):
                every = torch.ones(len(head.ids), dtype=torch.bool)
                stacked = torch.stack([every if (m := masks[n]) is None else m for n in members])
                stacked = stacked.to(self.device)
                legal = stacked if legal is None else stacked & legal
            hidden, guides, sampler = self.hidden, self.guides, self.sampler
            if len(members) < len(numbers):
                hidden = self.hidden[torch.tensor(guides.branches_of(members), device=self.device)]
                guides = guides.of(members)
                sampler = Sampler([self.rows[n].request.sampling for n in members], self.device)
            some = None if uniform is None else uniform[where]
            ids[where], scores[where], guided[where] = self._draw_group(
                number, hidden, guides, sampler, some, legal
            )
        return ids, scores, guided

    def _accept(self, drawn: _Drawn) -> None:
        """Append drawn ids with what is forced after them, and feed the rows that go on."""
        each = zip(drawn.ids, drawn.logprobs, drawn.guided, strict=True)
        placed = [_pushed(row, one) for row, one in zip(self.rows, each, strict=True)]
        going = [n for n, row in enumerate(self.rows) if not row.done]
        if len(going) < len(self.rows):
            placed = [placed[n] for n in going]
            self._keep(going)
        if self.rows:
            self._feed([placed[n][b] for n, b in self.branches])

    def _feed(self, placed: list[list[Placed]]) -> None:
        width = max(len(tokens) for tokens in placed)
        shape = (len(placed), width)
        ids = np.zeros(shape, np.int64)
        position = np.zeros((*shape, 3), np.float32)
        packed = np.empty((*shape, len(EMPTY)), np.int32)
        packed[:] = EMPTY
        for n, tokens in enumerate(placed):
            for i, token in enumerate(tokens, start=width - len(tokens)):
                ids[n, i], position[n, i], packed[n, i] = (
                    token.id,
                    token.position,
                    token.coordinates,
                )
        on_device = [torch.from_numpy(x).to(self.device) for x in (ids, position, packed)]
        self.hidden = self.stepper.step(
            on_device[0],
            self.stepper.tables(on_device[1]),
            on_device[2],
            self.cache,
            has_gaps=any(len(tokens) < width for tokens in placed),
        )

    def _keep(self, chosen: list[int]) -> None:
        """Go on with these rows only."""
        places = self.guides.branches_of(chosen)
        self.rows = [self.rows[n] for n in chosen]
        if self.rows:
            where = torch.tensor(places, device=self.device)
            self.hidden = self.hidden[where]
            self.cache.keep(where)
            self._settle()


def _listed(ids: Tensor, scores: Tensor, guided: Tensor) -> _Drawn:
    logprobs = scores.tolist()
    return _Drawn(ids.tolist(), logprobs, logprobs if guided is scores else guided.tolist())


def _pushed(row: Row, drawn: tuple[int, float, float] | None) -> list[list[Placed]]:
    """Append a drawn id, if any, and what is forced after it; nothing where that fails."""
    with _alone(row):
        return row.drain() if drawn is None else row.push(*drawn)
    return [[] for _ in row.branches]


@contextmanager
def _alone(row: Row) -> Iterator[None]:
    """What fails in here costs this row alone."""
    try:
        yield
    except UnimodalError as error:
        row.error = error
    except Exception as error:  # a constraint of somebody's own
        row.error = wrap(error, row.request)


def wrap(error: Exception, request: Request) -> UnimodalError:
    """Anything that went wrong with a request, as an error of ours."""
    wrapped = DataError(
        f"The request failed with {type(error).__name__}: {error}.",
        subject=request.document.id or None,
        remedy="Correct the code of the constraint or modality that raised it.",
    )
    wrapped.__cause__ = error
    return wrapped
