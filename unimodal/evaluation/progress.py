"""The progress bar of evaluations: several named jobs, each with what is done and in all."""


class ProgressBar:
    """A progress bar of evaluation on standard error, where that is a terminal."""

    def __init__(self, *, quiet: bool = False):
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        console = Console(stderr=True)
        columns = (
            TextColumn("{task.description:<14}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        hidden = quiet or not console.is_terminal
        self._progress = Progress(*columns, console=console, disable=hidden)
        self._known: dict[str, object] = {}

    def __enter__(self) -> "ProgressBar":
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def __call__(self, name: str, done: int, total: int) -> None:
        if name not in self._known:
            self._known[name] = self._progress.add_task(name, total=total)
        self._progress.update(self._known[name], completed=done, total=total)  # type: ignore[arg-type]
