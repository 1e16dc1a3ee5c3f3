"""Filters: masks and counts against plain Python loops."""

import itertools
import json
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipjax.data.columns import ShardColumns
from clipjax.data.filters import (
    FILTERS,
    AtLeast,
    AtMost,
    CaptionChars,
    CaptionWords,
    Filter,
    KeyList,
    MaxAspect,
    MinSide,
    OneOf,
    TopShare,
    apply_filters,
    in_order,
)
from clipjax.data.key_table import KeyTable, text_hashes
from clipjax.data.tar_index import open_index, opened

SAMPLES = [
    ("a dog", {"width": 640, "height": 480, "s": 0.3, "L": "en", "uid": "u0"}),
    ("  一只 狗 ", {"width": 300, "height": 100, "s": 0.1, "L": "zh", "uid": "u1"}),
    ("x", {"width": 200, "height": 200, "s": 0.30000000000000004, "L": "en"}),
    ("one two three four", {"width": 100, "height": 301, "s": "0.29", "L": None, "uid": "u3"}),
    (" ", {"width": 640, "height": 480, "s": None}),
    ("no size", {"s": 0.5, "L": "fr"}),
    ("zero", {"width": 0, "height": 0, "s": -1}),
    ("word\tword\nword", {"width": 1, "height": 1e9, "s": math.inf, "L": "en"}),
]


@pytest.fixture(scope="module")
def columns(tmp_path_factory, make_tar):
    samples = {
        f"k{row}": {"jpg": b"x", "txt": text.encode(), "json": json.dumps(fields).encode()}
        for row, (text, fields) in enumerate(SAMPLES)
    }
    index = open_index(str(make_tar(tmp_path_factory.mktemp("f") / "0.tar", samples)))
    wanted = ("width", "height", "s", "L", "uid")
    with opened(index.path) as read:
        yield ShardColumns(index, read, wanted=wanted)


def table(*keys):
    return KeyTable(np.unique(text_hashes(keys)))


def number(fields, name):
    value = fields.get(name)
    return float(value) if value is not None else None


def sides(fields):
    both = number(fields, "width"), number(fields, "height")
    return None if None in both else sorted(both)


# filter: text, fields, key -> bool or the reason "no COLUMN"
REFERENCES = [
    (
        CaptionChars(2, 5),
        lambda t, f, k: 2 <= len(t.strip()) <= 5 if t.strip() else "no caption",
    ),
    (CaptionChars(0, None), lambda t, f, k: True if t.strip() else "no caption"),
    (CaptionWords(2, None), lambda t, f, k: len(t.split()) >= 2 if t.strip() else "no caption"),
    (MinSide(200.0), lambda t, f, k: sides(f)[0] >= 200 if sides(f) else "no width"),
    (
        MaxAspect(3.0),
        lambda t, f, k: (
            sides(f)[0] > 0 and sides(f)[1] / sides(f)[0] <= 3 if sides(f) else "no width"
        ),
    ),
    (
        AtLeast("s", 0.3),
        lambda t, f, k: number(f, "s") >= 0.3 if number(f, "s") is not None else "no s",
    ),
    (
        AtMost("s", 0.3),
        lambda t, f, k: number(f, "s") <= 0.3 if number(f, "s") is not None else "no s",
    ),
    (OneOf("L", ("en", "zh")), lambda t, f, k: f["L"] in ("en", "zh") if f.get("L") else "no L"),
    (KeyList(table("k1", "k7", "k9")), lambda t, f, k: k in ("k1", "k7")),
    (KeyList(table("k1", "k7", "k9"), keep=False), lambda t, f, k: k not in ("k1", "k7")),
    (
        KeyList(table("u1", "u3"), column="uid"),
        lambda t, f, k: f["uid"] in ("u1", "u3") if "uid" in f else "no uid",
    ),
    (
        KeyList(table("u1", ""), keep=False, column="uid"),
        lambda t, f, k: f["uid"] != "u1" if "uid" in f else "no uid",
    ),
]


def expected(filters):
    kept, dropped = [], {}
    for row, (text, fields) in enumerate(SAMPLES):
        reason = None
        for filter_, reference in filters:
            answer = reference(text, fields, f"k{row}")
            if answer is not True:
                reason = answer if isinstance(answer, str) else filter_.name
                break
        kept.append(reason is None)
        if reason:
            dropped[reason] = dropped.get(reason, 0) + 1
    return kept, dropped


