"""Which examples make up which batch: a pure function of (seed, step), with no state to save."""

import dataclasses
import functools
from collections.abc import Iterator

import numpy as np

from clipjax.data.keyed import uniforms
from clipjax.data.mixture import Mixture
from clipjax.data.streams import FullShuffle, Piece, Stream

_REPLACEMENTS = 1  # stream of `uniforms`


@dataclasses.dataclass(frozen=True, kw_only=True)
class Order:
    """The order of samples of a run.

    Sample number p of the run is row p mod B of step p div B. The rows of a batch are dealt out to
    lanes, B / lanes consecutive ones to each. Hosts, threads and restarts do not enter, so any
    number of them gives the same batches.

    Attributes:
        streams: one a source.
        global_batch_size: B.
        seed: of the run.
        lanes: of every stream; divides B.
        weights: of the sources, by sample.
    """

    streams: tuple[Stream, ...]
    global_batch_size: int
    seed: int
    lanes: int = 1
    weights: tuple[float, ...] = (1.0,)

    def __post_init__(self):
        if self.global_batch_size % self.lanes:
            raise ValueError(
                f"lanes={self.lanes} must divide global_batch_size={self.global_batch_size}"
            )
        if len(self.weights) != len(self.streams):
            raise ValueError(f"{len(self.weights)} weights for {len(self.streams)} sources")

    @property
    def num_examples(self) -> int:
        """The examples of all sources."""
        return sum(stream.num_examples for stream in self.streams)

    def samples(self, step: int, rows: np.ndarray | None = None) -> np.ndarray:
        """Returns the sample numbers, int64, of the given rows of a batch; of all by default."""
        if rows is None:
            rows = np.arange(self.global_batch_size)
        return step * self.global_batch_size + rows.astype(np.int64)

    def examples(self, samples: np.ndarray) -> np.ndarray:
        """Returns the example index of each sample number; sources follow on each other."""
        lanes, places = self._places(samples)
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
        source, own = self.source_of(example)
        places_of_lane = stop_step * self._rows
        several = len(self.streams) > 1
        before = self._mixture.taken(source, places_of_lane) if several else places_of_lane
        for lane, place in self.streams[source].places(own, before):
            if several:
                place = self._mixture.place(lane, source, place)
            if place < places_of_lane:
                step, row = divmod(place, self._rows)
                yield step * self.global_batch_size + lane * self._rows + row

    def step_of(self, sample: int) -> int:
        """Returns the step that shows a sample, counted from 0."""
        return sample // self.global_batch_size

    def row_of(self, sample: int) -> int:
        """Returns the row of its batch in which a sample is."""
        return int(np.flatnonzero(self.samples(self.step_of(sample)) == sample)[0])

    def replacement(self, sample: int, attempt: int) -> int:
        """Returns the example that stands in for a sample that could not be used."""
        draw = uniforms(self.seed, sample, _REPLACEMENTS, attempt + 1)[attempt]
        source, lane, place = self._whence(sample)
        return self._firsts[source] + self.streams[source].replacement(lane, place, draw)

    def upcoming(self, samples: np.ndarray) -> list[tuple[int, Piece]]:
        """Returns (source, piece of a shard) of what is read at and soon after these samples."""
        out: dict[tuple[int, Piece], None] = {}
        lanes, places = self._places(samples)
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
        samples, total = num_steps * self.global_batch_size, sum(self.weights)
        return [
            samples * weight / total / stream.num_examples
            for weight, stream in zip(self.weights, self.streams, strict=True)
        ]

    @property
    def _rows(self) -> int:
        return self.global_batch_size // self.lanes

    @functools.cached_property
    def _mixture(self) -> Mixture:
        return Mixture(self.weights, self.seed)

    @functools.cached_property
    def _firsts(self) -> list[int]:
        sizes = [stream.num_examples for stream in self.streams]
        return (np.cumsum(sizes) - sizes).tolist()

    def _places(self, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        steps, rows = np.divmod(samples, self.global_batch_size)
        lanes, in_lane = np.divmod(rows, self._rows)
        return lanes, steps * self._rows + in_lane

    def _whence(self, sample: int) -> tuple[int, int, int]:
        lanes, places = self._places(np.array([sample]))
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
    return Order(streams=(stream,), global_batch_size=global_batch_size, seed=seed)
