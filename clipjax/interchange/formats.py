"""The formats by name."""

from collections.abc import Callable
from typing import Any

from clipjax.config import DualEncoderConfig
from clipjax.interchange import big_vision, big_vision_cappa, open_clip, openai, transformers
from clipjax.interchange.layout import Layout

LAYOUTS: dict[str, Callable[..., Layout]] = {
    "big_vision": big_vision.layout,
    "big_vision_cappa": big_vision_cappa.layout,
    "open_clip": open_clip.layout,
    "openai": openai.layout,
    "transformers": transformers.layout,
}


def layout_of(name: str, config: DualEncoderConfig, **options: Any) -> Layout:
    """Returns where a format keeps the parameters of a model.

    Args:
        name: of the format.
        config: of the model.
        options: of the format, such as `custom_text`.
    """
    return LAYOUTS[name](config, **options)
