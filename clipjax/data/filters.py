"""Filters: which samples of a pool are used, by their captions, sizes, scores and keys.

A filter is a question to the columns of one shard. They are asked in the order of `FILTERS`
whatever the order they were given in, and a sample that is dropped counts under the first that
drops it; one that lacks what a filter asks about is dropped as "no COLUMN".
"""

import collections
import dataclasses
import math
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import Protocol, runtime_checkable

import numpy as np

from clipjax.data.columns import ShardColumns
from clipjax.data.key_table import KeyTable

CAPTION = "caption"


@runtime_checkable
class Filter(Protocol):
    """Says which samples of a shard pass."""

    @property
    def name(self) -> str:
        """What dropped samples are counted under."""
        ...

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that are asked for, besides captions and keys."""
        ...

    def mask(self, columns: ShardColumns) -> np.ndarray:
        """Returns bool [samples]; False too where `missing` says so."""
        ...

    def missing(self, columns: ShardColumns) -> dict[str, np.ndarray]:
        """Returns bool [samples] for each column that a sample may lack."""
        ...


@dataclasses.dataclass(frozen=True)
class _OfCaption:
    low: int = 0
    high: int | None = None

    columns = ()

    def mask(self, columns: ShardColumns) -> np.ndarray:
        """Returns which captions have a length from `low` to `high`."""
        lengths = np.array([self._length(text or "") for text in columns.captions()], np.int64)
        short_enough = lengths <= self.high if self.high is not None else True
        return (lengths >= self.low) & short_enough & ~self.missing(columns)[CAPTION]

    def missing(self, columns: ShardColumns) -> dict[str, np.ndarray]:
        """Returns which samples have no caption."""
        return {CAPTION: np.array([text is None for text in columns.captions()], bool)}

    def _length(self, text: str) -> int:
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class CaptionChars(_OfCaption):
    """Captions of `low` to `high` characters, white space at the ends left aside."""

    name = "caption characters"

    def _length(self, text: str) -> int:
        return len(text.strip())


@dataclasses.dataclass(frozen=True)
class CaptionWords(_OfCaption):
    """Captions of `low` to `high` words, which are what white space separates."""

    name = "caption words"

    def _length(self, text: str) -> int:
        return len(text.split())


@dataclasses.dataclass(frozen=True)
class _OfNumbers:
    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that are asked for."""
        raise NotImplementedError

    def missing(self, columns: ShardColumns) -> dict[str, np.ndarray]:
        """Returns where a column has no number."""
        return {name: np.isnan(columns.numbers(name)) for name in self.columns}


@dataclasses.dataclass(frozen=True)
class _OfSizes(_OfNumbers):
    @property
    def columns(self) -> tuple[str, ...]:
        """Those of the size in pixels."""
        return ("width", "height")


@dataclasses.dataclass(frozen=True)
class MinSide(_OfSizes):
    """Images whose shorter side has at least so many pixels, by the columns width and height."""

    pixels: float

    name = "image side"

    def mask(self, columns: ShardColumns) -> np.ndarray:
        """Returns which images are large enough."""
        return np.minimum(columns.numbers("width"), columns.numbers("height")) >= self.pixels


@dataclasses.dataclass(frozen=True)
class MaxAspect(_OfSizes):
    """Images whose longer side is at most so many times the shorter one."""

    ratio: float

    name = "aspect ratio"

    def mask(self, columns: ShardColumns) -> np.ndarray:
        """Returns which images are not too long; without a positive size none is."""
        width, height = columns.numbers("width"), columns.numbers("height")
        short, long = np.minimum(width, height), np.maximum(width, height)
        return (short > 0) & (long <= self.ratio * short)


@dataclasses.dataclass(frozen=True)
class _Bound(_OfNumbers):
    column: str
    bound: float

    @property
    def columns(self) -> tuple[str, ...]:
        """The one column."""
        return (self.column,)


@dataclasses.dataclass(frozen=True)
class AtLeast(_Bound):
    """Samples with a number of at least `bound` in a column."""

    @property
    def name(self) -> str:
        """E.g. "similarity below 0.3"."""
        return f"{self.column} below {self.bound:g}"

    def mask(self, columns: ShardColumns) -> np.ndarray:
        """Returns which numbers are large enough."""
        return columns.numbers(self.column) >= self.bound


@dataclasses.dataclass(frozen=True)
class AtMost(_Bound):
    """Samples with a number of at most `bound` in a column."""

    @property
    def name(self) -> str:
        """E.g. "punsafe above 0.5"."""
        return f"{self.column} above {self.bound:g}"

    def mask(self, columns: ShardColumns) -> np.ndarray:
        """Returns which numbers are small enough."""
        return columns.numbers(self.column) <= self.bound


