"""SigLIP and SigLIP 2, by open_clip's names.

Zhai et al. 2023, https://arxiv.org/abs/2303.15343; Tschannen et al. 2025,
https://arxiv.org/abs/2502.14786. The activations are those that open_clip and timm evaluate the
models with: the tanh form of GELU in the text towers of SigLIP 2 and in the image towers B/32 and
g-opt/16, the exact one everywhere else, although all were trained with the tanh form.
"""

import dataclasses

from clipjax.config.image_towers import ViTConfig
from clipjax.config.model import DualEncoderConfig
from clipjax.config.text_towers import TextConfig
from clipjax.config.vit_shapes import VIT_SHAPES, vit_of

# name: (shape, patch size, image size)
_FIRST = {
    "ViT-B-16-SigLIP": ("B", 16, 224),
    "ViT-B-16-SigLIP-256": ("B", 16, 256),
    "ViT-B-16-SigLIP-384": ("B", 16, 384),
    "ViT-B-16-SigLIP-512": ("B", 16, 512),
    "ViT-L-16-SigLIP-256": ("L", 16, 256),
    "ViT-L-16-SigLIP-384": ("L", 16, 384),
    "ViT-SO400M-14-SigLIP": ("So400m", 14, 224),
    "ViT-SO400M-14-SigLIP-378": ("So400m", 14, 378),
    "ViT-SO400M-14-SigLIP-384": ("So400m", 14, 384),
}
_MANY_LANGUAGES = {
    "ViT-B-16-SigLIP-i18n-256": ("B", 16, 256),
    "ViT-SO400M-16-SigLIP-i18n-256": ("So400m", 16, 256),
}
_SECOND = {
    "ViT-B-32-SigLIP2-256": ("B", 32, 256),
    "ViT-B-16-SigLIP2": ("B", 16, 224),
    "ViT-B-16-SigLIP2-256": ("B", 16, 256),
    "ViT-B-16-SigLIP2-384": ("B", 16, 384),
    "ViT-B-16-SigLIP2-512": ("B", 16, 512),
    "ViT-L-16-SigLIP2-256": ("L", 16, 256),
    "ViT-L-16-SigLIP2-384": ("L", 16, 384),
    "ViT-L-16-SigLIP2-512": ("L", 16, 512),
    "ViT-SO400M-14-SigLIP2": ("So400m", 14, 224),
    "ViT-SO400M-14-SigLIP2-378": ("So400m", 14, 378),
    "ViT-SO400M-16-SigLIP2-256": ("So400m", 16, 256),
    "ViT-SO400M-16-SigLIP2-384": ("So400m", 16, 384),
    "ViT-SO400M-16-SigLIP2-512": ("So400m", 16, 512),
    "ViT-gopt-16-SigLIP2-256": ("g-opt", 16, 256),
    "ViT-gopt-16-SigLIP2-384": ("g-opt", 16, 384),
}


# What differs in the text tower of one model from the others of its kind.
_TEXT_FIELDS = {
    "ViT-SO400M-14-SigLIP": {"context_length": 16},
    "ViT-SO400M-16-SigLIP-i18n-256": {"projection": False, "projection_bias": False},
}


def siglip_vit(shape: str, patch_size: int, image_size: int) -> ViTConfig:
    """Returns the image tower of a SigLIP, as timm has it."""
    tanh = (shape, patch_size) in (("B", 32), ("g-opt", 16))
    return vit_of(
        shape,
        image_size=image_size,
        patch_size=patch_size,
        crop_remainder=image_size % patch_size > 0,
        pool="map",
        pre_norm=False,
        patch_bias=True,
        projection=False,
        activation="gelu_tanh" if tanh else "gelu",
        norm_eps=1e-6,
    )


def _siglip(
    name: str, size: tuple[str, int, int], *, vocab_size: int, tanh_text: bool
) -> DualEncoderConfig:
    shape, image = size[0], siglip_vit(*size)
    text = TextConfig(
        **dataclasses.asdict(VIT_SHAPES["So400m" if shape == "g-opt" else shape]),
        **{"context_length": 64, "projection_bias": True} | _TEXT_FIELDS.get(name, {}),
        vocab_size=vocab_size,
        causal=False,
        pool="last",
        activation="gelu_tanh" if tanh_text else "gelu",
        norm_eps=1e-6,
    )
    return DualEncoderConfig(
        image=image,
        text=text,
        embed_dim=image.width,
        init_logit_scale=10.0,
        init_logit_bias=-10.0,
        pixel_mean=(0.5, 0.5, 0.5),
        pixel_std=(0.5, 0.5, 0.5),
        resize="squash",
    )


SIGLIPS: dict[str, DualEncoderConfig] = {
    name: _siglip(name, size, vocab_size=vocab_size, tanh_text=tanh_text)
    for sizes, vocab_size, tanh_text in (
        (_FIRST, 32_000, False),
        (_MANY_LANGUAGES, 250_000, False),
        (_SECOND, 256_000, True),
    )
    for name, size in sizes.items()
}
