"""Tables of small benchmarks: rows with one or several pictures and their texts.

Read are Parquet files whose pictures are inside (`{"bytes": ..., "path": ...}`, as data sets of the
Hugging Face Hub have them) or named by path, JSON Lines, and JSON of CLIP_benchmark's captions
(`image_paths` beside `annotations`) or of SugarCrepe (a row a number).
"""

import hashlib
import json
import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clipjax.config.errors import UserError
from clipjax.data.decode import BadSampleError
from clipjax.data.sources.lists import read_image_file
from clipjax.data.sources.tar_shards import IMAGE_SUFFIXES

_FOLDERS = ("", "images", "image", "val2017", "val2014", "test")


class ImageTable:
    """Rows of values; pictures are read when they are asked for. Threads may share an instance.

    Args:
        files: Parquet files, one after the other, or one .json or .jsonl.
        images: columns that hold a picture or a list of pictures.

    Attributes:
        columns: of the table.

    Raises:
        UserError: if a file cannot be read, lacks a column or has no rows.
    """

    def __init__(self, files: Sequence[Path], images: Sequence[str]):
        self._files, self._images = list(files), tuple(images)
        self._lock = threading.Lock()
        self._cached: tuple[tuple[int, int], Any] | None = None
        self._folders = [self._files[0].parent / name for name in _FOLDERS]
        if self._files[0].suffix == ".parquet":
            self._groups, texts, self.columns = _open_parquet(self._files, self._images)
            self._texts: Mapping[str, list[Any]] = texts
        else:
            self._groups = []
            self._texts = _read_json(self._files[0])
            self.columns = list(self._texts)
        missing = [name for name in self._images if name not in self.columns]
        if missing:
            raise UserError(
                f"{self._files[0]}: has no column {missing[0]!r}; found {', '.join(self.columns)}."
            )
        if not len(self):
            raise UserError(f"{self._files[0]}: has no rows.")

    def __len__(self) -> int:
        if self._groups:
            return self._groups[-1][2]
        return len(next(iter(self._texts.values()), []))

    def column(self, name: str) -> list[Any]:
        """Returns a column without pictures.

        Raises:
            UserError: if there is none of that name.
        """
        if name not in self._texts:
            raise UserError(
                f"{self._files[0]}: has no column {name!r}; found {', '.join(self.columns)}."
            )
        return self._texts[name]

    def image(self, row: int, column: str, number: int | None = None) -> bytes:
        """Returns the file of a picture.

        Args:
            row: of the table.
            column: of the picture.
            number: which of a list.

        Raises:
            BadSampleError: if it cannot be had.
        """
        value = self._value(row, column)
        if number is not None:
            value = value[number]
        if isinstance(value, Mapping):
            if value.get("bytes"):
                return value["bytes"]
            value = value.get("path")
        if isinstance(value, bytes):
            return value
        if not isinstance(value, str) or not value:
            raise BadSampleError("missing file", f"row {row + 1} has no picture in {column!r}")
        return read_image_file(self._find(value))

    def digest(self) -> str:
        """Returns a hash of the texts of the table and of the sizes of its files."""
        hashed = hashlib.sha256()
        for path in self._files:
            hashed.update(f"{path.name} {path.stat().st_size}\n".encode())
        hashed.update(json.dumps(self._texts, sort_keys=True, default=str).encode())
        return hashed.hexdigest()

    def _value(self, row: int, column: str) -> Any:
        if not self._groups:
            return self._texts[column][row]
        first = 0
        for file, group, end in self._groups:
            if row < end:
                return self._group(file, group)[column][row - first].as_py()
            first = end
        raise IndexError(f"row {row} of {len(self)}")

    def _group(self, file: int, group: int) -> Any:
        import pyarrow.parquet as pq

        with self._lock:
            if self._cached is None or self._cached[0] != (file, group):
                with pq.ParquetFile(self._files[file]) as opened:
                    table = opened.read_row_group(group, columns=list(self._images))
                self._cached = ((file, group), table)
            return self._cached[1]

    def _find(self, name: str) -> str:
        """Returns where a picture lies: as it is written, or below the folder of the table."""
        if os.path.isabs(name) and os.path.isfile(name):
            return name
        for folder in self._folders:
            for written in (name, os.path.basename(name)):
                for suffix in ("", *(f".{ending}" for ending in IMAGE_SUFFIXES)):
                    path = folder / f"{written}{suffix}"
                    if path.is_file():
                        return str(path)
        raise BadSampleError("missing file", f"{name}: not below {self._folders[0]}")


def _open_parquet(
    files: Sequence[Path], images: Sequence[str]
) -> tuple[list[tuple[int, int, int]], Mapping[str, list[Any]], list[str]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    groups, parts, columns, rows = [], [], [], 0
    for number, path in enumerate(files):
        try:
            with pq.ParquetFile(path) as file:
                columns = file.schema_arrow.names
                parts.append(file.read(columns=[name for name in columns if name not in images]))
                for group in range(file.num_row_groups):
                    rows += file.metadata.row_group(group).num_rows
                    groups.append((number, group, rows))
        except (pa.ArrowException, OSError, ValueError) as error:
            raise UserError(f"{path}: not a Parquet file that can be read ({error}).") from error
    texts = pa.concat_tables(parts, promote_options="default").to_pydict()
    return groups, texts, columns


def _read_json(path: Path) -> Mapping[str, list[Any]]:
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".jsonl":
            rows = [json.loads(line) for line in text.splitlines() if line.strip()]
        else:
            found = json.loads(text)
            if isinstance(found, dict) and set(found) >= {"image_paths", "annotations"}:
                return {"image": found["image_paths"], "caption": found["annotations"]}
            rows = list(found.values()) if isinstance(found, dict) else found
        names = list(dict.fromkeys(name for row in rows for name in row))
        return {name: [row.get(name) for row in rows] for name in names}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise UserError(
            f"{path}: not a JSON table that can be read ({error}). Expected rows with the same "
            "fields, or image_paths beside annotations."
        ) from error
