"""Which samples are run together: in random order, and views of one thing in a row."""

import dataclasses
import zlib

import numpy as np
from jaxtyping import Bool, Int

from clipjax.data.permutation import permute


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScanBatch:
    """Samples of one call of the model.

    Attributes:
        samples: numbers in the facet; -1 where there is none.
        begins: whether each is the first view of its stimulus.
        rows: the stimulus of each sample that is its last view; else -1.
        views: of the stimulus of each sample, 1 where there is none.
    """

    samples: Int[np.ndarray, " batch"]
    begins: Bool[np.ndarray, " batch"]
    rows: Int[np.ndarray, " batch"]
    views: Int[np.ndarray, " batch"]

    @property
    def count(self) -> int:
        """How many samples there are."""
        return int((self.samples >= 0).sum())


class ScanOrder:
    """The batches of a facet.

    Stimuli are permuted, so that the first ones are a fair sample of all. Batches are full: the
    views of a stimulus may lie in several.

    Args:
        owner: row of each sample, ascending from 0, every row at least once.
        batch_size: samples of a batch.
        seed: of the order.
        facet: its name; each has an order of its own.

    Attributes:
        batches: how many.
    """

    def __init__(
        self, owner: Int[np.ndarray, " samples"], batch_size: int, *, seed: int, facet: str = ""
    ):
        views = np.bincount(owner)
        if not len(views) or not views.all() or (np.diff(owner) < 0).any():
            raise ValueError("owner: wanted rows in ascending order, each with a sample")
        self._size = batch_size
        order = permute(np.arange(len(views)), len(views), seed, zlib.crc32(facet.encode()))
        first, many = np.cumsum(views) - views, views[order]
        self._row = np.repeat(order, many)
        self._view = np.arange(len(owner)) - np.repeat(np.cumsum(many) - many, many)
        self._first, self._views = first, views
        self.batches = -(-len(owner) // batch_size)

    def __getitem__(self, number: int) -> ScanBatch:
        """Returns a batch.

        Raises:
            IndexError: if there is none of this number.
        """
        if not 0 <= number < self.batches:
            raise IndexError(number)
        part = slice(number * self._size, (number + 1) * self._size)
        row, view = self._row[part], self._view[part]
        views = self._views[row]
        missing = (0, self._size - len(row))
        return ScanBatch(
            samples=np.pad(self._first[row] + view, missing, constant_values=-1),
            begins=np.pad(view == 0, missing, constant_values=True),
            rows=np.pad(np.where(view == views - 1, row, -1), missing, constant_values=-1),
            views=np.pad(views, missing, constant_values=1),
        )
