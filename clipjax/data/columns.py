"""What is known of the samples of one shard, column by column, as filters want it."""

import functools
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from clipjax.config.errors import UserError
from clipjax.data.captions import caption_places
from clipjax.data.key_table import KeyTable, arrow_numbers, as_number
from clipjax.data.sources.tar_table import MOST_MEMBER_BYTES
from clipjax.data.tar_index import ShardIndex
from clipjax.data.tar_walk import Read


class ShardColumns:
    """The columns of a shard's samples, one value a sample; read when they are first asked for.

    A column comes from the table of scores if it has one of that name; else from the Parquet file
    that img2dataset leaves beside a shard, matched by key; else, and for keys that are not in
    there, from the .json member. A value that cannot be read counts as missing.

    Args:
        index: of the shard.
        read: gives its bytes.
        wanted: columns that will be asked for; others are not kept.
        caption: where the caption is, as in `data.caption`; of several places the first that has
            one, and of a list of texts the first.
        parquet: of img2dataset, or None.
        scores: by key, or None.
    """

    def __init__(
        self,
        index: ShardIndex,
        read: Read,
        *,
        wanted: Sequence[str] = (),
        caption: str = "txt",
        parquet: "ParquetColumns | None" = None,
        scores: KeyTable | None = None,
    ):
        self._index, self._read = index, read
        self._caption, self._parquet, self._scores = caption, parquet, scores
        self._wanted = frozenset([*wanted, *caption_columns(caption)])
        self._cached: dict[str, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self._index)

    @property
    def keys(self) -> Sequence[str]:
        """The keys of the samples."""
        return self._index.keys

    def numbers(self, name: str) -> np.ndarray:
        """Returns a column as float64; NaN where a sample has no number."""
        if f"number {name}" not in self._cached:
            self._cached[f"number {name}"] = self._numbers(name)
        return self._cached[f"number {name}"]

    def texts(self, name: str) -> list[str | None]:
        """Returns a column as texts, what is none as JSON writes it; None where it is missing."""
        return [as_text(value) for value in self.values(name)]

    def values(self, name: str) -> list[Any]:
        """Returns a column as it is; None where it is missing."""
        if self._scores is not None and name in self._scores.columns:
            return [None if math.isnan(v) else v for v in self.numbers(name).tolist()]
        parquet = self._in_parquet
        if self._parquet is None or name not in self._parquet.names or not (parquet >= 0).any():
            return [fields.get(name) for fields in self._json]
        found = self._parquet.values(name)
        out = [found[place] if place >= 0 else None for place in parquet.tolist()]
        for row in np.flatnonzero(parquet < 0).tolist():
            out[row] = self._json[row].get(name)
        return out

    def captions(self) -> list[str | None]:
        """Returns the caption that training would see; None where there is none."""
        return self._captions

    @property
    def score_places(self) -> np.ndarray:
        """Place of each sample in the table of scores, int64; -1 where it is not in it."""
        assert self._scores is not None
        return self._in_scores

    def names(self) -> list[str]:
        """Returns names of columns that there are, by a look at the first samples."""
        found: dict[str, None] = dict.fromkeys(self._scores.columns if self._scores else ())
        found.update(dict.fromkeys(self._parquet.names if self._parquet else ()))
        for row in range(min(len(self), 3)):
            found.update(dict.fromkeys(self._fields(row)))
        return list(found)

    def _numbers(self, name: str) -> np.ndarray:
        if self._scores is not None and name in self._scores.columns:
            column, places = self._scores.columns[name], self._in_scores
            return np.where(places >= 0, column[places], np.nan)
        parquet = self._in_parquet
        numbers = self._parquet.numbers(name) if self._parquet is not None else None
        if numbers is not None and len(parquet) and (parquet >= 0).all():
            return numbers[parquet]
        return np.array([as_number(value) for value in self.values(name)], np.float64)

    @functools.cached_property
    def _captions(self) -> list[str | None]:
        out: list[str | None] = [None] * len(self)
        for place, _ in caption_places(self._caption):
            if all(caption is not None for caption in out):
                break
            kind, _, field = place.partition(".")
            found = self._members("txt") if kind == "txt" else self.values(field)
            out = [
                old if old is not None else _caption(new)
                for old, new in zip(out, found, strict=True)
            ]
        return out

    @functools.cached_property
    def _json(self) -> list[Mapping[str, Any]]:
        """The wanted fields of each sample's .json; none where there is no such file."""
        kept = []
        for row in range(len(self)):
            fields = self._fields(row)
            kept.append({name: fields[name] for name in self._wanted if name in fields})
        return kept

    def _fields(self, row: int) -> Mapping[str, Any]:
        content = self._member("json", row)
        if content is None:
            return {}
        try:
            fields = json.loads(content)
        except (ValueError, RecursionError):
            return {}
        return fields if isinstance(fields, dict) else {}

    @functools.cached_property
    def _in_parquet(self) -> np.ndarray:
        if self._parquet is None:
            return np.full(len(self), -1)
        places = self._parquet.places
        return np.array([places.get(key, -1) for key in self.keys], np.int64)

    @functools.cached_property
    def _in_scores(self) -> np.ndarray:
        assert self._scores is not None
        return self._scores.find(self.keys)

    def _members(self, suffix: str) -> list[bytes | None]:
        return [self._member(suffix, row) for row in range(len(self))]

    def _member(self, suffix: str, row: int) -> bytes | None:
        if suffix not in self._index.suffixes:
            return None
        column = self._index.suffixes.index(suffix)
        offset, size = int(self._index.offsets[row, column]), int(self._index.sizes[row, column])
        if offset < 0 or size > MOST_MEMBER_BYTES:
            return None
        try:
            content = self._read(offset, size)
        except OSError as error:
            raise UserError(f"{self._index.path}: cannot be read ({error}).") from error
        if len(content) != size:
            raise UserError(
                f"{self._index.path}: has become shorter while it was read. Begin again when "
                "nothing writes to it any more."
            )
        return content


