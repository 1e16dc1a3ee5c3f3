"""Small vocabularies, and CLIP's where a package carries it."""

import io
import itertools
import warnings
from collections import Counter

import pytest

CAPTIONS = [
    f"a {colour} {thing} on the {place}"
    for colour in ("red", "dark green", "blue")
    for thing in ("square", "circle", "café", "smiling face 😀", "漢字", "banana")
    for place in ("left", "right", "table", "aaaa", "iota")
]


def symbols(word):
    """The signs of a word's bytes, the last with the mark of an end; by GPT-2's definition."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in visible]
    signs = {b: chr(b) for b in visible} | {b: chr(256 + n) for n, b in enumerate(hidden)}
    out = [signs[byte] for byte in word]
    return (*out[:-1], out[-1] + "</w>")


def merge_pair(word, pair):
    """A word with one pair merged everywhere, from left to right."""
    out, i = [], 0
    while i < len(word):
        merged = tuple(word[i : i + 2]) == pair
        out.append("".join(pair) if merged else word[i])
        i += 2 if merged else 1
    return tuple(out)


def naive_bpe(word, merges):
    """The symbols of a word by the definition: best pair, everywhere, again."""
    ranks = {pair: rank for rank, pair in enumerate(merges)}
    word = tuple(word)
    while True:
        known = [pair for pair in itertools.pairwise(word) if pair in ranks]
        if not known:
            return word
        word = merge_pair(word, min(known, key=ranks.__getitem__))


def learn(captions, count):
    """The merges of a corpus by the definition: the most frequent pair, again."""
    words = Counter(symbols(word.encode()) for text in captions for word in text.split())
    merges = []
    for _ in range(count):
        pairs = Counter()
        for word, times in words.items():
            for pair in itertools.pairwise(word):
                pairs[pair] += times
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        words = Counter({merge_pair(word, best): times for word, times in words.items()})
    return merges


@pytest.fixture(scope="session")
def bpe():
    """The definitions above: symbols(word), naive_bpe(word, merges), learn(captions, count)."""

    class Definitions:
        pass

    Definitions.symbols, Definitions.naive_bpe = staticmethod(symbols), staticmethod(naive_bpe)
    Definitions.learn, Definitions.captions = staticmethod(learn), CAPTIONS
    return Definitions


@pytest.fixture(scope="session")
def merges():
    """A small list of merges."""
    return learn(CAPTIONS, 60)


@pytest.fixture(scope="session")
def openai_merges():
    """CLIP's vocabulary, from the package that carries it."""
    pytest.importorskip("instant_clip_tokenizer")
    from clipjax.data.tokenizers.clip_vocabulary import packaged_merges

    return packaged_merges()


@pytest.fixture(scope="session")
def spm():
    """The package sentencepiece."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what its generated bindings warn of at import
        return pytest.importorskip("sentencepiece")


@pytest.fixture(scope="session")
def sentencepiece_model(spm):
    """Makes the content of a .model file, trained on the captions."""

    def make(**options):
        out = io.BytesIO()
        spm.SentencePieceTrainer.train(
            sentence_iterator=iter(CAPTIONS * 3),
            model_writer=out,
            minloglevel=2,
            **{"vocab_size": 38, "eos_id": 1, "unk_id": 2, "pad_id": 0, "bos_id": -1, **options},
        )
        return out.getvalue()

    return make
