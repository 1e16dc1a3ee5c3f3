"""Without transformers: the files in the hands of the packages that it uses."""

import json

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from clipjax.config import TextConfig, UserError
from clipjax.data.tokenizers.bpe import BpeTokenizer
from clipjax.data.tokenizers.byte import ByteTokenizer
from clipjax.data.tokenizers.clip import ClipTokenizer
from clipjax.data.tokenizers.huggingface import HuggingFaceTokenizer
from clipjax.data.tokenizers.merges import MergeTable
from clipjax.data.tokenizers.sentencepiece import SentencePieceTokenizer
from clipjax.interchange.transformers.tokenizer import read_tokenizer, tokenizer_files

LENGTH = 12
CAUSAL = TextConfig(context_length=LENGTH)
SEES_PADDING = TextConfig(context_length=LENGTH, causal=False, pool="last")
MERGES = [("t", "h"), ("th", "e</w>"), ("a", "n"), ("an", "d</w>"), ("1", "2</w>")]
TEXTS = ["the cat and the dog", "", "It's 12 o'clock!", "漢字 😀", "the " * 30]


@pytest.fixture
def clip():
    return ClipTokenizer(MergeTable(MERGES), context_length=LENGTH)


def write(directory, tokenizer, text):
    for name, content in tokenizer_files(tokenizer, text).items():
        (directory / name).write_bytes(content)
    return directory


def ids_of(files, text, length):
    """What `tokenizers` makes of a tokenizer.json, cut to a length."""
    model = tokenizers.Tokenizer.from_str(files["tokenizer.json"].decode())
    model.enable_truncation(length)
    return model.encode(text).ids


def settings_of(files):
    return json.loads(files["tokenizer_config.json"])


@pytest.mark.parametrize("lowercase", [False, True])
def test_clip(lowercase):
    ours = ClipTokenizer(MergeTable(MERGES), context_length=LENGTH, lowercase=lowercase)
    files = tokenizer_files(ours, CAUSAL)
    for text in [*TEXTS, "THE And"]:
        ids = ids_of(files, text, LENGTH)
        assert ours(text).tolist()[: len(ids)] == ids, text
        assert ids[-1] == ours.vocab_size - 1
    assert settings_of(files)["tokenizer_class"] == (
        "CLIPTokenizer" if lowercase else "PreTrainedTokenizerFast"
    )
    assert settings_of(files)["model_max_length"] == LENGTH


@settings(max_examples=60, deadline=None)
@given(text=st.text(st.characters(codec="ascii", min_codepoint=32, max_codepoint=126), max_size=40))
def test_clip_on_any_printable_text(text):
    if "&" in text or "<|" in text:
        return  # entities are repaired here; the marks are spelt in another way
    ours = ClipTokenizer(MergeTable(MERGES), context_length=60)
    ids = ids_of(tokenizer_files(ours, CAUSAL), text, 60)
    assert ours(text).tolist()[: len(ids)] == ids


def test_clip_comes_back(clip, tmp_path):
    assert read_tokenizer(write(tmp_path, clip, CAUSAL), CAUSAL).digest() == clip.digest()


def test_a_list_of_merges_is_enough(clip, tmp_path):
    lines = ["#version: 0.2", *(" ".join(merge) for merge in MERGES)]
    (tmp_path / "merges.txt").write_text("\n".join(lines) + "\n")
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "CLIPTokenizer"}')
    assert read_tokenizer(tmp_path, CAUSAL).digest() == clip.digest()


def test_a_trained_vocabulary(tmp_path):
    ours = BpeTokenizer.train(TEXTS, context_length=LENGTH, vocab_size=300, lowercase=True)
    text = TextConfig(context_length=LENGTH, vocab_size=300)
    files = tokenizer_files(ours, text)
    for caption in TEXTS:
        ids = ids_of(files, caption, LENGTH)
        assert ours(caption).tolist()[: len(ids)] == ids, caption
        assert (ids[0], ids[-1]) == (298, 299)
    back = read_tokenizer(write(tmp_path, ours, text), text)
    assert back("the cat").tolist()[:3] == ours("the cat").tolist()[:3]


def a_file(**normalizer):
    words = ["<pad>", "</s>", "<unk>", "the", "cat", "The", "cat's", "!"]
    model = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: i for i, word in enumerate(words)}, "<unk>")
    )
    model.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    model.add_special_tokens(words[:3])
    model.post_processor = tokenizers.processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    return json.dumps(json.loads(model.to_str()) | normalizer)


@pytest.mark.parametrize("strip", [False, True])
@pytest.mark.parametrize("lowercase", [False, True])
@pytest.mark.parametrize("normalizer", [None, {"type": "NFC"}])
def test_what_we_do_before_becomes_part_of_the_file(tmp_path, lowercase, strip, normalizer):
    ours = HuggingFaceTokenizer(
        a_file(normalizer=normalizer),
        context_length=LENGTH,
        lowercase=lowercase,
        strip_punctuation=strip,
    )
    files = tokenizer_files(ours, SEES_PADDING)
    for text in ["The cat's !", "the_CAT", " The  cat!! ", "\\[cat]^-", ""]:
        ids = ids_of(files, text, LENGTH)
        assert ours(text).tolist()[: len(ids)] == ids, text
    assert settings_of(files)["pad_token"] == "<pad>"
    back = read_tokenizer(write(tmp_path, ours, SEES_PADDING), SEES_PADDING)
    np.testing.assert_array_equal(back("The cat's !"), ours("The cat's !"))


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_side_of_padding(tmp_path, side):
    padding = {"strategy": "BatchLongest", "direction": side.capitalize(), "pad_id": 0}
    padding |= {"pad_to_multiple_of": None, "pad_type_id": 0, "pad_token": "<pad>"}
    ours = HuggingFaceTokenizer(a_file(padding=padding), context_length=4)
    assert ours("the").tolist() == ([0, 0, 3, 1] if side == "left" else [3, 1, 0, 0])
    text = TextConfig(context_length=4, causal=False, pool="last")
    assert settings_of(tokenizer_files(ours, text))["padding_side"] == side
    assert read_tokenizer(write(tmp_path, ours, text), text)("the").tolist() == ours("the").tolist()


