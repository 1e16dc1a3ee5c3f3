"""Which texts are encoded together, so that little padding is computed by few programs."""

import dataclasses
import itertools
from collections.abc import Collection, Iterator

import numpy as np
from jaxtyping import Int

_MULTIPLE = 8
_MOST_LENGTHS = 3
# A new program must save the work of so many whole batches: about what compiling it takes.
_PROGRAM_BATCHES = 4


@dataclasses.dataclass(frozen=True)
class TextBatch:
    """Texts of one call of a compiled program.

    Attributes:
        texts: their numbers, at most as many as a batch has.
        length: tokens of each.
    """

    texts: Int[np.ndarray, " texts"]
    length: int


def text_batches(
    needed: Int[np.ndarray, " texts"],
    *,
    context_length: int,
    batch_size: int,
    compiled: Collection[int] = (),
) -> Iterator[TextBatch]:
    """Yields all texts, the short ones first, in batches of at most three lengths.

    A length is a multiple of 8 or the longest, and costs a program unless there is one already.

    Args:
        needed: tokens that decide the embedding of each text.
        context_length: the longest that a text may be.
        batch_size: texts of a batch.
        compiled: lengths that there are programs for.

    >>> batches = text_batches(np.array([9, 3, 12]), context_length=77, batch_size=2)
    >>> [(batch.texts.tolist(), batch.length) for batch in batches]
    [([1, 0], 16), ([2], 16)]
    """
    order = np.argsort(needed, kind="stable")
    # A batch is as long as its longest text, and those of a group as long as its last batch.
    firsts = np.arange(0, len(order), batch_size)
    ends = np.minimum(firsts + batch_size, len(order)) - 1
    longest = np.minimum(-(-needed[order[ends]] // _MULTIPLE) * _MULTIPLE, context_length)
    lengths = _chosen(longest, context_length, frozenset(compiled))
    for first, own in zip(firsts.tolist(), longest.tolist(), strict=True):
        length = next(length for length in lengths if length >= own)
        yield TextBatch(order[first : first + batch_size], length)


def _chosen(
    longest: Int[np.ndarray, " batches"], context_length: int, compiled: frozenset[int]
) -> list[int]:
    """Returns the lengths, ascending, that cost least: tokens of batches and of new programs."""
    if not len(longest):
        return []
    most = int(longest[-1])
    # Longer ones than any text needs are of use where they are compiled.
    usable = sorted({*longest.tolist(), *(n for n in compiled if n <= context_length)})

    def cost(lengths: tuple[int, ...]) -> int:
        tokens = np.array(lengths)[np.searchsorted(lengths, longest)].sum()
        new = len(frozenset(lengths) - compiled)
        return int(tokens) + new * _PROGRAM_BATCHES * context_length

    choices = (
        lengths
        for count in range(1, _MOST_LENGTHS + 1)
        for lengths in itertools.combinations(usable, count)
        if lengths[-1] >= most
    )
    return list(min(choices, key=cost))
