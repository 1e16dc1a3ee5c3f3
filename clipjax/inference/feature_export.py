"""What stands beside embeddings in files: keys, labels, and all of it as one Parquet file."""

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int

from clipjax.core.files import replaced
from clipjax.core.rows import Embeds

_ROWS_AT_ONCE = 8192


def write_keys(path: Path, keys: Sequence[str]) -> None:
    """Writes one key a line, UTF-8."""
    with replaced(path) as file:
        for first in range(0, len(keys), _ROWS_AT_ONCE):
            lines = (keys[i] for i in range(first, min(first + _ROWS_AT_ONCE, len(keys))))
            file.write("".join(f"{key}\n" for key in lines).encode("utf-8", "backslashreplace"))


def write_labels(path: Path, labels: Int[np.ndarray, " samples"]) -> None:
    """Writes the classes of the samples, int64."""
    with replaced(path) as file:
        np.save(file, labels.astype(np.int64), allow_pickle=False)


def write_parquet(path: Path, keys: Sequence[str], columns: Mapping[str, Embeds]) -> None:
    """Writes a table with the column `key` and lists of float32, a few rows in memory at a time.

    Args:
        path: of the file.
        keys: of the rows.
        columns: embeddings by the name of their column.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    fields = [pa.field("key", pa.string(), nullable=False)]
    for name, rows in columns.items():
        fields.append(pa.field(name, pa.list_(pa.float32(), rows.shape[1]), nullable=False))
    schema = pa.schema(fields)
    with replaced(path) as file, contextlib.closing(pq.ParquetWriter(file, schema)) as writer:
        for first in range(0, len(keys), _ROWS_AT_ONCE):
            stop = min(first + _ROWS_AT_ONCE, len(keys))
            named = [keys[i].encode("utf-8", "backslashreplace") for i in range(first, stop)]
            arrays = [pa.array(named, pa.binary()).cast(pa.string())]
            for rows in columns.values():
                flat = np.ascontiguousarray(rows[first:stop], np.float32).reshape(-1)
                arrays.append(pa.FixedSizeListArray.from_arrays(pa.array(flat), rows.shape[1]))
            writer.write_table(pa.table(arrays, schema=schema))


def rows_of_zeros(rows: Embeds) -> Int[np.ndarray, " bad"]:
    """Returns which rows are zero: what could not be read has such a one.

    >>> rows_of_zeros(np.array([[0.0, 1.0], [0.0, 0.0]], np.float32))
    array([1])
    """
    found = [
        first + np.flatnonzero(~rows[first : first + _ROWS_AT_ONCE].any(axis=1))
        for first in range(0, len(rows), _ROWS_AT_ONCE)
    ]
    return np.concatenate(found) if found else np.zeros(0, np.int64)
