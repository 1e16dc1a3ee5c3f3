"""Where embeddings are kept as they come, so that work goes on where it stopped."""

from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

Embeds = Float[np.ndarray, "items embed"]


@runtime_checkable
class Rows(Protocol):
    """Rows of an array that is filled from the first to the last."""

    @property
    def done(self) -> int:
        """How many rows are there."""
        ...

    @property
    def array(self) -> Embeds:
        """The rows that are there, float32."""
        ...

    def append(self, embeds: Embeds) -> None:
        """Adds the next rows; when this returns they are kept."""
        ...


class RowsInMemory:
    """Rows of a known number in the memory of this process.

    Args:
        count: rows in the end.
        dim: numbers of a row.
        done: rows that are filled in later by `fill`.
    """

    def __init__(self, count: int, dim: int, done: int = 0):
        self._array, self._done = np.zeros((count, dim), np.float32), done

    @property
    def done(self) -> int:
        """How many rows are there."""
        return self._done

    @property
    def array(self) -> Embeds:
        """The rows that are there, float32."""
        return self._array[: self._done]

    def append(self, embeds: Embeds) -> None:
        """Adds the next rows."""
        self.fill(self._done, embeds)
        self._done += len(embeds)

    def fill(self, first: int, embeds: Embeds) -> None:
        """Writes rows from number `first` on."""
        self._array[first : first + len(embeds)] = embeds
