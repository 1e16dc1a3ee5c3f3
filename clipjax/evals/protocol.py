"""What an evaluation needs of a model: two functions over host data."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from clipjax.data.images import Images


@runtime_checkable
class Encoders(Protocol):
    """Any model: ours, a torch reference, or six hand-made vectors in a test."""

    def images(self, images: Images) -> np.ndarray:
        """Returns unit rows, float32 [images, embed]."""
        ...

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """Returns unit rows, float32 [texts, embed]."""
        ...
