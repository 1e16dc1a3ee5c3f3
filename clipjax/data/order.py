"""Which examples make up which batch: a pure function of (seed, step), with no state to save."""

import dataclasses

import numpy as np

from clipjax.data.keyed import mix, uniforms

_ROUNDS = 4
_REPLACEMENTS = 1  # stream of `uniforms`


@dataclasses.dataclass(frozen=True, kw_only=True)
class Order:
    """The order of samples of a run: every example once an epoch, a new permutation each epoch.

    Sample number p of the run (p = step * global_batch_size + row) is example
    permute(p mod n, seed, p div n). Hosts, threads and restarts do not enter, so any number of
    them gives the same batches.
    """

    num_examples: int
    global_batch_size: int
    seed: int

    def samples(self, step: int, rows: np.ndarray | None = None) -> np.ndarray:
        """Returns the sample numbers, int64, of the given rows of a batch; of all by default."""
        if rows is None:
            rows = np.arange(self.global_batch_size)
        return step * self.global_batch_size + rows.astype(np.int64)

    def examples(self, samples: np.ndarray) -> np.ndarray:
        """Returns the example index of each sample number."""
        epochs, offsets = np.divmod(samples, self.num_examples)
        out = np.empty_like(samples)
        for epoch in np.unique(epochs):
            of_epoch = epochs == epoch
            out[of_epoch] = permute(offsets[of_epoch], self.num_examples, self.seed, int(epoch))
        return out

    def replacement(self, sample: int, attempt: int) -> int:
        """Returns the example that stands in for a sample that could not be used."""
        draws = uniforms(self.seed, sample, _REPLACEMENTS, attempt + 1)
        return int(draws[attempt] * self.num_examples)


def permute(offsets: np.ndarray, num_examples: int, seed: int, epoch: int) -> np.ndarray:
    """Maps offsets in [0, num_examples) to their places in a keyed pseudo-random permutation.

    A Feistel network over the next power of four, walked until it falls inside the range: constant
    memory for any number of examples.

    Source: Black and Rogaway 2002, "Ciphers with Arbitrary Finite Domains", section 3.

    >>> sorted(permute(np.arange(10), 10, seed=0, epoch=0).tolist())
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    """
    half_bits = np.uint64(max(1, (int(num_examples - 1).bit_length() + 1) // 2))
    key = mix(np.uint64(seed) ^ mix(np.uint64(epoch)))
    keys = mix(np.arange(_ROUNDS, dtype=np.uint64) + key)
    out = _feistel(offsets.astype(np.uint64), half_bits, keys)
    while (outside := out >= num_examples).any():
        out[outside] = _feistel(out[outside], half_bits, keys)
    return out.astype(np.int64)


def _feistel(x: np.ndarray, half_bits: np.uint64, keys: np.ndarray) -> np.ndarray:
    mask = (np.uint64(1) << half_bits) - np.uint64(1)
    left, right = x >> half_bits, x & mask
    for key in keys:
        left, right = right, left ^ (mix(right ^ key) & mask)
    return (left << half_bits) | right
