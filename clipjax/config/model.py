"""What a dual encoder is made of."""

import dataclasses
from typing import Any, Literal

from clipjax.config.fields import AttentionImplementation, ComputeDtype, Remat, check_positive
from clipjax.config.head import HeadConfig
from clipjax.config.image_towers import EfficientNetConfig, ImageConfig, ViTConfig
from clipjax.config.self_distill import PrototypeHeadsConfig
from clipjax.config.text_towers import (
    BertConfig,
    CappaDecoderConfig,
    DecoderConfig,
    MatchingConfig,
    ModernTextConfig,
    TextConfig,
    TextTowerConfig,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ComputeConfig:
    """How the towers are computed; it changes memory and speed, not the parameters' meaning.

    Attributes:
        dtype: of activations and matrix products; parameters stay float32. float16 is for encoding
            only: to train in it would need losses that are scaled.
        reduce_dtype: in which the devices add up their gradients of the kernels of linear maps and
            convolutions, nearly all of the bytes; None for `dtype`. float32 moves twice as many as
            bfloat16, and its sum over many devices is not rounded to eight bits at each.
        attention: what computes it. xla: products and a softmax; cudnn: NVIDIA's fused kernel,
            which keeps no matrix of scores, in bfloat16 only and without masks of single tokens;
            auto: cudnn where it can be, otherwise xla.
        remat: what the backward pass finds saved, from most to least. none: everything; dots: all
            matrix products and convolutions; names: the outputs of the qkv, attention and first
            MLP products, and of convolutions; qkv_attn: those without the MLP's; attn: those of
            attention alone; full: only the input of each block.
        scan_layers: one compiled block looped over stacked parameters (compiles faster, runs
            slower on CPU) instead of unrolled blocks.
    """

    dtype: ComputeDtype = "float32"
    reduce_dtype: Literal["float32", "bfloat16"] | None = None
    attention: AttentionImplementation = "auto"
    remat: Remat = "none"
    scan_layers: bool = False

    def __post_init__(self):
        if self.reduce_dtype == "bfloat16" and self.dtype == "float32":
            raise ValueError(
                "reduce_dtype='bfloat16' with dtype='float32': gradients that are computed in "
                "float32 are added up in it. Set dtype='bfloat16', or leave reduce_dtype out."
            )
        if self.attention == "cudnn" and self.dtype == "float32":
            raise ValueError(
                "attention='cudnn' with dtype='float32': cuDNN has no attention in float32. Set "
                "dtype='bfloat16', or attention='auto', which takes XLA in float32."
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class DualEncoderConfig:
    """Two towers that meet in one space.

    Attributes:
        embed_dim: size of the shared space.
        head: how the towers enter it.
        init_logit_scale: initial multiplier of the cosine similarities (1 / temperature).
        exact_temperature: keep beside the logarithm of the scale, as model state, what float32 has
            no room for, so that a temperature that was read (ALIGN) is written with the same bits.
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
        decoder: what writes captions from the tokens of a Vision Transformer; None for none.
        matching: what tells whether an image and a text belong together, from the tokens of a
            Vision Transformer; None for nothing.
        self_distill: heads for learning from the model's own average, for training only; None for
            none.
    """

    image: ImageConfig = ViTConfig()
    text: TextTowerConfig = TextConfig()
    embed_dim: int = 512
    head: HeadConfig = HeadConfig()
    init_logit_scale: float = 1 / 0.07
    exact_temperature: bool = False
    init_logit_bias: float | None = None
    pixel_mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    pixel_std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)
    resize: Literal["crop", "squash", "pad"] = "crop"
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    resize_side: int | None = None
    crop_offset: Literal["nearest", "down"] = "nearest"
    pad_value: int = 0
    decoder: DecoderConfig | None = None
    matching: MatchingConfig | None = None
    self_distill: PrototypeHeadsConfig | None = None
    compute: ComputeConfig = ComputeConfig()

    def __post_init__(self):
        check_positive(embed_dim=self.embed_dim)
        self._check_widths()
        self._check_decoder()
        self._check_matching()
        self._check_self_distill()
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
        pooler = isinstance(image, ViTConfig) and image.pool == "coca"
        if isinstance(image, ViTConfig) and pooler and self.embed_dim % image.pooler_heads:
            raise ValueError(
                f"image.pooler_heads={image.pooler_heads} does not divide "
                f"embed_dim={self.embed_dim}, the width of the pooler"
            )
        bare_image = not pooler and isinstance(image, ViTConfig) and not image.projection
        if isinstance(image, ViTConfig) and bare_image and image.width != self.embed_dim:
            raise ValueError(
                f"image.projection=False needs embed_dim={self.embed_dim} to be "
                f"image.width={image.width}"
            )
        if (
            isinstance(image, EfficientNetConfig)
            and not image.projection
            and image.out_channels != self.embed_dim
        ):
            raise ValueError(
                f"image.projection=False needs embed_dim={self.embed_dim} to be the "
                f"{image.out_channels} channels of the image tower"
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
            _check_same("decoder", decoder, text, "vocab_size", "context_length")
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

    def _check_matching(self) -> None:
        if self.matching is None:
            return
        if not isinstance(self.image, ViTConfig):
            raise ValueError(
                f"matching reads the tokens of an image.kind='vit', not of {self.image.kind!r}"
            )
        _check_same("matching", self.matching, self.text, "vocab_size", "context_length", "pad_id")

    def _check_self_distill(self) -> None:
        if self.self_distill is None:
            return
        if not isinstance(self.image, ViTConfig):
            raise ValueError(
                "self_distill hides patches of an image.kind='vit'; an image.kind="
                f"{self.image.kind!r} has none"
            )
        if self.image.pool == "coca":
            raise ValueError(
                "self_distill with image.pool='coca': what the queries of the pooler have read "
                "stands for no patch. Choose another pool"
            )

    def of_length(self, context_length: int) -> dict[str, Any]:
        """Returns what has the length of the text tower; CoCa's decoder takes any."""
        return {
            name: dataclasses.replace(part, context_length=context_length)
            for name, part in (("decoder", self.decoder), ("matching", self.matching))
            if isinstance(part, CappaDecoderConfig | MatchingConfig)
        }

    @property
    def image_token_width(self) -> int:
        """Channels of what a decoder reads of an image."""
        assert isinstance(self.image, ViTConfig)
        return self.embed_dim if self.image.pool == "coca" else self.image.width


def _check_same(
    name: str, part: CappaDecoderConfig | MatchingConfig, text: TextTowerConfig, *fields: str
) -> None:
    for field in fields:
        here, there = getattr(part, field), getattr(text, field)
        if here != there:
            raise ValueError(
                f"{name}.{field}={here} must be text.{field}={there}: both take the same tokens"
            )
