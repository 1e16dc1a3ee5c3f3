"""The image towers, one dataclass a family."""

import dataclasses
from typing import Literal

from clipjax.config.fields import (
    Activation,
    check_blocks,
    check_dropout,
    check_heads,
    check_positive,
    check_stride,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ViTConfig:
    """Vision Transformer; the defaults are CLIP's ViT-B/32.

    Attributes:
        image_size: side of the square input in pixels.
        crop_remainder: pixels at the right and at the bottom that fill no patch are left out;
            without it such an `image_size` is refused.
        pool: class token; mean over patches; one attention head with a learned query (MAP); or
            CoCa's attentional pooler, whose first query is the image and whose others are what a
            decoder reads.
        unpooled_class_token: a class token although it is not pooled (CLIPA).
        class_position: learned positions have a row for the class token; big_vision's have none
            (timm calls that `no_embed_class`).
        registers: learned tokens that are attended to and thrown away.
        positions: learned, fixed two-dimensional sines and cosines, rotary in two dimensions (half
            of each head turns with the row, half with the column), or none.
        pre_norm: CLIP's extra LayerNorm between the embedding and the first block.
        norm_before_pool: the last LayerNorm before a mean over patches instead of after it.
        layer_scale: initial gain of each residual branch; None for no gains.
        patch_dropout: share of the patches left out in training (FLIP).
        pooler_queries: of CoCa's pooler.
        pooler_heads: of CoCa's pooler.
        qkv_bias: of the maps to queries, keys and values in the blocks.
        projection: linear map to the shared space; without it `embed_dim` must equal `width`.
    """

    kind: Literal["vit"] = "vit"
    image_size: int = 224
    crop_remainder: bool = False
    patch_size: int = 32
    width: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_dim: int = 3072
    pool: Literal["cls", "mean", "map", "coca"] = "cls"
    unpooled_class_token: bool = False
    class_position: bool = True
    registers: int = 0
    positions: Literal["learned", "sincos2d", "rope2d", "none"] = "learned"
    pre_norm: bool = True
    norm_before_pool: bool = False
    layer_scale: float | None = None
    patch_dropout: float = 0.0
    pooler_queries: int = 256
    pooler_heads: int = 8
    patch_bias: bool = False
    qkv_bias: bool = True
    projection: bool = True
    projection_bias: bool = False
    activation: Activation = "gelu"
    norm_eps: float = 1e-5

    def __post_init__(self):
        check_positive(
            image_size=self.image_size,
            patch_size=self.patch_size,
            pooler_queries=self.pooler_queries,
            pooler_heads=self.pooler_heads,
        )
        check_blocks(self)
        if self.image_size < self.patch_size:
            raise ValueError(
                f"image_size={self.image_size} is less than patch_size={self.patch_size}"
            )
        if self.image_size % self.patch_size and not self.crop_remainder:
            raise ValueError(
                f"patch_size={self.patch_size} does not divide image_size={self.image_size}; "
                "crop_remainder=True leaves out what fills no patch"
            )
        if self.positions == "sincos2d" and self.width % 4:
            raise ValueError(f"positions='sincos2d' needs width divisible by 4, got {self.width}")
        if self.positions == "rope2d" and self.width // self.num_heads % 4:
            raise ValueError(
                "positions='rope2d' needs heads of a width divisible by 4, got "
                f"{self.width // self.num_heads}"
            )
        if self.registers < 0:
            raise ValueError(f"registers={self.registers} must not be negative")
        check_dropout(self.patch_dropout)
        if self.unpooled_class_token and self.pool == "cls":
            raise ValueError("unpooled_class_token=True with pool='cls': the class token is pooled")
        if not self.class_position and not (self.has_class_token and self.positions == "learned"):
            raise ValueError(
                "class_position=False without a class token or without learned positions: there "
                "is no such row anyway"
            )

    @property
    def num_patches(self) -> int:
        """Patches of one image."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def has_class_token(self) -> bool:
        """Whether a class token runs along with the patches."""
        return self.pool in ("cls", "coca") or self.unpooled_class_token

    @property
    def front_positions(self) -> int:
        """Rows of learned positions before those of the patches."""
        return int(self.has_class_token and self.class_position)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConvNetConfig:
    """A small residual ConvNet for small pictures: the quickstart's image tower.

    Attributes:
        image_size: side of the square input in pixels.
        stem_stride: stride of the first convolution.
        widths: channels of each stage; every stage after the first halves the resolution.
        depths: residual blocks of each stage; 0 for nothing but the halving.
        hidden: units of a layer between the mean over places and the projection, as in SimCLR's
            head (Chen et al. 2020, https://arxiv.org/abs/2002.05709); 0 for none.
    """

    kind: Literal["convnet"] = "convnet"
    image_size: int = 32
    stem_stride: int = 2
    widths: tuple[int, ...] = (32, 64, 128)
    depths: tuple[int, ...] = (1, 1, 1)
    hidden: int = 0
    activation: Activation = "gelu"
    norm_eps: float = 1e-5

    def __post_init__(self):
        check_positive(
            image_size=self.image_size,
            stem_stride=self.stem_stride,
            widths=self.widths,
        )
        _check_stages(self.widths, self.depths)
        if self.hidden < 0:
            raise ValueError(f"hidden={self.hidden} must not be negative")
        check_stride(self.image_size, self.stem_stride * 2 ** (len(self.widths) - 1))


def _check_stages(widths: tuple[int, ...], depths: tuple[int, ...]) -> None:
    if min(depths, default=0) < 0:
        raise ValueError(f"depths={depths} must not be negative")
    if len(widths) != len(depths):
        raise ValueError(f"widths={widths} and depths={depths} differ in length")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResNetConfig:
    """CLIP's ModifiedResNet; the defaults are RN50.

    Attributes:
        image_size: side of the square input in pixels.
        depths: bottleneck blocks of each of the four stages.
        width: channels of the stem; the last stage has 32 times as many.
        num_heads: of the attention pool.
        batch_norm_momentum: share of a batch in the running statistics.
        frozen_batch_norm: normalise by the running statistics in training too, and keep them.
    """

    kind: Literal["resnet"] = "resnet"
    image_size: int = 224
    depths: tuple[int, ...] = (3, 4, 6, 3)
    width: int = 64
    num_heads: int = 32
    batch_norm_eps: float = 1e-5
    batch_norm_momentum: float = 0.1
    frozen_batch_norm: bool = False

    def __post_init__(self):
        check_positive(
            image_size=self.image_size,
            depths=self.depths,
            width=self.width,
            num_heads=self.num_heads,
        )
        if len(self.depths) != 4:
            raise ValueError(f"depths={self.depths} must be those of four stages")
        check_heads(32 * self.width, self.num_heads)
        if self.image_size % 32:
            raise ValueError(f"image_size={self.image_size} is not a multiple of 32")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConvNeXtConfig:
    """ConvNeXt; the defaults are open_clip's convnext_base.

    Attributes:
        image_size: side of the square input in pixels.
        widths: channels of each stage.
        depths: blocks of each stage.
        layer_scale: initial gain of each residual branch; None for no gains.
        projection: one linear map, or a hidden layer of twice the shared space and a linear map.
    """

    kind: Literal["convnext"] = "convnext"
    image_size: int = 224
    widths: tuple[int, ...] = (128, 256, 512, 1024)
    depths: tuple[int, ...] = (3, 3, 27, 3)
    layer_scale: float | None = 1e-6
    projection: Literal["linear", "mlp"] = "linear"
    activation: Activation = "gelu"
    norm_eps: float = 1e-6

    def __post_init__(self):
        check_positive(image_size=self.image_size, widths=self.widths, depths=self.depths)
        _check_stages(self.widths, self.depths)
        check_stride(self.image_size, 4 * 2 ** (len(self.widths) - 1))


@dataclasses.dataclass(frozen=True, kw_only=True)
class EfficientNetConfig:
    """EfficientNet; the defaults are B7 as ALIGN's public weights have it.

    Attributes:
        image_size: side of the square input in pixels.
        width_factor: multiplies the channels of B0.
        depth_factor: multiplies the blocks of each stage of B0, rounded up.
        channels_divisor: channels are rounded to a multiple of it.
        symmetric_padding: blocks whose stride pads both sides of the map alike; TensorFlow does so
            where the side is odd. The others have one zero more at the end.
        head: a last convolution to 1280 channels of B0, with batch norm, before the mean.
        batch_norm_momentum: share of a batch in the running statistics.
        frozen_batch_norm: normalise by the running statistics in training too, and keep them.
        projection: linear map to the shared space; without it `embed_dim` must equal
            `out_channels`.
    """

    kind: Literal["efficientnet"] = "efficientnet"
    image_size: int = 289
    width_factor: float = 2.0
    depth_factor: float = 3.1
    channels_divisor: int = 8
    symmetric_padding: tuple[int, ...] = ()
    head: bool = False
    batch_norm_eps: float = 1e-3
    batch_norm_momentum: float = 0.01
    frozen_batch_norm: bool = False
    projection: bool = False

    def __post_init__(self):
        check_positive(image_size=self.image_size, channels_divisor=self.channels_divisor)
        if self.width_factor <= 0 or self.depth_factor <= 0:
            raise ValueError(
                f"width_factor={self.width_factor} and depth_factor={self.depth_factor} must be "
                "positive"
            )

    def scaled(self, channels: int) -> int:
        """Returns the channels of a layer that has so many in B0.

        >>> EfficientNetConfig(width_factor=1.4).scaled(24)
        32
        """
        divisor, wanted = self.channels_divisor, channels * self.width_factor
        rounded = max(divisor, int(wanted + divisor / 2) // divisor * divisor)
        # Rounding takes away a tenth at most.
        return rounded + divisor if rounded < 0.9 * wanted else rounded

    @property
    def out_channels(self) -> int:
        """Channels that the mean is taken of."""
        return self.scaled(1280 if self.head else 320)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaConfig:
    """EVA's Vision Transformer; the defaults are EVA02-B/16.

    Attributes:
        image_size: side of the square input in pixels.
        mlp_dim: hidden units of an MLP; with `swiglu`, of each of its two halves.
        swiglu: gated MLP, silu(gate) * value; `activation` is that of a plain one.
        mlp_norm: LayerNorm between the two layers of a gated MLP (sub-LN).
        attention_norm: LayerNorm between attention and its output projection (sub-LN).
        post_norm: LayerNorm after attention and MLP instead of before (EVA02-E).
        rope: rotary positions in two dimensions beside the learned ones.
        rope_grid: side of the grid that the rotary positions were trained on.
        fused_qkv: files hold queries, keys and values as one matrix; the model is the same.
        pool: class token, or mean over patches.
    """

    kind: Literal["eva"] = "eva"
    image_size: int = 224
    patch_size: int = 16
    width: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_dim: int = 2048
    swiglu: bool = True
    mlp_norm: bool = True
    attention_norm: bool = True
    post_norm: bool = False
    rope: bool = True
    rope_grid: int = 16
    fused_qkv: bool = False
    pool: Literal["cls", "mean"] = "cls"
    patch_dropout: float = 0.0
    activation: Activation = "gelu"
    norm_eps: float = 1e-6

    def __post_init__(self):
        check_positive(
            image_size=self.image_size,
            patch_size=self.patch_size,
            rope_grid=self.rope_grid,
        )
        check_blocks(self)
        if self.image_size % self.patch_size:
            raise ValueError(
                f"patch_size={self.patch_size} does not divide image_size={self.image_size}"
            )
        check_dropout(self.patch_dropout)
        if self.mlp_norm and not self.swiglu:
            raise ValueError("mlp_norm=True needs swiglu=True: a plain MLP has no norm inside")
        if self.rope and self.width // self.num_heads % 4:
            raise ValueError(
                "rope=True needs heads of a width divisible by 4, got "
                f"{self.width // self.num_heads}"
            )

    @property
    def num_patches(self) -> int:
        """Patches of one image."""
        return (self.image_size // self.patch_size) ** 2


ImageConfig = (
    ViTConfig | ConvNetConfig | ResNetConfig | ConvNeXtConfig | EfficientNetConfig | EvaConfig
)
