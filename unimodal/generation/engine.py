"""The generation engine: a batch of requests of any mix of modalities, each by its own automaton.

A step feeds the last tokens of all rows, groups the rows by the head set of their next id, and
draws. Runs of steps in which every row stays inside a segment and may draw its whole head set are
planned ahead (positions, rotations) and need no work a row. Forced ids are fed together with
the drawn one before them. Finished rows leave the batch.

Not here: the arithmetic of a step (`step`), what may follow (`rows`), random numbers (`sampling`).
Certified by `unimodal.testing.certificates`.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from unimodal.errors import ConfigError, DataError, UnimodalError
from unimodal.generation.requests import Answer, Request
from unimodal.generation.rows import Placed, Row
from unimodal.generation.sampling import Sampler
from unimodal.generation.step import Stepper
from unimodal.model.decoder import Decoder
from unimodal.stream import EncodedDocument
from unimodal.types import CONTROL_CELL

PLANNED_TOKENS = 256
"""Tokens of a planned run, over all rows."""
ROOM = 64
"""Slots made ready beyond the longest prompt; a cache grows when it must."""
EMPTY = (-1, -1, -1, -1, 0, CONTROL_CELL, CONTROL_CELL, CONTROL_CELL)
"""Coordinates of a slot that a row leaves empty."""


@contextmanager
def inference(decoder: Decoder) -> Iterator[None]:
    """Evaluation mode, no gradients, no autocast; the mode is restored."""
    training = decoder.training
    decoder.eval()
    try:
        with torch.no_grad(), torch.autocast(decoder.device.type, enabled=False):
            yield
    finally:
        decoder.train(training)


def generate(
    decoder: Decoder,
    requests: Sequence[Request],
    *,
    batch_size: int = 16,
    dtype: str = "float32",
) -> list[Answer]:
    """Answer requests; see `Engine`."""
    return Engine(decoder, dtype).generate(requests, batch_size=batch_size)


def check_batch_size(batch_size: int) -> None:
    """Raise ConfigError if a batch size is below 1."""
    if batch_size < 1:
        raise ConfigError(f"`batch_size` must be at least 1, but is {batch_size}.")


class Engine:
    """Answers requests with a decoder. Make a new one when its weights change.

    Args:
        decoder: The model; its weights are copied in a layout for decoding.
        dtype: In which the copied matrices are multiplied. `float32` is exact: answers do not
            depend on what else is in the batch. `bfloat16` is faster for many requests at once,
            `int8` (weights alone; bfloat16 for more than one token at a time) for one; rounding
            there depends on how many tokens are multiplied at once, so that an answer may
            depend on the batch.

    Raises:
        ConfigError: if the dtype is not offered.
    """

    def __init__(self, decoder: Decoder, dtype: str = "float32"):
        self.decoder = decoder
        self.vocabulary = decoder.vocabulary
        with inference(decoder):
            self.stepper = Stepper(decoder, dtype)

    def generate(self, requests: Sequence[Request], *, batch_size: int = 16) -> list[Answer]:
        """Answer requests.

        Args:
            requests: Of any mix of modalities.
            batch_size: Requests answered at once, at least 1.

        Returns:
            One answer a request, in order. A bad request has its `error` set; the others are not
            affected.

        Raises:
            ConfigError: if `batch_size` is below 1.
        """
        check_batch_size(batch_size)
        answers: list[Answer] = []
        for first in range(0, len(requests), batch_size):
            answers += self._answer(requests[first : first + batch_size])
        return answers

    def _answer(self, requests: Sequence[Request]) -> list[Answer]:
        rows: list[Row | Answer] = []
        for request in requests:
            try:
                rows.append(Row(request, self.vocabulary, self.decoder.stream))
            except UnimodalError as error:
                rows.append(Answer(error=error))
            except Exception as error:  # a modality's own failure must not cost the other requests
                rows.append(Answer(error=_wrap(error, request)))
        running = [row for row in rows if isinstance(row, Row)]
        if running:
            with inference(self.decoder):
                _Batch(self, running).run()
        answers = []
        for row in rows:
            answers.append(row if isinstance(row, Answer) else _finish(row))
        return answers


class _Batch:
    """Rows that are answered together."""

    def __init__(self, engine: Engine, rows: list[Row]):
        self.engine, self.stepper = engine, engine.stepper
        self.device = engine.decoder.device
        prompts = [_extended(row, _pushed(row, None)) for row in rows]
        # A row may be done already: everything that it wants is forced.
        chosen = [i for i, row in enumerate(rows) if not row.done]
        self.rows = [rows[i] for i in chosen]
        if self.rows:
            self.cache, self.hidden = self.stepper.prefill([prompts[i] for i in chosen], ROOM)
            self._settle()

    def run(self) -> None:
        while self.rows:
            drawn = self._steady()
            if drawn is None:
                drawn = self._draw_legal()
            self._accept(*drawn)

    def _settle(self) -> None:
        """What depends on which rows are running."""
        self.sampler = Sampler([row.request.sampling for row in self.rows], self.device)

    # Runs in which nothing special happens

    def _steady(self) -> tuple[list[int], list[float]] | None:
        """Draw and feed codes while every row goes on as planned.

        Returns:
            The ids, drawn but not fed, with which some row ended or failed; None if none did.
        """
        ahead = [row.codes_ahead() for row in self.rows]
        limit = max(1, PLANNED_TOKENS // len(self.rows))
        count = min(limit, *(number for _, number in ahead))
        if count < 1:
            return None
        plans = [row.plan(count) for row in self.rows]
        position = np.stack([plan[0] for plan in plans], axis=1)
        packed = torch.from_numpy(np.stack([plan[1] for plan in plans], axis=1)).to(self.device)
        turns = self.stepper.tables(torch.from_numpy(position).to(self.device))
        uniform = self._uniform(count)
        end = self.engine.vocabulary.control("end")
        tokens: list[list[int]] = []
        logprobs: list[list[float]] = []
        left: tuple[list[int], list[float]] | None = None
        for i in range(count):
            numbers = [heads[i % len(heads)] for heads, _ in ahead]
            ids, scores = self._draw(numbers, None if uniform is None else uniform[i])
            listed, scores_listed = ids.tolist(), scores.tolist()
            if end in listed or not math.isfinite(sum(scores_listed)):
                left = listed, scores_listed
                self._give_back(count - i - 1)
                break
            tokens.append(listed)
            logprobs.append(scores_listed)
            self.hidden = self.stepper.step(
                ids[:, None], turns[i][:, None], packed[i][:, None], self.cache
            )
        for n, row in enumerate(self.rows):
            row.commit([t[n] for t in tokens], [s[n] for s in logprobs], plans[n][0])
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

    def _draw(self, numbers: list[int], uniform: Tensor | None) -> tuple[Tensor, Tensor]:
        """One id a row from its whole head set."""
        first = numbers[0]
        if all(number == first for number in numbers):
            head = self.stepper.head(first)
            logits = self.stepper.logits(self.hidden, first)
            legal = None if head.allowed is None else head.allowed[None]
            columns, scores = self.sampler.draw(logits, uniform, legal)
            return head.ids[columns], scores
        return self._draw_mixed(numbers, uniform, [None] * len(numbers))

    # One step in which something may be illegal

    def _draw_legal(self) -> tuple[list[int], list[float]]:
        numbers, masks = [], []
        alive = []
        for row in self.rows:
            number = row.head_number()
            mask = None
            with _alone(row):
                mask = row.legal(self.engine.decoder.head_set(number))
            alive.append(row.error is None)
            numbers.append(number)
            masks.append(mask)
        if not all(alive):
            self._keep([n for n, is_alive in enumerate(alive) if is_alive])
            numbers = [x for x, is_alive in zip(numbers, alive, strict=True) if is_alive]
            masks = [x for x, is_alive in zip(masks, alive, strict=True) if is_alive]
            if not self.rows:
                return [], []
        uniform = self._uniform(1)
        ids, scores = self._draw_mixed(numbers, None if uniform is None else uniform[0], masks)
        return ids.tolist(), scores.tolist()

    def _draw_mixed(
        self, numbers: list[int], uniform: Tensor | None, masks: Sequence[Tensor | None]
    ) -> tuple[Tensor, Tensor]:
        """One id a row, rows grouped by head set."""
        ids = torch.empty(len(numbers), dtype=torch.int64, device=self.device)
        scores = torch.empty(len(numbers), device=self.device)
        for number in sorted(set(numbers)):
            members = [n for n, other in enumerate(numbers) if other == number]
            where = torch.tensor(members, device=self.device)
            head = self.stepper.head(number)
            logits = self.stepper.logits(self.hidden[where], number)
            legal = None if head.allowed is None else head.allowed.expand(len(members), -1)
            if any(masks[n] is not None for n in members):
                every = torch.ones(len(head.ids), dtype=torch.bool)
                stacked = torch.stack([every if (m := masks[n]) is None else m for n in members])
                stacked = stacked.to(self.device)
                legal = stacked if legal is None else stacked & legal
            whole = len(members) == len(numbers)
            settings = [self.rows[n].request.sampling for n in members]
            sampler = self.sampler if whole else Sampler(settings, self.device)
            some = None if uniform is None else uniform[where]
            columns, found = sampler.draw(logits, some, legal)
            ids[where], scores[where] = head.ids[columns], found
        return ids, scores

    def _accept(self, tokens: list[int], logprobs: list[float]) -> None:
        """Append drawn ids with what is forced after them, and feed the rows that go on."""
        drawn = zip(tokens, logprobs, strict=True)
        placed = [_pushed(row, pair) for row, pair in zip(self.rows, drawn, strict=True)]
        going = [n for n, row in enumerate(self.rows) if not row.done]
        if len(going) < len(self.rows):
            placed = [placed[n] for n in going]
            self._keep(going)
        if self.rows:
            self._feed(placed)

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
        self.rows = [self.rows[n] for n in chosen]
        if self.rows:
            where = torch.tensor(chosen, device=self.device)
            self.hidden = self.hidden[where]
            self.cache.keep(where)
            self._settle()


def _pushed(row: Row, drawn: tuple[int, float] | None) -> list[Placed]:
    """Append a drawn id, if any, and what is forced after it."""
    with _alone(row):
        return row.drain() if drawn is None else row.push(*drawn)
    return []


@contextmanager
def _alone(row: Row) -> Iterator[None]:
    """What fails in here costs this row alone."""
    try:
        yield
    except UnimodalError as error:
        row.error = error
    except Exception as error:  # a constraint of somebody's own
        row.error = _wrap(error, row.request)


def _extended(row: Row, placed: list[Placed]) -> EncodedDocument:
    """The prompt of a row with the ids that are forced at its beginning."""
    prompt = row.prompt
    if not placed:
        return prompt
    columns = np.array([token.coordinates for token in placed], np.int32)
    position = np.array([token.position for token in placed], np.float32)
    added = torch.from_numpy(columns)
    count = len(placed)

    def join(old: Tensor, new: Tensor) -> Tensor:
        return torch.cat([old, new.to(old.dtype)])

    return EncodedDocument(
        document=prompt.document,
        ids=join(prompt.ids, torch.tensor([token.id for token in placed])),
        targets=join(prompt.targets, torch.full((count,), -1)),
        head_set=join(prompt.head_set, torch.full((count,), -1)),
        loss_weight=join(prompt.loss_weight, torch.zeros(count)),
        grid=join(prompt.grid, added[:, 5:]),
        position=join(prompt.position, torch.from_numpy(position)),
        segment=join(prompt.segment, added[:, 2]),
        kind=join(prompt.kind, added[:, 3]),
        full=join(prompt.full, torch.zeros(count)),
        features=prompt.features,
        spans=prompt.spans,
    )


def _finish(row: Row) -> Answer:
    try:
        return row.answer()
    except UnimodalError as error:
        return Answer(error=error)
    except Exception as error:  # a modality's own failure must not cost the other requests
        return Answer(error=_wrap(error, row.request))


def _wrap(error: Exception, request: Request) -> UnimodalError:
    wrapped = DataError(
        f"The request failed with {type(error).__name__}: {error}.",
        subject=request.document.id or None,
    )
    wrapped.__cause__ = error
    return wrapped
