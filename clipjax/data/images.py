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
        """Writes picture `index` into `out`, uint8 [side, side, 3]."""
        ...
