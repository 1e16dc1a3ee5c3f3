"""Looks through shards for everything that would make training skip or doubt a sample."""

import collections
import dataclasses
import hashlib
import os
import threading
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from clipjax.config.errors import UserError
from clipjax.core.progress import Progress
from clipjax.data.captions import caption_members, choose_caption
from clipjax.data.decode import BadSampleError, decode_image
from clipjax.data.sources.tar_shards import IMAGE_SUFFIXES
from clipjax.data.tar_damage import printable
from clipjax.data.tar_index import HEADER_BYTES, ShardIndex, Storage, open_index, opened
from clipjax.data.tar_window import Read

_MOST_EXAMPLES = 5
_PROGRESS_EVERY = 100  # samples


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckOptions:
    """What to look at.

    Attributes:
        caption: where the caption is: "txt" or "json.FIELD", as in `data.caption`.
        decode: whether to decode the images, which takes most of the time.
        max_image_pixels: images that claim more count as too large.
        index_dir: where indexes are cached, as in `data.index_dir`.
        threads: shards that are looked at together; 0 for one a core.
    """

    caption: str = "txt"
    decode: bool = True
    max_image_pixels: int = 64_000_000
    index_dir: str | None = None
    threads: int = 0


class _Problems:
    """Counts by reason, and the first few cases of each."""

    def __init__(self) -> None:
        self.counts: collections.Counter[str] = collections.Counter()
        self.examples: dict[str, list[str]] = {}

    def add(self, reason: str, example: str, count: int = 1) -> None:
        self.counts[reason] += count
        cases = self.examples.setdefault(reason, [])
        if len(cases) < _MOST_EXAMPLES:
            cases.append(example)

    def merge(self, other: "_Problems") -> None:
        self.counts.update(other.counts)
        for reason, cases in other.examples.items():
            known = self.examples.setdefault(reason, [])
            known += cases[: _MOST_EXAMPLES - len(known)]


@dataclasses.dataclass(frozen=True)
class _Shard:
    """The findings in one shard."""

    path: str
    samples: int
    complete: int
    has_checksums: bool
    problems: _Problems
    hashes: np.ndarray  # uint64, one a key
    error: str = ""
    damage: str = ""


def check_shards(
    paths: Sequence[str],
    options: CheckOptions | None = None,
    *,
    storage: Storage | None = None,
) -> dict[str, Any]:
    """Returns a JSON-able report on shards, after saying on standard error how far it is.

    A key that occurs in two shards is found by a hash of 8 bytes, which is all that is kept of the
    samples: of a billion keys, one pair of different ones may be taken for equal.

    Args:
        paths: local files, or URLs that `storage` reads.
        options: what to look at; everything by default.
        storage: reads the URLs.

    Returns:
        {"shards", "samples", "complete": samples with an image and a caption file,
        "checksummed_shards": those whose index held checksums to compare with,
        "problems": {reason: count}, "examples": {reason: ["shard: key", ...]},
        "rows": [{"shard", "samples", "complete", "problems", "damage", "error"}] of bad shards}.
    """
    options = options or CheckOptions()
    threads = options.threads or len(os.sched_getaffinity(0))
    problems, rows, hashes = _Problems(), [], []
    samples = complete = checksummed = 0
    with (
        Progress("checking", len(paths), "shards") as progress,
        ThreadPoolExecutor(threads) as pool,
    ):
        steps = _Steps(progress)
        try:
            for shard in pool.map(lambda path: _check(path, options, storage, steps), paths):
                samples += shard.samples
                complete += shard.complete
                checksummed += shard.has_checksums
                hashes.append(shard.hashes)
                problems.merge(shard.problems)
                if shard.problems.counts:
                    rows.append(_row(shard))
                steps.shard()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            steps.stop()
            raise
    for example, count in _across(paths, hashes, options, storage):
        problems.add("key in several shards", example, count)
    return {
        "shards": len(paths),
        "samples": samples,
        "complete": complete,
        "checksummed_shards": checksummed,
        "problems": dict(problems.counts.most_common()),
        "examples": problems.examples,
        "rows": rows,
    }


class _Steps:
    """Tells the progress from several threads, and tells those that work is over."""

    def __init__(self, progress: Progress):
        self._progress, self._lock = progress, threading.Lock()
        self._samples = 0
        self.stopped = False

    def samples(self, count: int) -> None:
        with self._lock:
            self._samples += count
            self._progress.advance(0, f"{self._samples:,} samples")

    def shard(self) -> None:
        with self._lock:
            self._progress.advance(1, f"{self._samples:,} samples")

    def stop(self) -> None:
        self.stopped = True


def _row(shard: _Shard) -> dict[str, Any]:
    return {
        "shard": shard.path,
        "samples": shard.samples,
        "complete": shard.complete,
        "problems": dict(shard.problems.counts),
        "damage": shard.damage,
        "error": shard.error,
    }


