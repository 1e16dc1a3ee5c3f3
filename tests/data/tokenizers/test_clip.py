# ruff: noqa: RUF001 (characters that look like others are the point)
import html
import importlib
import json
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from clipjax.config.errors import UserError
from clipjax.data.tokenizers import tokenizer_from_json
from clipjax.data.tokenizers.clip import ClipTokenizer
from clipjax.data.tokenizers.merges import MergeTable

ftfy = pytest.importorskip("ftfy")
regex = pytest.importorskip("regex")

# Words as OpenAI's released code defines them.
WORDS = regex.compile(
    r"<start_of_text>|<end_of_text>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+",
    regex.IGNORECASE,
)
ASCII = st.text(st.characters(max_codepoint=127), max_size=30)
ANY = st.text(max_size=30) | st.text(st.characters(), max_size=30)
MIXED = st.lists(
    st.sampled_from(
        [
            "a red",
            "&amp;",
            "&amp;lt;b&gt;",
            "café",
            "cafe\u0301",
            "it’s",
            "<start_of_text>",
            "\u0345",
        ]
        + [
            "<END_OF_TEXT>",
            "😀",
            "漢字",
            "\x1b[0m",
            "\t",
            "\x1f",
            "\u200b",
            "Ã©",
            "ﬁ",
            "ＦＵ",
            "1st",
        ]
        + ["'S", "don't", "\ud800", "&#x1f;", "&nbsp;", "Σ", "İ", " ", "\u00a0", "\r\n", "<", "_"]
    ),
    max_size=12,
).map("".join)


@pytest.fixture(scope="module")
def tokenizer(merges):
    return ClipTokenizer(MergeTable(merges), context_length=20)


@pytest.fixture(scope="module")
def reference(bpe, merges):
    """The ids of a text by the definitions: no shortcut for ASCII, no cache, no early end."""
    numbers = MergeTable(merges).ids
    marks = {"<start_of_text>": 512 + len(merges), "<end_of_text>": 513 + len(merges)}

    def ids(text, context_length, lowercase=True):
        text = html.unescape(html.unescape(ftfy.fix_text(text))).strip()
        text = " ".join(text.split()).strip()
        text = text.lower() if lowercase else text
        out = [marks["<start_of_text>"]]
        for word in WORDS.findall(text):
            pieces = bpe.naive_bpe(bpe.symbols(word.encode()), merges)
            out += [marks[word]] if word in marks else [numbers[piece] for piece in pieces]
        out = [*out, marks["<end_of_text>"]]
        if len(out) > context_length:
            out = [*out[: context_length - 1], marks["<end_of_text>"]]
        return out + [0] * (context_length - len(out))

    return ids


@settings(deadline=None, max_examples=300)
@given(ASCII | ANY | MIXED, st.integers(2, 40), st.booleans())
@example("iota\u0345 \u0345 a", 20, True)
@example("\u0345 " * 60 + "red", 20, True)
@example("a" * 500 + " b", 20, True)
@example("a\x1cb\x1f c\x7fd", 20, True)
@example("&amp;amp;lt;b&amp;gt; AT&T &copy", 40, True)
@example("<START_OF_TEXT> <start_of_text>x</w>", 40, False)
@example("ΣΑΣ ΣΑΣ\tΣ", 40, True)
def test_ids_are_those_of_the_definition(merges, reference, text, context_length, lowercase):
    table = MergeTable(merges)
    fresh = ClipTokenizer(table, context_length=context_length, lowercase=lowercase)
    expected = reference(text, context_length, lowercase)
    assert fresh(text).tolist() == expected
    # From the cache, and from one that is always full.
    assert fresh(text).tolist() == expected
    full = ClipTokenizer(table, context_length=context_length, lowercase=lowercase, cached_words=1)
    assert full(text).tolist() == full(text).tolist() == expected


@settings(deadline=None)
@given(ANY | MIXED)
def test_every_text_has_a_row_that_starts_and_ends(tokenizer, text):
    ids = tokenizer(text)
    assert ids.dtype == np.int32
    assert ids.shape == (20,)
    start, end = tokenizer.vocab_size - 2, tokenizer.vocab_size - 1
    assert ids[0] == start
    last = int(np.flatnonzero(ids)[-1])
    assert ids[last] == end
    assert ((ids >= 0) & (ids < tokenizer.vocab_size)).all()


