"""open_clip: state dicts of CLIP, CustomTextCLIP and CoCa.

A family is a function from the config of a model to the layout of one tower, and one line in a
table here.
"""

from collections.abc import Callable

from clipjax.config import DualEncoderConfig
from clipjax.interchange.layout import Layout, joined
from clipjax.interchange.open_clip.clip import FORMAT, scale_layout, text_layout
from clipjax.interchange.open_clip.coca import class_token_layout, decoder_layout, pooler_layout
from clipjax.interchange.open_clip.convnext import convnext_layout
from clipjax.interchange.open_clip.eva import eva_layout
from clipjax.interchange.open_clip.hf_text import hf_text_layout
from clipjax.interchange.open_clip.resnet import resnet_layout
from clipjax.interchange.open_clip.timm_vit import any_vit_layout

IMAGE: dict[str, Callable[[DualEncoderConfig], Layout]] = {
    "vit": any_vit_layout,
    "resnet": resnet_layout,
    "convnext": convnext_layout,
    "eva": eva_layout,
}
TEXT: dict[str, Callable[[DualEncoderConfig, str], Layout]] = {
    "transformer": text_layout,
    "bert": hf_text_layout,
}


def layout(config: DualEncoderConfig, *, custom_text: bool) -> Layout:
    """Returns where open_clip keeps the parameters of a model.

    Args:
        config: of the model.
        custom_text: whether the text tower stands under `text.` (CustomTextCLIP, CoCa) or at the
            top (CLIP).
    """
    prefix = "text." if custom_text else ""
    return joined(
        scale_layout(config),
        IMAGE[config.image.kind](config),
        pooler_layout(config),
        TEXT[config.text.kind](config, prefix),
        class_token_layout(config, prefix),
        decoder_layout(config),
    )


__all__ = ["FORMAT", "IMAGE", "TEXT", "layout"]
