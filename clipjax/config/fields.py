"""Types and checks that several sections share."""

from typing import Any, Literal

Activation = Literal["gelu", "quick_gelu", "gelu_tanh", "silu", "relu"]
ComputeDtype = Literal["float32", "bfloat16", "float16"]
Remat = Literal["none", "dots", "names", "qkv_attn", "attn", "full"]
AttentionImplementation = Literal["auto", "xla", "cudnn"]


def check_positive(**sizes: int | tuple[int, ...]) -> None:
    """Raises ValueError unless all sizes are positive; an empty tuple is not."""
    for name, size in sizes.items():
        parts = size if isinstance(size, tuple) else (size,)
        if not parts or min(parts) < 1:
            raise ValueError(f"{name}={size} must be positive")


def check_blocks(config: Any) -> None:
    """Raises ValueError unless the sizes of a section's transformer blocks can be built."""
    check_positive(
        width=config.width,
        depth=config.depth,
        num_heads=config.num_heads,
        mlp_dim=config.mlp_dim,
    )
    check_heads(config.width, config.num_heads)


def check_stride(image_size: int, stride: int) -> None:
    """Raises ValueError unless an image can be halved as often as a network does."""
    if image_size % stride:
        raise ValueError(f"image_size={image_size} is not a multiple of {stride}, the total stride")


def check_dropout(patch_dropout: float) -> None:
    """Raises ValueError unless some patches are left."""
    if not 0 <= patch_dropout < 1:
        raise ValueError(f"patch_dropout={patch_dropout} must be in [0, 1)")


def check_heads(width: int, num_heads: int) -> None:
    """Raises ValueError unless the heads divide the width."""
    if width % num_heads:
        raise ValueError(f"num_heads={num_heads} does not divide width={width}")
