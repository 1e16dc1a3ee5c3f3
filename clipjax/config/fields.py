"""Types and checks that several sections share."""

from typing import Literal

Activation = Literal["gelu", "quick_gelu", "gelu_tanh", "silu", "relu"]
Remat = Literal["none", "names", "dots", "full"]


def check_positive(**sizes: int | tuple[int, ...]) -> None:
    """Raises ValueError unless all sizes are positive; an empty tuple is not."""
    for name, size in sizes.items():
        parts = size if isinstance(size, tuple) else (size,)
        if not parts or min(parts) < 1:
            raise ValueError(f"{name}={size} must be positive")


def check_heads(width: int, num_heads: int) -> None:
    """Raises ValueError unless the heads divide the width."""
    if width % num_heads:
        raise ValueError(f"num_heads={num_heads} does not divide width={width}")
