"""The tokenizer of CLIP: byte-pair encoding of words, with the ids of OpenAI's vocabulary.

Source: Radford et al. 2021, https://arxiv.org/abs/2103.00020, section 2.4. Cleaning and words are
those of open_clip's `SimpleTokenizer`; a parity test compares the ids.
"""

import html
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from clipjax.config.errors import UserError
from clipjax.data.tokenizers.digest import check_vocabulary, json_digest
from clipjax.data.tokenizers.frame import frame
from clipjax.data.tokenizers.merges import FIRST_MERGE, MergeTable, merges_digest

MARKS = ("<start_of_text>", "<end_of_text>")
_WORDS = "|".join(MARKS) + r"|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
# With what it holds a word takes about 300 bytes.
_CACHED_WORDS = 1 << 17
_LONGEST_CACHED = 64


class ClipTokenizer:
    """CLIP's byte-pair encoding in CLIP's frame; the last two ids start and end a text.

    A text is repaired (mojibake, HTML entities), its white space collapsed, and folded to lower
    case where that is asked for. Words are looked up in a cache; what never changes a text is not
    called for it.

    Args:
        table: the vocabulary.
        context_length: ids of a text.
        lowercase: fold case, as CLIP does.
        cached_words: the cache starts anew when it holds that many.

    Raises:
        UserError: if ftfy or regex is not installed.
    """

    def __init__(
        self,
        table: MergeTable,
        *,
        context_length: int,
        lowercase: bool = True,
        cached_words: int = _CACHED_WORDS,
    ):
        self._table = table
        self.context_length, self.lowercase = context_length, lowercase
        self.vocab_size = FIRST_MERGE + len(table.merges) + len(MARKS)
        self._marks = {mark: self.vocab_size - 2 + i for i, mark in enumerate(MARKS)}
        self._fix_text, self._pieces = _cleaner(), _splitter()
        self._cache: dict[str, tuple[int, ...]] = {}
        self._cached_words = cached_words

    @classmethod
    def from_json(cls, saved: dict[str, Any]) -> "ClipTokenizer":
        """Returns the tokenizer that `to_json` described.

        Raises:
            UserError: if the vocabulary is not the one that was saved.
        """
        check_vocabulary(saved, merges_digest(saved["merges"]))
        table = MergeTable([tuple(merge.split(" ")) for merge in saved["merges"]])
        return cls(table, context_length=saved["context_length"], lowercase=saved["lowercase"])

    def __call__(self, text: str) -> np.ndarray:
        """Returns int32 [context_length] ids."""
        # Printable ASCII has nothing to repair, and no entity without an ampersand.
        if not (text.isascii() and text.isprintable() and "&" not in text):
            text = html.unescape(html.unescape(self._fix_text(text)))
        if self.lowercase:
            text = text.lower()
        # No piece contains white space, so that words can be looked up one by one.
        ids: list[int] = []
        cache = self._cache
        for word in text.split():
            try:
                ids += cache[word]
            except KeyError:
                if len(ids) >= self.context_length:
                    break  # of a long text the rest is cut: only what costs nothing is looked up
                ids += self._encode(word)
        return frame(ids, self.context_length, self.vocab_size)

    def _encode(self, word: str) -> tuple[int, ...]:
        pieces = self._pieces(word)
        if pieces != [word]:
            # A piece by itself is one piece again, so that pieces share the cache with words. What
            # no piece takes has no ids: U+0345 is a letter only without regard to case.
            known = tuple(i for p in pieces for i in self._cache.get(p) or self._encode(p))
        elif word in self._marks:
            known = (self._marks[word],)
        else:
            known = tuple(self._table.encode(word.encode()))
        if len(word) <= _LONGEST_CACHED:
            # Other threads may do the same meanwhile; each entry is right whoever writes it.
            if len(self._cache) >= self._cached_words:
                self._cache.clear()
            self._cache[word] = known
        return known

    def to_json(self) -> dict[str, Any]:
        """Returns what `tokenizer_from_json` needs, the whole vocabulary included."""
        return {
            "kind": "clip",
            "context_length": self.context_length,
            "lowercase": self.lowercase,
            "sha256": self._table.digest(),
            "merges": [" ".join(merge) for merge in self._table.merges],
        }

    def digest(self) -> str:
        """Returns the SHA-256 of `to_json`."""
        return json_digest(self.to_json())


def _cleaner() -> Callable[[str], str]:
    try:
        import ftfy
    except ImportError as error:
        raise _missing("ftfy") from error
    return ftfy.fix_text


def _splitter() -> Callable[[str], Sequence[str]]:
    try:
        import regex
    except ImportError as error:
        raise _missing("regex") from error
    return regex.compile(_WORDS, regex.IGNORECASE).findall


def _missing(package: str) -> UserError:
    return UserError(
        f"tokenizer.kind='clip': the package {package} is not installed. It needs pip install "
        "'clipjax[clip]'."
    )
