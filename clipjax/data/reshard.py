"""Writes the samples of a source as WebDataset shards: as they are, or resized and shuffled."""

import collections
import dataclasses
import json
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import simplejpeg

from clipjax.config.errors import UserError
from clipjax.core.progress import Progress
from clipjax.data.captions import choose_caption
from clipjax.data.crops import center_crop
from clipjax.data.decode import BadSampleError, decode_image
from clipjax.data.image_header import read_header
from clipjax.data.ordered_map import ordered_map
from clipjax.data.permutation import permute
from clipjax.data.sources.source import Source
from clipjax.data.writers import DatasetFolder, Members, write_members

ResizeMode = Literal["shortest", "longest", "square", "none"]
RESIZE_MODES: tuple[ResizeMode, ...] = ("shortest", "longest", "square", "none")

_SHARD_FILE = re.compile(r"\d{5,}(\.tar|_stats\.json)(\.partial)?")
_PERMUTE_BLOCK = 1 << 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reencoding:
    """What becomes of the image of a sample.

    Args:
        side: pixels of the side that `mode` names, where the image is larger; never enlarged.
        mode: "shortest" or "longest" side; "square", the central one; "none" keeps the size.
        quality: of the JPEG that a changed image becomes, 1 to 100.
        always_jpeg: images that keep their size become JPEGs too, unless they are.
        max_pixels: images that claim more are refused.
    """

    side: int = 256
    mode: ResizeMode = "none"
    quality: int = 85
    always_jpeg: bool = False
    max_pixels: int = 1 << 26


def resized_shape(width: int, height: int, side: int, mode: ResizeMode) -> tuple[int, int]:
    """Returns width and height after resizing, rounded, at least 1, never enlarged.

    >>> resized_shape(640, 480, 256, "shortest"), resized_shape(640, 480, 256, "longest")
    ((341, 256), (256, 192))
    >>> resized_shape(640, 480, 256, "square"), resized_shape(100, 80, 256, "square")
    ((256, 256), (80, 80))
    """
    if mode == "none":
        return width, height
    if mode == "square":
        short = min(width, height, side)
        return short, short
    reference = min(width, height) if mode == "shortest" else max(width, height)
    scale = min(1.0, side / reference)
    return max(1, round(width * scale)), max(1, round(height * scale))


@dataclasses.dataclass(frozen=True)
class EncodedImage:
    """An image file and what it was before.

    Attributes:
        data: the file.
        suffix: "jpg", "png" or "webp".
        size: width and height now.
        original_size: width and height before.
    """

    data: bytes
    suffix: str
    size: tuple[int, int]
    original_size: tuple[int, int]


def reencode(data: bytes, how: Reencoding) -> EncodedImage:
    """Returns the image resized, as a JPEG; the same bytes if there is nothing to change.

    Shrinks with OpenCV's INTER_AREA, an average over areas and hence free of aliasing: the filter
    that training uses. Transparent images lie on white.

    Raises:
        BadSampleError: if the image is damaged, too large or of another format.
    """
    header = read_header(data)
    before = header.width, header.height
    if before[0] * before[1] > how.max_pixels:
        raise BadSampleError(
            "too large", f"{before[0]} x {before[1]} pixels, at most {how.max_pixels:,}"
        )
    size = resized_shape(*before, how.side, how.mode)
    if size == before and (header.suffix == "jpg" or not how.always_jpeg):
        return EncodedImage(data, header.suffix, before, before)
    image = decode_image(data, how.max_pixels)
    if how.mode == "square":
        left, top, right, bottom = center_crop(*before)
        image = image[top:bottom, left:right]
    if image.shape[1::-1] != size:
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    try:
        jpeg = simplejpeg.encode_jpeg(
            np.ascontiguousarray(image), how.quality, "RGB", colorsubsampling="420"
        )
    except ValueError as error:  # JPEG ends at 65,535 pixels
        raise BadSampleError("too large", f"{size[0]} x {size[1]}: {error}") from error
    return EncodedImage(jpeg, "jpg", size, before)


def resharded(sample: Mapping[str, bytes], how: Reencoding) -> Members:
    """Returns the members of one sample as they are to be written.

    A "json" of a resized image gets its new width and height, and keeps the old ones as
    original_width and original_height, as img2dataset does.

    Raises:
        BadSampleError: if the image or the JSON cannot be used.
    """
    image = reencode(sample["image"], how)
    out: dict[str, bytes | Mapping[str, Any]] = {image.suffix: image.data}
    for suffix, content in sample.items():
        if suffix not in ("image", "json"):
            out[suffix] = content
    if "json" in sample:
        fields = _json_object(sample["json"])
        if image.size != image.original_size:
            fields.setdefault("original_width", image.original_size[0])
            fields.setdefault("original_height", image.original_size[1])
            fields |= {"width": image.size[0], "height": image.size[1]}
        out["json"] = fields
    return out


