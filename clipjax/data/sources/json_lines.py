"""Random access to the lines of a JSONL file, of which only their places are kept in memory."""

import json
import os
import threading
from collections.abc import Sequence

import numpy as np

from clipjax.config.errors import UserError
from clipjax.data.decode import BadSampleError

_CHUNK = 1 << 24


class JsonLines:
    """The objects of a JSONL file by number; blank lines do not count. Threads may share it.

    Attributes:
        columns: keys of the first object.

    Raises:
        UserError: if the file cannot be read, or its first line is not a JSON object.
    """

    def __init__(self, path: str):
        self._path = path
        self._handle = -1
        self._opening = threading.Lock()
        try:
            self._starts, self._ends = _line_places(path)
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror}).") from error
        if not len(self):
            raise UserError(f"{path}: is empty; expected one JSON object a line.")
        try:
            self.columns: Sequence[str] = list(self._object(0))
        except BadSampleError as error:
            raise UserError(f"{path}: {error}. Expected one JSON object a line.") from error

    def __len__(self) -> int:
        return len(self._starts)

    def value(self, row: int, column: str) -> object:
        """Returns one value of an object; None where it has none.

        Raises:
            BadSampleError: if the line is not a JSON object.
        """
        return self._object(row).get(column)

    def row_json(self, row: int) -> bytes:
        """Returns the line."""
        start = int(self._starts[row])
        return os.pread(self._open(), int(self._ends[row]) - start, start).strip()

    def close(self) -> None:
        """Closes the file; reading opens it again."""
        with self._opening:
            if self._handle >= 0:
                os.close(self._handle)
            self._handle = -1

    def _object(self, row: int) -> dict[str, object]:
        try:
            found = json.loads(self.row_json(row))
        except (ValueError, RecursionError) as error:
            raise BadSampleError("damaged list", f"row {row + 1}: {error}") from error
        if not isinstance(found, dict):
            raise BadSampleError("damaged list", f"row {row + 1} is not a JSON object")
        return found

    def _open(self) -> int:
        with self._opening:
            if self._handle < 0:
                self._handle = os.open(self._path, os.O_RDONLY)
            return self._handle


def _line_places(path: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the first byte of each line that is not blank, and the byte behind it."""
    newlines, offset = [], 0
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            found = np.flatnonzero(np.frombuffer(chunk, np.uint8) == ord("\n"))
            newlines.append(found.astype(np.int64) + offset)
            offset += len(chunk)
    ends = np.concatenate([*newlines, np.array([offset], np.int64)])
    starts = np.concatenate([np.zeros(1, np.int64), ends[:-1] + 1])
    longer = ends - starts > 1  # a blank line may hold a carriage return
    return starts[longer], ends[longer]
