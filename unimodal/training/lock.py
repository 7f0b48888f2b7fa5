"""One process at a time writes into a run folder."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from unimodal.errors import CheckpointError, ConfigError

LOCK = ".lock"


@contextmanager
def locked_folder(run: Path) -> Iterator[None]:
    """Hold a run folder, made if need be; the system lets go of it when the process ends, however.

    On Windows nothing is locked.

    Raises:
        CheckpointError: if the folder cannot be written to.
        ConfigError: if another process holds it.
    """
    try:
        run.mkdir(parents=True, exist_ok=True)
        file = (run / LOCK).open("a+", encoding="utf-8")
    except OSError as error:
        raise CheckpointError(
            f"The run folder cannot be written to ({error.strerror}).",
            subject=str(run),
            remedy="Choose another with `run_dir=FOLDER`.",
        ) from None
    with file:
        if sys.platform != "win32":
            import fcntl

            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                raise ConfigError(
                    f"Process {file.read().strip() or 'unknown'} trains in this run folder.",
                    subject=str(run),
                    remedy="Wait for it or stop it, or choose another with `run_dir=FOLDER`.",
                ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
