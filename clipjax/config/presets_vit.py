"""CLIP models with a Vision Transformer, by open_clip's names.

Radford et al. 2021, table 20, https://arxiv.org/abs/2103.00020; Cherti et al. 2022,
https://arxiv.org/abs/2212.07143 (H, g, bigG); Li et al. 2023, https://arxiv.org/abs/2305.07017
(CLIPA); Fang et al. 2023, https://arxiv.org/abs/2309.17425 (H-14-378); Chuang et al. 2025,
https://arxiv.org/abs/2507.22062 (worldwide).
"""

import dataclasses

from clipjax.config.image_towers import ViTConfig
from clipjax.config.model import DualEncoderConfig
from clipjax.config.text_towers import TextConfig
from clipjax.config.vit_shapes import vit_of

_TEXT = {
    256: TextConfig(width=256, num_heads=4, mlp_dim=1024, depth=10),
    384: TextConfig(width=384, num_heads=6, mlp_dim=1536),
    512: TextConfig(width=512, num_heads=8, mlp_dim=2048),
    640: TextConfig(width=640, num_heads=10, mlp_dim=2560),
    768: TextConfig(width=768, num_heads=12, mlp_dim=3072),
    1024: TextConfig(width=1024, num_heads=16, mlp_dim=4096, depth=24),
    1280: TextConfig(width=1280, num_heads=20, mlp_dim=5120, depth=32),
}

# shape: width of the text tower and of the shared space
_TEXT_WIDTHS = {
    "S": 384,
    "M": 512,
    "B": 512,
    "B+": 640,
    "L": 768,
    "H": 1024,
    "g": 1024,
    "G": 1280,
    "e": 1280,
}

# name: (shape, patch size, image size)
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
    "ViT-H-14-378": ("H", 14, 378),
    "ViT-g-14": ("g", 14, 224),
    "ViT-bigG-14": ("G", 14, 224),
    "ViT-e-14": ("e", 14, 224),
}

_QUICK = ("B-32", "B-16", "L-14", "L-14-336", "H-14", "H-14-378", "bigG-14")

# name: (shape, patch size, width of the text tower)
_ALT = {
    "ViT-S-32-alt": ("S", 32, 256),
    "ViT-S-16-alt": ("S", 16, 256),
    "ViT-M-32-alt": ("M", 32, 384),
    "ViT-M-16-alt": ("M", 16, 384),
}

# name: (shape, image size)
_CLIPA = {
    "ViT-L-14-CLIPA": ("L", 224),
    "ViT-L-14-CLIPA-336": ("L", 336),
    "ViT-H-14-CLIPA": ("H", 224),
    "ViT-H-14-CLIPA-336": ("H", 336),
    "ViT-bigG-14-CLIPA": ("G", 224),
    "ViT-bigG-14-CLIPA-336": ("G", 336),
}

# name: (shape, image size, vocabulary, id that ends a text)
_WORLDWIDE = {
    "ViT-L-14-worldwide": ("L", 224, 250_100, 1),
    "ViT-H-14-worldwide": ("H", 224, 901_629, 2),
    "ViT-H-14-worldwide-378": ("H", 378, 901_629, 2),
    "ViT-bigG-14-worldwide": ("G", 224, 901_629, 2),
    "ViT-bigG-14-worldwide-378": ("G", 378, 901_629, 2),
}


def _clip(shape: str, patch_size: int, image_size: int) -> DualEncoderConfig:
    text = _TEXT[_TEXT_WIDTHS[shape]]
    if shape == "e":
        text = dataclasses.replace(text, depth=36)
    image = vit_of(shape, image_size=image_size, patch_size=patch_size)
    resize = "squash" if image_size == 378 else "crop"
    return DualEncoderConfig(image=image, text=text, embed_dim=text.width, resize=resize)


def _quick(model: DualEncoderConfig) -> DualEncoderConfig:
    return dataclasses.replace(
        model,
        image=dataclasses.replace(model.image, activation="quick_gelu"),
        text=dataclasses.replace(model.text, activation="quick_gelu"),
    )


def _alt(shape: str, patch_size: int, text_width: int) -> DualEncoderConfig:
    layer_scale = 1e-4 if (shape, patch_size) == ("M", 16) else None
    return DualEncoderConfig(
        image=vit_of(shape, patch_size=patch_size, layer_scale=layer_scale),
        text=_TEXT[text_width],
        embed_dim=text_width,
    )


def _clipa(shape: str, image_size: int) -> DualEncoderConfig:
    text = dataclasses.replace(
        _TEXT[_TEXT_WIDTHS[shape]],
        vocab_size=32_000,
        context_length=32,
        causal=False,
        pool="last",
    )
    return DualEncoderConfig(
        image=vit_of(
            shape,
            image_size=image_size,
            patch_size=14,
            pool="mean",
            unpooled_class_token=True,
            pre_norm=False,
        ),
        text=text,
        embed_dim=text.width,
        pixel_mean=(0.485, 0.456, 0.406),
        pixel_std=(0.229, 0.224, 0.225),
        resize="squash",
        interpolation="bilinear",
    )


def _worldwide(shape: str, image_size: int, vocab_size: int, end_id: int) -> DualEncoderConfig:
    model = _clip(shape, 14, image_size)
    text = dataclasses.replace(model.text, vocab_size=vocab_size, end_id=end_id)
    return dataclasses.replace(model, text=text)


def _medium_gap() -> DualEncoderConfig:
    image = ViTConfig(
        image_size=256,
        patch_size=16,
        width=512,
        num_heads=8,
        mlp_dim=2048,
        pool="mean",
        norm_before_pool=True,
        pre_norm=False,
        patch_bias=True,
        qkv_bias=False,
        layer_scale=1e-6,
        norm_eps=1e-6,
    )
    return DualEncoderConfig(image=image, text=_TEXT[512])


def _mobile() -> DualEncoderConfig:
    return DualEncoderConfig(
        image=vit_of("L", patch_size=14, projection_bias=True),
        text=dataclasses.replace(_TEXT[768], causal=False),
        embed_dim=768,
    )


_PLAIN = {
    **{name: _clip(*sizes) for name, sizes in _SIZES.items()},
    **{name: _worldwide(*sizes) for name, sizes in _WORLDWIDE.items()},
}

VITS: dict[str, DualEncoderConfig] = {
    **_PLAIN,
    **{f"ViT-{size}-quickgelu": _quick(_PLAIN[f"ViT-{size}"]) for size in _QUICK},
    **{
        f"ViT-{size}-14-worldwide-quickgelu": _quick(_PLAIN[f"ViT-{size}-14-worldwide"])
        for size in ("L", "H")
    },
    **{name: _alt(*sizes) for name, sizes in _ALT.items()},
    **{name: _clipa(*sizes) for name, sizes in _CLIPA.items()},
    "vit_medium_patch16_gap_256": _medium_gap(),
    "MobileCLIP2-L-14": _mobile(),
}
