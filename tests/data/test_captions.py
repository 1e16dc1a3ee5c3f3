import json

import numpy as np
import pytest

from clipjax.data.captions import caption_members, caption_places, choose_caption
from clipjax.data.decode import BadSampleError

MEMBER = {
    "txt": b"plain",
    "json": json.dumps({"name": "named", "captions": ["a", "b", "c"], "none": []}).encode(),
}


def test_a_caption_is_the_text_or_a_field_of_the_json():
    assert choose_caption(MEMBER, "txt", (0.9, 0.9)) == "plain"
    assert choose_caption(MEMBER, "json.name", (0.9, 0.9)) == "named"
    draws = (0.0, 0.34, 0.67, 1 - 2**-53)
    assert [choose_caption(MEMBER, "json.captions", (d, 0.0)) for d in draws] == list("abcc")
    assert choose_caption(MEMBER, "json.captions") == "a"


def test_of_several_places_each_comes_with_its_probability():
    """30,000 draws of 5 : 3 : 2: chi-squared with two degrees of freedom below 25."""
    where = "txt:5 json.name:3 json.captions:2"
    draws = np.random.default_rng(0).uniform(size=(30_000, 2)).tolist()
    found = [choose_caption(MEMBER, where, draw) for draw in draws]
    groups = (("plain",), ("named",), ("a", "b", "c"))
    counts = np.array([sum(text in group for text in found) for group in groups])
    expected = 30_000 * np.array([0.5, 0.3, 0.2])
    assert counts.sum() == 30_000
    assert ((counts - expected) ** 2 / expected).sum() < 25


@pytest.mark.parametrize("draw", [0.0, 0.49, 0.5, 0.99])
def test_where_the_drawn_place_has_none_the_next_is_asked(draw):
    assert choose_caption({"txt": b"plain"}, "txt json.name", (0.0, draw)) == "plain"
    assert choose_caption({"json": MEMBER["json"]}, "txt json.name", (0.0, draw)) == "named"
    with pytest.raises(BadSampleError, match="no caption"):
        choose_caption({}, "txt json.name", (0.0, draw))


def test_a_weight_of_zero_is_never_drawn_but_stands_in():
    for draw in (0.0, 0.5, 1 - 2**-53):
        assert choose_caption(MEMBER, "txt:0 json.name", (0.0, draw)) == "named"
        assert choose_caption(MEMBER, "json.name txt:0", (0.0, draw)) == "named"
    assert choose_caption({"txt": b"plain"}, "txt:0 json.name", (0.0, 0.5)) == "plain"


def test_members_are_named_once():
    assert caption_members("json.a txt json.b") == ("json", "txt")
    assert sum(weight for _, weight in caption_places("txt json.a:2 json.b:0.5")) == 1.0


HOSTILE = {
    "no txt": ("txt", {}),
    "blank": ("txt", {"txt": b" \t\n"}),
    "empty": ("txt", {"txt": b""}),
    "not UTF-8": ("txt", {"txt": b"caf\xe9"}),
    "no json": ("json.a", {"txt": b"x"}),
    "broken json": ("json.a", {"json": b'{"a": '}),
    "no field": ("json.a", {"json": b'{"b": "x"}'}),
    "a list on top": ("json.a", {"json": b'["a"]'}),
    "an empty list": ("json.a", {"json": b'{"a": []}'}),
    "a blank of a list": ("json.a", {"json": b'{"a": [""]}'}),
    "null": ("json.a", {"json": b'{"a": null}'}),
    "a number": ("json.a", {"json": b'{"a": 3}'}),
    "numbers": ("json.a", {"json": b'{"a": [3]}'}),
    "half a surrogate pair": ("json.a", {"json": b'{"a": "x \\ud83d"}'}),
    "half a surrogate pair in a list": ("json.a", {"json": b'{"a": ["\\ude00"]}'}),
    "too deep": ("json.a", {"json": b"[" * 100_000}),
    "not UTF-8 json": ("json.a", {"json": b'{"a": "\xe9"}'}),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_sample_without_a_usable_caption_is_a_bad_sample(name):
    where, member = HOSTILE[name]
    with pytest.raises(BadSampleError) as caught:
        choose_caption(member, where, (0.5, 0.5))
    assert caught.value.reason == "no caption"
    assert where in str(caught.value)
