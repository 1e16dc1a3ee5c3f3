import json

import pytest

from clipjax.config import TextConfig, TokenizerConfig
from clipjax.data.tokenizers import Tokenizer, make_tokenizer, tokenizer_from_json

CAPTIONS = ["A Red square", "a blue circle", "ein blauer Kreis"] * 5
TEXT = TextConfig(vocab_size=300, context_length=12, width=8, depth=1, num_heads=1, mlp_dim=8)


def make(kind, lowercase=True, captions=lambda: CAPTIONS):
    return make_tokenizer(TokenizerConfig(kind=kind, lowercase=lowercase), TEXT, captions)


@pytest.mark.parametrize("kind", ["byte", "bpe"])
@pytest.mark.parametrize("lowercase", [True, False])
def test_saved_and_loaded_it_gives_the_same_ids(kind, lowercase):
    tokenizer = make(kind, lowercase)
    loaded = tokenizer_from_json(json.loads(json.dumps(tokenizer.to_json())))
    assert isinstance(loaded, Tokenizer)
    assert (loaded.context_length, loaded.vocab_size) == (12, tokenizer.vocab_size)
    for text in [*CAPTIONS, "Ünicode 漢字", "", "a red square " * 9]:
        assert loaded(text).tolist() == tokenizer(text).tolist()
    assert loaded.to_json() == tokenizer.to_json()


@pytest.mark.parametrize("kind", ["byte", "bpe"])
def test_case_matters_only_where_it_is_asked_for(kind):
    for lowercase in (True, False):
        tokenizer = make(kind, lowercase)
        same = tokenizer("A RED").tolist() == tokenizer("a red").tolist()
        assert same is lowercase


def test_bytes_need_no_captions():
    def captions():
        raise AssertionError("captions were read")

    assert make("byte", captions=captions).vocab_size == 258
    assert make("bpe").vocab_size == 300
