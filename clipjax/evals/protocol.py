"""What an evaluation needs of a model: two functions over host data."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np


class Images(Protocol):
    """Pictures by number."""

    def __len__(self) -> int:
        """Returns their number."""
        ...

    def fill(self, index: int, out: np.ndarray) -> None:
        """Writes picture `index` into `out`, uint8 [side, side, 3]."""
        ...


class Encoders(Protocol):
    """Any model: ours, a torch reference, or six hand-made vectors in a test."""

    def images(self, images: Images) -> np.ndarray:
        """Returns unit rows, float32 [images, embed]."""
        ...

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """Returns unit rows, float32 [texts, embed]."""
        ...
