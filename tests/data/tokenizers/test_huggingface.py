import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from clipjax.config import TextConfig, TokenizerConfig
from clipjax.config.errors import UserError
from clipjax.data.tokenizers import make_tokenizer, tokenizer_from_json
from clipjax.data.tokenizers.huggingface import HuggingFaceTokenizer

WORDS = {"[pad]": 0, "[end]": 1, "[unk]": 2, "[start]": 3, "a": 4, "red": 5, "square": 6, "RED": 7}
LENGTH = 6


def file(*, template=("$A", "[end]"), padding=None, truncation=None, words=WORDS):
    """The content of a tokenizer.json that splits at white space."""
    model = Tokenizer(models.WordLevel(words, unk_token="[unk]"))
    model.normalizer = normalizers.Strip()
    model.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    marks = [(mark, words[mark]) for mark in template if mark != "$A"]
    model.post_processor = processors.TemplateProcessing(
        single=" ".join(template), special_tokens=marks
    )
    if padding:
        model.enable_padding(**padding)
    if truncation:
        model.enable_truncation(**truncation)
    return model.to_str()


def make(content=None, **options):
    return HuggingFaceTokenizer(content or file(), **{"context_length": LENGTH, **options})


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("a RED square", [4, 5, 6, 1, 0, 0]),
        ("", [1, 0, 0, 0, 0, 0]),
        ("a red a red square", [4, 5, 4, 5, 6, 1]),
        ("a red a red square a red", [4, 5, 4, 5, 6, 1]),
        ("a green\ud800 square", [4, 2, 6, 1, 0, 0]),
    ],
)
def test_a_row_is_the_files_ids_cut_before_its_marks_and_padded(text, ids):
    row = make()(text)
    assert row.dtype == np.int32
    assert row.tolist() == ids


def test_the_pad_id_is_the_one_given_else_the_files_else_zero():
    padded = file(padding={"pad_id": 3, "pad_token": "[start]", "length": 64})
    assert make(padded)("a").tolist() == [4, 1, 3, 3, 3, 3]
    assert make(padded, pad_id=1)("a").tolist() == [4, 1, 1, 1, 1, 1]
    assert make(pad_id=0)("a").tolist() == make()("a").tolist() == [4, 1, 0, 0, 0, 0]


def test_sides_are_those_of_the_file_and_lengths_those_of_the_model():
    left = file(
        padding={"direction": "left", "length": 64, "pad_id": 0},
        truncation={"max_length": 3, "direction": "left"},
    )
    assert make(left)("a red").tolist() == [0, 0, 0, 4, 5, 1]
    assert make(left)("red a a red square a").tolist() == [4, 4, 5, 6, 4, 1]
    short = file(truncation={"max_length": 3, "stride": 1})
    assert make(short)("a red a").tolist() == [4, 5, 4, 1, 0, 0]


def test_marks_on_both_sides_are_kept():
    both = make(file(template=("[start]", "$A", "[end]")))
    assert both("a red " * 9).tolist() == [3, 4, 5, 4, 5, 1]
    none = make(file(template=("$A",)))
    assert none("a red " * 9).tolist() == [4, 5, 4, 5, 4, 5]


def test_options_say_what_is_folded_and_taken_out():
    assert make(lowercase=False)("a RED square")[1] == 7
    assert make(strip_punctuation=True)("a_red,").tolist() == make()("a red").tolist()
    assert make()("a_red,")[0] == 2


@settings(deadline=None)
@given(st.text(st.characters(), max_size=40))
def test_every_text_has_a_row_of_known_ids(text):
    tokenizer = make()
    row = tokenizer(text)
    assert row.shape == (LENGTH,)
    assert (row == 1).sum() == 1
    assert ((row >= 0) & (row < tokenizer.vocab_size)).all()


def test_the_size_counts_up_to_the_last_id():
    assert make().vocab_size == 8
    assert make(file(words={**WORDS, "far": 40})).vocab_size == 41


def test_saved_and_loaded_it_needs_no_file():
    padded = file(padding={"direction": "left", "pad_id": 3, "pad_token": "[start]"})
    for options in ({}, {"pad_id": 1, "lowercase": False, "strip_punctuation": True}):
        tokenizer = make(padded, **options)
        saved = json.loads(json.dumps(tokenizer.to_json()))
        loaded = tokenizer_from_json(saved)
        assert loaded.to_json() == saved
        assert loaded.digest() == tokenizer.digest()
        for text in ("a RED square", "", "a, red " * 9):
            assert loaded(text).tolist() == tokenizer(text).tolist()


def test_a_vocabulary_that_was_changed_is_not_loaded():
    saved = json.loads(json.dumps(make().to_json()))
    saved["file"]["model"]["vocab"]["a"] = 5
    with pytest.raises(UserError, match="the huggingface vocabulary has sha256"):
        tokenizer_from_json(saved)


def test_from_a_config_the_file_is_read_and_must_fit_the_tower(tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text(file())
    config = TokenizerConfig(kind="huggingface", path=str(path))
    text = TextConfig(vocab_size=8, context_length=LENGTH, pool="last")
    assert make_tokenizer(config, text, lambda: []).to_json() == make().to_json()
    with pytest.raises(UserError, match=r"model\.text\.vocab_size=7: .*Set it to 8"):
        make_tokenizer(config, TextConfig(vocab_size=7, pool="mean"), lambda: [])
    # The last id is where the features of pool='eot' are taken: here it ends no text.
    with pytest.raises(UserError, match="pool='eot' looks for the last id, 7"):
        make_tokenizer(config, TextConfig(vocab_size=8), lambda: [])
    ends = {word: (7 if word == "[end]" else 1 if i == 7 else i) for word, i in WORDS.items()}
    path.write_text(file(words=ends))
    assert make_tokenizer(config, TextConfig(vocab_size=8), lambda: [])("a")[1] == 7


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff\xfe", b"[1]", b'{"model": {}}', None])
def test_a_file_that_is_no_tokenizer_is_one_line(content, tmp_path):
    path = tmp_path / "tokenizer.json"
    if content is not None:
        path.write_bytes(content)
    config = TokenizerConfig(kind="huggingface", path=str(path))
    with pytest.raises(UserError) as error:
        make_tokenizer(config, TextConfig(), lambda: [])
    assert str(error.value).startswith(f"config.tokenizer.path={path}: ")
    assert "\n" not in str(error.value)


def test_marks_that_fill_the_context_are_told():
    with pytest.raises(UserError, match=r"1 marks to each text.*context_length=1"):
        make(context_length=1)


def test_threads_may_share_an_instance():
    tokenizer = make()
    texts = [f"a {'red ' * (i % 9)} square" for i in range(500)]
    with ThreadPoolExecutor(8) as pool:
        together = [ids.tolist() for ids in pool.map(tokenizer, texts)]
    assert together == [tokenizer(text).tolist() for text in texts]
