import json
import re

import numpy as np
import pytest

from clipjax.config import TextConfig, TokenizerConfig
from clipjax.config.errors import UserError
from clipjax.data.tokenizers import Tokenizer, make_tokenizer, tokenizer_from_json
from clipjax.data.tokenizers.digest import json_digest

CAPTIONS = ["A Red square", "a blue circle", "ein blauer Kreis"] * 5
SIZES = {"width": 8, "depth": 1, "num_heads": 1, "mlp_dim": 8}


def text_config(kind="bpe", **fields):
    vocab_size = 258 if kind == "byte" else 300
    return TextConfig(**{"vocab_size": vocab_size, "context_length": 12, **SIZES, **fields})


def make(kind, lowercase=True, captions=lambda: CAPTIONS):
    return make_tokenizer(
        TokenizerConfig(kind=kind, lowercase=lowercase), text_config(kind), captions
    )


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
    assert loaded.digest() == tokenizer.digest() == json_digest(tokenizer.to_json())


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


@pytest.fixture
def clip_file(tmp_path, merges):
    """The path of a small vocabulary of CLIP's form: 512 + 60 + 2 ids."""
    path = tmp_path / "merges.txt"
    path.write_text("\n".join(["title", *(" ".join(merge) for merge in merges)]))
    return str(path)


def test_clip_reads_the_file_once_and_saves_all_of_it(clip_file, merges, tmp_path):
    size = 512 + len(merges) + 2
    config = TokenizerConfig(kind="clip", path=clip_file)
    made = make_tokenizer(config, text_config(vocab_size=size), lambda: [])
    saved = json.dumps(made.to_json())
    (tmp_path / "merges.txt").unlink()
    loaded = tokenizer_from_json(json.loads(saved))
    assert isinstance(loaded, Tokenizer)
    assert loaded.vocab_size == size
    for text in [*CAPTIONS, "Ünicode 漢字", "", "a red square " * 9]:
        assert loaded(text).tolist() == made(text).tolist()


def test_case_of_clip_is_folded_where_it_is_asked_for(clip_file, merges):
    size = text_config(vocab_size=512 + len(merges) + 2)
    for lowercase in (True, False):
        config = TokenizerConfig(kind="clip", path=clip_file, lowercase=lowercase)
        tokenizer = make_tokenizer(config, size, lambda: [])
        assert np.array_equal(tokenizer("A RED"), tokenizer("a red")) is lowercase


def test_a_tower_with_another_number_of_ids_is_told_which_it_needs(clip_file, merges):
    size, config = 512 + len(merges) + 2, TokenizerConfig(kind="clip", path=clip_file)
    few = text_config(vocab_size=size - 1)
    problem = rf"model\.text\.vocab_size={size - 1}: .* up to {size - 1}\. Set it to {size}\."
    with pytest.raises(UserError, match=problem):
        make_tokenizer(config, few, lambda: [])
    # More ids would do, but the end of a text would not be found.
    with pytest.raises(UserError, match=rf"pool='eot' looks for the last id, {size}, .* to {size}"):
        make_tokenizer(config, text_config(vocab_size=size + 1), lambda: [])
    for pool in ("last", "mean"):
        made = make_tokenizer(config, text_config(vocab_size=size + 1, pool=pool), lambda: [])
        assert made.vocab_size == size


@pytest.mark.parametrize("saved", [{"kind": "wordpiece"}, {}])
def test_a_kind_of_another_version_is_told(saved):
    with pytest.raises(UserError, match=re.escape(f"kind={saved.get('kind')!r} is not known")):
        tokenizer_from_json(saved)
