import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipjax.data.words import STOP_WORDS, slug, words_of


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("don't, rock\u2019n roll: the DOG\u2019S", ["don't", "rock\u2019n", "roll", "the", "dog"]),
        ("हिन्दी शब्द", ["हिन्दी", "शब्द"]),  # vowel signs are marks, not letters
        ("Stra\u00dfe \u2014 \u00c9t\u00e9", ["stra\u00dfe", "\u00e9t\u00e9"]),
        ("猫の顔", ["猫の顔"]),
        (" ...!? ", []),
    ],
)
def test_words_of_several_scripts(text, words):
    assert words_of(text) == words
    assert words_of(unicodedata.normalize("NFD", text)) == words


@given(st.text())
def test_words_are_stable_and_ids_are_words(text):
    words = words_of(text)
    assert all(word and not word.isspace() for word in words)
    assert slug(text) == ("-".join(words) or "unnamed")


def test_stop_words_are_what_captions_are_taken_apart_into():
    assert len(STOP_WORDS) > 200
    assert all(words_of(word) == [word] for word in STOP_WORDS)
    assert not STOP_WORDS & {"dog", "red", "man", "face", "run", "photo"}
