"""CLIP's ResNets, Radford et al. 2021, table 19, https://arxiv.org/abs/2103.00020."""

from clipjax.config.fields import Activation
from clipjax.config.image_towers import ResNetConfig
from clipjax.config.model import DualEncoderConfig
from clipjax.config.text_towers import TextConfig

# name: (image size, depths, width, width of the text tower, size of the shared space)
_SIZES = {
    "RN50": (224, (3, 4, 6, 3), 64, 512, 1024),
    "RN101": (224, (3, 4, 23, 3), 64, 512, 512),
    "RN50x4": (288, (4, 6, 10, 6), 80, 640, 640),
    "RN50x16": (384, (6, 8, 18, 8), 96, 768, 768),
    "RN50x64": (448, (3, 15, 36, 10), 128, 1024, 1024),
}


def _resnet(name: str, activation: Activation) -> DualEncoderConfig:
    image_size, depths, width, text_width, embed_dim = _SIZES[name]
    return DualEncoderConfig(
        image=ResNetConfig(image_size=image_size, depths=depths, width=width, num_heads=width // 2),
        text=TextConfig(
            width=text_width,
            num_heads=text_width // 64,
            mlp_dim=4 * text_width,
            activation=activation,
        ),
        embed_dim=embed_dim,
    )


RESNETS: dict[str, DualEncoderConfig] = {
    **{name: _resnet(name, "gelu") for name in _SIZES},
    **{f"{name}-quickgelu": _resnet(name, "quick_gelu") for name in _SIZES},
}
"""By name; `quickgelu` is the activation of the text tower, OpenAI's own."""
