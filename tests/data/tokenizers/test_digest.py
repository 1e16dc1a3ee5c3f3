import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipjax.config.errors import UserError
from clipjax.data.tokenizers.digest import check_vocabulary, json_digest

OBJECTS = st.dictionaries(st.text(max_size=4), st.integers() | st.text(max_size=4), max_size=5)


def test_it_is_the_hash_of_the_shortest_json_with_sorted_keys():
    expected = hashlib.sha256(b'{"a":[1,"\\u00e9"],"b":null}').hexdigest()
    assert json_digest({"b": None, "a": [1, "é"]}) == expected


@given(OBJECTS, OBJECTS)
def test_equal_objects_and_only_they_share_it(one, other):
    assert (json_digest(one) == json_digest(other)) == (one == other)
    assert json_digest(dict(reversed(one.items()))) == json_digest(one)


def test_another_vocabulary_than_the_saved_one_is_told():
    saved = {"kind": "clip", "sha256": "a" * 64}
    check_vocabulary(saved, "a" * 64)
    with pytest.raises(UserError, match=r"tokenizer\.json: the clip vocabulary .*expected aaaa"):
        check_vocabulary(saved, "b" * 64)