def _check(path: str, options: CheckOptions, storage: Storage | None, steps: _Steps) -> _Shard:
    problems = _Problems()
    nothing = np.zeros(0, np.uint64)
    try:
        index = open_index(path, options.index_dir, storage=storage)
        with opened(path, storage) as read:
            complete = _check_samples(index, read, options, problems, steps)
    except (UserError, OSError) as error:
        problems.add("unreadable shard", path)
        return _Shard(path, 0, 0, False, problems, nothing, error=str(error))
    for reason, count in index.damage.harmful().items():
        problems.add(f"tar: {reason}", f"{path}: {index.damage.first}", count)
    return _Shard(
        path,
        len(index),
        complete,
        index.has_checksums,
        problems,
        key_hashes(index.keys),
        damage=index.damage.summary(),
    )


def _check_samples(
    index: ShardIndex, read: Read, options: CheckOptions, problems: _Problems, steps: _Steps
) -> int:
    """Looks at every sample; returns how many have an image and a caption."""
    images = [index.suffixes.index(s) for s in IMAGE_SUFFIXES if s in index.suffixes]
    kinds = caption_members(options.caption)
    known = all(kind in index.suffixes for kind in kinds)
    captions = [index.suffixes.index(kind) for kind in kinds] if known else []
    complete = 0
    for row, key in enumerate(index.keys):
        if steps.stopped:
            break
        where = f"{index.path}: {printable(key)}"
        present = index.offsets[row] >= 0
        image = next((column for column in images if present[column]), None)
        has_caption = known and all(present[captions])
        if image is None:
            other = "caption without image" if has_caption else "no image and no caption"
            problems.add(other, where)
        elif not has_caption:
            problems.add("image without caption", where)
        else:
            complete += 1
        if has_caption:
            member = _contents(
                index, read, row, dict(zip(kinds, captions, strict=True)), where, problems
            )
            if member is not None:
                _check_caption(member, options.caption, where, problems)
        if image is not None and (options.decode or index.has_checksums):
            data = _content(index, read, row, image, where, problems)
            if data is not None and options.decode:
                _check_image(data, options.max_image_pixels, where, problems)
        if row % _PROGRESS_EVERY == _PROGRESS_EVERY - 1:
            steps.samples(_PROGRESS_EVERY)
    else:
        steps.samples(len(index) % _PROGRESS_EVERY)
    return complete


def _contents(
    index: ShardIndex,
    read: Read,
    row: int,
    columns: Mapping[str, int],
    where: str,
    problems: _Problems,
) -> dict[str, bytes] | None:
    found = {
        kind: _content(index, read, row, column, where, problems)
        for kind, column in columns.items()
    }
    whole = {kind: data for kind, data in found.items() if data is not None}
    return whole if len(whole) == len(found) else None


def _content(
    index: ShardIndex, read: Read, row: int, column: int, where: str, problems: _Problems
) -> bytes | None:
    """Returns a file of a sample, or None after counting that it is not what was indexed."""
    offset, size = int(index.offsets[row, column]), int(index.sizes[row, column])
    data = read(offset - HEADER_BYTES, HEADER_BYTES + size)
    header, data = data[:HEADER_BYTES], data[HEADER_BYTES:]
    if len(data) != size or zlib.crc32(header) != index.header_crcs[row, column]:
        problems.add("changed since it was indexed", where)
        return None
    if index.has_checksums:
        import google_crc32c

        if google_crc32c.value(data) != index.crcs[row, column]:
            problems.add("checksum mismatch", f"{where}.{printable(index.suffixes[column])}")
            return None
    return data


def _check_caption(member: Mapping[str, bytes], caption: str, where: str, problems: _Problems):
    try:
        choose_caption(member, caption)
    except BadSampleError as error:
        empty = str(error).endswith("is empty")
        problems.add("empty caption" if empty else "unreadable caption", where)


def _check_image(data: bytes, max_pixels: int, where: str, problems: _Problems) -> None:
    try:
        decode_image(data, max_pixels)
    except BadSampleError as error:
        problems.add(f"image: {error.reason}", where)


def key_hashes(keys: Sequence[str]) -> np.ndarray:
    """Returns uint64 [keys], a hash of each, the same on every machine."""
    digests = (
        hashlib.blake2b(key.encode(errors="surrogateescape"), digest_size=8).digest()
        for key in keys
    )
    return np.frombuffer(b"".join(digests), "<u8").astype(np.uint64)


def _across(
    paths: Sequence[str],
    hashes: Sequence[np.ndarray],
    options: CheckOptions,
    storage: Storage | None,
) -> Iterator[tuple[str, int]]:
    """Yields examples of keys that several shards hold, and how many such keys they stand for."""
    merged = np.sort(np.concatenate([*hashes, np.zeros(0, np.uint64)]))
    again = merged[1:][merged[1:] == merged[:-1]]
    repeated = np.unique(again)
    if not len(repeated):
        return
    shown = repeated[:_MOST_EXAMPLES]
    found: dict[int, list[str]] = {int(value): [] for value in shown}
    for path, of_shard in zip(paths, hashes, strict=True):
        for row in np.flatnonzero(np.isin(of_shard, shown)):
            cases = found[int(of_shard[row])]
            if not cases:
                index = open_index(path, options.index_dir, storage=storage)
                cases.append(f"{path}: {printable(index.keys[row])}")
            elif len(cases) == 1:
                cases.append(path)
    for number, cases in enumerate(found.values()):
        others = len(repeated) - len(found) if number == 0 else 0
        yield " and ".join(cases), 1 + others
