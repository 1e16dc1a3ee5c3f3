"""Samples by number: what every source of training data gives."""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable


@runtime_checkable
class Source(Protocol):
    """Samples by number; threads may share an instance."""

    def __len__(self) -> int:
        """Returns their number."""
        ...

    def __getitem__(self, index: int) -> Mapping[str, bytes]:
        """Returns {"image": encoded bytes, "txt": ..., ...}: the image and what was needed.

        Raises:
            BadSampleError: if this sample cannot be read, and others can.
        """
        ...

    def key(self, index: int) -> str:
        """Returns "where: key" of a sample, for messages."""
        ...

    def digest(self) -> str:
        """Returns a hash of which samples there are, in which order."""
        ...

    def close(self) -> None:
        """Closes the files; reading opens them again."""
        ...
