<<<<<<< HEAD
"""Samples by number: what every source of training data gives."""
=======
"""What every source of samples is: encoded bytes by number."""
>>>>>>> src

from collections.abc import Mapping
from typing import Protocol, runtime_checkable


@runtime_checkable
class Source(Protocol):
    """Samples by number; threads may share an instance."""

    def __len__(self) -> int:
<<<<<<< HEAD
        """Returns their number."""
        ...

    def __getitem__(self, index: int) -> Mapping[str, bytes]:
        """Returns {"image": encoded bytes, "txt": ..., ...}: the image and what was needed.

        Raises:
            BadSampleError: if this sample cannot be read, and others can.
=======
        """Returns the number of samples."""
        ...

    def __getitem__(self, index: int) -> Mapping[str, bytes]:
        """Returns {"image": encoded bytes, "txt": ..., "json": ...}: the image and what was needed.

        Raises:
            IndexError: if there is no such sample.
            BadSampleError: if this one cannot be read.
>>>>>>> src
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
