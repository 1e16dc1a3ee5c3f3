"""Which source gives which place of a lane, when several are mixed by weight."""

import dataclasses
import functools
import itertools

import numpy as np

from clipjax.data.keyed import mix
from clipjax.data.permutation import permute, unpermute

_LEAST_BLOCK = 4096
_MOST_BLOCK = 1 << 30
_ONE = 1 << 40


@dataclasses.dataclass(frozen=True)
class Mixture:
    """Deals places out to sources in blocks: after k blocks each source has its share of them.

    To within one place, for any k; within a block the sources come in a random order that is a
    function of (seed, lane, block).

    Attributes:
        weights: of the sources, by sample; none less than a billionth of their sum.
        seed: of the run.
    """

    weights: tuple[float, ...]
    seed: int

    def __post_init__(self):
        if min(self.weights) * _MOST_BLOCK < 2 * sum(self.weights):
            raise ValueError(
                f"weights={self.weights}: the least must be {2 / _MOST_BLOCK:.1e} of their sum"
            )

    @functools.cached_property
    def block(self) -> int:
        """Places of a block: so many that every source has at least one of each.

        With fewer, what a source has after k blocks, to within one place, could go down with k.
        """
        least = min(end - start for start, end in itertools.pairwise(self._shares))
        return max(_LEAST_BLOCK, 1 << (-(-_ONE // least) - 1).bit_length())

    def sources(self, lanes: np.ndarray, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the source of each place of each lane, and which of that source's it is."""
        which, own = np.empty_like(places), np.empty_like(places)
        blocks = places // self.block
        for lane, block in set(zip(lanes.tolist(), blocks.tolist(), strict=True)):
            here = (lanes == lane) & (blocks == block)
            taken, counts = self._taken(block), self._counts(block)
            slots = permute(places[here] - block * self.block, self.block, self._key(lane), block)
            ends = np.cumsum(counts)
            found = np.searchsorted(ends, slots, side="right")
            which[here] = found
            own[here] = np.array(taken)[found] + slots - (ends - counts)[found]
        return which, own

    def place(self, lane: int, source: int, own: int) -> int:
        """Returns the place of a lane that is number `own` of a source's: `sources` backwards."""
        low, high = 0, 1
        while self._taken(high)[source] <= own:
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self._taken(middle)[source] <= own else (low, middle)
        counts = self._counts(low)
        slot = int(counts[:source].sum()) + own - self._taken(low)[source]
        offset = unpermute(np.array([slot]), self.block, self._key(lane), low)[0]
        return low * self.block + int(offset)

    def taken(self, source: int, places: int) -> int:
        """Returns how many of the first places of a lane go to a source, to within a block."""
        return self._taken(-(-places // self.block))[source]

    def around(self, source: int, place: int) -> tuple[int, int]:
        """Returns two of a source's numbers between which the one at a place lies."""
        block = place // self.block
        return self._taken(block)[source], self._taken(block + 1)[source]

    @functools.cached_property
    def _shares(self) -> list[int]:
        """Cumulated, in units of 2^-40: sums of them do not depend on rounding."""
        total = sum(self.weights)
        return [0, *(round(_ONE * c / total) for c in itertools.accumulate(self.weights))]

    def _taken(self, block: int) -> list[int]:
        ends = [share * block * self.block // _ONE for share in self._shares]
        return [end - start for start, end in itertools.pairwise(ends)]

    def _counts(self, block: int) -> np.ndarray:
        return np.array(self._taken(block + 1)) - np.array(self._taken(block))

    def _key(self, lane: int) -> int:
        return int(mix(np.uint64(self.seed) ^ mix(np.uint64(lane) + np.uint64(1 << 32))))
