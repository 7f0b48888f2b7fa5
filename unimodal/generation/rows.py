"""One request while it is being answered: its automaton, its budget, and what is written.

A `Row` knows what may follow; where each new token stands behind each of its prompts, its branches
know. It holds no tensors of the model.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool
from numpy.typing import NDArray
from torch import Tensor

from unimodal.errors import ConfigError, DataError, GrammarError, UnimodalError
from unimodal.generation.branches import Branch, Placed, cells, seconds
from unimodal.generation.prompts import Prompts
from unimodal.generation.requests import Answer, Request, Written
from unimodal.generation.sampling import Uniforms
from unimodal.grammar import DocumentCursor, SegmentCursor, SegmentGrammar
from unimodal.stream import Document
from unimodal.types import Tokens
from unimodal.vocabulary import HeadSet

MAX_STEADY = 64
"""Most ids planned ahead."""
UNBOUNDED = 1 << 62
"""A budget that forbids nothing."""


@dataclass
class _Open:
    """A segment being written, and where its ids begin in the answer."""

    name: str
    cursor: SegmentCursor
    start: int
    stop: int | None = None


class Row:
    """The state of one request.

    Args:
        request: What is asked.
        prompts: Encodes what it gives.

    Attributes:
        branches: The document's, then, where the request is guided, that of the null condition.

    Raises:
        UnimodalError: if the request cannot be answered.
    """

    def __init__(self, request: Request, prompts: Prompts):
        self.request, self.vocabulary = request, prompts.vocabulary
        self.uniforms = Uniforms(request.sampling.seed)
        self.ids: list[int] = []
        self.logprobs: list[float] = []
        self.guided_logprobs: list[float] = []
        self.forced: list[bool] = []
        self.is_truncated = False
        self.segments: list[_Open] = []
        self.open: _Open | None = None
        self.error: UnimodalError | None = None
        wanted = self._wanted()
        begun = None if request.prefix is None or wanted is None else wanted[0]
        self.branches = [
            Branch(
                prompts.encode(request, document, begun),
                self.vocabulary,
                prompts.stream,
                begun is not None,
            )
            for document in self._documents(wanted)
        ]
        self.cursor = self._begin(wanted, begun)
        shortest = len(self.ids) + self.cursor.shortest()
        if shortest > request.max_tokens:
            raise ConfigError(
                f"The answer needs at least {shortest} ids, but `max_tokens` is "
                f"{request.max_tokens}.",
                subject=request.document.id or None,
                remedy="Raise `max_tokens`; the ids of a `prefix` count.",
            )

    # What may follow

    @property
    def done(self) -> bool:
        """Whether nothing follows."""
        return self.cursor.done or self.error is not None

    @property
    def budget(self) -> int:
        """Ids that may still be appended."""
        return self.request.max_tokens - len(self.ids)

    @property
    def most_left(self) -> int:
        """Most ids that may still be appended, as far as is known."""
        if self.done:
            return 0
        if self.cursor.pending is None:
            return self.budget
        grammars = [self.cursor.grammars[name] for name in self.cursor.pending]
        most = sum(1 + _most(grammar) for grammar in grammars)
        if self.cursor.segment is not None:
            inside = self.cursor.segment
            is_sized = inside.grammar.end is None and inside.num_headers == len(
                inside.grammar.headers
            )
            most += inside.shortest() if is_sized else _most(inside.grammar)
        return min(self.budget, most)

    def head_number(self) -> int:
        """Head set of the next id, which is not forced."""
        name = self.cursor.head_set()
        assert name is not None, "forced ids are appended before"
        return self.vocabulary.head_numbers[name]

    def codes_ahead(self) -> tuple[list[int], int]:
        """Head sets of the codes of one cell from here on, and how many ids may be planned ahead.

        A planned id has its whole head set to choose from, and if it is a code, the segment goes
        on in the same way.
        """
        inside = self.cursor.segment
        if inside is None or inside.num_headers < len(inside.grammar.headers):
            return [], 0
        grammar, codes = inside.grammar, inside.codes
        if self.request.constraints_of(grammar.name):
            return [], 0
        per_cell = len(grammar.slots)
        if any(sum(b - a for a, b in slot.ranges) < 2 for slot in grammar.slots):
            return [], 0
        budget = self.budget - (self.cursor.shortest() - inside.shortest())
        if grammar.end is None:
            count = inside.shortest() - 1
        else:
            if -(-codes // per_cell) < grammar.min_cells:
                return [], 0
            # Code n may follow if the cell that it is in, and the end, still fit.
            count = (budget + codes - 1) // per_cell * per_cell - codes
            if grammar.max_cells is not None:
                count = min(count, grammar.max_cells * per_cell - codes)
            count -= 1  # after the last code that fits, the end is forced
        numbers = [
            self.vocabulary.head_numbers[grammar.slots[(codes + i) % per_cell].head_set]
            for i in range(per_cell)
        ]
        return numbers, max(0, min(count, MAX_STEADY))

    def legal(self, head: HeadSet) -> Bool[Tensor, " C"] | None:
        """Columns of a head set that may follow; None if all may.

        Raises:
            GrammarError: if the constraints leave none.
        """
        ranges = self.cursor.legal(self.budget)
        # An id that the layout forces has been appended before: here, the budget leaves one.
        self.is_truncated |= sum(stop - start for start, stop in ranges) == 1
        ids = head.ids
        mask = torch.zeros(len(ids), dtype=torch.bool)
        for start, stop in ranges:
            mask |= (ids >= start) & (ids < stop)
        mask = self._constrained(mask, ids)
        return None if bool(mask.all()) else mask

    def _constrained(self, mask: Tensor, ids: Tensor) -> Tensor:
        """What the constraints keep of legal ids."""
        constraints = self.request.constraints_of(self.open.name) if self.open else ()
        if self.open is None or not constraints:
            return mask
        written = self.ids[self.open.start :]
        for constraint in constraints:
            kept = constraint.keep(written, ids)
            mask = mask if kept is None else mask & kept
        if not bool(mask.any()):
            raise GrammarError(
                f"The constraints on `{self.open.name}` leave no id that may follow "
                f"{len(written)} ids within {self.budget} more.",
                subject=self.request.document.id or None,
                remedy="Raise `max_tokens`, or loosen the constraints.",
            )
        return mask

    # What was drawn

    def push(self, token: int, logprob: float, guided: float) -> list[list[Placed]]:
        """Append a drawn id and whatever is forced after it.

        Args:
            token: The id.
            logprob, guided: Its log-probability before and after guidance.

        Returns:
            The appended tokens with their places, in each branch.

        Raises:
            DataError: if the id has no log-probability.
        """
        if not math.isfinite(logprob + guided):
            raise DataError(
                f"The model has no finite score for what follows {len(self.ids)} ids.",
                subject=self.request.document.id or None,
                remedy="Look for values that are not finite, or huge, in what is given.",
            )
        first = self._append(token, logprob, guided, False)
        return [[one, *rest] for one, rest in zip(first, self.drain(), strict=True)]

    def drain(self) -> list[list[Placed]]:
        """Append forced ids; return them with their places, in each branch.

        Forced is what training does not learn: where the layout allows one id. Where only the
        budget leaves no choice, the id is drawn, and so has its log-probability.

        Raises:
            GrammarError: if a constraint forbids one.
        """
        placed: list[list[Placed]] = [[] for _ in self.branches]
        while not self.done:
            ranges = self.cursor.legal(UNBOUNDED)
            if sum(stop - start for start, stop in ranges) != 1:
                break
            self._constrained(torch.ones(1, dtype=torch.bool), torch.tensor([ranges[0][0]]))
            forced = self._append(ranges[0][0], 0.0, 0.0, True)
            for tokens, token in zip(placed, forced, strict=True):
                tokens.append(token)
        return placed

    def plan(self, count: int) -> list[tuple[NDArray[np.float32], NDArray[np.int32]]]:
        """Positions (count, 3) and coordinates (count, 8) of the next codes, in each branch."""
        assert self.open is not None
        return [branch.plan(self.open.cursor, count) for branch in self.branches]

    def commit(
        self,
        tokens: list[int],
        logprobs: list[float],
        guided: list[float],
        positions: Sequence[NDArray[np.float32]],
    ) -> None:
        """Append planned codes that were drawn and fed.

        Args:
            tokens, logprobs, guided: What was drawn; see `push`.
            positions: What `plan` said of them, in each branch.
        """
        if not tokens:
            return
        assert self.open is not None
        self.open.cursor.codes += len(tokens)
        for branch, position in zip(self.branches, positions, strict=True):
            branch.commit(position[: len(tokens)])
        self.ids += tokens
        self.logprobs += logprobs
        self.guided_logprobs += guided
        self.forced += [False] * len(tokens)

    def answer(self) -> Answer:
        """The answer; its values are decoded here."""
        if self.error is not None:
            return Answer(error=self.error)
        written = []
        for item in self.segments:
            part = slice(item.start, item.stop)
            tokens = self._tokens(item)
            written.append(
                Written(
                    item.name,
                    self.vocabulary.modality(item.name).decode(tokens),
                    self.ids[part],
                    self.logprobs[part],
                    self.forced[part],
                    self.guided_logprobs[part],
                    tokens,
                )
            )
        return Answer(
            written,
            self.ids,
            self.logprobs,
            self.forced,
            self.is_truncated,
            guided_logprobs=self.guided_logprobs,
        )

    # Inside

    def _wanted(self) -> list[str] | None:
        """What the request asks for, checked."""
        request = self.request
        wanted = request.wanted()
        subject = request.document.id or None
        if wanted is not None and not wanted:
            raise ConfigError(
                "The request asks for nothing.", subject=subject, remedy="Name what to write."
            )
        names = list(self.vocabulary.openers_listed) if wanted is None else wanted
        for name in request.constraints:
            if name not in names:
                raise ConfigError(
                    f"The constraints name `{name}`, which is not asked for.",
                    subject=subject,
                    remedy=f"Asked for: {', '.join(names) or 'nothing'}.",
                )
        if wanted is None and request.prefix is not None:
            raise ConfigError("A `prefix` needs `asked`: which modality it begins.")
        if request.prefix is None and request.prefix_cells is not None:
            raise ConfigError("`prefix_cells` counts cells of a `prefix`, and there is none.")
        return wanted

    def _documents(self, wanted: list[str] | None) -> list[Document]:
        """What each branch continues."""
        request = self.request
        subject = request.document.id or None
        documents = [request.document]
        if request.sampling.is_guided:
            if request.null is None:
                raise ConfigError(
                    "Guidance needs the request's `null`: its document without what is to guide.",
                    subject=subject,
                    remedy="Take it from `Task.null`, or set `guidance` to 1.",
                )
            documents.append(request.null)
        for document in documents:
            if wanted is None and not document.given().segments:
                raise ConfigError(
                    "Free switching begins after a given segment, and none is given.",
                    subject=subject,
                )
        return documents

    def _begin(self, wanted: list[str] | None, begun: str | None) -> DocumentCursor:
        """The automaton, behind the ids that a prefix gives."""
        vocabulary = self.vocabulary
        names = list(vocabulary.openers_listed) if wanted is None else wanted
        grammars = {name: vocabulary.grammar(name) for name in names}
        if begun is None or wanted is None:
            return DocumentCursor(grammars, wanted, vocabulary.switch)
        prompt = self.branches[0].prompt
        cursor = grammars[begun].cursor()
        self.ids = prompt.ids[prompt.spans[-1].start :].tolist()
        for token in self.ids[1:]:
            cursor.push(token)
        self.logprobs, self.forced = [0.0] * len(self.ids), [True] * len(self.ids)
        self.guided_logprobs = [0.0] * len(self.ids)
        self.open = _Open(begun, cursor, 1)
        self.segments.append(self.open)
        return DocumentCursor(grammars, wanted[1:], vocabulary.switch, inside=cursor)

    def _append(self, token: int, logprob: float, guided: float, forced: bool) -> list[Placed]:
        before = self.cursor.segment
        cell = self.cursor.push(token)
        self.ids.append(token)
        self.logprobs.append(logprob)
        self.guided_logprobs.append(guided)
        self.forced.append(forced)
        inside = self.cursor.segment
        if before is None and inside is not None:
            name = inside.grammar.name
            self.open = _Open(name, inside, len(self.ids))
            self.segments.append(self.open)
            for branch in self.branches:
                branch.open(name)
        cursor = None if self.open is None else self.open.cursor
        placed = [branch.place(token, cell, cursor) for branch in self.branches]
        if before is not None and inside is None and self.open is not None:
            self.open.stop = len(self.ids)
            self.open = None
        return placed

    def _tokens(self, item: _Open) -> Tokens:
        modality = self.vocabulary.modality(item.name)
        cursor = item.cursor
        first = item.start + len(cursor.grammar.headers)
        content = torch.tensor(self.ids[first : first + cursor.codes], dtype=torch.int64)
        ids, spans = self.vocabulary.local_ids(item.name, content)
        grid = cells(cursor, 0, cursor.codes)
        clock = seconds(self.vocabulary, cursor, grid)
        return Tokens(
            torch.from_numpy(grid),
            ids=ids,
            span=spans if len(modality.spans) > 1 else 0,
            seconds=None if clock is None else torch.from_numpy(clock),
        )


def _most(grammar: SegmentGrammar) -> int:
    """Most ids of a segment, without the opener."""
    per_cell = len(grammar.slots)
    if grammar.end is not None:
        return UNBOUNDED if grammar.max_cells is None else grammar.max_cells * per_cell + 1
    sizes = list(grammar.size)
    for header in grammar.headers:
        sizes[header.axis] = header.high
    return len(grammar.headers) + math.prod(sizes) * per_cell
