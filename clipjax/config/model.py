"""What a dual encoder is made of."""

import dataclasses
from typing import Literal

from clipjax.config.fields import Remat, check_positive
from clipjax.config.image_towers import ImageConfig, ViTConfig
from clipjax.config.text_towers import (
    BertConfig,
    CocaDecoderConfig,
    DecoderConfig,
    TextConfig,
    TextTowerConfig,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ComputeConfig:
    """How the towers are computed; it changes memory and speed, not the parameters' meaning.

    Attributes:
        dtype: of activations and matrix products; parameters stay float32.
        remat: what the backward pass finds saved. none: everything; names: the outputs of the
            qkv, attention and first MLP products; dots: all matrix products; full: only the input
            of each block.
        scan_layers: one compiled block looped over stacked parameters (compiles faster, runs
            slower on CPU) instead of unrolled blocks.
    """

    dtype: Literal["float32", "bfloat16"] = "float32"
    remat: Remat = "none"
    scan_layers: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class DualEncoderConfig:
    """Two towers that meet in one space.

    Attributes:
        embed_dim: size of the shared space.
        init_logit_scale: initial multiplier of the cosine similarities (1 / temperature).
        init_logit_bias: initial bias of the logits; None for no bias (softmax loss).
        pixel_mean: of each channel, pixels in [0, 1]; subtracted. The defaults are CLIP's.
        pixel_std: of each channel; divided by after that.
        resize: how a picture of another shape becomes a square where a model is evaluated: the
            central square, the whole squeezed, or the whole with a border.
        interpolation: of that resizing, with Pillow's antialiased filters.
        resize_side: what that resizing aims at where it is more than the tower's image_size, whose
            pixels are then cut out of the middle (ALIGN); None for the image_size itself.
        crop_offset: of the middle where an odd number of pixels is cut away: the nearest pixel,
            half of a pixel to the even one (open_clip, torchvision), or down (transformers).
        pad_value: of the border in [0, 255].
        decoder: what writes captions from image and text tokens; None for none.
    """

    image: ImageConfig = ViTConfig()
    text: TextTowerConfig = TextConfig()
    embed_dim: int = 512
    init_logit_scale: float = 1 / 0.07
    init_logit_bias: float | None = None
    pixel_mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    pixel_std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)
    resize: Literal["crop", "squash", "pad"] = "crop"
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    resize_side: int | None = None
    crop_offset: Literal["nearest", "down"] = "nearest"
    pad_value: int = 0
    decoder: DecoderConfig | None = None
    compute: ComputeConfig = ComputeConfig()

    def __post_init__(self):
        check_positive(embed_dim=self.embed_dim)
        self._check_widths()
        self._check_resize()
        if self.init_logit_scale <= 0:
            raise ValueError(f"init_logit_scale={self.init_logit_scale} must be positive")

    def _check_resize(self) -> None:
        if not 0 <= self.pad_value <= 255:
            raise ValueError(f"pad_value={self.pad_value} must be in [0, 255]")
        if self.resize_side is None:
            return
        if self.resize_side < self.image.image_size:
            raise ValueError(
                f"resize_side={self.resize_side} must not be less than "
                f"image.image_size={self.image.image_size}"
            )
        if self.resize == "pad":
            raise ValueError(
                f"resize_side={self.resize_side} with resize='pad': nothing is cut out of a "
                "picture with a border"
            )

    def _check_widths(self) -> None:
        image, text = self.image, self.text
        if isinstance(image, ViTConfig) and not image.projection and image.width != self.embed_dim:
            raise ValueError(
                f"image.projection=False needs embed_dim={self.embed_dim} to be "
                f"image.width={image.width}"
            )
        bare = (
            not text.projection
            if isinstance(text, TextConfig)
            else (isinstance(text, BertConfig) and text.projection == "none")
        )
        if bare and text.width != self.embed_dim:
            raise ValueError(
                f"a text tower without projection needs embed_dim={self.embed_dim} to be "
                f"text.width={text.width}"
            )
        if isinstance(self.decoder, CocaDecoderConfig) and self.decoder.width != text.width:
            raise ValueError(
                f"decoder.width={self.decoder.width} must be text.width={text.width}: the decoder "
                "goes on from the tokens of the text tower"
            )
