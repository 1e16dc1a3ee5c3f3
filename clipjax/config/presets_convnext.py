"""CLIP with ConvNeXt, Cherti et al. 2022, https://arxiv.org/abs/2212.07143.

Widths and depths: Liu et al. 2022, section 3, https://arxiv.org/abs/2201.03545.
"""

import dataclasses

from clipjax.config.image_towers import ConvNeXtConfig
from clipjax.config.model import DualEncoderConfig
from clipjax.config.text_towers import TextConfig

_SMALL, _BASE, _LARGE, _XLARGE = (
    tuple(width * 2**stage for stage in range(4)) for width in (96, 128, 192, 256)
)

_IMAGES = {
    "tiny": ConvNeXtConfig(widths=_SMALL, depths=(3, 3, 9, 3)),
    "small": ConvNeXtConfig(widths=_SMALL),
    "base": ConvNeXtConfig(widths=_BASE),
    "large": ConvNeXtConfig(widths=_LARGE),
    "large_d": ConvNeXtConfig(widths=_LARGE, projection="mlp"),
    "xlarge": ConvNeXtConfig(widths=_XLARGE),
    "xxlarge": ConvNeXtConfig(widths=(384, 768, 1536, 3072), depths=(3, 4, 30, 3), norm_eps=1e-5),
}

# name: (key of _IMAGES, image size, width and depth of the text tower, size of the shared space)
_SIZES = {
    "convnext_tiny": ("tiny", 224, 512, 12, 1024),
    "convnext_small": ("small", 224, 512, 12, 512),
    "convnext_base": ("base", 224, 512, 12, 512),
    "convnext_base_w": ("base", 256, 640, 12, 640),
    "convnext_base_w_320": ("base", 320, 640, 12, 640),
    "convnext_large": ("large", 224, 768, 12, 768),
    "convnext_large_d": ("large_d", 256, 768, 16, 768),
    "convnext_large_d_320": ("large_d", 320, 768, 16, 768),
    "convnext_xlarge": ("xlarge", 256, 1024, 20, 1024),
    "convnext_xxlarge": ("xxlarge", 256, 1024, 24, 1024),
    "convnext_xxlarge_320": ("xxlarge", 320, 1024, 24, 1024),
}


def _convnext(image: str, image_size: int, width: int, depth: int, embed_dim: int):
    text = TextConfig(width=width, depth=depth, num_heads=width // 64, mlp_dim=4 * width)
    return DualEncoderConfig(
        image=dataclasses.replace(_IMAGES[image], image_size=image_size),
        text=text,
        embed_dim=embed_dim,
    )


CONVNEXTS: dict[str, DualEncoderConfig] = {
    name: _convnext(*sizes) for name, sizes in _SIZES.items()
}
"""By open_clip's names."""