def test_siglip2_folds_case_and_pads_on_the_left(tmp_path):
    (tmp_path / "tokenizer.json").write_text(a_file())
    settings = {"tokenizer_class": "Siglip2Tokenizer", "pad_token": {"content": "</s>"}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    text = TextConfig(context_length=4, causal=False, pool="last")
    assert read_tokenizer(tmp_path, text)("THE").tolist() == [1, 1, 3, 1]
    settings["padding_side"] = "right"
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    assert read_tokenizer(tmp_path, text)("THE").tolist() == [3, 1, 1, 1]


# ---- SentencePiece


@pytest.fixture(scope="module")
def pieces(tmp_path_factory):
    import io

    import sentencepiece

    content = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["the cat and the dog", "a cat is on the mat"] * 20),
        model_writer=content,
        vocab_size=40,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    return content.getvalue()


@pytest.mark.parametrize("lowercase", [False, True])
@pytest.mark.parametrize("pad_id", [None, 0])
def test_sentencepiece(tmp_path, pieces, lowercase, pad_id):
    ours = SentencePieceTokenizer(
        pieces, context_length=LENGTH, lowercase=lowercase, strip_punctuation=True, pad_id=pad_id
    )
    files = tokenizer_files(ours, SEES_PADDING)
    assert files["spiece.model"] == pieces
    settings = settings_of(files)
    assert settings["tokenizer_class"] == "SiglipTokenizer"
    assert settings["model_input_names"] == ["input_ids"]  # padding is seen
    assert (settings["eos_token"], settings["unk_token"]) == ("</s>", "<unk>")
    assert settings["pad_token"] == ("</s>" if pad_id is None else "<pad>")
    back = read_tokenizer(write(tmp_path, ours, SEES_PADDING), SEES_PADDING)
    assert back.digest() == ours.digest()


def test_sentencepiece_with_punctuation_is_refused(pieces):
    ours = SentencePieceTokenizer(pieces, context_length=LENGTH)
    with pytest.raises(UserError, match="strip_punctuation=False"):
        tokenizer_files(ours, SEES_PADDING)


# ---- what cannot be said there


def test_bytes_have_no_counterpart():
    ours = ByteTokenizer(context_length=LENGTH, lowercase=True)
    with pytest.raises(UserError, match="'byte' has no counterpart"):
        tokenizer_files(ours, CAUSAL)


def test_clip_where_padding_is_seen(clip):
    """Zeros here, the end there: another text to a tower that looks at them."""
    with pytest.raises(UserError, match="pads with id 0"):
        tokenizer_files(clip, SEES_PADDING)


def test_padding_with_an_ordinary_token():
    ours = HuggingFaceTokenizer(a_file(), context_length=LENGTH, pad_id=3)
    with pytest.raises(UserError, match="pad_id=3 is no special token"):
        tokenizer_files(ours, SEES_PADDING)


# ---- directories that cannot be read


def test_an_empty_directory(tmp_path):
    with pytest.raises(UserError, match="no tokenizer that can be read"):
        read_tokenizer(tmp_path, CAUSAL)


def test_pieces_of_another_family(tmp_path, pieces):
    (tmp_path / "spiece.model").write_bytes(pieces)
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "T5Tokenizer"}')
    with pytest.raises(UserError, match="tokenizer_class T5Tokenizer"):
        read_tokenizer(tmp_path, CAUSAL)


@pytest.mark.parametrize("content", ["{", "[]", "\x00"])
def test_broken_settings(tmp_path, content):
    (tmp_path / "tokenizer_config.json").write_text(content)
    with pytest.raises(UserError, match=r"tokenizer_config\.json"):
        read_tokenizer(tmp_path, CAUSAL)


def test_a_broken_vocabulary(tmp_path):
    (tmp_path / "tokenizer.json").write_text('{"model": {}}')
    with pytest.raises(UserError, match=r"no tokenizer\.json"):
        read_tokenizer(tmp_path, CAUSAL)


def test_merges_in_another_order_are_taken_as_they_are(tmp_path, clip):
    """A CLIPTokenizer whose marks are not the last ids is read as any vocabulary."""
    files = tokenizer_files(clip, CAUSAL)
    whole = json.loads(files["tokenizer.json"])
    vocab = whole["model"]["vocab"]
    vocab["a"], vocab["b"] = vocab["b"], vocab["a"]
    (tmp_path / "tokenizer.json").write_text(json.dumps(whole))
    (tmp_path / "tokenizer_config.json").write_bytes(files["tokenizer_config.json"])
    found = read_tokenizer(tmp_path, CAUSAL)
    assert isinstance(found, HuggingFaceTokenizer)
    assert found("ab cd").tolist()[1] == clip("bb cd").tolist()[1]
