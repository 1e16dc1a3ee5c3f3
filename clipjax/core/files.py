"""Files and folders that appear whole or not at all, and arrays that are filled in place."""

import contextlib
import io
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np


@contextlib.contextmanager
def replaced(path: Path) -> Iterator[BinaryIO]:
    """Opens a file beside `path` that takes its place when the block ends without an error."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


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
