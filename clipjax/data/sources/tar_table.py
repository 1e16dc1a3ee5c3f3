"""What reading the samples of one shard takes, without their names: some 20 bytes a file."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from clipjax.data.tar_index import HEADER_BYTES, ShardIndex

IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp")
MOST_MEMBER_BYTES = 64_000_000
"""A larger file of a sample is not read."""


@dataclasses.dataclass
class ShardTable:
    """Places of the members of the usable samples of a shard.

    Attributes:
        size: bytes of the shard when it was indexed.
        version: of the shard when it was indexed.
        rows: of the index, ascending.
        offsets: int64 [samples, members], where the content begins; behind a range that was lost
            not at a multiple of 512.
        sizes: uint32 [samples, members], bytes; the largest number stands for all above.
        header_crcs: uint32 [samples, members].
        crcs: uint32 [samples, members].
        has_checksums: whether `crcs` are those of the contents.
        checked: whether the shard was found to be the one that was indexed.
    """

    size: int
    version: str
    rows: np.ndarray
    offsets: np.ndarray
    sizes: np.ndarray
    header_crcs: np.ndarray
    crcs: np.ndarray
    has_checksums: bool
    checked: bool = False

    def __len__(self) -> int:
        return len(self.rows)

    @classmethod
    def of_index(
        cls, index: ShardIndex, members: Sequence[str], rows: np.ndarray | None = None
    ) -> "ShardTable":
        """Returns the table of some rows of an index; of all complete ones by default.

        Args:
            index: of the shard.
            members: suffixes, or "image" for whichever suffix of an image a sample has.
            rows: that are used, ascending.
        """
        if rows is None:
            rows = complete_rows(index, [m for m in members if m != "image"])
        columns = np.stack([_columns(index, rows, member) for member in members], 1)
        at = (rows[:, None], columns)
        most = np.iinfo(np.uint32).max
        return cls(
            index.size,
            index.version,
            rows.astype(np.uint32),
            index.offsets[at],
            np.minimum(index.sizes[at], most).astype(np.uint32),
            index.header_crcs[at],
            index.crcs[at],
            index.has_checksums,
        )

    def byte_range(self, first: int, stop: int) -> tuple[int, int]:
        """Returns where the files of consecutive samples begin and end in the shard."""
        starts = self.offsets[first:stop]
        ends = starts + self.sizes[first:stop]
        return int(starts.min()) - HEADER_BYTES, int(ends.max())


def complete_rows(index: ShardIndex, needs: Sequence[str]) -> np.ndarray:
    """Returns the rows of the samples that have an image and all of `needs`, ascending."""
    complete = np.logical_or.reduce([_has(index, suffix) for suffix in IMAGE_SUFFIXES])
    for need in needs:
        complete = complete & _has(index, need)
    return np.flatnonzero(complete)


def _has(index: ShardIndex, suffix: str) -> np.ndarray:
    if suffix not in index.suffixes:
        return np.zeros(len(index), bool)
    return index.offsets[:, index.suffixes.index(suffix)] >= 0


def _columns(index: ShardIndex, rows: np.ndarray, member: str) -> np.ndarray:
    if member != "image":
        return np.full(len(rows), index.suffixes.index(member) if len(rows) else 0)
    out = np.full(len(rows), -1)
    for suffix in reversed([s for s in IMAGE_SUFFIXES if s in index.suffixes]):
        out = np.where(_has(index, suffix)[rows], index.suffixes.index(suffix), out)
    return out