@dataclasses.dataclass(frozen=True)
class OneOf:
    """Samples whose column is one of some texts; what is no text counts as JSON writes it."""

    column: str
    values: tuple[str, ...]

    @property
    def name(self) -> str:
        """E.g. "other LANGUAGE"."""
        return f"other {self.column}"

    @property
    def columns(self) -> tuple[str, ...]:
        """The one column."""
        return (self.column,)

    def mask(self, columns: ShardColumns) -> np.ndarray:
        """Returns which samples have one of the values."""
        allowed = frozenset(self.values)
        return np.array([text in allowed for text in columns.texts(self.column)], bool)

    def missing(self, columns: ShardColumns) -> dict[str, np.ndarray]:
        """Returns which samples lack the column."""
        return {self.column: np.array([t is None for t in columns.texts(self.column)], bool)}


@dataclasses.dataclass(frozen=True, eq=False)
class KeyList:
    """Samples that a list names, or with `keep` False all others.

    Attributes:
        keys: the list.
        keep: whether it is of the samples that are wanted.
        column: that holds what the list names; None for the key of the sample, in any shard.
    """

    keys: KeyTable
    keep: bool = True
    column: str | None = None

    @property
    def name(self) -> str:
        """What dropped samples are counted under."""
        return "not in the list to keep" if self.keep else "in the list to drop"

    @property
    def columns(self) -> tuple[str, ...]:
        """The column, if it is not the key."""
        return () if self.column is None else (self.column,)

    def mask(self, columns: ShardColumns) -> np.ndarray:
        """Returns which samples are wanted."""
        if self.column is None:
            return (self.keys.find(columns.keys) >= 0) == self.keep
        texts = columns.texts(self.column)
        found = self.keys.find([text or "" for text in texts]) >= 0
        return (found == self.keep) & ~self.missing(columns)[self.column]

    def missing(self, columns: ShardColumns) -> dict[str, np.ndarray]:
        """Returns which samples lack the column."""
        if self.column is None:
            return {}
        return {self.column: np.array([t is None for t in columns.texts(self.column)], bool)}


FILTERS: tuple[type, ...] = (
    CaptionChars,
    CaptionWords,
    MinSide,
    MaxAspect,
    AtLeast,
    AtMost,
    OneOf,
    KeyList,
)


@dataclasses.dataclass(frozen=True)
class TopShare:
    """The samples of the whole pool with the highest numbers in a column.

    The pool is all complete samples that have a number, whatever the filters say of them, so that
    the share means the same beside other filters.

    Attributes:
        column: e.g. "similarity", as DataComp's CLIP score filter has it.
        share: of the pool, above 0 and at most 1.
    """

    column: str
    share: float

    @property
    def name(self) -> str:
        """E.g. "clip_score below the top 0.3"."""
        return f"{self.column} below the top {self.share:g}"

    def threshold(self, numbers: np.ndarray) -> float:
        """Returns the lowest number that is kept.

        It is the number of the sample of rank ceil(share * samples), the share taken as the
        decimal that was written; all that equal it are kept, so with ties it may be more than the
        share, and is never less. NaN for an empty pool.

        >>> TopShare("score", 0.3).threshold(np.arange(10.0))
        7.0
        """
        if not len(numbers):
            return math.nan
        rank = math.ceil(Fraction(repr(self.share)) * len(numbers))
        return float(np.partition(numbers, len(numbers) - rank)[len(numbers) - rank])


def in_order(filters: Iterable[Filter]) -> tuple[Filter, ...]:
    """Returns filters in the order in which they are asked: by kind, then as given."""
    return tuple(sorted(filters, key=lambda filter_: FILTERS.index(type(filter_))))


def apply_filters(
    columns: ShardColumns, filters: Sequence[Filter], used: np.ndarray
) -> tuple[np.ndarray, collections.Counter[str]]:
    """Returns which samples are left, bool, and how many were dropped for each reason.

    Args:
        columns: of a shard.
        filters: in order.
        used: bool [samples], which are asked about.
    """
    left, dropped = used.copy(), collections.Counter[str]()
    for filter_ in filters:
        if not left.any():
            break
        for column, missing in filter_.missing(columns).items():
            _drop(f"no {column}", left, missing, dropped)
        _drop(filter_.name, left, ~filter_.mask(columns), dropped)
    return left, dropped


def _drop(
    reason: str, left: np.ndarray, bad: np.ndarray, dropped: collections.Counter[str]
) -> None:
    """Takes what is bad out of `left`, in place, and counts it."""
    if count := int(np.count_nonzero(left & bad)):
        dropped[reason] += count
        left &= ~bad
