"""Columns: Parquet, JSON and score files agree with plain loops over what was written."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipjax.config.errors import UserError
from clipjax.data.captions import choose_caption
from clipjax.data.columns import ParquetColumns, ShardColumns, as_text
from clipjax.data.decode import BadSampleError
from clipjax.data.key_table import KeyTable, as_number, text_hashes
from clipjax.data.tar_index import open_index, opened

FIELDS = [
    {"width": 640, "similarity": 0.3141592653589793, "LANGUAGE": "en", "flag": True},
    {"width": 0, "similarity": "0.5", "LANGUAGE": None},
    {"similarity": float("nan"), "LANGUAGE": "", "flag": False},
    {"width": "wide", "similarity": [0.3], "LANGUAGE": 3},
    {"width": 10**400, "similarity": -1e-300, "LANGUAGE": "fr"},
    {},
]


def shard(tmp_path, make_tar, jsons, name="0.tar"):
    samples = {
        f"k{row}": {"jpg": b"x", **({"json": content} if content is not None else {})}
        for row, content in enumerate(jsons)
    }
    return open_index(str(make_tar(tmp_path / name, samples)))


def parquet(table, wanted):
    import pyarrow as pa
    import pyarrow.parquet

    sink = pa.BufferOutputStream()
    pyarrow.parquet.write_table(pa.table(table), sink)
    return ParquetColumns("x.parquet", sink.getvalue().to_pybytes(), wanted)


WANTED = ("width", "similarity", "LANGUAGE", "flag")


def with_columns(index, do, **options):
    with opened(index.path) as read:
        return do(ShardColumns(index, read, **options))


def test_fields_of_the_json_members(tmp_path, make_tar):
    index = shard(tmp_path, make_tar, [json.dumps(fields).encode() for fields in FIELDS])
    for name in WANTED:
        numbers = with_columns(index, lambda c: c.numbers(name), wanted=WANTED)  # noqa: B023
        expected = [as_number(fields.get(name)) for fields in FIELDS]
        np.testing.assert_array_equal(numbers, expected)
        texts = with_columns(index, lambda c: c.texts(name), wanted=WANTED)  # noqa: B023
        assert texts == [as_text(fields.get(name)) for fields in FIELDS]
    names = with_columns(index, lambda c: c.names(), wanted=())
    assert names == ["width", "similarity", "LANGUAGE", "flag"]


@pytest.mark.parametrize(
    "content", [None, b"", b"{", b"[1]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"width": }']
)
def test_json_that_cannot_be_read_is_missing(tmp_path, make_tar, content):
    index = shard(tmp_path, make_tar, [b'{"width": 3}', content])
    numbers = with_columns(index, lambda c: c.numbers("width"), wanted=("width",))
    assert numbers[0] == 3
    assert math.isnan(numbers[1])


@settings(max_examples=30, deadline=None)
@given(
    values=st.lists(
        st.one_of(st.none(), st.floats(), st.integers(-(2**53), 2**53).map(float)), min_size=1
    ),
    known=st.data(),
)
def test_parquet_and_json_agree(tmp_path_factory, make_tar, values, known):
    """Whichever part of the samples the Parquet file knows, and in whatever order."""
    tmp_path = tmp_path_factory.mktemp("columns")
    fields = [{} if value is None else {"score": value} for value in values]
    index = shard(tmp_path, make_tar, [json.dumps(f).encode() for f in fields])
    rows = known.draw(st.lists(st.sampled_from(range(len(values))), unique=True))
    table = parquet(
        {"key": [f"k{r}" for r in rows] + ["failed"], "score": [values[r] for r in rows] + [0.5]},
        ["score"],
    )
    found = with_columns(index, lambda c: c.numbers("score"), wanted=("score",), parquet=table)
    plain = with_columns(index, lambda c: c.numbers("score"), wanted=("score",))
    expected = [math.nan if value is None else value for value in values]
    np.testing.assert_array_equal(plain, expected)
    np.testing.assert_array_equal(found, expected)


def test_parquet_columns_of_other_kinds(tmp_path, make_tar):
    kinds = {"n": [1, None], "flag": [True, False], "text": ["0.5", None], "list": [["a"], []]}
    fields = [{k: v[row] for k, v in kinds.items()} for row in range(2)]
    index = shard(tmp_path, make_tar, [json.dumps(f).encode() for f in fields])
    table = parquet({"key": ["k0", "k1"], **kinds}, list(kinds))
    for name in kinds:
        found = []
        for given_ in (table, None):
            options = {"wanted": list(kinds), "parquet": given_}
            numbers = with_columns(index, lambda c: c.numbers(name), **options)  # noqa: B023
            both = with_columns(index, lambda c: (c.texts(name), c.values(name)), **options)  # noqa: B023
            found.append((numbers.tolist(), *both))
        assert repr(found[0]) == repr(found[1])  # NaN does not equal itself


def test_without_keys_a_parquet_file_is_of_no_use(tmp_path, make_tar):
    index = shard(tmp_path, make_tar, [b'{"n": 1}'])
    table = parquet({"n": [7]}, ["n"])
    found = with_columns(index, lambda c: c.numbers("n"), wanted=("n",), parquet=table)
    assert found.tolist() == [1]


def test_a_damaged_parquet_file_is_one_line():
    with pytest.raises(UserError, match=r"x\.parquet: .*--no-parquet"):
        ParquetColumns("x.parquet", b"PAR1", ["n"])


def test_scores_come_before_fields_of_the_same_name(tmp_path, make_tar):
    index = shard(tmp_path, make_tar, [b'{"score": 1, "other": 2}'] * 3)
    hashes = text_hashes(["k0", "k2", "elsewhere"])
    order = np.argsort(hashes)
    table = KeyTable(hashes[order], {"score": np.array([5.0, math.nan, 9.0])[order]})
    options = {"wanted": ("other",), "scores": table}
    score = with_columns(index, lambda c: c.numbers("score"), **options)
    np.testing.assert_array_equal(score, [5.0, math.nan, math.nan])
    assert with_columns(index, lambda c: c.texts("score"), **options) == ["5.0", None, None]
    assert with_columns(index, lambda c: c.numbers("other"), **options).tolist() == [2, 2, 2]
    assert with_columns(index, lambda c: (c.score_places >= 0).tolist(), **options) == [
        True,
        False,
        True,
    ]


TEXTS = [b"a dog", b"", b" \n", b"\xff", "é ".encode(), None]
CAPTIONS = ["from json", ["first", "second"], [], [None], "  ", 3, {"a": "b"}, None, "\ud800"]


@pytest.mark.parametrize("caption", ["txt", "json.c", "json.c txt", "txt:3 json.c", "json.x"])
def test_captions_are_those_that_training_would_see(tmp_path, make_tar, caption):
    samples = {}
    for text in TEXTS:
        for value in CAPTIONS:
            files = {"jpg": b"x", "json": json.dumps({"c": value}).encode()}
            if text is not None:
                files["txt"] = text
            samples[f"k{len(samples)}"] = files
    index = open_index(str(make_tar(tmp_path / "0.tar", samples)))
    expected = []
    for files in samples.values():
        try:
            expected.append(choose_caption(files, caption))
        except BadSampleError:
            expected.append(None)
    assert with_columns(index, lambda c: c.captions(), caption=caption) == expected


def test_captions_of_a_parquet_file(tmp_path, make_tar):
    index = shard(tmp_path, make_tar, [b'{"c": "json"}'] * 2)
    table = parquet({"key": ["k1"], "c": [["from", "parquet"]]}, ["c"])
    found = with_columns(index, lambda c: c.captions(), caption="json.c", parquet=table)
    assert found == ["json", "from"]


def test_a_shard_that_shrinks_meanwhile_is_told(tmp_path, make_tar):
    index = shard(tmp_path, make_tar, [b'{"n": 1}'] * 3)
    with open(index.path, "r+b") as file:
        file.truncate(1500)
    with pytest.raises(UserError, match="has become shorter"):
        with_columns(index, lambda c: c.numbers("n"), wanted=("n",))
