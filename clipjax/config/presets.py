"""Published models by the name under which the field knows them.

Parameters and FLOPs are tested against open_clip's models and its published profile.
"""

from clipjax.config.errors import UsageError, did_you_mean
from clipjax.config.model import DualEncoderConfig
from clipjax.config.presets_coca import COCA
from clipjax.config.presets_convnext import CONVNEXTS
from clipjax.config.presets_eva import EVA
from clipjax.config.presets_resnet import RESNETS
from clipjax.config.presets_siglip import SIGLIPS
from clipjax.config.presets_text import TEXT_PRESETS
from clipjax.config.presets_vit import VITS

PRESETS: dict[str, DualEncoderConfig] = {
    **VITS,
    **SIGLIPS,
    **RESNETS,
    **CONVNEXTS,
    **EVA,
    **COCA,
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
