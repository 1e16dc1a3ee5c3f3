"""The endless sequences of examples that a source gives: in which order, and backwards.

A sequence is split into lanes, so that each host of a cluster can read its own part of the data: a
lane holds the same rows of every batch, and how lanes are dealt out to hosts changes nothing.
"""

import dataclasses
import functools
import itertools
from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import numpy as np

from clipjax.data.keyed import mix, uniforms
from clipjax.data.permutation import permute, unpermute

_DRAWS = 4  # stream of `uniforms`
_SCAN = 1 << 20


@dataclasses.dataclass(frozen=True)
class Piece:
    """Consecutive examples of one shard that are needed soon."""

    shard: int
    first: int
    stop: int


@runtime_checkable
class Stream(Protocol):
    """An endless sequence of examples in lanes: a pure function of (lane, place)."""

    @property
    def num_examples(self) -> int:
        """How many different ones there are."""
        ...

    def examples(self, lanes: np.ndarray, places: np.ndarray) -> np.ndarray:
        """Returns the example, int64, at each place of each lane."""
        ...

    def places(self, example: int, before: int) -> Iterator[tuple[int, int]]:
        """Yields (lane, place) where an example comes, of places below `before`."""
        ...

    def replacement(self, lane: int, place: int, draw: float) -> int:
        """Returns the example that stands in for the one at a place; `draw` is in [0, 1)."""
        ...

    def upcoming(self, lane: int, place: int, count: int) -> tuple[Piece, ...]:
        """Returns what `count` places read, and what comes soon after; () if it can be any."""
        ...


@dataclasses.dataclass(frozen=True)
class FullShuffle:
    """Every example once an epoch, in a new permutation of all of them each epoch.

    Epochs run across the lanes: place p of lane l is number p * lanes + l of the sequence.
    """

    num_examples: int
    seed: int
    lanes: int = 1

    def examples(self, lanes: np.ndarray, places: np.ndarray) -> np.ndarray:
        """Returns the example, int64, at each place of each lane."""
        epochs, offsets = np.divmod(places * self.lanes + lanes, self.num_examples)
        out = np.empty_like(offsets)
        for epoch in np.unique(epochs):
            of_epoch = epochs == epoch
            out[of_epoch] = permute(offsets[of_epoch], self.num_examples, self.seed, int(epoch))
        return out

    def places(self, example: int, before: int) -> Iterator[tuple[int, int]]:
        """Yields (lane, place) where an example comes, of places below `before`."""
        for epoch in itertools.count():
            offset = unpermute(np.array([example]), self.num_examples, self.seed, epoch)[0]
            number = epoch * self.num_examples + int(offset)
            if epoch * self.num_examples >= before * self.lanes:
                return
            if number < before * self.lanes:
                yield number % self.lanes, number // self.lanes

    def replacement(self, lane: int, place: int, draw: float) -> int:  # noqa: ARG002
        """Returns any example."""
        return int(draw * self.num_examples)

    def upcoming(self, lane: int, place: int, count: int) -> tuple[Piece, ...]:  # noqa: ARG002
        """Returns nothing: any example can be next."""
        return ()


