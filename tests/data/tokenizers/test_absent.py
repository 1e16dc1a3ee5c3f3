"""What stands where a model came without its vocabulary."""

import pytest

from clipjax.config import UserError
from clipjax.data.tokenizers import AbsentTokenizer, Tokenizer, tokenizer_from_json


def test_it_has_sizes_and_says_what_is_missing():
    absent = AbsentTokenizer(context_length=7, vocab_size=90, reason="it was lost. Find it.")
    assert isinstance(absent, Tokenizer)
    assert (absent.context_length, absent.vocab_size) == (7, 90)
    with pytest.raises(UserError, match=r"the text 'a cat' cannot be encoded: it was lost\."):
        absent("a cat")


def test_it_is_saved_like_any_other():
    absent = AbsentTokenizer(context_length=7, vocab_size=90, reason="it was lost.")
    again = tokenizer_from_json(absent.to_json())
    assert again.digest() == absent.digest()
    with pytest.raises(UserError, match="it was lost"):
        again("")
