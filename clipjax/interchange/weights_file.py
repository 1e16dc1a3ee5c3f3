"""Opens the tensors of another codebase by what the file is, not by what it is called."""

import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from clipjax.config import UserError
from clipjax.interchange.layout import Shape
from clipjax.interchange.npz_file import NpzFile
from clipjax.interchange.safetensors_file import SafetensorsFile
from clipjax.interchange.transfer import Tensors

INDEX_SUFFIX = ".safetensors.index.json"
PICKLE_SUFFIXES = (".pt", ".bin", ".pth", ".ckpt", ".pkl", ".pickle")
_ZIP = b"PK"
_PROTOCOL = b"\x80"  # the first byte of every pickle since protocol 2
_OTHERS = {b"\x89HDF": "an HDF5 file", b"GGUF": "a GGUF file", b"<": "a page of HTML or XML"}
_POINTER = b"version https://git-lfs"


def open_tensors(path: str | os.PathLike[str]) -> Tensors:
    """Returns the tensors of a safetensors file, of the shards of an index, or of an npz file.

    Args:
        path: of a .safetensors, .npz or .safetensors.index.json file.

    Raises:
        UserError: if it is none of them, is cut off or damaged, or would run code.
    """
    source = os.fspath(path)
    try:
        with open(path, "rb") as file:
            start = file.read(64)
    except OSError as error:
        raise UserError(f"{source}: cannot be read ({error.strerror}).") from error
    if source.endswith(".index.json"):
        return _Shards(Path(path))
    if start.startswith(_ZIP):
        if _is_pickled_zip(path):
            raise UserError(pickle_refusal(source))
        return NpzFile(path)
    if (start[:1] == _PROTOCOL and start[1:2] in b"\2\3\4\5") or source.endswith(PICKLE_SUFFIXES):
        raise UserError(pickle_refusal(source))
    if start.startswith(_POINTER):
        raise UserError(
            f"{source}: is a pointer of Git LFS, not the weights. Fetch them with git lfs pull."
        )
    for magic, what in _OTHERS.items():
        if start.startswith(magic):
            raise UserError(f"{source}: is {what}; expected a .safetensors or .npz file.")
    return SafetensorsFile(path)


def pickle_refusal(source: str) -> str:
    """Returns why a pickled file is not read, and the command that turns it into one that is."""
    name = Path(source).name
    stem = name.rpartition(".")[0] or name
    command = (
        'python -c "import torch, safetensors.torch as s; '
        f"w = torch.load('{name}', map_location='cpu', weights_only=True); "
        "s.save_file({k: v.clone().contiguous() for k, v in w.get('state_dict', w).items()}, "
        f"'{stem}.safetensors', {{'format': 'pt'}})\""
    )
    return (
        f"{source}: is a pickle, which runs code that is in the file when it is read: it is never "
        f"opened here. Where you trust it, turn it into safetensors: {command}"
    )


def _is_pickled_zip(path: str | os.PathLike[str]) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith((".pkl", "/data.pkl")) for name in archive.namelist())
    except (zipfile.BadZipFile, OSError, ValueError):
        return os.fspath(path).endswith(PICKLE_SUFFIXES)


class _Shards:
    """The tensors of several files, found through their index."""

    def __init__(self, index: Path):
        self.source = str(index)
        try:
            weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
            names = dict(weight_map)
            if not names or not all(isinstance(f, str) for f in names.values()):
                raise ValueError("weight_map names no files")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{self.source}: no index of safetensors ({error!r:.80}). Fetch it again."
            ) from error
        self._files: dict[str, SafetensorsFile] = {}
        for file in sorted(set(names.values())):
            # A name from a file that somebody else wrote must not lead out of the folder.
            if file.endswith(PICKLE_SUFFIXES):
                raise UserError(pickle_refusal(str(index.parent / Path(file).name)))
            if Path(file).name != file or not file.endswith(".safetensors"):
                raise UserError(
                    f"{self.source}: names {file!r}; expected safetensors files beside it."
                )
            self._files[file] = SafetensorsFile(index.parent / file)
        self._of = names
        held = {name for file in self._files.values() for name in file.shapes()}
        for name, file in names.items():
            if name not in self._files[file].shapes():
                raise UserError(f"{self.source}: {name!r} is not in {file}, as the index says.")
        if extra := sorted(held - names.keys()):
            raise UserError(f"{self.source}: the files hold {extra[0]!r}, the index does not.")

    def shapes(self) -> Mapping[str, Shape]:
        return {name: self._files[file].shapes()[name] for name, file in self._of.items()}

    def dtypes(self) -> set[str]:
        return {dtype for file in self._files.values() for dtype in file.dtypes()}

    def read(self, name: str) -> np.ndarray:
        return self._files[self._of[name]].read(name)


def read_json(path: Path) -> dict[str, Any]:
    """Returns the object in a JSON file.

    Raises:
        UserError: if it cannot be read or holds something else.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error}).") from error
    if not isinstance(found, dict):
        raise UserError(f"{path}: expected a JSON object, found {type(found).__name__}.")
    return found
