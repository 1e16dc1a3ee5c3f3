"""Remote files read through whole blocks, each asked for once."""

import contextlib
import queue
import threading
import weakref
from collections.abc import Iterator, Sequence
from concurrent.futures import Future

from clipjax.config.data import RemoteConfig
from clipjax.data.storage.blocks import Block, BlockCache, BlockKey
from clipjax.data.storage.interface import FileStat, StorageError, shown
from clipjax.data.storage.local import check_range, past_the_end
from clipjax.data.storage.remote import RemoteFiles, TransientError

_RUN_BYTES = 64 << 20  # of adjacent blocks, at most, in one request
_PREFETCH_THREADS = 8
_MAX_WAITING = 4096
_JOIN_SECONDS = 5.0

_Task = tuple[str, int, int]


class BlockStorage:
    """A `Storage` of remote files.

    A read is cut out of whole blocks, which stay in the cache for its neighbours. Threads that
    want one block at one time share one request. Blocks that are fetched ahead come several in a
    request.

    A damaged block is for the reader to find, whose index has checksums: `forget` the file and
    read again.
    """

    def __init__(self, remote: RemoteFiles, cache: BlockCache, config: RemoteConfig):
        self._remote = remote
        self._cache = cache
        self._block_bytes = config.block_bytes
        self._run_blocks = max(1, _RUN_BYTES // config.block_bytes)
        self._stats: dict[str, FileStat] = {}
        self._generations: dict[str, int] = {}  # counts how often a file was forgotten
        self._flights: dict[tuple[int, BlockKey], Future[Block]] = {}
        self._looking: dict[tuple[int, str], Future[FileStat]] = {}
        self._lock = threading.Lock()
        self._hits = self._misses = 0
        self._tasks: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._num_threads = max(1, min(_PREFETCH_THREADS, config.concurrency // 2))
        self._stop = weakref.finalize(self, _stop, remote, self._tasks, self._threads)

    def stat(self, url: str) -> FileStat:
        """Asks the server which content the file has now.

        Raises:
            StorageError: if that cannot be found out.
        """
        stat = self._remote.stat(url)
        with self._lock:
            self._stats[url] = stat
        return stat

    def read(self, url: str, offset: int, length: int) -> bytes:
        """Returns exactly `length` bytes of the version that was looked at first.

        Raises:
            ChangedError: if the file has become another one.
            StorageError: if the bytes cannot be had.
        """
        check_range(offset, length)
        stat = self._known(url)
        if offset + length > stat.size:
            raise past_the_end(shown(url), stat, offset, length)
        if not length:
            return b""
        keys = self._keys(url, stat, offset, length)
        try:
            return self._cut(keys, offset, offset + length)
        except OSError:  # a block file that was cut while it was in use
            for key in keys:
                self._cache.drop(key)
            return self._cut(keys, offset, offset + length)

    def prefetch(self, url: str, offset: int, length: int) -> None:
        """Starts to fetch the blocks of a range that are not here yet.

        What goes wrong is told to whoever reads the range. When too much is waiting already the
        wish is dropped.
        """
        run = self._run_blocks * self._block_bytes
        first = offset - offset % self._block_bytes
        with self._lock:
            if not self._stop.alive:
                return
            while len(self._threads) < self._num_threads:
                thread = threading.Thread(
                    target=_work,
                    args=(weakref.ref(self), self._tasks),
                    name="clipjax-prefetch",
                    daemon=True,
                )
                self._threads.append(thread)
                thread.start()
        for start in range(first, offset + length, run):
            if self._tasks.qsize() < _MAX_WAITING:
                self._tasks.put((url, start, min(start + run, offset + length)))

    def forget(self, url: str, offset: int = 0, length: int | None = None) -> None:
        """Drops the blocks of a range here and on the disk, of all of the file by default.

        The next read looks at the file anew.
        """
        with self._lock:
            self._generations[url] = self._generations.get(url, 0) + 1
            stat = self._stats.pop(url, None)
        if length is None or stat is None:
            self._cache.drop_file(url)
            return
        for key in self._keys(url, stat, offset, length):
            self._cache.drop(key)

    def stats(self) -> dict[str, float]:
        """Returns the counts of the requests, and how many blocks were here or had to come."""
        with self._lock:
            counts = {"block_hits": self._hits, "block_misses": self._misses}
        return {**self._remote.stats(), **counts}

    def close(self) -> None:
        """Ends the threads and closes the files; the storage cannot be used afterwards."""
        self._stop()
        self._cache.close()

    def fetch_ahead(self, url: str, start: int, end: int) -> None:
        """Fetches the blocks of [start, end) that are not here; errors are left to the reader."""
        with contextlib.suppress(StorageError):
            stat = self._known(url)
            if start < min(end, stat.size):
                self._blocks(self._keys(url, stat, start, min(end, stat.size) - start))

    def _keys(self, url: str, stat: FileStat, offset: int, length: int) -> list[BlockKey]:
        size = self._block_bytes
        indices = range(offset // size, (offset + length - 1) // size + 1)
        return [BlockKey(url, stat.version, stat.size, size, index) for index in indices]

    def _cut(self, keys: Sequence[BlockKey], start: int, end: int) -> bytes:
        parts = [
            block.read(max(start, key.start) - key.start, min(end, key.end) - key.start)
            for key, block in zip(keys, self._blocks(keys), strict=True)
        ]
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _known(self, url: str) -> FileStat:
        with self._lock:
            if url in self._stats:
                return self._stats[url]
            flight_key = self._generations.get(url, 0), url
            flight = self._looking.get(flight_key)
            mine = flight is None
            if flight is None:
                flight = self._looking[flight_key] = Future()
        if mine:
            try:
                flight.set_result(self._remote.stat(url))
            except BaseException as error:
                flight.set_exception(error)
            with self._lock:
                if not flight.exception() and self._generations.get(url, 0) == flight_key[0]:
                    self._stats.setdefault(url, flight.result())
                del self._looking[flight_key]
        return flight.result()

    def _blocks(self, keys: Sequence[BlockKey]) -> list[Block]:
        """Returns the blocks of adjacent keys of one file, from wherever they are."""
        at_hand = [self._cache.opened(key) for key in keys]
        wanted = [key for key, block in zip(keys, at_hand, strict=True) if block is None]
        with self._lock:
            self._hits += len(keys) - len(wanted)
        if not wanted:
            return [block for block in at_hand if block is not None]
        mine: dict[BlockKey, Future[Block]] = {}
        flights: dict[BlockKey, Future[Block]] = {}
        with self._lock:
            generation = self._generations.get(keys[0].url, 0)
            for key in wanted:
                flight = self._flights.get((generation, key))
                if flight is None:
                    flight = self._flights[generation, key] = mine[key] = Future()
                flights[key] = flight
        try:
            self._bring(mine, generation)
        except BaseException as error:
            for flight in mine.values():
                if not flight.done():
                    flight.set_exception(error)
            raise
        finally:
            with self._lock:
                for key in mine:
                    del self._flights[generation, key]
        return [block or flights[key].result() for key, block in zip(keys, at_hand, strict=True)]

    def _bring(self, mine: dict[BlockKey, Future[Block]], generation: int) -> None:
        """Fulfils what nobody else is bringing: from the disk, else in as few requests as can be.

        The look at the disk comes after the claim: a block that another thread has just brought
        is there.
        """
        missing: list[BlockKey] = []
        for key, flight in mine.items():
            block = self._cache.opened(key) or self._cache.load(key)
            if block is None:
                missing.append(key)
            else:
                flight.set_result(block)
        with self._lock:
            self._hits += len(mine) - len(missing)
            self._misses += len(missing)
        for run in _runs(missing, self._run_blocks):
            for keys, content in self._fetch(run):
                view = memoryview(content)
                for key in keys:
                    part = bytes(view[key.start - keys[0].start : key.end - keys[0].start])
                    block = self._cache.store(key, part)
                    with self._lock:
                        forgotten = self._generations.get(key.url, 0) != generation
                    if forgotten:
                        self._cache.drop(key)
                    mine[key].set_result(block)

    def _fetch(self, run: list[BlockKey]) -> Iterator[tuple[list[BlockKey], bytes]]:
        """Fetches adjacent blocks at once; where that fails, one by one and with patience."""
        url, stat = run[0].url, FileStat(run[0].size, run[0].version)
        if len(run) > 1:
            try:
                content = self._remote.fetch_once(url, run[0].start, run[-1].end, stat)
            except TransientError:
                content = None
            if content is not None:
                yield run, content
                return
        for key in run:
            yield [key], self._remote.fetch(url, key.start, key.end, stat)


def _runs(keys: list[BlockKey], longest: int) -> list[list[BlockKey]]:
    """Returns the keys in groups of adjacent ones."""
    runs: list[list[BlockKey]] = []
    for key in keys:
        if runs and len(runs[-1]) < longest and runs[-1][-1].index + 1 == key.index:
            runs[-1].append(key)
        else:
            runs.append([key])
    return runs


def _work(storage: "weakref.ref[BlockStorage]", tasks: "queue.SimpleQueue[_Task | None]") -> None:
    # Holds the storage only while there is something to do, so that it can end unclosed.
    while (task := tasks.get()) is not None:
        alive = storage()
        if alive is None:
            return
        alive.fetch_ahead(*task)
        del alive


def _stop(
    remote: RemoteFiles,
    tasks: "queue.SimpleQueue[_Task | None]",
    threads: list[threading.Thread],
) -> None:
    remote.close()
    with contextlib.suppress(queue.Empty):
        while True:
            tasks.get_nowait()
    for _ in threads:
        tasks.put(None)
    for thread in threads:
        if thread is not threading.current_thread():
            thread.join(_JOIN_SECONDS)
