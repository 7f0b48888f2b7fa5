"""What the command line prints: errors, tables, JSON. `rich` is imported when it is needed."""

import json
import sys
from collections.abc import Sequence
from typing import Any

from unimodal.errors import UnimodalError


def report_error(error: UnimodalError, *, as_json: bool) -> None:
    """One error, on one screen: as JSON on standard output, else in colour on standard error."""
    if as_json:
        print_json(error.as_dict())
        return
    from rich.console import Console
    from rich.text import Text

    text = Text()
    text.append(f"{_readable(type(error).__name__)}: ", style="bold red")
    if error.subject:
        text.append(f"{error.subject}: ", style="bold")
    text.append(error.message)
    if error.remedy:
        text.append(f"\n{error.remedy}", style="cyan")
    Console(stderr=True, highlight=False, soft_wrap=True).print(text)


def report_stop(verb: str, *, resumable: bool) -> None:
    """That the user stopped the command."""
    rest = " Run the same command again to go on." if resumable else ""
    print(f"{verb or 'unimodal'}: stopped.{rest}", file=sys.stderr)


def print_json(value: Any) -> None:
    """A value as JSON on standard output."""
    print(json.dumps(value, indent=1, ensure_ascii=False, default=str))


def print_table(
    columns: Sequence[str], rows: Sequence[Sequence[object]], *, title: str | None = None
) -> None:
    """A table on standard output; numbers stand on the right."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", header_style="bold", box=None, pad_edge=False)
    for number, name in enumerate(columns):
        right = bool(rows) and all(_is_number(row[number]) for row in rows)
        table.add_column(name, justify="right" if right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(_written(cell)) for cell in row))
    console = Console(highlight=False)
    if not console.is_terminal:  # a file or a pipe has no width to fit into
        console = Console(highlight=False, width=200)
    console.print(table)


def _is_number(cell: object) -> bool:
    return isinstance(cell, int | float) and not isinstance(cell, bool)


def _written(cell: object) -> str:
    if isinstance(cell, float):
        return f"{cell:.4g}"
    if isinstance(cell, int) and not isinstance(cell, bool):
        return f"{cell:,}"
    return "" if cell is None else str(cell)


def _readable(name: str) -> str:
    """`MediaError` to `media error`."""
    return "".join(f" {c.lower()}" if c.isupper() else c for c in name).strip()
