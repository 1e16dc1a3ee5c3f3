"""Random access to a folder of image files, with captions beside them or by class folder."""

import bisect
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from clipjax.config.errors import UserError
from clipjax.data.sources.lists import LIST_SUFFIXES, ListedFiles, read_image_file
from clipjax.data.sources.source import Source
from clipjax.data.sources.tar_shards import IMAGE_SUFFIXES

_LIST_STEMS = ("metadata", "captions")


def open_folder(root: str, needs: Sequence[str] = ("txt",)) -> Source:
    """Returns the images of a folder: by its metadata.jsonl or captions.csv, or by their places.

    A list in the folder, named `metadata` or `captions` with the ending of a list, says which
    images there are and what is in them; otherwise see `ImageFolder`.

    Raises:
        UserError: if there are two such lists, or no image.
    """
    names = [stem + suffix for stem in _LIST_STEMS for suffix in LIST_SUFFIXES]
    lists = [name for name in names if os.path.isfile(os.path.join(root, name))]
    if len(lists) > 1:
        raise UserError(
            f"{root}: holds {' and '.join(lists)}, so which one lists the images is not clear. "
            "Name one of them instead of the folder."
        )
    if lists:
        return ListedFiles(os.path.join(root, lists[0]), root=root, needs=needs)
    return ImageFolder(root, needs=needs)


class ImageFolder:
    """The images below a folder, in the order of their paths.

    If any image has a caption beside it (NAME.txt for NAME.jpg), only images with all of `needs`
    beside them are samples. Otherwise each folder in the root is a class: the caption of an image
    is the name of its class, with spaces for _ and -, and "cls" its place among the sorted names.
    Threads may share an instance.

    Attributes:
        class_names: the sorted names of the folders in the root; () if captions lie beside.
        num_incomplete: images passed over because a needed file was missing.
        example_incomplete: path of the first of them, or "".

    Raises:
        UserError: if there is no sample, or a class without an image.
    """

    def __init__(self, root: str, *, needs: Sequence[str] = ("txt",)):
        self._root, self._needs = root, tuple(needs)
        folders = list(_folders(root))
        self._beside = any(found.captions for found in folders)
        self.class_names = () if self._beside else _class_names(root, folders)
        self.num_incomplete, self.example_incomplete = 0, ""
        kept = []
        for found in folders:
            complete = [name for name in found.images if self._complete(found, name)]
            if len(complete) < len(found.images):
                self.num_incomplete += len(found.images) - len(complete)
                first = next(name for name in found.images if name not in set(complete))
                self.example_incomplete = self.example_incomplete or os.path.join(found.path, first)
            kept.append((found.path, _packed(complete)))
        self._folders = [(path, names) for path, names in kept if len(names)]
        self._ends = np.cumsum([len(names) for _, names in self._folders]).tolist()
        if not self._folders:
            raise UserError(self._why_empty(folders))

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Mapping[str, bytes]:
        """Returns {"image": encoded bytes, "txt": ..., ...}: the image and what was needed.

        Raises:
            IndexError: if there is no such image.
            BadSampleError: if a file is no longer there.
        """
        out = dict(self.texts(index))
        out["image"] = read_image_file(os.path.join(self._root, self._name(index)))
        return out

    def texts(self, index: int) -> Mapping[str, bytes]:
        """Returns what was needed of an image, without the image."""
        name = self._name(index)
        path = os.path.join(self._root, name)
        return {need: self._member(name, path, need) for need in self._needs}

    def key(self, index: int) -> str:
        """Returns the path of an image, for messages."""
        return f"{self._root}: {self._name(index)}"

    def digest(self) -> str:
        """Returns the hash of the paths below the root, not of what the files hold."""
        hasher = hashlib.sha256("\0".join([*self._needs, str(self._beside)]).encode())
        for path, names in self._folders:
            for name in names:
                hasher.update(os.fsencode(os.path.join(path, os.fsdecode(name.as_py()))) + b"\0")
        return hasher.hexdigest()

    def close(self) -> None:
        """Does nothing: every file is closed when it has been read."""

    def _name(self, index: int) -> str:
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        place = bisect.bisect_right(self._ends, index)
        path, names = self._folders[place]
        first = self._ends[place - 1] if place else 0
        return os.path.join(path, os.fsdecode(names[index - first].as_py()))

    def _member(self, name: str, path: str, need: str) -> bytes:
        if self._beside:
            return read_image_file(f"{os.path.splitext(path)[0]}.{need}")
        class_name = name.partition(os.sep)[0]
        if need == "cls":
            return str(self.class_names.index(class_name)).encode()
        return class_name.replace("_", " ").replace("-", " ").encode(errors="replace")

    def _complete(self, found: "_Folder", name: str) -> bool:
        if self._beside:
            stem = os.path.splitext(name)[0]
            return all(f"{stem}.{need}" in found.others for need in self._needs)
        return bool(found.path) and set(self._needs) <= {"txt", "cls"}

    def _why_empty(self, folders: Sequence["_Folder"]) -> str:
        images = sum(len(found.images) for found in folders)
        if images and self._beside:
            return (
                f"{self._root}: none of {images:,} images has .{', .'.join(self._needs)} beside "
                f"it (the first is {self.example_incomplete})."
            )
        if images:
            return (
                f"{self._root}: {images:,} images but no captions for .{', .'.join(self._needs)}. "
                "Expected NAME.txt beside NAME.jpg, a folder for each class, or a metadata.jsonl "
                "or captions.csv with the columns file_name and text."
            )
        endings = {os.path.splitext(name)[1] for found in folders for name in found.others}
        there = ", ".join(sorted(endings - {""})[:8]) or "nothing"
        return (
            f"{self._root}: no image below it. Expected .{', .'.join(IMAGE_SUFFIXES)}; "
            f"found {there}."
        )


