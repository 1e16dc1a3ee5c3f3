"""Captions to time tokenizers on, and the worker of `clipjax bench tokenizer` that runs ours."""

# ruff: noqa: RUF001 (characters that look like others are the point)

import functools
import html
import itertools
import pydoc_data.topics
import re
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np

from clipjax.cli.bench_turns import Answer, Orders, serve

_MEAN_WORDS = 10
_ACCENTED_SHARE = 0.03
# What captions from the web hold and plain English does not.
_HARD_PARTS = (
    *("&amp;", "&amp;amp;quot;", "&eacute;", "&#39;", "&lt;b&gt;", "&notanentity;", "AT&T"),
    *("café", "cafe\u0301", "naïve", "Ångström", "İstanbul", "ΣΊΣΥΦΟΣ", "straße", "Ærø", "ǅ"),
    *("😀", "👩🏽‍🚀", "🏳️‍🌈", "❤️", "🇩🇪", "☕️", "👍🏿"),
    *("漢字", "ひらがな", "한국어", "中文字幕", "עברית", "العربية", "हिन्दी", "ไทย"),
    *("â€œquotedâ€\x9d", "Ã©tÃ©", "ðŸ˜€", "schÃ¶n", "â„¢"),
    *("“curly”", "it’s", "‘single’", "—", "…", "ﬁne", "ﬂuﬀy", "ＦＵＬＬ", "ｶﾞ", "①", "½", "x²"),
    *("zero\u200bwidth", "\ufeffbom", "soft\u00adhyphen", "\u202ertl\u202c", "no\u00a0break"),
    *(
        "tab\there",
        "line\r\nbreak",
        "next\u0085line",
        "\u2028",
        "\x1b[31mred\x1b[0m",
        "\x00",
        "\x7f",
    ),
    *(
        "<start_of_text>",
        "<END_OF_TEXT>",
        "</w>",
        "iota\u0345",
        "\u0345",
        "z\u0351\u036b\u0343algo",
    ),
    *("don't", "DON'T", "we'll've", "'ſ", "o'clock", "rock'n'roll", "\ud83d\ude00", "\ud800"),
    *("IMG_2034.JPG", "https://example.org/a?b=c&d=e", "#tag", "@name", "12,345.67", "१२३"),
    *("w" * 300, "ha" * 150, "!" * 120, "漢" * 100, "-" * 77, "e\u0301" * 90),
)


@functools.cache
def _words() -> tuple[list[str], np.ndarray]:
    """Returns the words of Python's reference, and the share of each by Zipf's law."""
    text = " ".join(pydoc_data.topics.topics.values()).lower()
    counted = Counter(re.findall(r"[a-z]{1,20}", text))
    words = sorted(counted, key=lambda word: (-counted[word], word))
    weights = 1 / np.arange(1, len(words) + 1)
    return words, weights / weights.sum()


def natural_captions(count: int, seed: int) -> list[str]:
    """Returns captions of English words, ten on average, some with an accent or a curly quote.

    Source: Zipf 1949, "Human Behavior and the Principle of Least Effort": frequency 1 / rank.
    """
    rng = np.random.default_rng([seed, 0])
    words, weights = _words()
    captions = []
    for length in 1 + rng.poisson(_MEAN_WORDS - 1, count):
        chosen = [words[i] for i in rng.choice(len(words), length, p=weights)]
        if rng.random() < _ACCENTED_SHARE:
            chosen[rng.integers(length)] = str(rng.choice(["café", "it’s", "résumé", "“best”"]))
        if rng.random() < 0.2:
            chosen[rng.integers(length)] = str(rng.integers(1, 3000))
        if rng.random() < 0.2:
            chosen[rng.integers(length)] += ","
        caption = " ".join(chosen)
        captions.append(caption.capitalize() + "." if rng.random() < 0.5 else caption)
    return captions


def hard_captions(count: int, seed: int) -> list[str]:
    """Returns captions with entities, accents, emoji, other scripts, mojibake and controls."""
    rng = np.random.default_rng([seed, 1])
    captions = ["", " ", "\t\n", "\u200b", "&nbsp;", "&amp;" * 3, *_HARD_PARTS]
    for caption in natural_captions(count, seed):
        parts = caption.split(" ")
        for _ in range(rng.integers(1, 5)):
            part = _HARD_PARTS[rng.integers(len(_HARD_PARTS))]
            part = html.escape(html.escape(part)) if rng.random() < 0.1 else part
            joined = str(rng.choice([" ", " ", "", "\u00a0", "\t", "  "]))
            place = rng.integers(len(parts))
            parts[place] = parts[place] + joined + part
        captions.append(" ".join(parts))
    return captions[:count]


KINDS = {"natural": natural_captions, "hard": hard_captions}


def tokenizer_orders(
    tokenize: Callable[[list[str]], np.ndarray], options: dict[str, Any], version: str
) -> Orders:
    """Returns what a worker does: tell the ids of fixed captions, and time captions that are new.

    Args:
        tokenize: returns the rows of captions.
        options: count: captions of a kind in a round.
        version: for the report.
    """
    count, seeds = options["count"], itertools.count(1)

    def ids(captions: list[str]) -> Answer:
        return {"ids": [np.trim_zeros(row, "b").tolist() for row in tokenize(captions)]}

    def timed_round() -> Answer:
        seed, answer = next(seeds), {}
        for kind, make in KINDS.items():
            captions = make(count, seed)
            cpu_start, start = time.process_time(), time.perf_counter()
            tokenize(captions)
            answer[f"{kind}_seconds"] = time.perf_counter() - start
            answer[f"{kind}_cpu"] = time.process_time() - cpu_start
        return answer

    return {
        "round": timed_round,
        "report": lambda: {"version": version},
        **{kind: lambda make=make: ids(make(count, 0)) for kind, make in KINDS.items()},
    }


def prepare(options: dict[str, Any]) -> Orders:
    """Makes our tokenizer from the vocabulary file of the rival."""
    import clipjax
    from clipjax.data.tokenizers.clip import ClipTokenizer
    from clipjax.data.tokenizers.clip_vocabulary import read_merges

    tokenizer = ClipTokenizer(
        read_merges(options["vocabulary"]), context_length=options["context_length"]
    )
    return tokenizer_orders(
        lambda captions: np.stack([tokenizer(caption) for caption in captions]),
        options,
        f"clipjax {clipjax.__version__}",
    )


if __name__ == "__main__":
    serve(prepare)
