"""The activations of a facet in a file that is filled row by row, in any order."""

import os
from pathlib import Path

import numpy as np
from jaxtyping import Int, Shaped

from clipjax.config import UserError
from clipjax.core.files import npy_header, write_at


class ActivationFile:
    """Rows of a `.npy` file that has its final size from the beginning; its pages are not mapped.

    Args:
        path: of the file.
        rows: of the array.
        units: numbers of a row.
        dtype: of the numbers.
        anew: write it from the beginning, whatever is there.

    Raises:
        UserError: if it cannot be written, or what is there is of another size.
    """

    def __init__(self, path: Path, rows: int, units: int, dtype: np.dtype, *, anew: bool):
        self._path, self._shape, self._dtype = path, (rows, units), dtype
        self._header = npy_header(self._shape, dtype)
        self._row_bytes = units * dtype.itemsize
        size = len(self._header) + rows * self._row_bytes
        try:
            flags = os.O_RDWR | os.O_CREAT | (os.O_TRUNC if anew else 0)
            self._file = os.open(path, flags, 0o666)
            if anew:
                os.ftruncate(self._file, size)
                write_at(self._file, self._header, 0)
        except OSError as error:
            raise UserError(f"{path}: cannot be written ({error.strerror}).") from error
        if os.fstat(self._file).st_size != size:
            os.close(self._file)
            raise UserError(f"{path}: is not what the scan wrote. Add --force to scan again.")

    def write(
        self, rows: Int[np.ndarray, " some"], activations: Shaped[np.ndarray, "some units"]
    ) -> None:
        """Writes the activations of some rows.

        Raises:
            UserError: if the disk is full or broken; other rows are as they were.
        """
        content = np.ascontiguousarray(activations, self._dtype)
        first = len(self._header)
        try:
            for row, numbers in zip(rows.tolist(), content, strict=True):
                write_at(self._file, numbers.tobytes(), first + row * self._row_bytes)
        except OSError as error:
            raise UserError(
                f"{self._path}: cannot be written ({error.strerror}). Make room; the same command "
                "goes on where it stopped."
            ) from error

    def flush(self) -> None:
        """Waits until all rows are on the disk."""
        os.fsync(self._file)

    def close(self) -> None:
        """Closes the file."""
        os.close(self._file)
