"""The sizes of Vision Transformers by the letters under which the field knows them.

Dosovitskiy et al. 2020, table 1, https://arxiv.org/abs/2010.11929 (B, L, H); Zhai et al. 2021,
table 2, https://arxiv.org/abs/2106.04560 (Ti, S, g, G); Chen et al. 2022,
https://arxiv.org/abs/2209.06794 (e); Alabdulmohsin et al. 2023, https://arxiv.org/abs/2305.13035
(So400m); Tschannen et al. 2025, https://arxiv.org/abs/2502.14786 (g-opt).
"""

import dataclasses
from typing import Any

from clipjax.config.image_towers import ViTConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class ViTShape:
    """Width, depth and heads of a Vision Transformer."""

    width: int
    depth: int
    num_heads: int
    mlp_dim: int


VIT_SHAPES: dict[str, ViTShape] = {
    "Ti": ViTShape(width=192, depth=12, num_heads=3, mlp_dim=768),
    "S": ViTShape(width=384, depth=12, num_heads=6, mlp_dim=1536),
    "M": ViTShape(width=512, depth=12, num_heads=8, mlp_dim=2048),
    "B": ViTShape(width=768, depth=12, num_heads=12, mlp_dim=3072),
    "B+": ViTShape(width=896, depth=12, num_heads=14, mlp_dim=3584),
    "L": ViTShape(width=1024, depth=24, num_heads=16, mlp_dim=4096),
    "So400m": ViTShape(width=1152, depth=27, num_heads=16, mlp_dim=4304),
    "H": ViTShape(width=1280, depth=32, num_heads=16, mlp_dim=5120),
    "g": ViTShape(width=1408, depth=40, num_heads=16, mlp_dim=6144),
    "g-opt": ViTShape(width=1536, depth=40, num_heads=16, mlp_dim=6144),
    "G": ViTShape(width=1664, depth=48, num_heads=16, mlp_dim=8192),
    "G-opt": ViTShape(width=1536, depth=48, num_heads=16, mlp_dim=8192),
    "e": ViTShape(width=1792, depth=56, num_heads=16, mlp_dim=15360),
}
"""open_clip's bigG is G; its plus is B+."""


def vit_of(shape: str, **fields: Any) -> ViTConfig:
    """Returns the config of a Vision Transformer of one of the shapes.

    Args:
        shape: a key of `VIT_SHAPES`.
        fields: the other fields of the config.

    >>> vit_of("So400m", patch_size=14).mlp_dim
    4304
    """
    return ViTConfig(**dataclasses.asdict(VIT_SHAPES[shape]), **fields)
