"""Values of samples by their key, from a file beside the shards: scores, or just membership.

A key is kept as 64 bits of its hash, so a billion keys take 8 GB and not the memory of their text;
two keys of n share a hash with a probability of about n squared over 2**65.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from clipjax.config.errors import UserError

KEY = "key"
SCORE_SUFFIXES = (".parquet", ".jsonl", ".npy")


def text_hash(text: str) -> int:
    """Returns 64 bits of a hash of a text; any text will do, lone surrogates too.

    >>> text_hash("000000123") == text_hash("000000123") != text_hash("123")
    True
    """
    digest = hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def text_hashes(texts: Iterable[str]) -> np.ndarray:
    """Returns `text_hash` of each text, uint64."""
    return np.fromiter(map(text_hash, texts), np.uint64)


@dataclasses.dataclass(frozen=True, eq=False)
class KeyTable:
    """Keys, each once, with a number for each in every column.

    Attributes:
        hashes: uint64, ascending.
        columns: float64 of the same length, by name; NaN where a key has no number.
    """

    hashes: np.ndarray
    columns: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.hashes)

    def find(self, keys: Sequence[str]) -> np.ndarray:
        """Returns the place of each key in the table, int64; -1 where it is not in it."""
        if not len(self):
            return np.full(len(keys), -1)
        wanted = text_hashes(keys)
        places = np.minimum(np.searchsorted(self.hashes, wanted), len(self) - 1)
        return np.where(self.hashes[places] == wanted, places, -1)


def read_key_list(path: str) -> KeyTable:
    """Reads keys from a text file, one a line; blank lines do not count, repeated ones do once.

    An .npy file holds texts, or pairs of uint64: the halves of 128-bit uids, as DataComp's lists
    of samples have them; such a uid is 32 hexadecimal digits.

    Raises:
        UserError: if there is no such file, or no key in it.
    """
    try:
        if path.endswith(".npy"):
            hashes = text_hashes(_array_keys(_load_array(path), path))
        else:
            with open(path, encoding="utf-8") as file:
                lines = (line.rstrip("\r\n") for line in file)
                hashes = text_hashes(line for line in lines if line.strip())
    except OSError as error:
        raise _unreadable(path, str(error.strerror), "a text file with one key a line") from error
    except UnicodeDecodeError as error:
        raise _unreadable(path, str(error), "a text file with one key a line") from error
    if not len(hashes):
        raise UserError(f"{path}: holds no key; expected one a line.")
    return KeyTable(np.unique(hashes))


def read_scores(path: str) -> KeyTable:
    """Reads a table of numbers with a column "key": .parquet, .jsonl, or an .npy with named fields.

    Raises:
        UserError: if it cannot be read, has no column "key" or of numbers, or has a key twice.
    """
    readers = {".parquet": _read_parquet, ".jsonl": _read_json_lines, ".npy": _read_array}
    reader = readers.get(os.path.splitext(path)[1])
    if reader is None:
        raise UserError(
            f"{path}: scores are read from {', '.join(SCORE_SUFFIXES)} with a column {KEY!r}."
        )
    try:
        hashes, columns = reader(path)
    except OSError as error:
        why = error.strerror or " ".join(str(error).split())[:200]
        raise _unreadable(path, why, f"a table with a column {KEY!r}") from error
    if not columns or not len(hashes):
        raise UserError(
            f"{path}: has {len(hashes):,} rows and no column of numbers beside {KEY!r}; expected "
            "at least one of both."
        )
    order = np.argsort(hashes, kind="stable")
    hashes = hashes[order]
    repeated = np.flatnonzero(hashes[1:] == hashes[:-1])
    if len(repeated):
        rows = sorted(order[[repeated[0], repeated[0] + 1]].tolist())
        raise UserError(
            f"{path}: rows {rows[0] + 1:,} and {rows[1] + 1:,} have the same {KEY!r}. Expected "
            "each key once."
        )
    return KeyTable(hashes, {name: column[order] for name, column in columns.items()})


def as_number(value: object) -> float:
    """Returns a number, or a text that is one, as float; NaN for anything else.

    >>> as_number("0.25"), as_number(True), as_number(None)
    (0.25, 1.0, nan)
    """
    if not isinstance(value, int | float | str):
        return float("nan")
    try:
        return float(value)
    except (ValueError, OverflowError):
        return float("nan")


def _read_parquet(path: str) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    import pyarrow as pa
    import pyarrow.parquet

    try:
        names = pyarrow.parquet.read_schema(path)
        _check_names(path, names.names)
        kinds = {field.name: field.type for field in names}
        numbers = [n for n, kind in kinds.items() if _is_number(kind) and n != KEY]
        table = pyarrow.parquet.read_table(path, columns=[KEY, *numbers])
    except pa.ArrowInvalid as error:
        why = " ".join(str(error).split())[:200]
        raise _unreadable(path, why, "a Parquet table") from error
    hashes = text_hashes(str(key) for chunk in table[KEY].chunks for key in chunk.to_pylist())
    return hashes, {name: arrow_numbers(table[name]) for name in numbers}


def arrow_numbers(column: Any) -> np.ndarray:
    """Returns a numeric column of an Arrow table as float64, NaN where it has no value."""
    import pyarrow as pa

    return column.cast(pa.float64(), safe=False).to_numpy().astype(np.float64, copy=False)


def _is_number(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def _read_json_lines(path: str) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    keys: list[int] = []
    columns: dict[str, list[float]] = {}
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                fields = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise _unreadable(path, f"line {number:,}: {error}", "one object a line") from error
            if not isinstance(fields, dict) or not isinstance(fields.get(KEY), str):
                raise UserError(
                    f"{path}: line {number:,} is no object with a text {KEY!r}. Expected lines "
                    f'like {{"{KEY}": "000000000", "score": 0.31}}.'
                )
            for name, value in fields.items():
                if name != KEY and not np.isnan(as_number(value)):
                    column = columns.setdefault(name, [])
                    column += [float("nan")] * (len(keys) - len(column))
                    column.append(as_number(value))
            keys.append(text_hash(fields[KEY]))
    padded = {n: c + [float("nan")] * (len(keys) - len(c)) for n, c in columns.items()}
    return np.array(keys, np.uint64), {n: np.array(c) for n, c in padded.items()}


def _read_array(path: str) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    array = _load_array(path)
    names = array.dtype.names or ()
    _check_names(path, names)
    numbers = [name for name in names if name != KEY and array.dtype[name].kind in "iuf"]
    hashes = text_hashes(_array_keys(array[KEY], path))
    return hashes, {name: array[name].astype(np.float64) for name in numbers}


def _load_array(path: str) -> np.ndarray:
    wanted = "a NumPy array of one dimension"
    with open(path, "rb") as file:
        try:
            array = np.load(file, allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise _unreadable(path, " ".join(str(error).split())[:200], wanted) from error
    if not isinstance(array, np.ndarray) or array.ndim != 1:
        raise _unreadable(path, "it is something else", wanted)
    return array


def _array_keys(array: np.ndarray, path: str) -> Iterable[str]:
    kind = array.dtype
    if kind.names and len(kind.names) == 2 and all(kind[n] == np.uint64 for n in kind.names):
        return (f"{high:016x}{low:016x}" for high, low in array.tolist())
    if kind.kind == "U":
        return array.tolist()
    if kind.kind == "S":
        return (key.decode(errors="surrogateescape") for key in array.tolist())
    raise _unreadable(path, f"keys of type {kind}", "texts, or pairs of uint64")


def _check_names(path: str, names: Sequence[str]) -> None:
    if KEY not in names:
        found = ", ".join(repr(name[:40]) for name in names[:20]) or "none"
        raise UserError(f"{path}: no column {KEY!r}; found {found}. Rename the column of the keys.")


def _unreadable(path: str, why: str, wanted: str) -> UserError:
    return UserError(f"{path}: cannot be read ({why}). Expected {wanted}.")