@given(st.lists(st.sampled_from(["red", "a", "café", "'s", "12", "x"]), max_size=10))
def test_pieces_that_share_the_cache_with_words_do_not_change_them(tokenizer, reference, parts):
    """Glued to each other and alone, in any order, on one instance."""
    for text in ("".join(parts), " ".join(parts), *parts):
        assert tokenizer(text).tolist() == reference(text, 20)


def test_the_cache_stays_bounded(merges):
    tokenizer = ClipTokenizer(MergeTable(merges), context_length=20, cached_words=50)
    for number in range(500):
        tokenizer(f"word{number} other{number}")
        assert len(tokenizer._cache) <= 50
    tokenizer("x" * 1000)
    assert all(len(word) <= 64 for word in tokenizer._cache)


def test_printable_ascii_is_not_repaired_and_everything_else_is(merges, monkeypatch):
    tokenizer, seen = ClipTokenizer(MergeTable(merges), context_length=20), []
    monkeypatch.setattr(tokenizer, "_fix_text", lambda text: seen.append(text) or text)
    tokenizer('A photo of <b> "it\'s" 100% ~{}`\\')
    assert seen == []
    others = ["a &amp; b", "tab\t", "\x1b[0m", "é", "\x7f", "\n"]
    for text in others:
        tokenizer(text)
    assert seen == others


def test_threads_may_share_an_instance(merges, reference):
    """A cache that is emptied all the time, under threads that switch all the time."""
    tokenizer = ClipTokenizer(MergeTable(merges), context_length=20, cached_words=7)
    texts = [f"a {i} red{i % 50} square's {'xy' * (i % 30)} café{i}" for i in range(400)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(8) as pool:
            together = [ids.tolist() for ids in pool.map(tokenizer, texts)]
    finally:
        sys.setswitchinterval(interval)
    assert together == [reference(text, 20) for text in texts]


def test_saved_and_loaded_it_needs_no_file(tokenizer):
    saved = json.loads(json.dumps(tokenizer.to_json()))
    loaded = tokenizer_from_json(saved)
    assert loaded.digest() == tokenizer.digest()
    assert loaded.to_json() == saved
    assert loaded("A red café's <b>").tolist() == tokenizer("A red café's <b>").tolist()


def test_a_vocabulary_that_was_changed_is_not_loaded(tokenizer):
    saved = tokenizer.to_json()
    for merges in (
        saved["merges"][:-1],
        ["no merge", *saved["merges"][1:]],
        [saved["merges"][0].replace(" ", ""), *saved["merges"][1:]],
    ):
        with pytest.raises(UserError, match=r"tokenizer\.json: the clip vocabulary has sha256"):
            tokenizer_from_json({**saved, "merges": merges})


def test_the_digest_tells_what_changes_ids(merges):
    def digest(count=60, **options):
        table = MergeTable(merges[:count])
        return ClipTokenizer(table, **{"context_length": 20, **options}).digest()

    others = {digest(59), digest(lowercase=False), digest(context_length=21)}
    assert len(others | {digest()}) == 4
    assert digest(cached_words=3) == digest()


@pytest.mark.parametrize("package", ["ftfy", "regex"])
def test_a_missing_package_is_one_line_with_the_command(merges, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    importlib.invalidate_caches()
    with pytest.raises(UserError, match=rf"the package {package} is not installed.*pip install"):
        ClipTokenizer(MergeTable(merges), context_length=20)


def test_clips_own_ids(openai_merges):
    tokenizer = ClipTokenizer(openai_merges, context_length=77)
    assert tokenizer.vocab_size == 49_408
    ids = tokenizer("A  photo of a &lt;cat&gt;’s café!").tolist()
    assert ids[:13] == [49406, 320, 1125, 539, 320, 283, 2368, 29, 262, 338, 15304, 256, 49407]
    assert not any(ids[13:])
    assert tokenizer("").tolist()[:3] == [49406, 49407, 0]
