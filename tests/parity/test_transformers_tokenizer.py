"""The tokenizer files that we write, loaded by transformers: the same ids, id by id."""

import io
import json
from pathlib import Path

import ftfy
import numpy as np
import pytest

from clipjax.cli.bench_captions import natural_captions
from clipjax.config import TextConfig
from clipjax.data.tokenizers.bpe import BpeTokenizer
from clipjax.data.tokenizers.clip import ClipTokenizer
from clipjax.data.tokenizers.clip_vocabulary import read_merges
from clipjax.data.tokenizers.huggingface import HuggingFaceTokenizer
from clipjax.interchange.transformers.tokenizer import read_tokenizer, tokenizer_files

pytestmark = pytest.mark.parity

CAPTIONS = [
    *natural_captions(300, seed=0),
    "",
    "  Two   spaces\tand a TAB ",
    "it's 1999; we'll see... (maybe?!)",
    "a cafe\u0301 in 漢字 😀 \U0001f3fd",
    "word " * 100,
    "<html> don't-stop #hash @at 50% A/B",
]
CLIP_TEXT = TextConfig(context_length=20)
SEEN_PADDING = TextConfig(context_length=20, causal=False, pool="last")


@pytest.fixture(scope="module")
def table(open_clip):
    """CLIP's merges, from the file that open_clip carries."""
    return read_merges(str(Path(open_clip.__file__).parent / "bpe_simple_vocab_16e6.txt.gz"))


# Our tokenizer of CLIP repairs texts (mojibake, curly quotes), that of transformers no longer does.
REPAIRED = [ftfy.fix_text(caption) for caption in CAPTIONS]


def write(directory, tokenizer, text):
    for name, content in tokenizer_files(tokenizer, text).items():
        (directory / name).write_bytes(content)


def their_ids(tokenizer, captions, length):
    out = tokenizer(
        captions, padding="max_length", truncation=True, max_length=length, return_tensors="np"
    )
    return out["input_ids"]


def assert_same(ours, theirs, captions, *, until=None):
    """All ids; with `until` those up to the first of that value."""
    expected = np.stack([ours(caption) for caption in captions])
    found = their_ids(theirs, captions, ours.context_length)
    assert found.shape == expected.shape
    keep = np.ones_like(expected, bool)
    if until is not None:
        ends = np.argmax(expected == until, axis=1)
        keep = np.arange(expected.shape[1]) <= ends[:, None]
    bad = [
        (ascii(captions[row]), expected[row].tolist(), found[row].tolist())
        for row in np.flatnonzero(((expected != found) & keep).any(axis=1))
    ]
    assert bad == []


@pytest.mark.parametrize("loader", ["AutoTokenizer", "CLIPTokenizerFast", "CLIPTokenizer"])
def test_clip(transformers, table, tmp_path, loader):
    ours = ClipTokenizer(table, context_length=20)
    write(tmp_path, ours, CLIP_TEXT)
    theirs = getattr(transformers, loader).from_pretrained(tmp_path)
    assert theirs.model_max_length == 20
    assert (theirs.bos_token_id, theirs.eos_token_id) == (49406, 49407)
    assert_same(ours, theirs, REPAIRED, until=49407)
    back = read_tokenizer(tmp_path, CLIP_TEXT)
    assert back.digest() == ours.digest()


def test_clip_with_case(transformers, table, tmp_path):
    ours = ClipTokenizer(table, context_length=20, lowercase=False)
    write(tmp_path, ours, CLIP_TEXT)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert_same(ours, theirs, REPAIRED, until=49407)


def test_what_transformers_writes_of_clip_is_read(transformers, table, tmp_path):
    """Its own `save_pretrained`, from merges and vocabulary."""
    vocab = {**table.ids, "<|startoftext|>": 49406, "<|endoftext|>": 49407}
    merges = list(table.merges)
    transformers.CLIPTokenizer(vocab=vocab, merges=merges).save_pretrained(tmp_path)
    ours = read_tokenizer(tmp_path, CLIP_TEXT)
    assert ours.digest() == ClipTokenizer(table, context_length=20).digest()


def test_a_trained_vocabulary(transformers, tmp_path):
    ours = BpeTokenizer.train(CAPTIONS[:200], context_length=20, vocab_size=700, lowercase=True)
    text = TextConfig(context_length=20, vocab_size=700)
    write(tmp_path, ours, text)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert_same(ours, theirs, [c for c in CAPTIONS if c], until=699)


@pytest.mark.parametrize("strip", [False, True])
@pytest.mark.parametrize("lowercase", [False, True])
def test_any_vocabulary(transformers, tmp_path, lowercase, strip):
    """Of `tokenizers`, with special tokens for the end and for padding."""
    ours = HuggingFaceTokenizer(
        a_file(), context_length=20, lowercase=lowercase, strip_punctuation=strip
    )
    write(tmp_path, ours, SEEN_PADDING)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert list(theirs(["a dog"])) == ["input_ids"]
    assert_same(ours, theirs, [*CAPTIONS, "a_snake_case -- name"])
    back = read_tokenizer(tmp_path, SEEN_PADDING)
    for caption in CAPTIONS:
        np.testing.assert_array_equal(back(caption), ours(caption))


def a_file():
    import tokenizers
    from tokenizers import models, normalizers, pre_tokenizers, processors, trainers

    model = tokenizers.Tokenizer(models.BPE(unk_token="<unk>"))
    model.normalizer = normalizers.Replace(" ", "▁")
    model.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    specials = ["<pad>", "<eos>", "<unk>"]
    model.train_from_iterator(
        CAPTIONS[:200], trainers.BpeTrainer(vocab_size=600, special_tokens=specials)
    )
    model.post_processor = processors.TemplateProcessing(
        single="$A <eos>", special_tokens=[("<eos>", 1)]
    )
    model.enable_padding(pad_id=0, pad_token="<pad>")
    return model.to_str()


def test_siglip2(transformers, tmp_path):
    """Its class folds case by itself."""
    model = json.loads(a_file())["model"]
    merges = [tuple(merge) for merge in model["merges"]]
    theirs = transformers.Siglip2Tokenizer(vocab=model["vocab"], merges=merges)
    theirs.save_pretrained(tmp_path)
    loaded = transformers.AutoTokenizer.from_pretrained(tmp_path)
    ours = read_tokenizer(tmp_path, SEEN_PADDING)
    assert_same(ours, loaded, CAPTIONS)


@pytest.mark.parametrize("lowercase", [False, True])
def test_sentencepiece(transformers, tmp_path, lowercase):
    spm = pytest.importorskip("sentencepiece", exc_type=ImportError)
    pytest.importorskip("google.protobuf", exc_type=ImportError)
    from clipjax.data.tokenizers.sentencepiece import SentencePieceTokenizer

    content = io.BytesIO()
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(c for c in CAPTIONS[:200] if c),
        model_writer=content,
        vocab_size=400,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    ours = SentencePieceTokenizer(
        content.getvalue(), context_length=20, lowercase=lowercase, strip_punctuation=True
    )
    write(tmp_path, ours, SEEN_PADDING)
    # In its place there is only a warning for the text without words, which it calls "▁".
    captions = [caption for caption in CAPTIONS if caption]
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert type(theirs).__name__ == "SiglipTokenizer"
    assert_same(ours, theirs, captions)
    assert read_tokenizer(tmp_path, SEEN_PADDING).digest() == ours.digest()
