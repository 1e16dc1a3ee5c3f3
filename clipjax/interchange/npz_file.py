"""NumPy's .npz: a zip of arrays, read and written member by member; objects are refused."""

import os
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from clipjax.config import UserError
from clipjax.core.files import DAMAGED_ARRAYS, replaced
from clipjax.interchange.layout import Shape
from clipjax.interchange.safetensors_file import from_bfloat16

_SUFFIX = ".npy"


class NpzFile:
    """The arrays of one file; each is read when it is asked for.

    Args:
        path: of the file.

    Raises:
        UserError: if it is cut off, damaged, or holds Python objects.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.source = os.fspath(path)
        try:
            self._zip = zipfile.ZipFile(path)
            names = self._zip.namelist()
            headers = {name: self._header(name) for name in names if name.endswith(_SUFFIX)}
        except DAMAGED_ARRAYS as error:
            raise self._damaged(error) from error
        if len(headers) != len(names) or not names:
            other = sorted(set(names) - headers.keys())[:3]
            raise UserError(
                f"{self.source}: is no .npz file: {len(names)} members, of which "
                f"{', '.join(other) or 'none'} {'is' if len(other) < 2 else 'are'} no .npy array."
            )
        self._shapes = {name.removesuffix(_SUFFIX): shape for name, shape in headers.items()}

    def close(self) -> None:
        """Closes the file."""
        self._zip.close()

    def shapes(self) -> Mapping[str, Shape]:
        """Returns the shape of every array by name."""
        return self._shapes

    def dtypes(self) -> set[str]:
        """Returns the names of the types of number that are in it."""
        return {"F32"}

    def read(self, name: str) -> np.ndarray:
        """Returns an array, float32 if it was of 16 bits.

        Raises:
            UserError: if its bytes are damaged.
        """
        try:
            with self._zip.open(name + _SUFFIX) as member:
                array = np.lib.format.read_array(member, allow_pickle=False)
        except DAMAGED_ARRAYS as error:
            raise self._damaged(error, name) from error
        if array.dtype == np.dtype("V2"):  # how bfloat16 is saved
            return from_bfloat16(array.view(np.uint16))
        return array.astype(np.float32) if array.dtype == np.float16 else array

    def _header(self, name: str) -> Shape:
        with self._zip.open(name) as member:
            version = np.lib.format.read_magic(member)
            reader = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }.get(version)
            if reader is None:
                raise ValueError(f"{name} is of version {version} of the .npy format")
            shape, _, dtype = reader(member)
        if dtype.hasobject:
            raise UserError(
                f"{self.source}: {name.removesuffix(_SUFFIX)!r} holds Python objects, which are "
                "stored as a pickle: reading it runs code that is in the file. Save it with plain "
                "arrays elsewhere."
            )
        return tuple(shape)

    def _damaged(self, error: Exception, name: str = "") -> UserError:
        part = f"{name!r} of it " if name else ""
        return UserError(
            f"{self.source}: {part}cannot be read ({error}): the file is cut off or damaged. Fetch "
            "it again."
        )


def write_npz(path: Path, tensors: Iterable[tuple[str, np.ndarray]]) -> None:
    """Writes arrays one by one; the file is there when all are, else nothing is.

    Args:
        path: of the file; replaced if it exists.
        tensors: by name.
    """
    with replaced(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, array in tensors:
            # The date of a file would make equal arrays unequal files.
            info = zipfile.ZipInfo(name + _SUFFIX, date_time=(1980, 1, 1, 0, 0, 0))
            with archive.open(info, "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asarray(array, order="C"), allow_pickle=False)
