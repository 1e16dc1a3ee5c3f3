import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipjax.config.errors import UserError
from clipjax.data.decode import BadSampleError
from clipjax.data.sources import json_lines
from clipjax.data.sources.json_lines import JsonLines


def test_objects_by_number(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\n{"a": 1, "b": "x"}\r\n\r\n\n{"a": 2}\n{"c": null}')
    rows = JsonLines(str(path))
    assert (len(rows), rows.columns) == (3, ["a", "b"])
    assert [rows.value(i, "a") for i in range(3)] == [1, 2, None]
    assert rows.row_json(0) == b'{"a": 1, "b": "x"}'
    rows.close()
    rows.close()
    assert rows.row_json(2) == b'{"c": null}'
    rows.close()


def test_a_damaged_line_names_its_row(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\n{"a": \n' + "[" * 100_000 + "\n")
    rows = JsonLines(str(path))
    for row in (1, 2):
        with pytest.raises(BadSampleError, match=f"row {row + 1}"):
            rows.value(row, "a")
    rows.close()


def test_what_cannot_be_read(tmp_path):
    with pytest.raises(UserError, match="No such file"):
        JsonLines(str(tmp_path / "none.jsonl"))
    (tmp_path / "empty.jsonl").write_text("\n\n")
    with pytest.raises(UserError, match="is empty"):
        JsonLines(str(tmp_path / "empty.jsonl"))


@settings(max_examples=50, deadline=None)
@given(
    values=st.lists(st.text(max_size=30), min_size=1, max_size=20),
    chunk=st.integers(1, 64),
    ends=st.sampled_from(["\n", "\r\n", "\n\n"]),
)
def test_any_chunk_size_finds_the_same_lines(tmp_path_factory, values, chunk, ends):
    path = tmp_path_factory.mktemp("lines") / "a.jsonl"
    path.write_text(ends.join(json.dumps({"v": value}) for value in values), newline="")
    old, json_lines._CHUNK = json_lines._CHUNK, chunk
    try:
        rows = JsonLines(str(path))
    finally:
        json_lines._CHUNK = old
    assert [rows.value(i, "v") for i in range(len(rows))] == values
    rows.close()


def test_only_the_places_are_in_memory(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "' + "x" * 1000 + '"}\n' * 1)
    rows = JsonLines(str(path))
    held = [value for value in vars(rows).values() if isinstance(value, np.ndarray)]
    assert sum(array.nbytes for array in held) == 16
    rows.close()
