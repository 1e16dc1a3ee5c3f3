import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from clipjax.data.tokenizers.byte import ByteTokenizer

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


def body(ids):
    """The ids between start and end."""
    values = ids.tolist()
    assert values[0] == 256
    assert values.count(257) == 1
    end = values.index(257)
    assert not any(values[end + 1 :])
    return values[1:end]


@given(TEXTS)
def test_bytes_go_there_and_back(text):
    tokenizer = ByteTokenizer(context_length=200, lowercase=False)
    assert bytes(body(tokenizer(text))).decode() == text


@given(TEXTS)
def test_lowercase_folds_case_before_the_bytes(text):
    tokenizer = ByteTokenizer(context_length=400, lowercase=True)
    assert bytes(body(tokenizer(text))).decode() == text.lower()


@given(TEXTS, st.integers(2, 10))
def test_the_context_cuts_bytes_and_keeps_the_end(text, context_length):
    ids = ByteTokenizer(context_length=context_length, lowercase=False)(text)
    assert ids.shape == (context_length,)
    assert ids.dtype == np.int32
    assert body(ids) == list(text.encode())[: context_length - 2]
