"""Safetensors: a length, a JSON header, and the numbers; read from a mapping, written as a stream.

The format: https://github.com/huggingface/safetensors#format. It is parsed here and not by the
package because a file of many gigabytes is written one tensor at a time, and because a damaged one
must be told apart from a wrong one.
"""

import json
import math
import mmap
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from clipjax.config import UserError
from clipjax.core.files import replaced
from clipjax.interchange.layout import Shape

_MOST_HEADER_BYTES = 100_000_000
_DTYPES = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U64": np.dtype("<u8"),
    "U32": np.dtype("<u4"),
    "U16": np.dtype("<u2"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items() if name != "BF16"}


class SafetensorsFile:
    """The tensors of one file, each a view of the mapped file until it is used.

    Args:
        path: of the file.

    Raises:
        UserError: if it cannot be read, is cut off, or its header is wrong.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.source = os.fspath(path)
        try:
            with open(path, "rb") as file:
                size = os.fstat(file.fileno()).st_size
                self._header, self._start = _read_header(self.source, file.read(8), file.read, size)
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise UserError(f"{self.source}: cannot be read ({error.strerror}).") from error
        self.metadata: dict[str, str] = self._header.pop("__metadata__", {})
        _check_entries(self.source, self._header, size - self._start)

    def shapes(self) -> Mapping[str, Shape]:
        """Returns the shape of every tensor by name."""
        return {name: tuple(entry["shape"]) for name, entry in self._header.items()}

    def dtypes(self) -> set[str]:
        """Returns the names of the types of number that are in it."""
        return {entry["dtype"] for entry in self._header.values()}

    def read(self, name: str) -> np.ndarray:
        """Returns a tensor: a view of the file, or float32 made of 16 bits."""
        entry = self._header[name]
        begin, shape = entry["data_offsets"][0], tuple(entry["shape"])
        dtype = _DTYPES[entry["dtype"]]
        flat = np.frombuffer(self._map, dtype, math.prod(shape), self._start + begin)
        if entry["dtype"] == "BF16":
            flat = from_bfloat16(flat)
        elif entry["dtype"] == "F16":
            flat = flat.astype(np.float32)
        return flat.reshape(shape)


def from_bfloat16(bits: np.ndarray) -> np.ndarray:
    """Returns the float32 numbers of which these uint16 are the upper halves.

    >>> from_bfloat16(np.array([0x3F80, 0xC000], np.uint16)).tolist()
    [1.0, -2.0]
    """
    return (bits.astype(np.uint32) << 16).view(np.float32)


def _read_header(source: str, length: bytes, read: Any, size: int) -> tuple[dict[str, Any], int]:
    if len(length) < 8:
        raise UserError(
            f"{source}: is cut off: {size} bytes, where a safetensors file begins with eight that "
            "say how long its header is. Fetch it again."
        )
    count = int.from_bytes(length, "little")
    if count > _MOST_HEADER_BYTES or count < 2:
        raise UserError(
            f"{source}: is no safetensors file: its first eight bytes stand for a header of "
            f"{count:,} bytes. Give a .safetensors or .npz file."
        )
    if 8 + count > size:
        raise UserError(
            f"{source}: is cut off within its header: {size:,} bytes of at least {8 + count:,}, "
            "or it is no safetensors file. Fetch it again."
        )
    try:
        header = json.loads(read(count).decode())
        if not isinstance(header, dict):
            raise ValueError("no object")
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{source}: the header is no JSON object ({error}): the file is damaged, or it is no "
            "safetensors file. Fetch it again."
        ) from error
    metadata = header.get("__metadata__", {})
    if not isinstance(metadata, dict):
        raise UserError(f"{source}: __metadata__ of the header is no object. Fetch it again.")
    return header, 8 + count


def _check_entries(source: str, header: Mapping[str, Any], data_bytes: int) -> None:
    """Raises UserError unless the entries cover the data without holes and overlaps."""
    spans = []
    for name, entry in header.items():
        try:
            dtype, shape = entry["dtype"], [int(n) for n in entry["shape"]]
            begin, end = (int(n) for n in entry["data_offsets"])
        except (TypeError, KeyError, ValueError) as error:
            raise UserError(
                f"{source}: the header's entry of {name!r} is damaged ({error!r}). Fetch it again."
            ) from error
        if dtype not in _DTYPES:
            raise UserError(
                f"{source}: {name!r} is of type {dtype!r}, which is not read here. Expected one of "
                f"{', '.join(_DTYPES)}; give weights that are not quantised."
            )
        if min(shape, default=0) < 0 or end - begin != math.prod(shape) * _DTYPES[dtype].itemsize:
            raise UserError(
                f"{source}: {name!r} of shape {shape} and type {dtype} takes "
                f"{math.prod(shape) * _DTYPES[dtype].itemsize:,} bytes; the header gives it "
                f"{end - begin:,}. The file is damaged: fetch it again."
            )
        spans.append((begin, end, name))
    at = 0
    for begin, end, name in sorted(spans):
        if begin != at:
            raise UserError(
                f"{source}: {name!r} begins at byte {begin:,} of the data, expected {at:,}. The "
                "header is damaged: fetch the file again."
            )
        at = end
    if at > data_bytes:
        raise UserError(
            f"{source}: is cut off: {data_bytes:,} bytes of numbers, expected {at:,}. Fetch it "
            "again."
        )
    if at < data_bytes:
        raise UserError(
            f"{source}: {data_bytes - at:,} bytes follow the last tensor. The file is damaged: "
            "fetch it again."
        )


def write_safetensors(
    path: Path,
    specs: Mapping[str, tuple[Shape, np.dtype]],
    tensors: Iterable[tuple[str, np.ndarray]],
    *,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes tensors one by one; the file is there when all are, else nothing is.

    Args:
        path: of the file; replaced if it exists.
        specs: shape and type of each, in the order in which they come.
        tensors: by name.
        metadata: of the header.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    at = 0
    for name, (shape, dtype) in specs.items():
        end = at + math.prod(shape) * np.dtype(dtype).itemsize
        kind = _NAMES[np.dtype(dtype)]
        header[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with replaced(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        expected = iter(specs.items())
        for name, array in tensors:
            wanted, (shape, dtype) = next(expected)
            assert (name, array.shape, array.dtype) == (wanted, shape, dtype), (name, wanted)
            file.write(np.ascontiguousarray(array).data)
        assert next(expected, None) is None, "fewer tensors than the header names"
