import string

from hypothesis import given
from hypothesis import strategies as st

from clipjax.data.tokenizers.canonical import canonical_text

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


@given(TEXTS, st.booleans())
def test_without_options_a_text_is_left_alone(text, lowercase):
    expected = text.lower() if lowercase else text
    assert canonical_text(text, lowercase=lowercase, strip_punctuation=False) == expected


@given(TEXTS | st.text(string.printable, max_size=30))
def test_only_ascii_punctuation_and_white_space_are_taken_out(text):
    done = canonical_text(text, lowercase=False, strip_punctuation=True)
    assert not set(done) & set(string.punctuation)
    assert done == " ".join(done.split())
    kept = [c for c in text if c not in string.punctuation and not c.isspace()]
    assert [c for c in done if c != " "] == kept
    assert canonical_text(done, lowercase=False, strip_punctuation=True) == done


def test_an_underscore_parts_words_and_other_signs_do_not():
    def done(text):
        return canonical_text(text, lowercase=True, strip_punctuation=True)

    assert done("IMG_12-34.jpg") == "img 1234jpg"
    assert done("Straße, “quoted” — ½") == "straße “quoted” — ½"
