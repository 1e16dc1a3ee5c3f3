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


def uniforms(seed: int, sample: Any, stream: int, count: int) -> np.ndarray:
    """Returns `count` float64 numbers in [0, 1) of a stream of each sample of a run.

    Args:
        seed: of the run.
        sample: one sample number, or an array of them; its shape comes first in the result's.
        stream: what they are for.
        count: numbers a sample.

    >>> bool(np.array_equal(uniforms(1, [8, 2], 3, 4)[1], uniforms(1, 2, 3, 4)))
    True
    """
    samples = np.asarray(sample).astype(np.uint64)
    key = mix(np.uint64(seed) ^ mix(samples ^ mix(np.uint64(stream))))
    with np.errstate(over="ignore"):
        counters = key[..., None] + np.arange(count, dtype=np.uint64)
    return (mix(counters) >> np.uint64(11)).astype(np.float64) * 2.0**-53