class _Folder:
    """One folder: the path from the root ("" for the root), its images and its other files."""

    def __init__(self, path: str, names: Sequence[str]):
        self.path = path
        self.images = [name for name in names if _is_image(name)]
        self.others = frozenset(name for name in names if not _is_image(name))
        stems = {os.path.splitext(name)[0] for name in self.images}
        self.captions = any(
            name.endswith(".txt") and name[: -len(".txt")] in stems for name in self.others
        )


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower().removeprefix(".") in IMAGE_SUFFIXES


def _folders(root: str) -> Iterator[_Folder]:
    """Yields the folders below `root`, sorted by path; links are followed, each folder once."""
    seen: set[tuple[int, int]] = set()
    waiting = [""]
    while waiting:
        path = waiting.pop()
        place = os.path.join(root, path)
        try:
            stat = os.stat(place)
            if (stat.st_dev, stat.st_ino) in seen:
                continue
            seen.add((stat.st_dev, stat.st_ino))
            with os.scandir(place) as scan:
                entries = [entry for entry in scan if not entry.name.startswith(".")]
            inner = sorted(entry.name for entry in entries if entry.is_dir())
            files = sorted(entry.name for entry in entries if entry.is_file())
        except OSError as error:
            raise UserError(f"{place}: cannot be read ({error.strerror}).") from error
        yield _Folder(path, files)
        waiting += [os.path.join(path, name) for name in reversed(inner)]


def _class_names(root: str, folders: Sequence[_Folder]) -> tuple[str, ...]:
    filled = {found.path.partition(os.sep)[0] for found in folders if found.images} - {""}
    names = sorted({found.path.partition(os.sep)[0] for found in folders} - {""})
    empty = [name for name in names if name not in filled]
    if empty and filled:
        raise UserError(
            f"{root}: class folder {empty[0]!r} holds no image, and every class behind it would "
            "get another number in a copy without it. Fill the folder or remove it."
        )
    return tuple(names)


def _packed(names: Sequence[str]) -> Any:
    """Returns names as one Arrow array: a tenth of the memory of a list."""
    import pyarrow as pa

    return pa.array([os.fsencode(name) for name in names], pa.binary())
