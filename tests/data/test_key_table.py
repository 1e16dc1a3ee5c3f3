"""Key lists and score files: every format gives the same table, and mistakes are one line."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipjax.config.errors import UserError
from clipjax.data.key_table import KeyTable, as_number, read_key_list, read_scores, text_hashes

KEYS = ["000000001", "a/b", "émoji 🙂", "z"]
SCORES = [0.25, -1.5, float("nan"), 3.0]


def write_parquet(path, **columns):
    import pyarrow as pa
    import pyarrow.parquet

    pyarrow.parquet.write_table(pa.table(columns), path)
    return str(path)


def write_npy(path, **columns):
    dtype = [(name, np.asarray(column).dtype) for name, column in columns.items()]
    array = np.array(list(zip(*columns.values(), strict=True)), dtype)
    np.save(path, array)
    return str(path)


def write_lines(path, **columns):
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    text = "".join(json.dumps({k: v for k, v in row.items() if v == v}) + "\n\n" for row in rows)
    path.write_text(text)
    return str(path)


WRITERS = {".parquet": write_parquet, ".npy": write_npy, ".jsonl": write_lines}


@pytest.mark.parametrize("suffix", WRITERS)
def test_every_format_gives_the_same_scores(tmp_path, suffix):
    path = WRITERS[suffix](tmp_path / f"s{suffix}", key=KEYS, score=SCORES, number=[1, 2, 3, 4])
    table = read_scores(path)
    assert set(table.columns) == {"score", "number"}
    places = table.find([*KEYS, "missing"])
    assert places[-1] == -1
    np.testing.assert_array_equal(table.columns["score"][places[:-1]], SCORES)
    np.testing.assert_array_equal(table.columns["number"][places[:-1]], [1, 2, 3, 4])


@given(st.lists(st.text(), unique=True), st.lists(st.text()))
def test_keys_are_found_where_they_are(keys, wanted):
    hashes = np.unique(text_hashes(keys))
    table = KeyTable(hashes)
    found = table.find(wanted) >= 0
    assert found.tolist() == [key in keys for key in wanted]
    assert (table.find(keys) >= 0).all()


def test_keys_that_are_no_utf8_are_keys_too():
    odd = [b"\xff\x00".decode(errors="surrogateescape"), "\ud800", "plain"]
    table = KeyTable(np.unique(text_hashes(odd)))
    assert (table.find(odd) >= 0).all()


@pytest.mark.parametrize("suffix", WRITERS)
def test_a_key_twice_is_refused(tmp_path, suffix):
    keys = ["a", "b", "c", "b"]
    path = WRITERS[suffix](tmp_path / f"s{suffix}", key=keys, score=[1.0] * 4)
    with pytest.raises(UserError, match=f"{path}: rows 2 and 4 have the same 'key'"):
        read_scores(path)


@pytest.mark.parametrize("suffix", [".parquet", ".npy"])
@pytest.mark.parametrize(
    ("columns", "message"),
    [({"id": ["a"], "score": [1.0]}, "no column 'key'; found 'id', 'score'"),
     ({"key": ["a"], "text": ["b"]}, "no column of numbers")],
)  # fmt: skip
def test_a_table_without_the_columns_says_what_it_has(tmp_path, suffix, columns, message):
    path = WRITERS[suffix](tmp_path / f"s{suffix}", **columns)
    with pytest.raises(UserError, match=message):
        read_scores(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("s.csv", b"key,score\n", r"read from \.parquet, \.jsonl, \.npy"),
        ("s.jsonl", b'{"key": "a", "score": 1}\n{"key": 3}\n', "line 2 is no object with a text"),
        ("s.jsonl", b"[1]\n", "line 1 is no object"),
        ("s.jsonl", b'{"key": "a"\n', "line 1: .* Expected one object a line"),
        ("s.jsonl", b"\xff\xfe\n", "line 1: "),
        ("s.jsonl", b"", "0 rows"),
        ("s.parquet", b"PAR1 no", "cannot be read"),
        ("s.npy", b"\x93NUMPY", "cannot be read"),
        ("s.npy", b"", "cannot be read"),
    ],
)
def test_a_file_that_is_none_is_one_line(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        read_scores(str(path))
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["s.jsonl", "s.parquet", "s.npy"])
def test_scores_that_are_not_there(tmp_path, name):
    with pytest.raises(UserError, match="cannot be read"):
        read_scores(str(tmp_path / name))


def test_a_pickled_array_is_refused(tmp_path):
    np.save(tmp_path / "s.npy", np.array([{"key": "a"}], object), allow_pickle=True)
    with pytest.raises(UserError, match="cannot be read"):
        read_scores(str(tmp_path / "s.npy"))


def test_a_list_of_keys_is_lines_whatever_their_ends(tmp_path):
    (tmp_path / "keys.txt").write_bytes("a\r\n\n b\né🙂\na\n".encode())
    table = read_key_list(str(tmp_path / "keys.txt"))
    assert len(table) == 3
    assert (table.find(["a", " b", "é🙂"]) >= 0).all()
    assert (table.find(["b", "", "A"]) < 0).all()


def test_lists_of_datacomp_are_halves_of_uids(tmp_path):
    uids = ["00000000000000010000000000000002", "fedcba9876543210ffffffffffffffff"]
    halves = np.array([(int(u[:16], 16), int(u[16:], 16)) for u in uids], "u8,u8")
    np.save(tmp_path / "subset.npy", halves)
    table = read_key_list(str(tmp_path / "subset.npy"))
    assert (table.find(uids) >= 0).all()
    assert (table.find([uids[0].upper() + "0"]) < 0).all()


@pytest.mark.parametrize("keys", [np.array(["a", "é"]), np.array([b"a", "é".encode()])])
def test_lists_may_be_arrays_of_texts(tmp_path, keys):
    np.save(tmp_path / "keys.npy", keys)
    assert (read_key_list(str(tmp_path / "keys.npy")).find(["a", "é"]) >= 0).all()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("keys.txt", b"\n\n", "holds no key"),
        ("keys.txt", b"a\n\xff\n", "cannot be read"),
        ("keys.npy", b"a\n", "cannot be read"),
    ],
)
def test_a_list_that_is_none_is_one_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_key_list(str(tmp_path / name))
    with pytest.raises(UserError, match="No such file"):
        read_key_list(str(tmp_path / f"other-{name}"))
    np.save(tmp_path / "floats.npy", np.ones(3))
    with pytest.raises(UserError, match="keys of type float64"):
        read_key_list(str(tmp_path / "floats.npy"))


@pytest.mark.parametrize("value", [None, "x", "", [1], {}, 10**400, "nan", b"1"])
def test_what_is_no_number_is_nan(value):
    assert math.isnan(as_number(value))
