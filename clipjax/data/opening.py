"""From `config.data` to its sources, side by side, and the order of a run over them."""

import bisect
import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np

from clipjax.config import DataConfig, UsageError, UserError
from clipjax.data.batch_schedule import BatchSchedule, every_step
from clipjax.data.captions import caption_members
from clipjax.data.keyed import mix
from clipjax.data.order import Order
from clipjax.data.sources.opening import open_source
from clipjax.data.sources.source import Source
from clipjax.data.sources.tar_shards import TarShards
from clipjax.data.storage import is_remote
from clipjax.data.streams import FullShuffle, Piece, Stream, WindowedShuffle, WithReplacement

# Small, so that one host has room for all lanes; a batch mixes the shards of all of them.
_WINDOW_OF_REMOTE = 2
_MOST_LANES = 8
_WINDOWS_AT_ONCE = 2  # the one that is read and the one that is fetched


class Sources:
    """The sources of a run as one: their examples follow on each other.

    Attributes:
        parts: the sources by name; one without a name where there is no mixture.
    """

    def __init__(self, parts: Mapping[str, Source]):
        self.parts = dict(parts)
        self._sources = list(self.parts.values())
        self._ends = list(itertools.accumulate(len(source) for source in self._sources))

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Mapping[str, bytes]:
        """Returns the files of a sample."""
        source, own = self._locate(index)
        return source[own]

    def texts(self, index: int) -> Mapping[str, bytes]:
        """Returns the files of a sample; without the image where that saves reading it."""
        source, own = self._locate(index)
        return source.texts(own) if isinstance(source, TarShards) else source[own]

    def key(self, index: int) -> str:
        """Returns "where: key" of a sample, for messages."""
        source, own = self._locate(index)
        return source.key(own)

    def find(self, key: str) -> list[int]:
        """Returns the samples with a key, or with "where: key"."""
        found, first = [], 0
        for source in self._sources:
            if isinstance(source, TarShards):
                found += [first + own for own in source.find(key)]
            else:
                names = map(source.key, range(len(source)))
                found += [
                    first + own
                    for own, name in enumerate(names)
                    if key in (name, name.rpartition(": ")[2])
                ]
            first += len(source)
        return found

    def place(self, index: int) -> str:
        """Returns where a sample lies, without opening anything."""
        source, own = self._locate(index)
        return source.place(own) if isinstance(source, TarShards) else source.key(own)

    def digest(self) -> str:
        """Returns a hash of which samples there are, in which order."""
        digests = [source.digest() for source in self._sources]
        return digests[0] if len(digests) == 1 else " ".join(digests)

    @property
    def reads_ahead(self) -> bool:
        """Whether `prefetch` does anything."""
        return any(isinstance(one, TarShards) and one.reads_ahead for one in self._sources)

    def prefetch(self, pieces: Sequence[tuple[int, Piece]]) -> None:
        """Begins to fetch all that is read soon: parts of shards, with the number of the source."""
        for number, source in enumerate(self._sources):
            if isinstance(source, TarShards):
                source.prefetch([piece for which, piece in pieces if which == number])

    def close(self) -> None:
        """Closes the files; reading opens them again."""
        for source in self._sources:
            source.close()

    def _locate(self, index: int) -> tuple[Source, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        number = bisect.bisect_right(self._ends, index)
        return self._sources[number], index - (self._ends[number - 1] if number else 0)


def open_sources(data: DataConfig) -> Sources:
    """Returns the sources that a config names.

    Raises:
        UserError: if one cannot be read or is empty.
    """
    if not data.mixture:
        return Sources({"": open_address(data.shards, data)})
    parts = {}
    for name, part in data.mixture.items():
        try:
            parts[name] = open_address(part.shards, data)
        except UserError as error:
            message = str(error).replace("data.shards", f"data.mixture.{name}.shards")
            raise type(error)(message) from error
    return Sources(parts)


def open_address(address: str, data: DataConfig, needs: Sequence[str] | None = None) -> Source:
    """Returns one source.

    Args:
        address: see `DataConfig.shards`.
        data: where it is relative to, and how it is read.
        needs: suffixes that a sample must have; those of the caption by default.

    Raises:
        UserError: if it cannot be read or is empty.
    """
    needs = caption_members(data.caption) if needs is None else tuple(needs)
    return open_source(address, data.root, needs, index_dir=data.index_dir, remote=data.remote)


def make_order(data: DataConfig, sources: Sources, batches: BatchSchedule | None = None) -> Order:
    """Returns the order of a run, with one stream a source.

    Args:
        data: of the run.
        sources: of the run.
        batches: of the run; all of `data.global_batch_size` by default.

    Raises:
        UsageError: if a windowed order is asked for where it cannot be.
    """
    batches = every_step(data.global_batch_size) if batches is None else batches
    weights = [part.weight for part in data.mixture.values()] or [1.0]
    windows = [window_of(data, source) for source in sources.parts.values()]
    lanes = _lanes(data, sources, windows, [size for _, size in batches.sizes])
    streams: list[Stream] = []
    for number, (name, source) in enumerate(sources.parts.items()):
        seed = data.shuffle_seed
        if number:
            seed = int(mix(np.uint64(seed) ^ mix(np.uint64(number))))
        if data.mixture and data.mixture[name].replacement:
            streams.append(WithReplacement(len(source), seed, lanes))
        elif windows[number]:
            assert isinstance(source, TarShards)
            streams.append(WindowedShuffle(source.shard_counts, seed, lanes, windows[number]))
        else:
            streams.append(FullShuffle(len(source), seed, lanes))
    return Order(
        streams=tuple(streams),
        batches=batches,
        seed=data.shuffle_seed,
        lanes=lanes,
        weights=tuple(weights),
    )


def window_of(data: DataConfig, source: Source) -> int:
    """Returns how many shards a window of a source has; 0 where all examples are shuffled.

    Raises:
        UsageError: if a window is asked for but the source has no shards.
    """
    sharded = isinstance(source, TarShards)
    if data.window_shards is None:
        return _WINDOW_OF_REMOTE if sharded and is_remote(source.shard_url(0)) else 0
    if data.window_shards and not sharded:
        raise UsageError(
            f"data.window_shards={data.window_shards}: only sources of tar shards have windows; "
            "leave it out."
        )
    return data.window_shards


def read_ahead_warnings(data: DataConfig, sources: Sources, lanes: int, hosts: int) -> list[str]:
    """Returns what makes remote shards be fetched more than once, one line each.

    Args:
        data: of the run.
        sources: of the run.
        lanes: of its order.
        hosts: processes that share the lanes.
    """
    ahead, windowed = 0, False
    for source in sources.parts.values():
        window = window_of(data, source)
        if window and isinstance(source, TarShards) and is_remote(source.shard_url(0)):
            windowed = True
            ahead += -(-lanes // hosts) * window * _WINDOWS_AT_ONCE * source.shard_size(0)
    warnings = []
    if windowed and lanes % hosts:
        warnings.append(
            f"data.lanes={lanes} is no multiple of {hosts} processes: some fetch the same shards. "
            f"Set data.lanes={hosts} or a multiple of it."
        )
    if 0 < data.remote.cache_bytes < ahead:
        warnings.append(
            f"about {ahead / 1e9:,.0f} GB of shards are read from at one time, and data.remote."
            f"cache_bytes keeps {data.remote.cache_bytes / 1e9:,.0f} GB: parts are fetched again. "
            "Raise it, or lower data.lanes or data.window_shards."
        )
    return warnings


def forecast(order: Order, sources: Sources, num_steps: int) -> list[str]:
    """Returns one line a source: its samples, its share of a run, how often the run sees them.

    Args:
        order: of the run.
        sources: which the order is of.
        num_steps: of the run.
    """
    total, width = sum(order.weights), max(map(len, sources.parts))
    lines = []
    for (name, source), weight, stream, epochs in zip(
        sources.parts.items(), order.weights, order.streams, order.epochs(num_steps), strict=True
    ):
        times = f"{epochs:,.2f} epochs in {num_steps:,} steps"
        if isinstance(stream, WithReplacement):
            times = f"each drawn {epochs:,.2f} times on average in {num_steps:,} steps"
        share = f"{100 * weight / total:.1f} % of a batch, " if name else ""
        lines.append(f"{name:{width}}  {len(source):,} samples, {share}{times}".strip())
    return lines


def order_record(data: DataConfig, order: Order, sources: Sources) -> dict[str, object]:
    """Returns what besides the manifest decides the order; {} for one source, fully shuffled."""
    windows = [window_of(data, source) for source in sources.parts.values()]
    buckets: dict[str, object] = {}
    if data.text_buckets:
        buckets = {
            "text_buckets": list(data.text_buckets),
            "bucket_group": data.bucket_group,
            "caption": data.caption,
            "shuffled_captions": data.shuffled_captions,
        }
    if not any(windows) and not data.mixture:
        return buckets
    parts = [
        {"name": name, "weight": weight, "window_shards": window, "stream": type(stream).__name__}
        for name, weight, window, stream in zip(
            sources.parts, order.weights, windows, order.streams, strict=True
        )
    ]
    return {"lanes": order.lanes, "sources": parts, **buckets}


def _lanes(
    data: DataConfig, sources: Sources, windows: Sequence[int], batch_sizes: Sequence[int]
) -> int:
    if not any(windows):
        return 1
    if data.lanes:
        fewest = min(
            len(source)
            for source, window in zip(sources.parts.values(), windows, strict=True)
            if window
        )
        if data.lanes > fewest:
            raise UsageError(
                f"data.lanes={data.lanes}: a windowed source has {fewest:,} samples, and each lane "
                "needs one. Set fewer lanes."
            )
        return data.lanes
    smallest = min(
        len(source.shard_counts) // window
        for source, window in zip(sources.parts.values(), windows, strict=True)
        if window and isinstance(source, TarShards)
    )
    lanes = math.gcd(*batch_sizes, _MOST_LANES)
    while lanes > max(1, smallest):
        lanes //= 2
    return lanes
