"""Balancing a pool over what its captions speak of, as MetaCLIP does."""

import collections
import dataclasses
import functools
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from clipjax.config.errors import UserError
from clipjax.data.key_table import text_hash
from clipjax.data.keyed import mix, uniforms

_WORD = re.compile(r"\w+|[^\w\s]")
_DRAWS = 5  # stream of `uniforms`


@dataclasses.dataclass(frozen=True)
class Matches:
    """The entries that each caption of a shard has.

    Attributes:
        counts: int32 [samples], entries of each.
        entries: int32, one sample's after the other's; each entry once a sample.
    """

    counts: np.ndarray
    entries: np.ndarray

    @property
    def samples(self) -> np.ndarray:
        """The sample of each of `entries`."""
        return np.repeat(np.arange(len(self.counts)), self.counts)


class Metadata:
    """Entries that are looked for in captions: words, terms, titles.

    An entry is in a caption if its words and signs follow on each other there: "art" is not in
    "party", nor "dog cat" in "dog, cat". A word is a run of letters, digits and underscores; every
    other character except white space stands for itself; how much white space there is between
    them does not count. Scripts without spaces are therefore matched by whole runs only.

    Args:
        entries: those of the same words are one.
        match_case: whether "Turkey" and "turkey" differ; if not, both are case-folded.

    Attributes:
        entries: as they were given, without repetitions.
        match_case: as given.
    """

    def __init__(self, entries: Iterable[str], *, match_case: bool = False):
        self.match_case = match_case
        self._numbers: dict[str, int] = {}
        lengths: dict[str, set[int]] = collections.defaultdict(set)
        kept = []
        for entry in entries:
            words = self._words(entry)
            normal = " ".join(words)
            if words and normal not in self._numbers:
                self._numbers[normal] = len(kept)
                lengths[words[0]].add(len(words))
                kept.append(entry)
        self.entries: tuple[str, ...] = tuple(kept)
        self._lengths = {word: sorted(found) for word, found in lengths.items()}

    def __len__(self) -> int:
        return len(self.entries)

    @classmethod
    def read(cls, path: str, *, match_case: bool = False) -> "Metadata":
        """Reads a text file with one entry a line.

        Raises:
            UserError: if it cannot be read, or holds none.
        """
        try:
            with open(path, encoding="utf-8") as file:
                found = cls((line.strip() for line in file), match_case=match_case)
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else str(error)
            raise UserError(
                f"{path}: cannot be read ({why}). Expected a text file with one entry a line."
            ) from error
        if not len(found):
            raise UserError(f"{path}: holds no entry; expected one a line.")
        return found

    @functools.cached_property
    def hashes(self) -> np.ndarray:
        """64 bits of a hash of each entry, uint64; of its words only."""
        return np.array([text_hash(normal) for normal in self._numbers], np.uint64)

    def find(self, caption: str) -> list[int]:
        """Returns the entries that are in a caption, ascending.

        >>> Metadata(["dog", "hot dog", "cat"]).find("A hot  DOG, not a hotdog")
        [0, 1]
        """
        words = self._words(caption)
        found = set()
        for start, word in enumerate(words):
            for length in self._lengths.get(word, ()):
                number = self._numbers.get(" ".join(words[start : start + length]))
                if number is not None:
                    found.add(number)
        return sorted(found)

    def match(self, captions: Sequence[str | None]) -> Matches:
        """Returns the entries of each caption; a missing one has none."""
        found = [self.find(caption) if caption else [] for caption in captions]
        counts = np.array([len(numbers) for numbers in found], np.int32)
        return Matches(counts, np.array([n for numbers in found for n in numbers], np.int32))

    def _words(self, text: str) -> list[str]:
        return _WORD.findall(text if self.match_case else text.casefold())


@dataclasses.dataclass(frozen=True, eq=False)
class Balance:
    """Thins out what is frequent and leaves what is rare.

    An entry that c samples have is followed with probability min(1, cap / c): a sample is kept if
    the draw of any of its entries falls below. The draws are independent for each sample and entry,
    and a function of the seed and both.

    Source: Xu et al. 2023, "Demystifying CLIP Data", algorithm 1, https://arxiv.org/abs/2309.16671.

    Attributes:
        metadata: the entries.
        cap: samples up to which an entry is in the tail, t in the paper; at least 1.
        seed: of the draws.
    """

    metadata: Metadata
    cap: int
    seed: int = 0

    def count(self, matches: Matches, used: np.ndarray) -> np.ndarray:
        """Returns how many of the samples that are used have each entry, int64."""
        entries = matches.entries[used[matches.samples]]
        return np.bincount(entries, minlength=len(self.metadata)).astype(np.int64)

    def keep(self, matches: Matches, samples: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """Returns, bool, which samples of a shard are kept; those without an entry are not.

        Args:
            matches: of the shard.
            samples: uint64, a number for each that no other sample of the pool has.
            counts: of each entry over the whole pool.
        """
        probabilities = np.minimum(1.0, self.cap / np.maximum(counts, 1))
        rows = matches.samples
        pairs = mix(samples[rows] ^ mix(self.metadata.hashes[matches.entries]))
        followed = uniforms(self.seed, pairs, _DRAWS, 1)[:, 0] < probabilities[matches.entries]
        out = np.zeros(len(matches.counts), bool)
        out[rows[followed]] = True
        return out

    def figures(self, before: np.ndarray, after: np.ndarray) -> dict[str, Any]:
        """Returns entries in the head (above the cap) and the tail, and their matches."""
        head = before > self.cap
        tail = (before > 0) & ~head
        return {
            "entries": len(self.metadata),
            "cap": self.cap,
            "unmatched_entries": int((before == 0).sum()),
            "head_entries": int(head.sum()),
            "tail_entries": int(tail.sum()),
            "head_matches": [int(before[head].sum()), int(after[head].sum())],
            "tail_matches": [int(before[tail].sum()), int(after[tail].sum())],
        }


def sample_numbers(shard_digest: bytes, keys: Sequence[str]) -> np.ndarray:
    """Returns a number, uint64, for each key of a shard: a hash of both, wherever it lies."""
    salt = mix(np.frombuffer(shard_digest[:8], "<u8")[0])
    hashes = np.array([text_hash(key) for key in keys], np.uint64)
    return mix(hashes ^ salt)
