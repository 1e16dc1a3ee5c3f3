"""What an evaluation needs of a model: two functions over host data."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from clipjax.core.rows import Rows
from clipjax.data.images import Images


@runtime_checkable
class Encoders(Protocol):
    """Any model: ours, a torch reference, or six hand-made vectors in a test."""

    def images(self, images: Images, rows: Rows | None = None) -> np.ndarray:
        """Returns unit rows, float32 [images, embed]; zeros for what could not be read.

        Args:
            images: what the first tower takes: pictures, or anything else that fills its arrays.
            rows: where they are kept while they are made; what is there is not made again.
        """
        ...

    def texts(self, texts: Sequence[str], rows: Rows | None = None) -> np.ndarray:
        """Returns unit rows, float32 [texts, embed].

        Args:
            texts: captions or prompts.
            rows: see `images`.
        """
        ...
