"""The frame around the ids of a text, as in CLIP."""

from collections.abc import Sequence

import numpy as np


def frame(ids: Sequence[int], context_length: int, vocab_size: int) -> np.ndarray:
    """Returns start, ids, end and zeros; long texts are cut and keep their end.

    >>> frame([5, 6, 7], context_length=4, vocab_size=10).tolist()
    [8, 5, 6, 9]
    """
    out = np.zeros(context_length, np.int32)
    kept = list(ids[: context_length - 2])
    out[: len(kept) + 2] = [vocab_size - 2, *kept, vocab_size - 1]
    return out
