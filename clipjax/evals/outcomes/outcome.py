"""What is kept of a task once it has run: enough for every score, interval and comparison."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a model did on each sample.

    Attributes:
        kind: which module of this package made it: "classification", "retrieval", ...
        arrays: by name, one row a sample; plain enough for an .npz file.
        options: what belongs to the whole task; plain enough for a JSON file.
    """

    kind: str
    arrays: Mapping[str, np.ndarray]
    options: Mapping[str, Any]


def unusable(embeds: np.ndarray) -> Bool[np.ndarray, "*rows"]:
    """Returns which rows say nothing: zeros, of a picture that did not decode, and NaN.

    Args:
        embeds: float32 [..., embed].

    >>> unusable(np.array([[0.6, 0.8], [0, 0], [np.nan, 1]], np.float32)).tolist()
    [False, True, True]
    """
    return np.logical_not(embeds.any(axis=-1) & np.isfinite(embeds).all(axis=-1))