def captioned(
    sample: Mapping[str, bytes], caption: str, keep: Sequence[str], how: Reencoding
) -> Members:
    """Returns the members of one sample as img2dataset writes them: image, txt and json.

    Args:
        sample: what a source gives.
        caption: where its caption is, "txt" or "json.FIELD"; of a list the first is taken.
        keep: further members to write; "json" for its fields in the new json.
        how: what becomes of its image.

    Raises:
        BadSampleError: if the sample has no caption, or its image or JSON cannot be used.
    """
    text = choose_caption(sample, caption)
    image = reencode(sample["image"], how)
    fields = _json_object(sample["json"]) if "json" in keep else {}
    described = {
        "caption": text,
        "key": "",
        "status": "success",
        "width": image.size[0],
        "height": image.size[1],
    }
    return {
        image.suffix: image.data,
        "txt": text.encode(),
        **{suffix: sample[suffix] for suffix in keep if suffix not in ("json", "txt")},
        "json": {**fields, **described},
    }


def write_resharded(
    source: Source,
    out: str | os.PathLike[str],
    convert: Callable[[Mapping[str, bytes]], Members],
    *,
    made_by: tuple[str, Mapping[str, Any]],
    shard_size: int = 1000,
    shuffle_seed: int | None = None,
    limit: int | None = None,
    threads: int = 8,
) -> dict[str, Any]:
    """Writes `convert(sample)` of each sample as shards in `out`, and returns its dataset.json.

    Nothing has its final name before the last sample is written. Samples that cannot be used are
    counted by reason and left out. A complete folder of the same arguments is left as it is.

    Args:
        source: the samples.
        out: folder to write.
        convert: the members to write of a sample; raises BadSampleError to drop it.
        made_by: name of the command and its arguments, which the content is a function of.
        shard_size: samples a shard, at most 10,000.
        shuffle_seed: the samples are shuffled with it; None for the order of the source.
        limit: only so many samples are read; None for all.
        threads: that read and convert.

    Raises:
        UserError: if the folder holds something else, or no sample can be used.
    """
    name, arguments = made_by
    arguments = {**arguments, "digest": source.digest()}
    folder = DatasetFolder(out, name, arguments, own=_shard_files(Path(out)))
    if (found := folder.complete()) is not None:
        return found
    folder.begin()
    count = min(len(source), limit) if limit is not None else len(source)
    drops = Drops()

    def one(index: int) -> Members | None:
        try:
            return convert(source[index])
        except BadSampleError as error:
            drops.add(source.key(index), error)
            return None

    def kept() -> Iterator[Members]:
        order = _order(len(source), count, shuffle_seed)
        with Progress("writing shards", count) as progress:
            for members in ordered_map(one, order, threads=threads):
                if members is not None:
                    yield members
                progress.advance(detail=drops.said())

    written = write_members(out, kept(), shard_size=shard_size)
    if not written:
        raise UserError(f"no sample of {count:,} can be used ({drops.said()}): {drops.example}.")
    figures = {
        "samples": written,
        "shards": -(-written // shard_size),
        "dropped": dict(sorted(drops.by_reason.items())),
        "example_dropped": drops.example,
    }
    return folder.finish(figures)


class Drops:
    """Counts samples that are left out.

    Attributes:
        by_reason: number of samples by the reason.
        example: "where: what" of one of them, or "".
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.by_reason: collections.Counter[str] = collections.Counter()
        self.example = ""

    def add(self, where: str, error: BadSampleError) -> None:
        """Counts one; several threads may do so."""
        with self._lock:
            self.by_reason[error.reason] += 1
            self.example = self.example or f"{where}: {error}"

    def said(self) -> str:
        """Returns e.g. "dropped 3 damaged, 1 too large"; "" if none was."""
        with self._lock:
            counts = self.by_reason.most_common()
        parts = [f"{count:,} {reason}" for reason, count in counts]
        return "dropped " + ", ".join(parts) if parts else ""


def _order(examples: int, count: int, seed: int | None) -> Iterator[int]:
    for first in range(0, count, _PERMUTE_BLOCK):
        block = np.arange(first, min(count, first + _PERMUTE_BLOCK))
        yield from (block if seed is None else permute(block, examples, seed, 0)).tolist()


def _shard_files(folder: Path) -> Sequence[str]:
    if not folder.is_dir():
        return ()
    return sorted(path.name for path in folder.iterdir() if _SHARD_FILE.fullmatch(path.name))


def _json_object(content: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise BadSampleError("damaged json", str(error)) from error
    if not isinstance(fields, dict):
        raise BadSampleError("damaged json", "not an object")
    return fields