@pytest.mark.parametrize(("filter_", "reference"), REFERENCES)
def test_each_filter_against_a_loop(columns, filter_, reference):
    assert isinstance(filter_, Filter)
    kept, dropped = apply_filters(columns, [filter_], np.ones(len(SAMPLES), bool))
    assert (kept.tolist(), dict(dropped)) == expected([(filter_, reference)])
    mask = filter_.mask(columns)
    assert mask.dtype == bool
    assert mask.tolist() == kept.tolist(), "what is missing does not pass either"


@pytest.mark.parametrize("pair", list(itertools.combinations(REFERENCES, 2)))
def test_a_dropped_sample_counts_under_the_first_filter(columns, pair):
    kept, dropped = apply_filters(columns, [f for f, _ in pair], np.ones(len(SAMPLES), bool))
    assert (kept.tolist(), dict(dropped)) == expected(pair)
    assert sum(dropped.values()) + kept.sum() == len(SAMPLES)


def test_samples_that_are_not_used_are_neither_kept_nor_counted(columns):
    used = np.array([True, False] * 4)
    before = used.copy()
    kept, dropped = apply_filters(columns, [CaptionWords(2, None)], used)
    assert np.flatnonzero(kept).tolist() == [0]
    assert dict(dropped) == {"caption words": 2, "no caption": 1}
    assert used.tolist() == before.tolist()


def test_the_order_of_filters_does_not_depend_on_how_they_are_given():
    filters = [filter_ for filter_, _ in REFERENCES]
    kinds = [FILTERS.index(type(filter_)) for filter_ in in_order(reversed(filters))]
    assert kinds == sorted(kinds)
    assert in_order([AtMost("b", 1.0), AtLeast("z", 0.0), AtMost("a", 1.0)]) == (
        AtLeast("z", 0.0),
        AtMost("b", 1.0),
        AtMost("a", 1.0),
    )


SIZES = st.integers(-3, 70_000)


@settings(max_examples=80, deadline=None)
@given(sizes=st.lists(st.tuples(SIZES, SIZES)), ratio=st.integers(1, 40).map(lambda n: n / 8))
def test_aspect_against_exact_fractions(sizes, ratio):
    class Sizes(ShardColumns):
        def __init__(self):
            pass

        def numbers(self, name):
            return np.array([s[("width", "height").index(name)] for s in sizes], float)

    found = MaxAspect(ratio).mask(Sizes())
    exact = [min(s) > 0 and Fraction(max(s), min(s)) <= Fraction(ratio) for s in sizes]
    assert found.tolist() == exact


NUMBERS = st.lists(st.integers(-5, 5).map(float), min_size=1, max_size=60)


@given(numbers=NUMBERS, percent=st.integers(1, 100))
def test_the_top_share_is_the_smallest_that_is_enough(numbers, percent):
    threshold = TopShare("s", percent / 100).threshold(np.array(numbers))
    kept = [n for n in numbers if n >= threshold]
    without_ties = [n for n in numbers if n > threshold]
    assert threshold in numbers
    assert len(kept) * 100 >= percent * len(numbers)
    assert len(without_ties) * 100 < percent * len(numbers)


@pytest.mark.parametrize("samples", [10, 1000, 123_450])
def test_a_share_means_the_decimal_that_was_written(samples):
    """0.07 * 100 is 7.000000000000001 in floating point, whose ceiling is 8."""
    numbers = np.random.default_rng(0).permutation(samples).astype(float)
    for share in ("0.1", "0.3", "0.7", "1.0"):
        threshold = TopShare("s", float(share)).threshold(numbers)
        assert (numbers >= threshold).sum() == Fraction(share) * samples
    assert (np.arange(100.0) >= TopShare("s", 0.07).threshold(np.arange(100.0))).sum() == 7


def test_the_top_of_nothing_keeps_nothing():
    threshold = TopShare("s", 0.5).threshold(np.zeros(0))
    assert math.isnan(threshold)
    assert not (np.array([1.0, math.inf]) >= threshold).any()
