"""Writes image-text pairs as WebDataset shards, named and described as img2dataset does it."""

import contextlib
import dataclasses
import errno
import io
import json
import os
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from clipjax.config.errors import UserError
from clipjax.data.image_header import read_header

DONE = "dataset.json"
"""The last file that a maker writes: a folder without it is not complete."""

MOST_PER_SHARD = 10_000
"""img2dataset's keys have five digits for the shard, four for the place in it."""

Members = Mapping[str, bytes | Mapping[str, Any]]
"""The files of a sample by suffix; a mapping is an object to be written as JSON."""

_PARTIAL = ".partial"
_ENDINGS = ("_stats.json", ".tar")  # in this order, so that no shard is there without its stats


@dataclasses.dataclass(frozen=True)
class Sample:
    """One pair to be written.

    Args:
        image: a picture, or uint8 [height, width, 3] or [height, width]; or a JPEG, PNG or WebP
            file, whose bytes are written as they are.
        caption: the text of the pair, not empty.
        fields: further metadata for the `.json` member; JSON-able.
        label: class number for the `.cls` member, or None for a sample without a class.
    """

    image: Image.Image | np.ndarray | bytes
    caption: str
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    label: int | None = None


def write_shards(
    directory: str | os.PathLike[str],
    samples: Iterable[Sample],
    *,
    shard_size: int = 1000,
    image_format: str = "png",
    jpeg_quality: int = 95,
) -> int:
    """Writes `samples` to 00000.tar, 00001.tar, ... and returns how many there were.

    The bytes of a `.tar` are a function of its samples alone. Beside each lies
    `00000_stats.json` with img2dataset's fields, times in seconds. All files get their names
    when the last sample has been written; until then, and after an error, there are none.

    Args:
        directory: where to write; made if it is missing, must not hold shards.
        samples: the pairs, in the order in which they are to lie in the shards.
        shard_size: pairs a shard, at most 10,000 (a key has four digits for the index).
        image_format: "png" (exact) or "jpg", of pictures that are not encoded yet.
        jpeg_quality: Pillow's quality for "jpg", 1 to 95.

    Raises:
        UserError: if the directory holds shards already.
        ValueError: for a shard size or an image format that cannot be, or an empty caption.
        BadSampleError: if bytes that are to be written as they are, are no image.
    """
    if image_format not in ("png", "jpg"):
        raise ValueError(f"image_format={image_format!r}: wanted 'png' or 'jpg'")
    members = _encoded(samples, image_format, jpeg_quality)
    return write_members(directory, members, shard_size=shard_size)


def write_members(
    directory: str | os.PathLike[str], samples: Iterable[Members], *, shard_size: int = 1000
) -> int:
    """Writes samples that are encoded already, as `write_shards` does, and returns their number.

    Args:
        directory: where to write; made if it is missing, must not hold shards.
        samples: the members of each by their suffix; those that are not bytes are written as
            JSON, with the sample's new key as "key".
        shard_size: pairs a shard, at most 10,000.

    Raises:
        UserError: if the directory holds shards already.
        ValueError: for a shard size that cannot be.
    """
    if not 1 <= shard_size <= MOST_PER_SHARD:
        raise ValueError(f"shard_size={shard_size}: wanted 1 to {MOST_PER_SHARD:,}")
    directory = Path(directory)
    make_folder(directory)
    if found := sorted(directory.glob("*.tar")):
        raise UserError(
            f"{directory}: holds {len(found)} shards already ({found[0].name}, ...), wanted a "
            "folder without shards. Choose another folder, or remove these."
        )
    names: list[str] = []
    count = 0
    try:
        for shard in _shards(iter(samples), shard_size):
            name = f"{len(names):05d}"
            names.append(name)
            count += _write_shard(directory, name, shard)
        for name in names:
            for ending in _ENDINGS:
                os.replace(directory / (name + ending + _PARTIAL), directory / (name + ending))
    finally:
        for ending in _ENDINGS:
            for left in directory.glob(f"*{ending}{_PARTIAL}"):
                left.unlink()
    return count


