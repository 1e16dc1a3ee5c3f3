"""Published models by the name under which the field knows them.

Widths, depths and heads: Radford et al. 2021, table 20, https://arxiv.org/abs/2103.00020; Cherti et
al. 2022, https://arxiv.org/abs/2212.07143 (H, g, bigG, e); Zhai et al. 2023,
https://arxiv.org/abs/2303.15343 (SigLIP). Parameters and FLOPs are tested against open_clip's
published profile.
"""

import dataclasses

from clipjax.config.errors import UsageError, did_you_mean
from clipjax.config.image_towers import ViTConfig
from clipjax.config.model import DualEncoderConfig
from clipjax.config.presets_text import TEXT_PRESETS
from clipjax.config.text_towers import TextConfig

_TEXT = {
    384: TextConfig(width=384, num_heads=6, mlp_dim=1536),
    512: TextConfig(width=512, num_heads=8, mlp_dim=2048),
    640: TextConfig(width=640, num_heads=10, mlp_dim=2560),
    768: TextConfig(width=768, num_heads=12, mlp_dim=3072),
    1024: TextConfig(width=1024, num_heads=16, mlp_dim=4096, depth=24),
    1280: TextConfig(width=1280, num_heads=20, mlp_dim=5120, depth=32),
}

# name: (width, depth, heads, MLP width, width of the text tower, size of the shared space)
_CLIP = {
    "S": (384, 12, 6, 1536, 384, 384),
    "M": (512, 12, 8, 2048, 512, 512),
    "B": (768, 12, 12, 3072, 512, 512),
    "B+": (896, 12, 14, 3584, 640, 640),
    "L": (1024, 24, 16, 4096, 768, 768),
    "H": (1280, 32, 16, 5120, 1024, 1024),
    "g": (1408, 40, 16, 6144, 1024, 1024),
    "bigG": (1664, 48, 16, 8192, 1280, 1280),
    "e": (1792, 56, 16, 15360, 1280, 1280),
}

# name: (row of _CLIP, patch size, image size)
_SIZES = {
    "ViT-S-32": ("S", 32, 224),
    "ViT-S-16": ("S", 16, 224),
    "ViT-M-32": ("M", 32, 224),
    "ViT-M-16": ("M", 16, 224),
    "ViT-B-32": ("B", 32, 224),
    "ViT-B-32-256": ("B", 32, 256),
    "ViT-B-16": ("B", 16, 224),
    "ViT-B-32-plus-256": ("B+", 32, 256),
    "ViT-B-16-plus": ("B+", 16, 224),
    "ViT-B-16-plus-240": ("B+", 16, 240),
    "ViT-L-16": ("L", 16, 224),
    "ViT-L-16-320": ("L", 16, 320),
    "ViT-L-14": ("L", 14, 224),
    "ViT-L-14-280": ("L", 14, 280),
    "ViT-L-14-336": ("L", 14, 336),
    "ViT-H-16": ("H", 16, 224),
    "ViT-H-14": ("H", 14, 224),
    "ViT-g-14": ("g", 14, 224),
    "ViT-bigG-14": ("bigG", 14, 224),
    "ViT-e-14": ("e", 14, 224),
}


def _clip(row: str, patch_size: int, image_size: int) -> DualEncoderConfig:
    width, depth, heads, mlp_dim, text_width, embed_dim = _CLIP[row]
    text = _TEXT[text_width]
    if row == "e":
        text = dataclasses.replace(text, depth=36)
    image = ViTConfig(
        image_size=image_size,
        patch_size=patch_size,
        width=width,
        depth=depth,
        num_heads=heads,
        mlp_dim=mlp_dim,
    )
    return DualEncoderConfig(image=image, text=text, embed_dim=embed_dim)


def _siglip_base(image_size: int) -> DualEncoderConfig:
    return DualEncoderConfig(
        image=ViTConfig(
            image_size=image_size,
            patch_size=16,
            pool="map",
            pre_norm=False,
            patch_bias=True,
            projection=False,
            activation="gelu_tanh",
            norm_eps=1e-6,
        ),
        text=TextConfig(
            vocab_size=32000,
            context_length=64,
            width=768,
            num_heads=12,
            mlp_dim=3072,
            causal=False,
            pool="last",
            projection_bias=True,
            activation="gelu_tanh",
            norm_eps=1e-6,
        ),
        embed_dim=768,
        init_logit_scale=10.0,
        init_logit_bias=-10.0,
        pixel_mean=(0.5, 0.5, 0.5),
        pixel_std=(0.5, 0.5, 0.5),
    )


PRESETS: dict[str, DualEncoderConfig] = {
    **{name: _clip(*sizes) for name, sizes in _SIZES.items()},
    "ViT-B-16-SigLIP": _siglip_base(224),
    "ViT-B-16-SigLIP-256": _siglip_base(256),
    "ViT-B-16-SigLIP-384": _siglip_base(384),
    "ViT-B-16-SigLIP-512": _siglip_base(512),
    **TEXT_PRESETS,
}


def preset(name: str) -> DualEncoderConfig:
    """Returns the configuration of a published model.

    Raises:
        UsageError: if the name is not known; it says the nearest one.

    >>> preset("ViT-B-32").image.num_patches
    49
    """
    if name not in PRESETS:
        raise UsageError(
            f"no preset named {name!r}.{did_you_mean(name, PRESETS)} Known: {', '.join(PRESETS)}."
        )
    return PRESETS[name]
