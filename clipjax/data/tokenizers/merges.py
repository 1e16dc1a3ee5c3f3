"""Byte-level merges with a mark at the end of each word, as in CLIP's vocabulary.

Source: Sennrich et al. 2015, https://arxiv.org/abs/1508.07909, section 3.2; the bytes as symbols:
Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.2.
"""

import functools
import hashlib
import heapq
import itertools
from collections.abc import Mapping, Sequence

from clipjax.config.errors import UserError

END_OF_WORD = "</w>"
_BYTES = 256
FIRST_MERGE = 2 * _BYTES  # ids below are single bytes: within a word, then at its end

Merge = tuple[str, str]


@functools.cache
def byte_order() -> tuple[int, ...]:
    """Returns the bytes in the order of their ids: those with a visible Latin-1 sign come first.

    >>> byte_order()[:2], byte_order()[187:190]
    ((33, 34), (255, 0, 1))
    """
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    return (*visible, *sorted(set(range(_BYTES)) - set(visible)))


@functools.cache
def byte_symbols() -> dict[int, str]:
    """Returns the sign that stands for each byte in a vocabulary file.

    >>> byte_symbols()[0x41], byte_symbols()[0x00], byte_symbols()[0x20]
    ('A', 'Ā', 'Ġ')
    """
    order = byte_order()
    visible = order.index(0)
    return {
        byte: chr(byte) if place < visible else chr(_BYTES + place - visible)
        for place, byte in enumerate(order)
    }


def apply_merges(ids: Sequence[int], ranks: Mapping[tuple[int, int], int]) -> list[int]:
    """Returns the ids after all merges, the lowest rank first and each from left to right.

    Args:
        ids: of the bytes of a word.
        ranks: of each pair of ids that merges; rank r makes the id `FIRST_MERGE + r`.

    >>> apply_merges([7, 7, 7], {(7, 7): 0})
    [512, 7]
    """
    out, count = list(ids), len(ids)
    before, after = list(range(-1, count - 1)), list(range(1, count + 1))
    heap = [(ranks[pair], i) for i, pair in enumerate(itertools.pairwise(out)) if pair in ranks]
    heapq.heapify(heap)
    while heap:
        rank = heap[0][0]
        # All of one rank before any of another, even of one that becomes possible meanwhile.
        places = []
        while heap and heap[0][0] == rank:
            places.append(heapq.heappop(heap)[1])
        for i in places:
            j = after[i]
            if j == count or ranks.get((out[i], out[j])) != rank:
                continue  # a merge further left has used one of the two
            out[i], out[j] = FIRST_MERGE + rank, -1
            after[i] = after[j]
            if after[j] < count:
                before[after[j]] = i
            for left in (before[i], i):
                if left >= 0 and after[left] < count:
                    next_rank = ranks.get((out[left], out[after[left]]))
                    if next_rank is not None:
                        heapq.heappush(heap, (next_rank, left))
    return [i for i in out if i >= 0]


class MergeTable:
    """A vocabulary: 256 bytes, 256 bytes at the end of a word, and one id for each merge.

    Args:
        merges: in the order of their ranks, each of two symbols that were there before.

    Raises:
        UserError: if a merge has an unknown part or makes a symbol again.
    """

    def __init__(self, merges: Sequence[Merge]):
        self.merges = tuple(merges)
        symbols = byte_symbols()
        base = [symbols[byte] for byte in byte_order()]
        self.ids = {symbol: i for i, symbol in enumerate(base + [s + END_OF_WORD for s in base])}
        self._byte_ids = [self.ids[symbols[byte]] for byte in range(_BYTES)]
        self._ranks: dict[tuple[int, int], int] = {}
        for rank, (left, right) in enumerate(self.merges):
            made = left + right
            if left not in self.ids or right not in self.ids or made in self.ids:
                raise UserError(
                    f"merge {rank} of the vocabulary, {left!r} + {right!r}, has an unknown part or "
                    "makes a symbol again: this is no CLIP vocabulary. Use tokenizer.kind="
                    "'huggingface' for other ones."
                )
            self._ranks[self.ids[left], self.ids[right]] = rank
            self.ids[made] = FIRST_MERGE + rank

    def encode(self, word: bytes) -> list[int]:
        """Returns the ids of one word, which must not be empty."""
        ids = [self._byte_ids[byte] for byte in word]
        ids[-1] += _BYTES
        return apply_merges(ids, self._ranks)

    def digest(self) -> str:
        """Returns the SHA-256 of the merges, one a line."""
        return merges_digest([" ".join(merge) for merge in self.merges])


def merges_digest(lines: Sequence[str]) -> str:
    """Returns the SHA-256 of merges, one "left right" a line."""
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
