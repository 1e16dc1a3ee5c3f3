"""Merges words that stand for the same things into families."""

import dataclasses
from collections.abc import Collection, Iterable, Iterator, Mapping

NEAR = 0.9
"""Families whose members overlap more (Jaccard) are one concept under two names."""


@dataclasses.dataclass(frozen=True)
class Family:
    """Words that stand for the same members, the most frequent one first."""

    words: tuple[str, ...]
    members: tuple[str, ...]


def merge_families(members: Mapping[str, Collection[str]], *, least: int) -> list[Family]:
    """Makes one family of words whose member sets are equal or overlap by more than NEAR.

    A family has all members of its words. No two families of the result overlap by more than NEAR,
    and each word with enough members is in exactly one.

    Args:
        members: the members of each word.
        least: words with fewer members are left out.

    Returns:
        The families, the largest first.
    """
    everyone = sorted({member for found in members.values() for member in found})
    numbers = {member: number for number, member in enumerate(everyone)}
    sets = {
        word: bits_of((numbers[member] for member in found), len(everyone))
        for word, found in members.items()
    }
    return [
        Family(words, tuple(everyone[i] for i in _places(bits)))
        for words, bits in merge_sets(sets, least)
    ]


def bits_of(places: Iterable[int], count: int) -> int:
    """Returns a set of numbers below `count` as the bits of one integer."""
    flags = bytearray(count // 8 + 1)
    for place in places:
        flags[place >> 3] |= 1 << (place & 7)
    return int.from_bytes(flags, "little")


def _places(bits: int) -> Iterator[int]:
    while bits:
        lowest = bits & -bits
        yield lowest.bit_length() - 1
        bits ^= lowest


Merged = list[tuple[tuple[str, ...], int]]


def merge_sets(sets: Mapping[str, int], least: int) -> Merged:
    """Does what `merge_families` does, with members as the bits of an integer."""
    kept = [((word,), bits) for word, bits in sets.items() if bits.bit_count() >= least]
    while True:
        # The largest first; of equal sets the shortest word, which is mostly the plainest.
        kept.sort(key=lambda pair: (-pair[1].bit_count(), len(pair[0][0]), pair[0][0]))
        families: Merged = []
        for words, bits in kept:
            for place, (others, theirs) in enumerate(families):
                if _overlap(bits, theirs) > NEAR:
                    families[place] = (others + words, bits | theirs)
                    break
            else:
                families.append((words, bits))
        if len(families) == len(kept):
            return families
        kept = families  # those that grew may have come near to others


def _overlap(one: int, other: int) -> float:
    """Jaccard's index of two sets."""
    sizes = one.bit_count(), other.bit_count()
    if min(sizes) <= NEAR * max(sizes):
        return 0.0
    return (one & other).bit_count() / (one | other).bit_count()
