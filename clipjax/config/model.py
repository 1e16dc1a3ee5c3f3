"""What a dual encoder is made of."""

import dataclasses
from typing import Literal

from clipjax.config.fields import Remat, check_positive
from clipjax.config.image_towers import ImageConfig, ViTConfig
from clipjax.config.text_towers import (
    BertConfig,
    CappaDecoderConfig,
    DecoderConfig,
    ModernTextConfig,
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
        decoder: what writes captions from the tokens of a Vision Transformer; None for none.
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
    decoder: DecoderConfig | None = None
    compute: ComputeConfig = ComputeConfig()

    def __post_init__(self):
        check_positive(embed_dim=self.embed_dim)
        self._check_widths()
        self._check_decoder()
        if self.init_logit_scale <= 0:
            raise ValueError(f"init_logit_scale={self.init_logit_scale} must be positive")

    def _check_widths(self) -> None:
        if isinstance(self.image, ViTConfig):
            _check_vit(self.image, self.embed_dim)
        text = self.text
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

    def _check_decoder(self) -> None:
        decoder, text = self.decoder, self.text
        if decoder is None:
            return
        if not isinstance(self.image, ViTConfig):
            raise ValueError(
                f"decoder.kind={decoder.kind!r} reads the tokens of an image.kind='vit', not of "
                f"{self.image.kind!r}"
            )
        if isinstance(decoder, CappaDecoderConfig):
            _check_same(decoder, text, "vocab_size", "context_length")
            return
        if isinstance(text, ModernTextConfig):
            raise ValueError(
                "decoder.kind='coca' goes on from the tokens of a text.kind='transformer' or "
                "'bert', not of 'modern'"
            )
        if decoder.width != text.width:
            raise ValueError(
                f"decoder.width={decoder.width} must be text.width={text.width}: the decoder "
                "goes on from the tokens of the text tower"
            )
        if decoder.width != self.image_token_width:
            raise ValueError(
                f"decoder.width={decoder.width} must be the width of the image tokens, "
                f"{self.image_token_width}"
            )

    @property
    def image_token_width(self) -> int:
        """Channels of what a decoder reads of an image."""
        assert isinstance(self.image, ViTConfig)
        return self.embed_dim if self.image.pool == "coca" else self.image.width


def _check_vit(image: ViTConfig, embed_dim: int) -> None:
    if image.pool == "coca":
        if embed_dim % image.pooler_heads:
            raise ValueError(
                f"image.pooler_heads={image.pooler_heads} does not divide embed_dim={embed_dim}, "
                "the width of the pooler"
            )
    elif not image.projection and image.width != embed_dim:
        raise ValueError(
            f"image.projection=False needs embed_dim={embed_dim} to be image.width={image.width}"
        )


def _check_same(decoder: CappaDecoderConfig, text: TextTowerConfig, *fields: str) -> None:
    for field in fields:
        here, there = getattr(decoder, field), getattr(text, field)
        if here != there:
            raise ValueError(
                f"decoder.{field}={here} must be text.{field}={there}: both take the same tokens"
            )
