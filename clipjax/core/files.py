"""Files and folders that appear whole or not at all, and arrays that are filled in place."""

import contextlib
import errno
import io
import os
import shutil
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from clipjax.config.errors import UserError

# A flipped bit may say that a member is encrypted (RuntimeError) or packed in another way.
DAMAGED_ARRAYS = (
    OSError,
    EOFError,
    TypeError,
    ValueError,
    KeyError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
)
"""What reading a damaged .npz or .npy raises."""

# What the person who named the place can mend; any other error is the machine's or ours.
_MENDABLE = (
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ENAMETOOLONG,
)


@contextlib.contextmanager
def replaced(path: Path) -> Iterator[BinaryIO]:
    """Opens a file beside `path` that takes its place when the block ends without an error.

    Raises:
        UserError: if its folder is not there or cannot be written, or `path` is a folder.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with _mendable(path):
        if path.is_dir():  # told before the block, which may be long
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        file = open(temporary, "wb")  # noqa: SIM115 (closed below)
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        with _mendable(path):
            os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def _mendable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _MENDABLE:
            raise
        raise UserError(
            f"{path}: cannot be written ({error.strerror}). It must be the name of a file in a "
            "folder that is there and that you may write into."
        ) from error


@contextlib.contextmanager
def replaced_folder(path: Path) -> Iterator[Path]:
    """Makes a folder beside `path` that takes its place when the block ends without an error.

    What stood there before is kept until the new one is in its place.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    before = path.with_name(f".{path.name}.{os.getpid()}.old")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        if path.is_symlink() or path.exists():
            os.replace(path, before)
        try:
            os.replace(temporary, path)
        except OSError:
            if before.exists():
                os.replace(before, path)
            raise
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    if before.is_dir() and not before.is_symlink():
        shutil.rmtree(before)
    else:
        before.unlink(missing_ok=True)


def npy_header(shape: tuple[int, ...], dtype: np.dtype) -> bytes:
    """Returns what stands before the numbers of a `.npy` file, which follow row by row."""
    out = io.BytesIO()
    fields = {"descr": dtype.str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(out, fields)
    return out.getvalue()


def write_at(descriptor: int, content: bytes, offset: int) -> None:
    """Writes all of it: a call may write less, and memory that is mapped dies of a full disk."""
    view = memoryview(content)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written
