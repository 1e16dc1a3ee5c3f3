"""Embeddings in a file that is filled while they are computed, and gone on with after a crash."""

import contextlib
import fcntl
import json
import os
from pathlib import Path

import numpy as np

from clipjax.config import UserError
from clipjax.core.files import npy_header, replaced, write_at
from clipjax.core.rows import Embeds

_TYPE = np.dtype("<f4")


class FeatureFile:
    """Rows of a float32 `.npy` file that appears when it is whole.

    Until then they are in `.NAME.part`, which has its final size from the beginning, and
    `.NAME.progress` says what they are of and how many there are: one line a call of `append`,
    written only when the rows are on the disk. So a crash, of the machine too, loses what one call
    was adding, and rows that were counted are whole. The count stays beside the finished file, to
    know it again.

    Args:
        path: of the file.
        dim: numbers of a row.
        count: rows in the end.
        identity: says what the rows are of: model, data and how the pictures are cut. What is there
            with another identity is begun anew.

    Raises:
        UserError: if the folder cannot be written, or another process is writing this file.
    """

    def __init__(self, path: str | os.PathLike[str], dim: int, count: int, identity: str):
        self.path = Path(path)
        self._part = self.path.with_name(f".{self.path.name}.part")
        self._progress = self.path.with_name(f".{self.path.name}.progress")
        self._header, self._dim, self._count = npy_header((count, dim), _TYPE), dim, count
        self._about = json.dumps({"identity": identity, "rows": count, "numbers": dim})
        self._rows = self._log = -1
        try:
            self._open()
        except OSError as error:
            raise UserError(f"{self.path}: cannot be written ({error.strerror}).") from error

    def __enter__(self) -> "FeatureFile":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def done(self) -> int:
        """How many rows are there."""
        return self._done

    @property
    def array(self) -> Embeds:
        """The rows that are there, mapped from the file, not to be written."""
        at = self.path if self._done == self._count else self._part
        shape = (self._count, self._dim)
        if not self._count * self._dim:
            return np.zeros(shape, np.float32)
        rows = np.memmap(at, _TYPE, "r", offset=len(self._header), shape=shape)
        return rows[: self._done]

    def append(self, embeds: Embeds) -> None:
        """Adds the next rows; when this returns they survive a crash of the machine.

        Raises:
            ValueError: if they are of another size, or more than are missing.
            OSError: if the disk is full; what was there before is kept.
        """
        if embeds.shape[1:] != (self._dim,) or self._done + len(embeds) > self._count:
            raise ValueError(
                f"{self.path}: rows {embeds.shape} behind {self._done} of {self._count} rows of "
                f"{self._dim} numbers"
            )
        content = np.ascontiguousarray(embeds, _TYPE).tobytes()
        done = self._done + len(embeds)
        try:
            write_at(
                self._rows, content, len(self._header) + self._done * self._dim * _TYPE.itemsize
            )
            os.fsync(self._rows)
            _write(self._log, f"{done}\n".encode())
            os.fsync(self._log)
        except OSError as error:
            error.filename = str(self.path)
            raise
        self._done = done
        if self._done == self._count:
            self._finish()

    def remove(self) -> None:
        """Removes the file, or what there is of it."""
        self.close()
        for path in (self._progress, self._part, self.path):
            path.unlink(missing_ok=True)

    def close(self) -> None:
        """Closes the files; what is not whole can be gone on with. Safe to call twice."""
        for descriptor in (self._rows, self._log):
            if descriptor >= 0:
                os.close(descriptor)
        self._rows = self._log = -1

    def _open(self) -> None:
        self._done = self._counted()
        is_whole = self._done == self._count and _size(self.path) == self._size
        if is_whole and not self._part.exists():
            return
        self._lock()
        self._done = self._counted()
        if _size(self._part) != self._size or self._done < 0:
            self._begin()
        self._log = os.open(self._progress, os.O_WRONLY | os.O_APPEND)
        # The beginning of a line that a crash cut would run into the next one.
        os.ftruncate(self._log, self._progress.read_bytes().rfind(b"\n") + 1)
        if self._done == self._count:
            self._finish()

    def _lock(self) -> None:
        while True:
            self._rows = os.open(self._part, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                fcntl.flock(self._rows, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                self.close()
                raise UserError(
                    f"{self.path}: another process is writing it. Wait for it, or write elsewhere."
                ) from error
            except OSError:  # file systems without locks
                return
            # Another process may have finished, and given the file its name, before this lock.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(self._rows), self._part.stat()):
                    return
            self.close()

    def _begin(self) -> None:
        """Makes an empty part; at no time does a count stand beside rows of another one."""
        for path in (self._progress, self.path):
            path.unlink(missing_ok=True)
        _sync_folder(self.path.parent)
        os.ftruncate(self._rows, 0)
        os.ftruncate(self._rows, self._size)
        write_at(self._rows, self._header, 0)
        os.fsync(self._rows)
        with replaced(self._progress) as file:
            file.write(f"{self._about}\n0\n".encode())
        _sync_folder(self.path.parent)
        self._done = 0

    def _finish(self) -> None:
        os.replace(self._part, self.path)
        _sync_folder(self.path.parent)
        self.close()

    def _counted(self) -> int:
        """Returns how many rows of this identity are on the disk; -1 if they are of another."""
        try:
            lines = self._progress.read_bytes().split(b"\n")
        except OSError:
            return -1
        if lines[0].decode(errors="replace") != self._about:
            return -1
        counts = [int(line) for line in lines[1:-1] if line.isdigit()]  # the last one may be torn
        return counts[-1] if counts and counts[-1] <= self._count else -1

    @property
    def _size(self) -> int:
        return len(self._header) + self._count * self._dim * _TYPE.itemsize


def _write(descriptor: int, content: bytes) -> None:
    while content:
        content = content[os.write(descriptor, content) :]


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1


def _sync_folder(folder: Path) -> None:
    """Waits until the names of a folder are on the disk, where its file system can be told to."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