@dataclasses.dataclass(frozen=True)
class WithReplacement:
    """Every example is drawn independently of all others, uniformly."""

    num_examples: int
    seed: int
    lanes: int = 1

    def examples(self, lanes: np.ndarray, places: np.ndarray) -> np.ndarray:
        """Returns the example, int64, at each place of each lane."""
        numbers = places * self.lanes + lanes
        draws = uniforms(self.seed, numbers, _DRAWS, 1)[..., 0]
        return (draws * self.num_examples).astype(np.int64)

    def places(self, example: int, before: int) -> Iterator[tuple[int, int]]:
        """Yields (lane, place) where an example comes; goes through all draws."""
        total = before * self.lanes
        for first in range(0, total, _SCAN):
            numbers = np.arange(first, min(first + _SCAN, total))
            found = self.examples(numbers % self.lanes, numbers // self.lanes) == example
            for number in numbers[found].tolist():
                yield number % self.lanes, number // self.lanes

    def replacement(self, lane: int, place: int, draw: float) -> int:  # noqa: ARG002
        """Returns any example."""
        return int(draw * self.num_examples)

    def upcoming(self, lane: int, place: int, count: int) -> tuple[Piece, ...]:  # noqa: ARG002
        """Returns nothing: any example can be next."""
        return ()


@dataclasses.dataclass(frozen=True)
class _Epoch:
    """One epoch's line of shards: which comes when, and where each ends."""

    shards: np.ndarray
    ends: np.ndarray


class WindowedShuffle:
    """Shards in a new random order each epoch, examples permuted within windows of shards.

    The line of shards of an epoch is cut into one stretch for each lane, equal in examples; a lane
    reads its stretch window by window, so that what is read next is always a few whole shards. A
    shard that lies on a cut is shared by two lanes.

    Args:
        counts: examples of each shard.
        seed: of the run.
        lanes: stretches.
        window: shards whose examples are mixed.
    """

    def __init__(self, counts: np.ndarray, seed: int, lanes: int, window: int):
        counts = np.asarray(counts, np.int64)
        self.num_examples = int(counts.sum())
        if not 0 < lanes <= self.num_examples:
            raise ValueError(f"lanes={lanes}: wanted 1 to {self.num_examples}, one example a lane")
        if window < 1:
            raise ValueError(f"window={window} must be positive")
        self._counts, self._seed, self._window = counts, seed, window
        self._firsts = np.cumsum(counts) - counts
        self._cuts = np.array([lane * self.num_examples // lanes for lane in range(lanes + 1)])
        self._epoch = functools.lru_cache(maxsize=3)(self._make_epoch)

    def examples(self, lanes: np.ndarray, places: np.ndarray) -> np.ndarray:
        """Returns the example, int64, at each place of each lane."""
        starts = self._cuts[lanes]
        epochs, offsets = np.divmod(places, self._cuts[lanes + 1] - starts)
        out = np.empty_like(offsets)
        for epoch in np.unique(epochs):
            of_epoch = epochs == epoch
            at = (starts + offsets)[of_epoch]
            out[of_epoch] = self._of_epoch(int(epoch), lanes[of_epoch], at)
        return out

    def places(self, example: int, before: int) -> Iterator[tuple[int, int]]:
        """Yields (lane, place) where an example comes, of places below `before`."""
        shard = int(np.searchsorted(self._firsts, example, side="right")) - 1
        lengths = np.diff(self._cuts)
        for number in itertools.count():
            if number * int(lengths.min()) >= before:
                return
            epoch = self._epoch(number)
            rank = int(unpermute(np.array([shard]), len(self._counts), self._key(number), 0)[0])
            at = epoch.ends[rank] - self._counts[shard] + example - self._firsts[shard]
            lane = int(np.searchsorted(self._cuts, at, side="right")) - 1
            window, start, stop = self._window_at(epoch, lane, int(at))
            offset = unpermute(
                np.array([at - start]), stop - start, self._key(number, lane, window), 1
            )[0]
            place = number * int(lengths[lane]) + start + int(offset) - int(self._cuts[lane])
            if place < before:
                yield lane, place

    def replacement(self, lane: int, place: int, draw: float) -> int:
        """Returns an example of the same window, which is there already."""
        epoch_number, at = self._at(lane, place)
        epoch = self._epoch(epoch_number)
        _, start, stop = self._window_at(epoch, lane, at)
        return int(self._example(epoch, np.array([start + int(draw * (stop - start))]))[0])

    def upcoming(self, lane: int, place: int, count: int) -> tuple[Piece, ...]:
        """Returns what the windows of these places and the one after them consist of."""
        pieces, last = [], place + count - 1
        while True:
            epoch_number, at = self._at(lane, place)
            epoch = self._epoch(epoch_number)
            _, start, stop = self._window_at(epoch, lane, at)
            pieces += self._pieces(epoch, start, stop)
            if place > last:
                return tuple(pieces)
            place += stop - at

    def _make_epoch(self, number: int) -> _Epoch:
        shards = permute(np.arange(len(self._counts)), len(self._counts), self._key(number), 0)
        return _Epoch(shards, np.cumsum(self._counts[shards]))

    def _key(self, *parts: int) -> int:
        key = np.uint64(self._seed)
        for part in parts:
            key = mix(key ^ mix(np.uint64(part)))
        return int(key)

    def _at(self, lane: int, place: int) -> tuple[int, int]:
        start, stop = int(self._cuts[lane]), int(self._cuts[lane + 1])
        epoch, offset = divmod(place, stop - start)
        return epoch, start + offset

    def _window_at(self, epoch: _Epoch, lane: int, at: int) -> tuple[int, int, int]:
        """Returns number, start and stop of the window of a lane that holds a position."""
        first = int(np.searchsorted(epoch.ends, self._cuts[lane], side="right"))
        shard = int(np.searchsorted(epoch.ends, at, side="right"))
        number = (shard - first) // self._window
        begin = first + number * self._window
        start = max(int(self._cuts[lane]), int(epoch.ends[begin - 1]) if begin else 0)
        end = min(begin + self._window, len(epoch.ends)) - 1
        return number, start, min(int(self._cuts[lane + 1]), int(epoch.ends[end]))

    def _of_epoch(self, number: int, lanes: np.ndarray, at: np.ndarray) -> np.ndarray:
        epoch = self._epoch(number)
        shuffled = np.empty_like(at)
        left = np.ones(len(at), bool)
        while left.any():
            one = int(np.argmax(left))
            lane = int(lanes[one])
            window, start, stop = self._window_at(epoch, lane, int(at[one]))
            here = left & (lanes == lane) & (at >= start) & (at < stop)
            key = self._key(number, lane, window)
            shuffled[here] = start + permute(at[here] - start, stop - start, key, 1)
            left &= ~here
        return self._example(epoch, shuffled)

    def _example(self, epoch: _Epoch, at: np.ndarray) -> np.ndarray:
        ranks = np.searchsorted(epoch.ends, at, side="right")
        shards = epoch.shards[ranks]
        return self._firsts[shards] + at - (epoch.ends[ranks] - self._counts[shards])

    def _pieces(self, epoch: _Epoch, start: int, stop: int) -> list[Piece]:
        pieces = []
        rank = int(np.searchsorted(epoch.ends, start, side="right"))
        while start < stop:
            shard, end = int(epoch.shards[rank]), int(epoch.ends[rank])
            begin = end - int(self._counts[shard])
            pieces.append(Piece(shard, start - begin, min(stop, end) - begin))
            start, rank = end, rank + 1
        return [piece for piece in pieces if piece.first < piece.stop]
