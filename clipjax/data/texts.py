"""Texts by number: what encoders read; a list of them, or captions that are read when asked for."""

from typing import Protocol, runtime_checkable


@runtime_checkable
class Texts(Protocol):
    """Texts by number; threads may share an instance."""

    def __len__(self) -> int:
        """Returns their number."""
        ...

    def __getitem__(self, index: int, /) -> str:
        """Returns a text.

        Raises:
            BadSampleError: if it cannot be read; its embedding is a row of zeros then.
        """
        ...
