"""What every source of samples is: encoded bytes by number."""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable


@runtime_checkable
class Source(Protocol):
    """Samples by number; threads may share an instance."""

    def __len__(self) -> int:
        """Returns the number of samples."""
        ...

    def __getitem__(self, index: int) -> Mapping[str, bytes]:
        """Returns {"image": encoded bytes, "txt": ..., "json": ...}: the image and what was needed.

        Raises:
            IndexError: if there is no such sample.
            BadSampleError: if this one cannot be read.
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
