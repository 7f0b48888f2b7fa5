"""Requests to stop: SIGTERM, SIGINT and SIGUSR1 set a flag that every loop polls.

A loop that sees the flag finishes its step, saves, and the process exits with code 85. Work that
has nothing to save is interrupted at once, and so is any by a second SIGINT.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = ("SIGTERM", "SIGINT", "SIGUSR1")


class StopFlag:
    """Whether somebody asked to stop, and by what."""

    def __init__(self) -> None:
        self.reason: str | None = None
        self.interrupting = False

    def set(self, reason: str) -> None:
        """Ask to stop."""
        self.reason = self.reason or reason

    @contextmanager
    def interrupts(self) -> Iterator[None]:
        """Work that is not lost by being done again, e.g. fitting a tokenizer, or scoring.

        Raises:
            KeyboardInterrupt: as soon as a signal asks to stop, or at once if one has.
        """
        if self:
            raise KeyboardInterrupt(self.reason)
        self.interrupting = True
        try:
            yield
        finally:
            self.interrupting = False

    def __bool__(self) -> bool:
        return self.reason is not None


@contextmanager
def stop_on_signals() -> Iterator[StopFlag]:
    """A flag that the signals set while the context is open. Other threads never see one set."""
    flag = StopFlag()

    def handle(number: int, frame: FrameType | None) -> None:
        again = bool(flag)
        flag.set(signal.Signals(number).name)
        if number == signal.SIGINT if again else flag.interrupting:
            raise KeyboardInterrupt(flag.reason)

    if threading.current_thread() is not threading.main_thread():
        yield flag
        return
    numbers = [getattr(signal, name) for name in SIGNALS if hasattr(signal, name)]
    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield flag
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
