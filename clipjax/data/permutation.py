"""Keyed pseudo-random permutations of any length: constant memory, and both directions."""

from typing import Any

import numpy as np

from clipjax.data.keyed import mix

_ROUNDS = 4


def permute(offsets: np.ndarray, length: int, seed: int, tweak: int) -> np.ndarray:
    """Maps offsets in [0, length) to their places in a keyed pseudo-random permutation.

    A Feistel network over the next power of four, walked until it falls inside the range: constant
    memory for any length.

    Args:
        offsets: integers.
        length: of the permutation.
        seed: uint64.
        tweak: chooses one of the permutations of a seed, e.g. the epoch; uint64.

    Source: Black and Rogaway 2002, "Ciphers with Arbitrary Finite Domains", section 3.

    >>> sorted(permute(np.arange(10), 10, seed=0, tweak=0).tolist())
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    """
    half_bits, keys = _schedule(length, seed, tweak)
    return _walk(offsets, length, half_bits, keys, _feistel)


def unpermute(places: np.ndarray, length: int, seed: int, tweak: int) -> np.ndarray:
    """Returns the offsets that `permute` maps to these places.

    >>> unpermute(permute(np.arange(5), 5, 7, 1), 5, 7, 1).tolist()
    [0, 1, 2, 3, 4]
    """
    half_bits, keys = _schedule(length, seed, tweak)
    return _walk(places, length, half_bits, keys[::-1], _feistel_backwards)


def _schedule(length: int, seed: int, tweak: int) -> tuple[np.uint64, np.ndarray]:
    half_bits = np.uint64(max(1, (int(length - 1).bit_length() + 1) // 2))
    key = mix(np.uint64(seed) ^ mix(np.uint64(tweak)))
    return half_bits, mix(np.arange(_ROUNDS, dtype=np.uint64) + key)


def _walk(
    start: np.ndarray, length: int, half_bits: np.uint64, keys: np.ndarray, step: Any
) -> np.ndarray:
    out = step(np.asarray(start).astype(np.uint64), half_bits, keys)
    while (outside := out >= length).any():
        out[outside] = step(out[outside], half_bits, keys)
    return out.astype(np.int64)


def _feistel(x: np.ndarray, half_bits: np.uint64, keys: np.ndarray) -> np.ndarray:
    mask = (np.uint64(1) << half_bits) - np.uint64(1)
    left, right = x >> half_bits, x & mask
    for key in keys:
        left, right = right, left ^ (mix(right ^ key) & mask)
    return (left << half_bits) | right


def _feistel_backwards(x: np.ndarray, half_bits: np.uint64, keys: np.ndarray) -> np.ndarray:
    mask = (np.uint64(1) << half_bits) - np.uint64(1)
    left, right = x >> half_bits, x & mask
    for key in keys:
        left, right = right ^ (mix(left ^ key) & mask), left
    return (left << half_bits) | right
