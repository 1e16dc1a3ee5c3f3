"""Pictures by number: what encoders read and data sources give."""

from typing import Protocol, runtime_checkable

import numpy as np


@runtime_checkable
class Images(Protocol):
    """Pictures by number; `fill` may be called from several threads."""

    def __len__(self) -> int:
        """Returns their number."""
        ...

    def fill(self, index: int, out: np.ndarray) -> None:
        """Writes picture `index` into `out`, uint8 [side, side, 3].

        Raises:
            BadSampleError: if it does not decode; its embedding is a row of zeros then.
        """
        ...


@runtime_checkable
class NamedImages(Images, Protocol):
    """Pictures that can be told apart in a message."""

    def key(self, index: int) -> str:
        """Returns "where: key" of a picture."""
        ...
