"""What a family of towers says about its sections in open_clip's config."""

import dataclasses
from collections.abc import Callable
from typing import Any

from clipjax.config import DualEncoderConfig, ImageConfig, TextTowerConfig
from clipjax.interchange.open_clip.sections import Section


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
    """What stands outside of the towers' sections and is needed there.

    Attributes:
        embed_dim: size of the shared space.
        quick_gelu: the switch of open_clip's own transformers, for both towers.
    """

    embed_dim: int
    quick_gelu: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageFamily:
    """How `vision_cfg` describes one family of image towers.

    Attributes:
        reads: whether a section is of this family; must not take settings.
        read: the tower of a section.
        writes: whether the image tower of a model is of this family.
        write: the section of the image tower of a model.
        names: of timm for its towers, for hints.
        quick_gelu: what the image tower needs the switch to be; None if it does not look at it.
        custom_text: whether open_clip keeps the text tower of such a model under `text.`.
    """

    reads: Callable[[Section], bool]
    read: Callable[[Section, Model], ImageConfig]
    writes: Callable[[DualEncoderConfig], bool]
    write: Callable[[DualEncoderConfig], dict[str, Any]]
    names: tuple[str, ...] = ()
    quick_gelu: Callable[[DualEncoderConfig], bool | None] = lambda _: None
    custom_text: Callable[[DualEncoderConfig], bool] = lambda _: False


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextFamily:
    """How `text_cfg` describes one family of text towers.

    Attributes:
        reads: as of `ImageFamily`.
        read: likewise.
        writes: likewise.
        write: likewise.
        names: of Hugging Face for its towers, for hints.
        quick_gelu: likewise.
        custom_text: whether such a tower always stands under `text.`.
    """

    reads: Callable[[Section], bool]
    read: Callable[[Section, Model], TextTowerConfig]
    writes: Callable[[DualEncoderConfig], bool]
    write: Callable[[DualEncoderConfig], dict[str, Any]]
    names: tuple[str, ...] = ()
    quick_gelu: Callable[[DualEncoderConfig], bool | None] = lambda _: None
    custom_text: bool = False
