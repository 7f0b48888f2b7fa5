"""A progress bar with what is left of the budget on terminals, a line now and then elsewhere."""

import logging
import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

log = logging.getLogger(__name__)
TOTAL = 1000.0
SECONDS_BETWEEN_LINES = 60.0


class Bar:
    """Shows the spent share of the budget, ETA, tokens/s and loss; a context manager.

    Args:
        name: Of the run.
        is_shown: Draw nothing otherwise. Where stderr is not a terminal, it logs a line a minute.
    """

    def __init__(self, name: str, is_shown: bool):
        console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[text]}"),
            console=console,
            disable=not (is_shown and sys.stderr.isatty()),
        )
        self._logs = is_shown and not sys.stderr.isatty()
        self._logged_at = time.monotonic()
        self._task = self._bar.add_task(name, total=TOTAL, text="")

    def __enter__(self) -> "Bar":
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def show(self, share: float, step: int, tokens_per_second: float, loss: float | None) -> None:
        """Move the bar.

        Args:
            share: Spent share of the budget.
            step: Steps done.
            tokens_per_second: Of late.
            loss: Of late, nats; None before the first.
        """
        text = f"step {step}  {tokens_per_second:,.0f} tokens/s"
        if loss is not None:
            text += f"  loss {loss:.3f}"
        if self._logs and time.monotonic() - self._logged_at >= SECONDS_BETWEEN_LINES:
            self._logged_at = time.monotonic()
            log.info("%.0f %%  %s", 100 * min(share, 1.0), text)
        self._bar.update(self._task, completed=min(share, 1.0) * TOTAL, text=text)
