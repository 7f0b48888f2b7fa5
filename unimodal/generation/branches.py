"""Where the tokens of an answer stand behind one prompt: positions, grid cells, segments.

An answer continues its document and, where it is guided, its null condition too. Each is a branch:
the ids that follow are the same, but positions and cache are its own. The arithmetic is that of
`stream.encoding`, so generation and training place a token alike.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unimodal.generation.prompts import extend
from unimodal.grammar import CONTROL, Cell, SegmentCursor
from unimodal.model.cache import FIELDS
from unimodal.stream import EncodedDocument, StreamConfig
from unimodal.stream.encoding import rope_positions
from unimodal.vocabulary import Vocabulary


@dataclass(frozen=True)
class Placed:
    """A token and where it stands.

    Attributes:
        id: Global id.
        position: RoPE position (t, h, w).
        coordinates: index, document, segment, kind, full, t, h, w.
    """

    id: int
    position: tuple[float, float, float]
    coordinates: tuple[int, ...]


class Branch:
    """A prompt, and where what follows it stands.

    Args:
        prompt: Encoded; may be empty.
        vocabulary: Says how modalities are numbered and timed.
        stream: The clock.
        is_begun: Whether the last segment of the prompt goes on.
    """

    def __init__(
        self,
        prompt: EncodedDocument,
        vocabulary: Vocabulary,
        stream: StreamConfig,
        is_begun: bool = False,
    ):
        self.prompt, self.vocabulary, self.stream = prompt, vocabulary, stream
        self.index = len(prompt)
        self.segment = int(prompt.segment[-1]) if len(prompt) else -1
        self.kind = int(prompt.kind[-1]) if len(prompt) else -1
        self.at = prompt.next_position
        # Where the grid of the open segment begins; None before its first code.
        self.content_start: float | None = None
        if is_begun and prompt.spans[-1].content < len(prompt):
            self.content_start = float(prompt.position[prompt.spans[-1].content, 0])

    def open(self, name: str) -> None:
        """A segment of a modality begins with the next token."""
        self.segment += 1
        self.kind = self.vocabulary.kind(name)
        self.content_start = None

    def place(self, token: int, cell: Cell, cursor: SegmentCursor | None) -> Placed:
        """The place of the next token.

        Args:
            token: Its id.
            cell: Its grid cell.
            cursor: Of its segment; None outside of segments.
        """
        if cell == CONTROL or cursor is None:
            position = (self.at, self.at, self.at)
            self.at += 1
        else:
            if self.content_start is None:
                self.content_start = self.at
            grid = np.array([cell], dtype=np.int32)
            found = self._positions(cursor, grid, self.content_start)
            self.at = max(self.at, float(found.max()) + 1)
            t, h, w = found[0].tolist()
            position = (t, h, w)
        coordinates = (self.index, 0, self.segment, self.kind, 0, *cell)
        self.index += 1
        return Placed(token, position, coordinates)

    def plan(
        self, cursor: SegmentCursor, count: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """Positions (count, 3) and coordinates (count, 8) of the open segment's next codes."""
        grid = cells(cursor, cursor.codes, count)
        start = self.at if self.content_start is None else self.content_start
        coordinates = np.empty((count, FIELDS), np.int32)
        coordinates[:, 0] = np.arange(self.index, self.index + count)
        coordinates[:, 1:5] = (0, self.segment, self.kind, 0)
        coordinates[:, 5:] = grid
        return self._positions(cursor, grid, start), coordinates

    def commit(self, position: NDArray[np.float32]) -> None:
        """Go on behind planned codes that were fed: their positions (count, 3), at least one."""
        if self.content_start is None:
            self.content_start = self.at
        self.index += len(position)
        self.at = max(self.at, float(position.max()) + 1)

    def extended(self, placed: list[Placed]) -> EncodedDocument:
        """The prompt with tokens that follow it whatever the model says."""
        return extend(
            self.prompt,
            [token.id for token in placed],
            [token.position for token in placed],
            [token.coordinates for token in placed],
        )

    def _positions(
        self, cursor: SegmentCursor, grid: NDArray[np.int32], start: float
    ) -> NDArray[np.float32]:
        """`rope_positions` of some cells, as of the whole value."""
        clock = seconds(self.vocabulary, cursor, grid)
        flat = cursor.sizes[1] == 1 and cursor.sizes[2] == 1
        return rope_positions(grid, clock, start, self.stream.positions_per_second, flat=flat)


def seconds(
    vocabulary: Vocabulary, cursor: SegmentCursor, grid: NDArray[np.int32]
) -> NDArray[np.float32] | None:
    """When each cell begins, for modalities with time."""
    step = vocabulary.modality(cursor.grammar.name).seconds_per_cell
    return None if step is None else grid[:, 0].astype(np.float32) * np.float32(step)


def cells(cursor: SegmentCursor, first: int, count: int) -> NDArray[np.int32]:
    """Grid cells of some codes of a segment whose size is known."""
    cell = np.arange(first, first + count) // len(cursor.grammar.slots)
    h, w = cursor.sizes[1], cursor.sizes[2]
    return np.stack([cell // (h * w), cell // w % h, cell % w], axis=1).astype(np.int32)