def make_folder(path: str | os.PathLike[str]) -> None:
    """Makes a folder unless it is there, and sees to it that files can be written into it.

    Raises:
        UserError: if that cannot be.
    """
    try:
        os.makedirs(path, exist_ok=True)
        if not os.access(path, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UserError(
            f"{os.fspath(path)}: cannot be made or written ({error.strerror}). Choose another "
            "folder with --out."
        ) from error


class DatasetFolder:
    """A folder that a maker fills, recognisable as complete, begun, or somebody else's.

    `dataset.json.partial` lies there from the first moment on and becomes `dataset.json` in one
    rename at the end, so a folder that was left half written never looks complete, and the maker
    removes only what it has itself begun.

    Args:
        out: the folder.
        name: what is made, e.g. "emoji".
        arguments: what the content is a function of; JSON-able.
        own: names of the folders and files that the maker writes.
    """

    def __init__(
        self,
        out: str | os.PathLike[str],
        name: str,
        arguments: Mapping[str, Any],
        own: Sequence[str],
    ):
        self.path = Path(out)
        self._made_by = {"dataset": name, "arguments": dict(arguments)}
        self._own = tuple(own)

    def complete(self) -> dict[str, Any] | None:
        """Returns the content of dataset.json if the folder is complete, after saying so.

        Raises:
            UserError: if the folder holds another data set, or other arguments made it.
        """
        done = self.path / DONE
        if not done.exists():
            return None
        try:
            found = json.loads(done.read_text(encoding="utf-8"))
            made_by = {key: found[key] for key in self._made_by}
        except (ValueError, KeyError, TypeError):
            made_by = found = None
        if made_by != self._made_by:
            raise UserError(
                f"{done}: holds {json.dumps(made_by)}, wanted {json.dumps(self._made_by)}. "
                "Choose another folder with --out, or remove this one."
            )
        print(f"{self.path}: already complete", file=sys.stderr)
        return found

    def begin(self) -> None:
        """Makes the folder and removes what an interrupted run of the same maker left in it.

        Raises:
            UserError: if something lies there under a name of ours that no maker has begun.
        """
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"{self.path}: is a file, wanted a folder. Choose another --out.")
        marker = self.path / (DONE + _PARTIAL)
        found = [name for name in self._own if (self.path / name).exists()]
        if found and not marker.exists():
            raise UserError(
                f"{self.path}: holds {', '.join(found)} but neither {DONE} nor {marker.name}, so "
                "this command did not write it. Choose another folder with --out."
            )
        make_folder(self.path)
        marker.write_text(json.dumps(self._made_by) + "\n", encoding="utf-8")
        for name in found:
            path = self.path / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def write_lines(self, name: str, lines: Iterable[str]) -> None:
        """Writes a text file of one line each; `name` may have a folder in front."""
        path = self.path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")

    def finish(self, figures: Mapping[str, Any]) -> dict[str, Any]:
        """Writes dataset.json, which makes the folder complete, and returns its content."""
        content = {**self._made_by, **figures}
        marker = self.path / (DONE + _PARTIAL)  # begin() has left it here
        text = json.dumps(content, indent=1, ensure_ascii=False)
        marker.write_text(text + "\n", encoding="utf-8")
        os.replace(marker, self.path / DONE)
        return content


def _encoded(samples: Iterable[Sample], image_format: str, quality: int) -> Iterator[Members]:
    """Yields the members of each sample by their suffix; "json" still lacks the key."""
    for number, sample in enumerate(samples):
        if not sample.caption.strip():
            raise ValueError(f"sample {number}: the caption is empty")
        suffix, data, width, height = _image_file(sample.image, image_format, quality)
        pair: dict[str, bytes | Mapping[str, Any]] = {
            suffix: data,
            "txt": sample.caption.encode(),
            "json": {
                "caption": sample.caption,
                "key": "",
                "status": "success",
                "width": width,
                "height": height,
                **sample.fields,
            },
        }
        if sample.label is not None:
            pair["cls"] = str(sample.label).encode()
        yield pair


def _image_file(
    image: Image.Image | np.ndarray | bytes, image_format: str, quality: int
) -> tuple[str, bytes, int, int]:
    """Returns suffix, bytes, width and height of the file to be written."""
    if isinstance(image, bytes):
        header = read_header(image)
        return header.suffix, image, header.width, header.height
    if not isinstance(image, Image.Image):
        image = Image.fromarray(image)
    buffer = io.BytesIO()
    if image_format == "png":
        image.save(buffer, "png")
    else:
        image.convert("RGB").save(buffer, "jpeg", quality=quality)
    return image_format, buffer.getvalue(), image.width, image.height


def _shards(pairs: Iterator[Members], shard_size: int) -> Iterator[Iterator[Members]]:
    """Yields iterators over the pairs of one shard; each must be used up before the next."""

    def with_first(first: Members) -> Iterator[Members]:
        yield first
        for _, pair in zip(range(shard_size - 1), pairs, strict=False):
            yield pair

    for first in pairs:
        yield with_first(first)


def _write_shard(directory: Path, name: str, pairs: Iterator[Members]) -> int:
    """Writes one shard and its stats under temporary names; returns the number of pairs."""
    start, count = time.time(), 0
    with open(directory / f"{name}.tar{_PARTIAL}", "wb") as file, _tar_writer(file) as tar:
        for index, pair in enumerate(pairs):
            key = f"{name}{index:04d}"
            tar.write({"__key__": key, **{s: _as_bytes(m, key) for s, m in pair.items()}})
            count += 1
    end = time.time()
    stats = {
        "count": count,
        "successes": count,
        "failed_to_download": 0,
        "failed_to_resize": 0,
        "duration": end - start,
        "start_time": start,
        "end_time": end,
        "status_dict": {"success": count},
    }
    path = directory / f"{name}_stats.json{_PARTIAL}"
    path.write_text(json.dumps(stats, indent=4) + "\n", encoding="utf-8")
    return count


def _as_bytes(member: bytes | Mapping[str, Any], key: str) -> bytes:
    if isinstance(member, bytes):
        return member
    text = json.dumps({**member, "key": key}, ensure_ascii=False)
    return text.encode(errors="replace")  # a lone surrogate is no text


@contextlib.contextmanager
def _tar_writer(file: BinaryIO) -> Iterator[Any]:
    import webdataset.utils  # here, not above: 0.3 s that other users of this module need not pay

    # WebDataset can run shell commands from names and unpickle members; we never want that.
    if hasattr(webdataset.utils, "enforce_security"):
        setattr(webdataset.utils, "enforce_security", True)  # noqa: B010 (not in every version)
    from webdataset.writer import TarWriter

    with TarWriter(file, user="clipjax", group="clipjax", mtime=0, encoder=False) as tar:
        yield tar
