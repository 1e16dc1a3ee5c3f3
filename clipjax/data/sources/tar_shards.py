"""Random access to the samples of WebDataset tar shards, without unpacking them."""

import bisect
import glob
import hashlib
import os
import threading
import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from clipjax.config.errors import UsageError, UserError
from clipjax.data.tar_index import HEADER_BYTES, ShardIndex, open_index

IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp")


class ShardChangedError(UserError):
    """A shard is no longer what was indexed: no sample of it can be trusted."""


def expand_shards(root: str, patterns: str) -> list[str]:
    """Returns the local files that patterns with `*` and `{00000..00041}` name, sorted.

    Args:
        root: directory that relative patterns start from.
        patterns: separated by spaces.

    Raises:
        UserError: if a pattern matches no file, or names something that is not a local file.
    """
    from webdataset.shardlists import expand_urls

    paths: list[str] = []
    for pattern in patterns.split():
        if "://" in pattern or pattern.startswith("pipe:"):
            raise UserError(
                f"data.shards={pattern!r}: only files of this machine can be read. Mount or copy "
                "the shards and name them by path."
            )
        found = []
        for expanded in expand_urls(pattern):
            names = glob.glob(expanded, root_dir=root) if glob.has_magic(expanded) else [expanded]
            found += [os.path.join(root, name) for name in names]
        if not found:
            raise UserError(
                f"data.shards={pattern!r}: matches no file below data.root={root!r} (seen from "
                f"{os.getcwd()}). Check both; set them with --config.data.root= and "
                "--config.data.shards=. `clipjax data emoji --out DIR` makes shards."
            )
        paths += found
    if not paths:
        raise UsageError(
            "data.shards is empty. Name WebDataset shards, e.g. --config.data.shards='train/*.tar'."
        )
    return sorted(set(paths))


class TarShards(Sequence[Mapping[str, bytes]]):
    """The complete samples of shards: those with an image and all of `needs`.

    The bytes of a sample are read with one `pread` a file when it is asked for, so shuffling is
    global and a resumed run reads nothing twice. Threads may share an instance: `pread` keeps no
    position.

    Attributes:
        num_incomplete: samples passed over because a needed file was missing.
        example_incomplete: "shard: key" of the first of them, or "".
    """

    def __init__(
        self, paths: Sequence[str], *, needs: Sequence[str] = ("txt",), index_dir: str | None = None
    ):
        with ThreadPoolExecutor(8) as pool:
            self._shards = list(pool.map(lambda path: open_index(path, index_dir), paths))
        self._needs = tuple(needs)
        self._rows = [_complete_rows(shard, self._needs) for shard in self._shards]
        self._ends = np.cumsum([len(rows) for rows in self._rows]).tolist()
        self.num_incomplete = sum(map(len, self._shards)) - len(self)
        self.example_incomplete = self._first_incomplete()
        self._handles: dict[int, int] = {}
        self._opening = threading.Lock()
        if not len(self):
            raise UserError(
                f"{paths[0]}: no complete sample in {len(paths)} shards. A sample needs an image "
                f"({', '.join(IMAGE_SUFFIXES)}) and .{', .'.join(self._needs)} of the same key."
            )

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Mapping[str, bytes]:  # type: ignore[override]
        """Returns {"image": encoded bytes, "txt": ..., ...}: the image and what was needed.

        Raises:
            IndexError: if there is no such sample.
            ShardChangedError: if the shard has changed since it was indexed.
        """
        shard, row = self._locate(index)
        table = self._shards[shard]
        out = {}
        for kind in (*self._needs, "image"):
            column = _column(table, row, kind)
            out[kind] = self._read(shard, row, column)
        return out

    def key(self, index: int) -> str:
        """Returns "shard: key" of a sample, for messages."""
        shard, row = self._locate(index)
        return f"{self._shards[shard].path}: {self._shards[shard].keys[row]}"

    def digest(self) -> str:
        """Returns the hash of the manifest: which samples there are, in which order."""
        parts = [
            f"{shard.digest()} {len(rows)}"
            for shard, rows in zip(self._shards, self._rows, strict=True)
        ]
        return hashlib.sha256("\n".join([*parts, *self._needs]).encode()).hexdigest()

    def close(self) -> None:
        """Closes the files; reading opens them again."""
        with self._opening:
            for handle in self._handles.values():
                os.close(handle)
            self._handles.clear()

    def _locate(self, index: int) -> tuple[int, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        shard = bisect.bisect_right(self._ends, index)
        first = self._ends[shard - 1] if shard else 0
        return shard, int(self._rows[shard][index - first])

    def _first_incomplete(self) -> str:
        for shard, rows in zip(self._shards, self._rows, strict=True):
            missing = np.setdiff1d(np.arange(len(shard)), rows)
            if len(missing):
                return f"{shard.path}: {shard.keys[missing[0]]}"
        return ""

    def _handle(self, shard: int) -> int:
        with self._opening:
            if shard not in self._handles:
                table = self._shards[shard]
                try:
                    handle = os.open(table.path, os.O_RDONLY)
                except OSError as error:
                    raise self._changed(shard, error.strerror or "cannot be opened") from error
                stat = os.fstat(handle)
                if (stat.st_size, str(stat.st_mtime_ns)) != (table.size, table.version):
                    os.close(handle)
                    raise self._changed(shard, "its size or modification time is another one")
                self._handles[shard] = handle
            return self._handles[shard]

    def _read(self, shard: int, row: int, column: int) -> bytes:
        table = self._shards[shard]
        size, offset = int(table.sizes[row, column]), int(table.offsets[row, column])
        data = os.pread(self._handle(shard), HEADER_BYTES + size, offset - HEADER_BYTES)
        if len(data) != HEADER_BYTES + size:
            raise self._changed(shard, f"{table.keys[row]} now ends after {len(data)} bytes")
        if zlib.crc32(data[:HEADER_BYTES]) != table.header_crcs[row, column]:
            raise self._changed(shard, f"the tar header of {table.keys[row]} is another one")
        return data[HEADER_BYTES:]

    def _changed(self, shard: int, what: str) -> ShardChangedError:
        return ShardChangedError(
            f"{self._shards[shard].path}: changed since it was indexed ({what}). Bring the shard "
            "back or start again: the run goes on from its last checkpoint with a new index."
        )


def _complete_rows(shard: ShardIndex, needs: Sequence[str]) -> np.ndarray:
    def has(suffix: str) -> np.ndarray:
        if suffix not in shard.suffixes:
            return np.zeros(len(shard), bool)
        return shard.offsets[:, shard.suffixes.index(suffix)] >= 0

    complete = np.logical_or.reduce([has(suffix) for suffix in IMAGE_SUFFIXES])
    for need in needs:
        complete = complete & has(need)
    return np.flatnonzero(complete)


def _column(shard: ShardIndex, row: int, kind: str) -> int:
    if kind != "image":
        return shard.suffixes.index(kind)
    present = [s for s in IMAGE_SUFFIXES if s in shard.suffixes]
    return next(c for s in present if shard.offsets[row, c := shard.suffixes.index(s)] >= 0)