class ParquetColumns:
    """The columns of a Parquet file with a column "key"; without one it has no rows of ours.

    Args:
        name: for messages.
        content: of the file.
        wanted: columns to read.

    Attributes:
        names: of all columns.
        places: row of each key.

    Raises:
        UserError: if it cannot be read.
    """

    def __init__(self, name: str, content: bytes, wanted: Sequence[str]):
        import pyarrow as pa
        import pyarrow.parquet

        try:
            source = pa.BufferReader(content)
            self.names: Sequence[str] = pyarrow.parquet.read_schema(source).names
            kept = [column for column in dict.fromkeys([*wanted, "key"]) if column in self.names]
            table = pyarrow.parquet.read_table(pa.BufferReader(content), columns=kept)
        except (pa.ArrowException, OSError) as error:
            why = " ".join(str(error).split())[:200]
            raise UserError(
                f"{name}: cannot be read as a Parquet file ({why}). Make it again, or leave such "
                "files out with --no-parquet."
            ) from error
        self._table = table
        keys = table["key"].to_pylist() if "key" in kept else []
        self.places: Mapping[object, int] = {key: row for row, key in enumerate(keys)}

    def values(self, name: str) -> list[Any]:
        """Returns a column as Python's own values."""
        return self._table[name].to_pylist()

    def numbers(self, name: str) -> np.ndarray | None:
        """Returns a column as float64 if it is one of numbers."""
        import pyarrow as pa

        if name not in self._table.column_names:
            return None
        kind = self._table[name].type
        if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
            return None
        return arrow_numbers(self._table[name])


def caption_columns(caption: str) -> list[str]:
    """Returns the columns that hold captions; "txt" is none.

    >>> caption_columns("txt:3 json.captions")
    ['captions']
    """
    places = [place.partition(".") for place, _ in caption_places(caption)]
    return [field for kind, _, field in places if kind == "json"]


def as_text(value: object) -> str | None:
    """Returns a text as it is and any other value as JSON writes it.

    >>> as_text("en"), as_text(True), as_text(3), as_text(None)
    ('en', 'true', '3', None)
    """
    if isinstance(value, str):
        return value
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    return json.dumps(value, default=str)


def _caption(found: object) -> str | None:
    """Returns what `choose_caption` would, its first draw being 0; None where it raises."""
    if isinstance(found, list):
        found = found[0] if found else None
    try:
        text = found.decode() if isinstance(found, bytes) else found
        text = text.encode().decode() if isinstance(text, str) else None
    except UnicodeError:
        return None
    return text if text and text.strip() else None
