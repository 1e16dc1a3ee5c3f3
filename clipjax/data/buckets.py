"""Batches of captions of about one length, so that short ones are not padded to the longest."""

import dataclasses
import functools
from collections.abc import Iterator

import numpy as np
from jaxtyping import Int32

from clipjax.data.keyed import mix
from clipjax.data.order import Order
from clipjax.data.permutation import permute, unpermute

_BATCHES = 4  # stream of the seed
_GROUPS_KEPT = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class BucketedOrder(Order):
    """An order whose batches are sorted anew by the length of their captions, group by group.

    So many consecutive batches are a group. In each lane its samples are sorted by length and cut
    into as many runs as the group has batches; a batch takes one run of every lane, and which batch
    takes which is a keyed permutation. A sample keeps its number, and with it its crop, its caption
    and what replaces it; only the step that shows it is another one. Like the order itself this is
    a function of (seed, step), the lengths being known beforehand.

    Attributes:
        lengths: tokens of the caption of each example; the longest where one of several is drawn.
        buckets: lengths to which the texts of a batch may be padded, ascending.
        group: batches.

    Source: Khomenko et al. 2017, "Accelerating Recurrent Neural Network Training using Sequence
        Bucketing and Multi-GPU Data Parallelization", https://arxiv.org/abs/1708.05604.
    """

    lengths: np.ndarray = dataclasses.field(compare=False, repr=False)
    buckets: tuple[int, ...]
    group: int

    def __post_init__(self):
        super().__post_init__()
        if len(self.lengths) != self.num_examples:
            raise ValueError(f"{len(self.lengths)} lengths for {self.num_examples} examples")
        if len(self.batches.sizes) > 1:
            raise ValueError(f"batches of several sizes, {self.batches.sizes}, cannot be sorted")

    def samples(self, step: int, rows: np.ndarray | None = None) -> np.ndarray:
        """Returns the sample numbers, int64, of the given rows of a batch; of all by default."""
        if rows is None:
            rows = np.arange(self._size)
        group, batch = divmod(self.batches.first_sample(step) // self._size, self.group)
        run = int(permute(np.array([batch]), self.group, self._batches_seed, group)[0])
        lanes, in_lane = np.divmod(rows.astype(np.int64), self._rows)
        return self._sorted(group)[lanes, run * self._rows + in_lane]

    def seen(self, example: int, stop_step: int) -> Iterator[int]:
        """Yields the sample numbers of the steps below `stop_step` that see an example."""
        batches = self.batches.first_sample(stop_step) // self._size
        whole_groups = -(-batches // self.group) * self.group
        for sample in self._turns(example, whole_groups * self._rows):
            step = self.step_of(sample)
            if step is not None and step < stop_step:
                yield sample

    def step_of(self, sample: int) -> int | None:
        """Returns the step that shows a sample; None if it is left out."""
        group = sample // (self.group * self._size)
        lane = sample % self._size // self._rows
        place = int(np.flatnonzero(self._sorted(group)[lane] == sample)[0])
        run = np.array([place // self._rows])
        batch = group * self.group + int(unpermute(run, self.group, self._batches_seed, group)[0])
        return self.batches.step_of(batch * self._size)

    def bucket(self, step: int) -> int:
        """Returns to how many tokens the texts of a batch are padded, or the few longer ones cut.

        Longer are at most those of samples that stand in for others.
        """
        longest = self.lengths[self.examples(self.samples(step))].max()
        return next((size for size in self.buckets if size >= longest), self.buckets[-1])

    def _sorted(self, group: int) -> np.ndarray:
        """Returns the sample numbers of a group, [lanes, places], each lane by length."""
        if group not in self._groups:
            while len(self._groups) >= _GROUPS_KEPT:
                self._groups.pop(next(iter(self._groups)))
            count = self.group * self._size
            numbers = group * count + np.arange(count).reshape(self.group, self.lanes, self._rows)
            numbers = numbers.transpose(1, 0, 2).reshape(self.lanes, -1)
            lengths = self.lengths[self.examples(numbers.reshape(-1))].reshape(numbers.shape)
            by_length = np.argsort(lengths, axis=1, kind="stable")
            self._groups[group] = np.take_along_axis(numbers, by_length, axis=1)
        return self._groups[group]

    @property
    def _size(self) -> int:
        return self.batches.sizes[0][1]

    @property
    def _rows(self) -> int:
        return self._size // self.lanes

    @functools.cached_property
    def _groups(self) -> dict[int, np.ndarray]:
        return {}

    @functools.cached_property
    def _batches_seed(self) -> int:
        return int(mix(np.uint64(self.seed) ^ mix(np.uint64(_BATCHES))))


def bucketed(
    order: Order, lengths: np.ndarray, buckets: tuple[int, ...], group: int
) -> BucketedOrder:
    """Returns the order with its batches sorted by length; see `BucketedOrder`."""
    fields = {field.name: getattr(order, field.name) for field in dataclasses.fields(order)}
    return BucketedOrder(**fields, lengths=lengths, buckets=buckets, group=group)


def cut_tokens(
    tokens: Int32[np.ndarray, "batch tokens"], length: int, end_id: int
) -> Int32[np.ndarray, "batch length"]:
    """Returns the first ids of each text; one that is cut keeps its end.

    >>> cut_tokens(np.array([[8, 5, 9, 0], [8, 5, 6, 9]], np.int32), 3, 9).tolist()
    [[8, 5, 9], [8, 5, 9]]
    """
    short = tokens[:, :length].copy()
    short[~(short == end_id).any(axis=1), -1] = end_id
    return short
