"""Random numbers that are a pure function of their keys: no state, no clock, no process."""

from typing import Any

import numpy as np


def mix(x: Any) -> Any:
    """Finaliser of SplitMix64 on uint64 scalars or arrays: every bit depends on every bit.

    Source: Steele, Lea and Flood 2014, "Fast Splittable Pseudorandom Number Generators", figure 17.
    """
    with np.errstate(over="ignore"):
        x = np.asarray(x, np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


def uniforms(seed: int, sample: int, stream: int, count: int) -> np.ndarray:
    """Returns `count` float64 numbers in [0, 1) of a stream of a sample of a run.

    >>> bool(np.array_equal(uniforms(1, 2, 3, 4), uniforms(1, 2, 3, 4)))
    True
    """
    key = mix(np.uint64(seed) ^ mix(np.uint64(sample) ^ mix(np.uint64(stream))))
    bits = mix(key + np.arange(count, dtype=np.uint64)) >> np.uint64(11)
    return bits.astype(np.float64) * 2.0**-53
