"""A folder that one process at a time writes."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from clipjax.config import UserError

LOCK = ".lock"


@contextlib.contextmanager
def locked_folder(path: Path, flag: str, what: str) -> Iterator[None]:
    """Holds a folder for the time of the block, and makes it if it is not there.

    Args:
        path: of the folder.
        flag: that names it.
        what: writes there, such as "run".

    Raises:
        UserError: if it cannot be written, or another process holds it.
    """
    with contextlib.ExitStack() as stack:
        try:
            path.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(open(path / LOCK, "a+"))
        except OSError as error:
            raise UserError(
                f"{flag}={path}: cannot be written (expected a folder; {error.strerror})."
            ) from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            raise UserError(
                f"{flag}={path}: another {what} (pid {file.read().strip()}) is writing here. Wait "
                f"for it, or give another {flag}."
            ) from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
