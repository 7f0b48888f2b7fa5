"""How a pattern is written for a kernel: an opcode and three integers for each of its conditions.

A form is an "or" of clauses, each an "and" of conditions on a query cell and a key cell of one
segment:

    BOX     |t| <= a, |h| <= b, |w| <= c of their difference (`ANY`: no limit)
    BEFORE  the key's t is less than a
    ROW     a raster window back to the cell above
    COLUMN  the same on the transposed grid

Kernels specialise on the opcodes and read the integers from a table, so that another size of a
window needs no compilation. Patterns (`unimodal.patterns`) declare their form; nothing here knows
them. What the conditions mean is written in torch in `tokens.dense_mask`, and tested against the
patterns' own predicates.
"""

from collections.abc import Sequence
from dataclasses import dataclass

BOX, BEFORE, ROW, COLUMN = 1, 2, 3, 4
"""Opcodes of conditions."""

ANY = 1 << 28
"""A reach without a limit."""

MAX_CONDITIONS = 24
"""Conditions that one layer's patterns may have in all; more take the reference."""

CODE_BITS = 10
"""Bits of one condition in the compile-time code: opcode 3, ends its clause 1, ends its program 1,
number of the program 5."""

Condition = tuple[int, int, int, int]
"""Opcode and three integers."""


@dataclass(frozen=True)
class Form:
    """A pattern as kernels read it.

    Attributes:
        clauses: Any of them must hold, in each of them every condition.
        column_major: Whether tiles are fewer with the cells of a segment ordered by column.
    """

    clauses: tuple[tuple[Condition, ...], ...]
    column_major: bool = False

    @classmethod
    def of(cls, opcode: int, a: int = 0, b: int = 0, c: int = 0) -> "Form":
        """A single condition."""
        return cls((((opcode, a, b, c),),), column_major=opcode == COLUMN)

    def __and__(self, other: "Form") -> "Form":
        pairs = tuple(a + b for a in self.clauses for b in other.clauses)
        return Form(pairs, self.column_major or other.column_major)

    def __or__(self, other: "Form") -> "Form":
        return Form(self.clauses + other.clauses, self.column_major and other.column_major)


@dataclass(frozen=True)
class Programs:
    """The forms of a layer's kinds, numbered.

    Attributes:
        of_kind: Program of each kind; 0 restricts nothing.
        column_major: The same for which programs want their cells ordered by column, from 1 on.
        codes: One integer a condition, see `CODE_BITS`.
        conditions: The conditions of all programs, one after another.
    """

    of_kind: tuple[int, ...]
    column_major: tuple[bool, ...]
    codes: tuple[int, ...]
    conditions: tuple[Condition, ...]


def number_programs(forms: Sequence[Form | None]) -> Programs | None:
    """Number the forms of all kinds; None stands for a kind without restriction.

    Returns:
        The programs, or None if they have more than `MAX_CONDITIONS` conditions in all.
    """
    programs: dict[Form, int] = {}
    of_kind = [0 if f is None else programs.setdefault(f, len(programs) + 1) for f in forms]
    codes: list[int] = []
    conditions: list[Condition] = []
    for form, number in programs.items():
        for place, clause in enumerate(form.clauses):
            for depth, condition in enumerate(clause):
                ends_clause = depth == len(clause) - 1
                ends_program = ends_clause and place == len(form.clauses) - 1
                codes.append(condition[0] | ends_clause << 3 | ends_program << 4 | number << 5)
                conditions.append(condition)
    if len(codes) > MAX_CONDITIONS:
        return None
    column_major = tuple(form.column_major for form in programs)
    return Programs(tuple(of_kind), column_major, tuple(codes), tuple(conditions))
