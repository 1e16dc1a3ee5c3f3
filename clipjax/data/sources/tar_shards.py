"""Random access to the samples of WebDataset tar shards, without unpacking them."""

import functools
import hashlib
import threading
import zlib
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import google_crc32c
import numpy as np

from clipjax.config import RemoteConfig
from clipjax.config.errors import UserError
from clipjax.core.progress import Progress
from clipjax.data.decode import BadSampleError
from clipjax.data.manifest import Manifest
from clipjax.data.ordered_map import ordered_map
from clipjax.data.sources.tar_table import (
    IMAGE_SUFFIXES,
    MOST_MEMBER_BYTES,
    ShardTable,
    complete_rows,
)
from clipjax.data.storage import (
    ChangedError,
    Storage,
    StorageError,
    expand_shards,
    is_remote,
    open_storage,
)
from clipjax.data.streams import Piece
from clipjax.data.tar_damage import printable
from clipjax.data.tar_index import HEADER_BYTES, ShardIndex, open_index

_MOST_ROWS = 8_000_000
_MOST_READS = 4  # of bytes that are not those indexed


class ShardChangedError(UserError):
    """A shard is no longer what was indexed: no sample of it can be trusted."""


class TarShards:
    """The complete samples of shards: those with an image and all of `needs`.

    The bytes of a sample are read when it is asked for, one range a file, so shuffling is global
    and a resumed run reads nothing twice. Threads may share an instance.

    Args:
        shards: paths or URLs, whose indexes are all opened now; or a manifest, which knows how
            many samples each has, so that the index of a shard is opened when it is read.
        needs: suffixes that a sample must have besides an image.
        index_dir: where indexes are cached; see `open_index`.
        storage: reads the shards; by default opened for them.

    Attributes:
        num_incomplete: samples passed over because a needed file was missing.
        example_incomplete: "shard: key" of the first of them, or "".
        damage: what is wrong with each shard that is not sound, by path; only of shards whose
            indexes were opened.
        shard_counts: samples of each shard, int64.

    Raises:
        UserError: if a shard cannot be read or none has a complete sample.
    """

    def __init__(
        self,
        shards: Sequence[str] | Manifest,
        *,
        needs: Sequence[str] = ("txt",),
        index_dir: str | None = None,
        storage: Storage | None = None,
    ):
        self._manifest = shards if isinstance(shards, Manifest) else Manifest.of_urls(shards)
        self._members = (*needs, "image")
        self._index_dir = index_dir
        first = [self._manifest.url(0)] if len(self._manifest) else []
        self._storage = storage or open_storage(first, RemoteConfig())
        self._index = functools.lru_cache(maxsize=8)(self._open_index)
        self._tables: OrderedDict[int, ShardTable] = OrderedDict()
        self._rows_kept = 0
        self._opening: dict[int, threading.Lock] = {}
        self._lock = threading.Lock()
        self._fetching = _read_ahead_threads()
        self._announced: set[Piece] = set()
        self.damage: dict[str, str] = {}
        self.num_incomplete, self.example_incomplete = self._manifest.num_incomplete, ""
        self._digest = self._manifest.digest
        if isinstance(shards, Manifest):
            self._manifest.check_needs(needs)
            self.shard_counts = self._manifest.counts
        else:
            self.shard_counts = self._open_all()
        self._ends = np.cumsum(self.shard_counts)
        if not len(self):
            raise UserError(
                f"{self._manifest.url(0)}: no complete sample in {len(self._manifest)} shards. A "
                f"sample needs an image ({', '.join(IMAGE_SUFFIXES)}) and .{', .'.join(needs)} of "
                "the same key."
            )

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, index: int) -> Mapping[str, bytes]:
        """Returns {"image": encoded bytes, "txt": ..., ...}: the image and what was needed.

        Raises:
            IndexError: if there is no such sample.
            ShardChangedError: if the shard has changed since it was indexed.
            BadSampleError: if the bytes of this sample are not those that were indexed.
        """
        return self._files(index, self._members)

    def texts(self, index: int) -> Mapping[str, bytes]:
        """Returns the files of a sample without the image."""
        return self._files(index, self._members[:-1])

    def _files(self, index: int, members: Sequence[str]) -> Mapping[str, bytes]:
        shard, row = self._locate(index)
        table = self._table(shard)
        return {kind: self._read(shard, table, row, column) for column, kind in enumerate(members)}

    def __iter__(self):
        return (self[index] for index in range(len(self)))

    def key(self, index: int) -> str:
        """Returns "shard: key" of a sample, for messages."""
        shard, row = self._locate(index)
        index_row = int(self._table(shard).rows[row])
        return f"{self._manifest.url(shard)}: {printable(self._index(shard).keys[index_row])}"

    def shard_url(self, shard: int) -> str:
        """Returns the path or URL of a shard."""
        return self._manifest.url(shard)

    def shard_size(self, shard: int) -> int:
        """Returns the bytes of a shard."""
        return self._storage.stat(self.shard_url(shard)).size

    def place(self, index: int) -> str:
        """Returns "shard: sample N" without opening the shard."""
        shard, row = self._locate(index)
        return f"{self.shard_url(shard)}: sample {row:,}"

    def find(self, key: str) -> list[int]:
        """Returns the samples with a key; with "shard: key" only that shard is opened.

        Of the path of the shard its last parts are enough.
        """
        where, colon, name = key.rpartition(": ")
        urls = map(self.shard_url, range(len(self._manifest)))
        shards = [shard for shard, url in enumerate(urls) if colon and _names(where, url)]
        found, many = [], shards or range(len(self._manifest))
        with Progress("looking for the key", len(many), "shards", quiet_seconds=2.0) as progress:
            for shard in many:
                found += self._find(shard, name if shards else key)
                progress.advance()
        return found

    def digest(self) -> str:
        """Returns the hash of the manifest: which samples there are, in which order."""
        return hashlib.sha256("\n".join([self._digest, *self._members[:-1]]).encode()).hexdigest()

    @functools.cached_property
    def reads_ahead(self) -> bool:
        """Whether any of the shards is remote, so that `prefetch` is of use."""
        return b"://" in self._manifest.names.tobytes()

    def prefetch(self, pieces: Collection[Piece]) -> None:
        """Begins to fetch parts of shards that are remote; returns at once.

        Args:
            pieces: all that are read soon. Those that were among them at the last call are under
                way already.
        """
        with self._lock:
            new = [piece for piece in pieces if piece not in self._announced]
            self._announced = set(pieces)
            for piece in new:
                if is_remote(self._manifest.url(piece.shard)):
                    self._fetching.submit(self._fetch, piece)

    def close(self) -> None:
        """Closes the files. Reading opens local ones again; those of a server stay closed."""
        with self._lock:
            fetching, self._fetching = self._fetching, _read_ahead_threads()
            self._announced = set()
        # What is still to be fetched would keep the process from ending.
        fetching.shutdown(wait=False, cancel_futures=True)
        self._storage.close()

    def _find(self, shard: int, key: str) -> list[int]:
        first = int(self._ends[shard] - self.shard_counts[shard])
        named = [row for row, own in enumerate(self._index(shard).keys) if own == key]
        return (first + np.flatnonzero(np.isin(self._table(shard).rows, named))).tolist()

    def _open_all(self) -> np.ndarray:
        shards, parts, counts = range(len(self._manifest)), [], []
        with Progress("opening", len(shards), "shards", quiet_seconds=2.0) as progress:
            for shard, index in enumerate(ordered_map(self._open_index, shards, threads=8)):
                table = ShardTable.of_index(index, self._members)
                self._tables[shard] = table
                parts.append(f"{index.digest()} {len(table)}")
                counts.append(len(table))
                if index.damage:
                    self.damage[index.path] = index.damage.summary()
                missing = np.setdiff1d(np.arange(len(index)), table.rows)
                if len(missing) and not self.example_incomplete:
                    self.example_incomplete = f"{index.path}: {printable(index.keys[missing[0]])}"
                self.num_incomplete += len(missing)
                progress.advance()
        self._digest = hashlib.sha256("\n".join(parts).encode()).hexdigest()
        return np.array(counts, np.int64)

    def _open_index(self, shard: int) -> ShardIndex:
        url = self._manifest.url(shard)
        index = open_index(url, self._index_dir, storage=self._storage)
        if not self._manifest.agrees(shard, index):
            raise self._changed(shard, "the manifest lists other samples")
        return index

    def _table(self, shard: int) -> ShardTable:
        with self._lock:
            table = self._tables.get(shard)
            if table is not None:
                self._tables.move_to_end(shard)
                return table
            opening = self._opening.setdefault(shard, threading.Lock())
        with opening:  # one thread opens a shard, others that want it wait
            with self._lock:
                if shard in self._tables:
                    return self._tables[shard]
            index = self._index(shard)
            table = ShardTable.of_index(index, self._members, self._manifest.rows(shard))
            with self._lock:
                self._keep(shard, table)
                self._opening.pop(shard, None)
        return table

    def _keep(self, shard: int, table: ShardTable) -> None:
        self._tables[shard] = table
        self._rows_kept += len(table)
        while self._rows_kept > _MOST_ROWS and len(self._tables) > 1:
            self._rows_kept -= len(self._tables.popitem(last=False)[1])

    def _locate(self, index: int) -> tuple[int, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        shard = int(np.searchsorted(self._ends, index, side="right"))
        return shard, index - int(self._ends[shard] - self.shard_counts[shard])

    def _fetch(self, piece: Piece) -> None:
        try:
            start, end = self._table(piece.shard).byte_range(piece.first, piece.stop)
            self._storage.prefetch(self._manifest.url(piece.shard), start, end - start)
        except UserError:
            pass  # raised again where the sample is read

    def _read(self, shard: int, table: ShardTable, row: int, column: int) -> bytes:
        offset, size = int(table.offsets[row, column]), int(table.sizes[row, column])
        if size > MOST_MEMBER_BYTES:
            raise BadSampleError("too large", f"a file of {size:,} bytes")
        if not table.has_checksums:
            header = self._bytes(shard, table, offset - HEADER_BYTES, HEADER_BYTES)
            if zlib.crc32(header) != table.header_crcs[row, column]:
                raise self._changed(shard, "a tar header is another one")
            return self._bytes(shard, table, offset, size)
        for tries_left in range(_MOST_READS - 1, -1, -1):
            data = self._bytes(shard, table, offset, size)
            if google_crc32c.value(data) == table.crcs[row, column]:
                return data
            if tries_left:  # flipped on its way, or in the cache, or of another version
                self._storage.forget(self._manifest.url(shard), offset, size)
                table.checked = False
        raise BadSampleError("checksum", f"{size:,} bytes at {offset:,} are not those indexed")

    def _bytes(self, shard: int, table: ShardTable, offset: int, length: int) -> bytes:
        url = self._manifest.url(shard)
        try:
            if not table.checked:
                stat = self._storage.stat(url)
                if (stat.size, stat.version) != (table.size, table.version):
                    raise self._changed(shard, "its size or modification time is another one")
                table.checked = True
            return self._storage.read(url, offset, length)
        except ChangedError as error:
            raise self._changed(shard, "its size or modification time is another one") from error
        except StorageError as error:
            if is_remote(url):
                raise
            raise self._changed(shard, str(error)) from error

    def _changed(self, shard: int, what: str) -> ShardChangedError:
        return ShardChangedError(
            f"{self._manifest.url(shard)}: changed since it was indexed ({what}). Bring the shard "
            "back or start again: the run goes on from its last checkpoint with a new index."
        )


def _read_ahead_threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(2, thread_name_prefix="ahead")


def _names(where: str, url: str) -> bool:
    return url == where or url.endswith("/" + where.removeprefix("./"))


__all__ = ["IMAGE_SUFFIXES", "ShardChangedError", "TarShards", "complete_rows", "expand_shards"]
