"""Which examples make up which batch: a pure function of (seed, step), with no state to save."""

import bisect
import dataclasses
import functools
from collections.abc import Iterator

import numpy as np

from clipjax.data.batch_schedule import BatchSchedule, every_step
from clipjax.data.keyed import uniforms
from clipjax.data.mixture import Mixture
from clipjax.data.streams import FullShuffle, Piece, Stream

_REPLACEMENTS = 1  # stream of `uniforms`


@dataclasses.dataclass(frozen=True, kw_only=True)
class Order:
    """The order of samples of a run.

    Sample number p of the run is row p mod B of step p div B, where the batch size B never changes;
    else `batches` says which step shows it. The rows of a batch are dealt out to lanes, B / lanes
    consecutive ones to each. Hosts, threads and restarts do not enter, so any number of them gives
    the same batches.

    Attributes:
        streams: one a source.
        batches: their sizes, and what is left out.
        seed: of the run.
        lanes: of every stream; divides every batch size.
        weights: of the sources, by sample.
    """

    streams: tuple[Stream, ...]
    batches: BatchSchedule
    seed: int
    lanes: int = 1
    weights: tuple[float, ...] = (1.0,)

    def __post_init__(self):
        for _, size in self.batches.sizes:
            if size % self.lanes:
                raise ValueError(f"lanes={self.lanes} must divide the batch size {size}")
        if len(self.weights) != len(self.streams):
            raise ValueError(f"{len(self.weights)} weights for {len(self.streams)} sources")

    @property
    def num_examples(self) -> int:
        """The examples of all sources."""
        return sum(stream.num_examples for stream in self.streams)

    def samples(self, step: int, rows: np.ndarray | None = None) -> np.ndarray:
        """Returns the sample numbers, int64, of the given rows of a batch; of all by default."""
        if rows is None:
            rows = np.arange(self.batches.size(step))
        return self.batches.first_sample(step) + rows.astype(np.int64)

    def examples(self, samples: np.ndarray) -> np.ndarray:
        """Returns the example index of each sample number; sources follow on each other."""
        lanes, places = self.places(samples)
        if len(self.streams) == 1:
            return self.streams[0].examples(lanes, places)
        which, own = self._mixture.sources(lanes, places)
        out = np.empty_like(places)
        for number in np.unique(which):
            of_source = which == number
            found = self.streams[number].examples(lanes[of_source], own[of_source])
            out[of_source] = found + self._firsts[number]
        return out

    def seen(self, example: int, stop_step: int) -> Iterator[int]:
        """Yields the sample numbers of the steps below `stop_step` that see an example.

        Those by its turn; not those where it stands in for a sample that cannot be used.
        """
        stop_sample = self.batches.first_sample(stop_step - 1) if stop_step else 0
        stop_sample += self.batches.size(stop_step - 1) if stop_step else 0
        for sample in self._turns(example, stop_sample // self.lanes):
            if self.batches.step_of(sample) is not None:
                yield sample

    def _turns(self, example: int, places_of_lane: int) -> Iterator[int]:
        """Yields the sample numbers of an example, left out or not, among so many of each lane."""
        source, own = self.source_of(example)
        several = len(self.streams) > 1
        before = self._mixture.taken(source, places_of_lane) if several else places_of_lane
        for lane, place in self.streams[source].places(own, before):
            if several:
                place = self._mixture.place(lane, source, place)
            if place < places_of_lane:
                yield self._sample(lane, place)

    def step_of(self, sample: int) -> int | None:
        """Returns the step that shows a sample, counted from 0; None if it is left out."""
        return self.batches.step_of(sample)

    def row_of(self, sample: int) -> int:
        """Returns the row of its batch in which a sample is that is not left out."""
        step = self.step_of(sample)
        assert step is not None
        return int(np.flatnonzero(self.samples(step) == sample)[0])

    def replacement(self, sample: int, attempt: int) -> int:
        """Returns the example that stands in for a sample that could not be used."""
        draw = uniforms(self.seed, sample, _REPLACEMENTS, attempt + 1)[attempt]
        source, lane, place = self._whence(sample)
        return self._firsts[source] + self.streams[source].replacement(lane, place, draw)

    def upcoming(self, samples: np.ndarray) -> list[tuple[int, Piece]]:
        """Returns (source, piece of a shard) of what is read at and soon after these samples."""
        out: dict[tuple[int, Piece], None] = {}
        lanes, places = self.places(samples)
        for lane in np.unique(lanes):
            of_lane = places[lanes == lane]
            first, last = int(of_lane.min()), int(of_lane.max())
            for source, own, count in self._spans(first, last):
                for piece in self.streams[source].upcoming(int(lane), own, count):
                    out[source, piece] = None
        return list(out)

    def source_of(self, example: int) -> tuple[int, int]:
        """Returns the source of an example and its index there."""
        source = int(np.searchsorted(self._firsts, example, side="right")) - 1
        return source, example - self._firsts[source]

    def epochs(self, num_steps: int) -> list[float]:
        """Returns how often a run of so many steps sees each source."""
        samples, total = self.batches.first_sample(num_steps), sum(self.weights)
        return [
            samples * weight / total / stream.num_examples
            for weight, stream in zip(self.weights, self.streams, strict=True)
        ]

    @functools.cached_property
    def _mixture(self) -> Mixture:
        return Mixture(self.weights, self.seed)

    @functools.cached_property
    def _firsts(self) -> list[int]:
        sizes = [stream.num_examples for stream in self.streams]
        return (np.cumsum(sizes) - sizes).tolist()

    def places(self, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the lane of each sample and its place there."""
        starts = np.asarray(self.batches.starts)
        stages = np.searchsorted(starts, samples, side="right") - 1
        sizes = np.asarray([size for _, size in self.batches.sizes])[stages]
        batches, rows = np.divmod(samples - starts[stages], sizes)
        lanes, in_lane = np.divmod(rows, sizes // self.lanes)
        return lanes, (starts[stages] + batches * sizes) // self.lanes + in_lane

    def _sample(self, lane: int, place: int) -> int:
        """Returns the sample at a place of a lane."""
        stage = bisect.bisect_right(self.batches.starts, place * self.lanes) - 1
        rows = self.batches.sizes[stage][1] // self.lanes
        start = self.batches.starts[stage]
        batch, in_lane = divmod(place - start // self.lanes, rows)
        return start + batch * rows * self.lanes + lane * rows + in_lane

    def _whence(self, sample: int) -> tuple[int, int, int]:
        lanes, places = self.places(np.array([sample]))
        if len(self.streams) == 1:
            return 0, int(lanes[0]), int(places[0])
        which, own = self._mixture.sources(lanes, places)
        return int(which[0]), int(lanes[0]), int(own[0])

    def _spans(self, first: int, last: int) -> Iterator[tuple[int, int, int]]:
        """Yields source, first of its own places and their number, for places of a lane."""
        if len(self.streams) == 1:
            yield 0, first, last - first + 1
            return
        for source in range(len(self.streams)):
            start, _ = self._mixture.around(source, first)
            _, stop = self._mixture.around(source, last)
            yield source, start, max(1, stop - start)


def shuffled(*, num_examples: int, global_batch_size: int, seed: int) -> Order:
    """Returns the order of one source: every example once an epoch, a new permutation each epoch.

    Sample number p is example permute(p mod n, seed, p div n).
    """
    stream = FullShuffle(num_examples, seed)
    return Order(streams=(stream,), batches=every_step(global_batch_size), seed=seed)
