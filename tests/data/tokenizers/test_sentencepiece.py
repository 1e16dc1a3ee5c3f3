import base64
import json
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipjax.config import TextConfig, TokenizerConfig
from clipjax.config.errors import UserError
from clipjax.data.tokenizers import make_tokenizer, tokenizer_from_json
from clipjax.data.tokenizers.sentencepiece import SentencePieceTokenizer

LENGTH = 16
TEXTS = ["A red square", "", "  BLUE, circle!! on_the table ", "漢字 😀 café", "red " * 40]


@pytest.fixture(scope="module")
def model(sentencepiece_model):
    return sentencepiece_model()


@pytest.fixture(scope="module")
def processor(spm, model):
    return spm.SentencePieceProcessor(model_proto=model)


def make(model, **options):
    return SentencePieceTokenizer(model, **{"context_length": LENGTH, **options})


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("pad_id", [None, 0])
def test_a_row_is_pieces_one_end_and_padding(model, processor, text, pad_id):
    """SigLIP's: 1 ends a text, stays when it is cut, and fills the rest."""
    row = make(model, pad_id=pad_id)(text)
    pieces = processor.encode(text.lower())[: LENGTH - 1]
    fill = 1 if pad_id is None else pad_id
    assert row.dtype == np.int32
    assert row.tolist() == [*pieces, 1] + [fill] * (LENGTH - 1 - len(pieces))


def test_another_end_id_is_taken_from_the_model(sentencepiece_model):
    model = sentencepiece_model(eos_id=2, unk_id=1)
    assert make(model)("").tolist() == [2] * LENGTH


def test_options_say_what_is_folded_and_taken_out(model, processor):
    upper = make(model, lowercase=False)("A RED")
    assert upper.tolist() != make(model)("A RED").tolist()
    stripped = make(model, strip_punctuation=True)(" It_is: red!")
    assert stripped.tolist() == make(model)("it is red").tolist()
    assert stripped.tolist() != make(model)(" It_is: red!").tolist()


@settings(deadline=None)
@given(st.text(st.characters(), max_size=40))
def test_every_text_has_a_row(model, text):
    tokenizer = make(model)
    row = tokenizer(text)
    assert row.shape == (LENGTH,)
    assert 1 in row
    assert ((row >= 0) & (row < tokenizer.vocab_size)).all()


def test_saved_and_loaded_it_needs_no_file(model):
    tokenizer = make(model, pad_id=0, strip_punctuation=True, lowercase=False)
    saved = json.loads(json.dumps(tokenizer.to_json()))
    loaded = tokenizer_from_json(saved)
    assert loaded.to_json() == saved
    assert loaded.digest() == tokenizer.digest()
    for text in TEXTS:
        assert loaded(text).tolist() == tokenizer(text).tolist()


def test_the_digest_tells_what_changes_ids(model, sentencepiece_model):
    others = [make(sentencepiece_model(vocab_size=37))]
    others += [
        make(model, **option)
        for option in (
            {"lowercase": False},
            {"strip_punctuation": True},
            {"pad_id": 0},
            {"context_length": 17},
        )
    ]
    assert len({tokenizer.digest() for tokenizer in [make(model), *others]}) == 6
    assert make(model, pad_id=1).digest() == make(model).digest()


def test_a_vocabulary_that_was_changed_is_not_loaded(model):
    saved = make(model).to_json()
    changed = bytearray(model)
    changed[-1] ^= 1
    with pytest.raises(UserError, match="the sentencepiece vocabulary has sha256"):
        tokenizer_from_json({**saved, "model": base64.b64encode(changed).decode()})


def test_from_a_config_the_file_is_read_and_must_fit_the_tower(model, tmp_path):
    path = tmp_path / "sentencepiece.model"
    path.write_bytes(model)
    config = TokenizerConfig(kind="sentencepiece", path=str(path))
    text = TextConfig(vocab_size=38, context_length=LENGTH, pool="last")

    def captions():
        raise AssertionError("captions were read")

    made = make_tokenizer(config, text, captions)
    assert made.to_json() == make(model).to_json()
    assert made.vocab_size == 38
    for other, problem in (
        (TextConfig(vocab_size=37, pool="last"), r"vocab_size=37: .*Set it to 38"),
        (TextConfig(vocab_size=38), r"pool='eot' looks for the last id, 37"),
    ):
        with pytest.raises(UserError, match=problem):
            make_tokenizer(config, other, captions)
    far = TokenizerConfig(kind="sentencepiece", path=str(path), pad_id=38)
    with pytest.raises(UserError, match=r"pad_id=38: the text tower has only 38 ids"):
        make_tokenizer(far, text, captions)


@pytest.mark.parametrize("content", [b"", b"{}", b"\x00" * 50, None])
def test_a_file_that_is_no_model_is_one_line(content, tmp_path, capfd, spm):
    path = tmp_path / "some.model"
    if content is not None:
        path.write_bytes(content)
    config = TokenizerConfig(kind="sentencepiece", path=str(path))
    with pytest.raises(UserError) as error:
        make_tokenizer(config, TextConfig(pool="last"), lambda: [])
    assert str(error.value).startswith(f"config.tokenizer.path={path}: ")
    assert "\n" not in str(error.value)


def test_a_vocabulary_without_an_end_is_told(sentencepiece_model):
    with pytest.raises(UserError, match="no id for the end of a text"):
        make(sentencepiece_model(eos_id=-1))


def test_a_missing_package_is_one_line_with_the_command(model, monkeypatch):
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(UserError, match=r"pip install 'clipjax\[sentencepiece\]'"):
        make(model)


def test_threads_may_share_an_instance(model):
    tokenizer = make(model)
    texts = [f"a red {i} square {'xy' * (i % 30)}" for i in range(500)]
    with ThreadPoolExecutor(8) as pool:
        together = [ids.tolist() for ids in pool.map(tokenizer, texts)]
    assert together == [tokenizer(text).tolist() for text in texts]
