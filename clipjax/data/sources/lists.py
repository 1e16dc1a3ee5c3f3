"""Random access to image files that a table names: CSV, TSV, JSONL or Parquet."""

import csv
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from clipjax.config.errors import UserError, did_you_mean
from clipjax.data.decode import BadSampleError
from clipjax.data.sources.json_lines import JsonLines

LIST_SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")
IMAGE_COLUMNS = ("filepath", "path", "image", "image_path", "file_name")
CAPTION_COLUMNS = ("caption", "title", "text", "txt")
LABEL_COLUMNS = ("cls", "label")

_LOOKED_AT = 20


@runtime_checkable
class Rows(Protocol):
    """The rows of a table, by number."""

    columns: Sequence[str]

    def __len__(self) -> int:
        """Returns the number of rows."""
        ...

    def value(self, row: int, column: str) -> object:
        """Returns one cell; None where there is none."""
        ...

    def row_json(self, row: int) -> bytes:
        """Returns a whole row as one JSON object."""
        ...

    def close(self) -> None:
        """Closes the file; reading opens it again."""
        ...


class ListedFiles:
    """The image files that a table names, each with the caption of its row.

    The strings stay in the table's own arrays, so ten million rows take about as much memory as
    their text. "txt" is the caption, "json" the whole row and "cls" its class number. Threads may
    share an instance.

    Args:
        path: a .csv or .tsv with a line of column names, a .jsonl or a .parquet.
        root: where relative image paths start if not in the folder of the table.
        needs: members that are wanted, of "txt", "json" and "cls".
        image_column: column of the image paths; by default one of IMAGE_COLUMNS.
        caption_column: column of the captions; by default one of CAPTION_COLUMNS.

    Raises:
        UserError: if the table cannot be read, is empty, lacks a column, holds URLs, or none of
            its first images exists.
    """

    def __init__(
        self,
        path: str,
        *,
        root: str = "",
        needs: Sequence[str] = ("txt",),
        image_column: str | None = None,
        caption_column: str | None = None,
    ):
        self._path, self._needs = path, tuple(needs)
        for need in self._needs:
            if need not in ("txt", "json", "cls"):
                raise UserError(f"{path}: has no member .{need}; a list gives txt, json and cls.")
        names = _column_names(path)
        self._image = _choose(path, names, image_column, IMAGE_COLUMNS, "image paths")
        self._columns = {}
        if "txt" in self._needs:
            self._columns["txt"] = _choose(path, names, caption_column, CAPTION_COLUMNS, "captions")
        if "cls" in self._needs:
            self._columns["cls"] = _choose(path, names, None, LABEL_COLUMNS, "class numbers")
        text_columns = [self._image, *self._columns.values()]
        self._rows = _open_rows(path, None if "json" in self._needs else text_columns, text_columns)
        if not len(self._rows):
            raise UserError(f"{path}: has no rows, only column names. Expected one row an image.")
        self._folder = self._choose_folder(root)
        self._digest = self._hash()

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Mapping[str, bytes]:
        """Returns {"image": encoded bytes, "txt": ..., ...}: the image and what was needed.

        Raises:
            IndexError: if there is no such row.
            UserError: if the image is a URL.
            BadSampleError: if the image cannot be read.
        """
        out = dict(self.texts(index))
        out["image"] = read_image_file(os.path.join(self._folder, self._name(index)))
        return out

    def texts(self, index: int) -> Mapping[str, bytes]:
        """Returns what was needed of a row, without the image."""
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        out = {}
        for need in self._needs:
            if need == "json":
                out[need] = self._rows.row_json(index)
            else:
                out[need] = _as_bytes(self._rows.value(index, self._columns[need]))
        return out

    def key(self, index: int) -> str:
        """Returns "list: image path" of a row, for messages."""
        try:
            return f"{self._path}: {self._name(index)}"
        except BadSampleError:
            return f"{self._path}: row {index + 1}"

    def digest(self) -> str:
        """Returns the hash of the list's content and of what is read from it, not of the images."""
        return self._digest

    def close(self) -> None:
        """Closes the list; reading opens it again."""
        self._rows.close()

    def _name(self, index: int) -> str:
        name = self._rows.value(index, self._image)
        if not isinstance(name, str) or not name:
            raise BadSampleError(
                "missing file", f"row {index + 1} names no image in column {self._image!r}"
            )
        if "://" in name:
            raise UserError(
                f"{self._path}: column {self._image!r} holds URLs ({name[:60]!r} in row "
                f"{index + 1}), expected paths of image files. Download the images first."
            )
        return name

    def _choose_folder(self, root: str) -> str:
        beside = os.path.dirname(os.path.abspath(self._path))
        tried = [folder for folder in dict.fromkeys((beside, root)) if folder]
        first = ""
        for index in range(min(len(self), _LOOKED_AT)):
            try:
                name = self._name(index)
            except BadSampleError:
                continue
            first = first or name
            for folder in tried:
                if os.path.isfile(os.path.join(folder, name)):
                    return folder
        raise UserError(
            f"{self._path}: none of the first {min(len(self), _LOOKED_AT)} images of column "
            f"{self._image!r} exists ({first!r}, ..., looked for below {' and '.join(tried)}). "
            "Expected paths from the folder of the list or from data.root, or absolute ones."
        )

    def _hash(self) -> str:
        with open(self._path, "rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        columns = [f"{need}={self._columns.get(need, '')}" for need in self._needs]
        return hashlib.sha256("\n".join([content, self._image, *columns]).encode()).hexdigest()


def read_image_file(path: str) -> bytes:
    """Returns the content of a file.

    Raises:
        BadSampleError: if it is not there or cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return file.read()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise BadSampleError("missing file", path) from error
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
        raise BadSampleError("unreadable file", f"{path}: {error}") from error


class _ArrowRows:
    """The rows of an Arrow table."""

    def __init__(self, table: Any):
        self.columns: Sequence[str] = table.column_names
        self._table = table

    def __len__(self) -> int:
        return self._table.num_rows

    def value(self, row: int, column: str) -> object:
        return self._table[column][row].as_py()

    def row_json(self, row: int) -> bytes:
        fields = {name: self._table[name][row].as_py() for name in self.columns}
        return json.dumps(fields, ensure_ascii=False, default=str).encode(errors="replace")

    def close(self) -> None:
        """Does nothing: all is in memory."""


def _open_rows(path: str, columns: list[str] | None, text_columns: list[str]) -> Rows:
    """Opens a table with some columns, or all for None; `text_columns` must not become numbers."""
    if path.endswith(".jsonl"):
        return JsonLines(path)
    import pyarrow as pa

    try:
        if path.endswith(".parquet"):
            import pyarrow.parquet

            kind = pyarrow.parquet.read_schema(path).field(text_columns[0]).type
            if pa.types.is_struct(kind) or pa.types.is_binary(kind):
                raise UserError(
                    f"{path}: column {text_columns[0]!r} holds images themselves ({kind}), "
                    "expected paths of image files. Write the images to files, or to shards."
                )
            table = pyarrow.parquet.read_table(path, columns=columns)
        else:
            table = _read_csv(path, columns, text_columns)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{path}: cannot be read as a table ({_one_line(error)}).") from error
    return _ArrowRows(table)


def _read_csv(path: str, columns: list[str] | None, text_columns: list[str]) -> Any:
    import pyarrow as pa
    import pyarrow.csv

    def read(text: Sequence[str]) -> Any:
        return pyarrow.csv.read_csv(
            path,
            parse_options=pyarrow.csv.ParseOptions(
                delimiter=_delimiter(path), newlines_in_values=True
            ),
            convert_options=pyarrow.csv.ConvertOptions(
                include_columns=columns, column_types=dict.fromkeys(text, pa.string())
            ),
        )

    try:
        return read(text_columns)
    except pa.ArrowInvalid as error:
        if "conversion error" not in str(error):
            raise
        return read(_column_names(path))  # a column began with numbers and went on with words


def _column_names(path: str) -> list[str]:
    try:
        if path.endswith(".jsonl"):
            rows = JsonLines(path)
            rows.close()
            return list(rows.columns)
        if path.endswith(".parquet"):
            import pyarrow as pa
            import pyarrow.parquet

            try:
                return pyarrow.parquet.read_schema(path).names
            except pa.ArrowInvalid as error:
                raise UserError(f"{path}: is not a Parquet file ({_one_line(error)}).") from error
        with open(path, encoding="utf-8-sig", newline="") as file:
            names = next(csv.reader(file, delimiter=_delimiter(path)), [])
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else _one_line(error)
        raise UserError(f"{path}: cannot be read ({reason}).") from error
    if not names:
        raise UserError(f"{path}: is empty; expected a first line with the names of the columns.")
    return names


def _delimiter(path: str) -> str:
    return "\t" if path.endswith(".tsv") else ","


def _choose(
    path: str, names: Sequence[str], given: str | None, usual: Sequence[str], what: str
) -> str:
    found = [name for name in ((given,) if given else usual) if name in names]
    if not found:
        wanted = f"{given!r}" if given else f"one of {', '.join(usual)}"
        hint = did_you_mean(given, names) if given else " Name it, or rename the column."
        shown = ", ".join(repr(name[:40]) for name in names[:20])
        raise UserError(f"{path}: no column of {what}: found {shown}, expected {wanted}.{hint}")
    if names.count(found[0]) > 1:
        raise UserError(f"{path}: column {found[0]!r} occurs twice. Rename one of them.")
    return found[0]


def _as_bytes(value: object) -> bytes:
    if value is None:
        return b""
    if isinstance(value, list):
        raise BadSampleError("no caption", "a list; read it with caption='json.COLUMN'")
    return str(value).encode(errors="replace")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
