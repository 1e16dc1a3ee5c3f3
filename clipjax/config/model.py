"""What a dual encoder is made of."""

import dataclasses
from typing import Literal

Activation = Literal["gelu", "quick_gelu", "gelu_tanh"]
Remat = Literal["none", "names", "dots", "full"]


def _check_positive(**sizes: int | tuple[int, ...]) -> None:
    for name, size in sizes.items():
        parts = size if isinstance(size, tuple) else (size,)
        if not parts or min(parts) < 1:
            raise ValueError(f"{name}={size} must be positive")


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
class ViTConfig:
    """Vision Transformer; the defaults are CLIP's ViT-B/32.

    Attributes:
        image_size: side of the square input in pixels.
        pool: class token, mean over patches, or one attention head with a learned query (MAP).
        positions: learned, or fixed two-dimensional sines and cosines.
        pre_norm: CLIP's extra LayerNorm between the embedding and the first block.
        projection: linear map to the shared space; without it `embed_dim` must equal `width`.
    """

    kind: Literal["vit"] = "vit"
    image_size: int = 224
    patch_size: int = 32
    width: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_dim: int = 3072
    pool: Literal["cls", "mean", "map"] = "cls"
    positions: Literal["learned", "sincos2d"] = "learned"
    pre_norm: bool = True
    patch_bias: bool = False
    projection: bool = True
    activation: Activation = "gelu"
    norm_eps: float = 1e-5

    def __post_init__(self):
        _check_positive(
            image_size=self.image_size,
            patch_size=self.patch_size,
            width=self.width,
            depth=self.depth,
            num_heads=self.num_heads,
            mlp_dim=self.mlp_dim,
        )
        if self.image_size % self.patch_size:
            raise ValueError(
                f"patch_size={self.patch_size} does not divide image_size={self.image_size}"
            )
        if self.width % self.num_heads:
            raise ValueError(f"num_heads={self.num_heads} does not divide width={self.width}")
        if self.positions == "sincos2d" and self.width % 4:
            raise ValueError(f"positions='sincos2d' needs width divisible by 4, got {self.width}")

    @property
    def num_patches(self) -> int:
        """Patches of one image."""
        return (self.image_size // self.patch_size) ** 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConvNetConfig:
    """A small residual ConvNet for small pictures: the quickstart's image tower.

    Attributes:
        image_size: side of the square input in pixels.
        stem_stride: stride of the first convolution.
        widths: channels of each stage; every stage after the first halves the resolution.
        depths: residual blocks of each stage; 0 for nothing but the halving.
    """

    kind: Literal["convnet"] = "convnet"
    image_size: int = 32
    stem_stride: int = 2
    widths: tuple[int, ...] = (32, 64, 128)
    depths: tuple[int, ...] = (1, 1, 1)
    activation: Activation = "gelu"
    norm_eps: float = 1e-5

    def __post_init__(self):
        _check_positive(
            image_size=self.image_size,
            stem_stride=self.stem_stride,
            widths=self.widths,
        )
        if min(self.depths, default=0) < 0:
            raise ValueError(f"depths={self.depths} must not be negative")
        if len(self.widths) != len(self.depths):
            raise ValueError(f"widths={self.widths} and depths={self.depths} differ in length")
        shrink = self.stem_stride * 2 ** (len(self.widths) - 1)
        if self.image_size % shrink:
            raise ValueError(
                f"image_size={self.image_size} is not a multiple of {shrink}, the total stride"
            )


ImageConfig = ViTConfig | ConvNetConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextConfig:
    """Text transformer; the defaults are those of CLIP's ViT-B models.

    Attributes:
        vocab_size: number of token ids; the last id ends a text (EOT), the one before starts it.
        context_length: tokens of a text, start and end included.
        pool: the features at the first EOT, at the last position, or the mean over positions.
    """

    kind: Literal["transformer"] = "transformer"
    vocab_size: int = 49408
    context_length: int = 77
    width: int = 512
    depth: int = 12
    num_heads: int = 8
    mlp_dim: int = 2048
    causal: bool = True
    pool: Literal["eot", "last", "mean"] = "eot"
    projection_bias: bool = False
    activation: Activation = "gelu"
    norm_eps: float = 1e-5

    def __post_init__(self):
        _check_positive(
            vocab_size=self.vocab_size,
            context_length=self.context_length,
            width=self.width,
            depth=self.depth,
            num_heads=self.num_heads,
            mlp_dim=self.mlp_dim,
        )
        if self.width % self.num_heads:
            raise ValueError(f"num_heads={self.num_heads} does not divide width={self.width}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DualEncoderConfig:
    """Two towers that meet in one space.

    Attributes:
        embed_dim: size of the shared space.
        init_logit_scale: initial multiplier of the cosine similarities (1 / temperature).
        init_logit_bias: initial bias of the logits; None for no bias (softmax loss).
        pixel_mean: of each channel, pixels in [0, 1]; subtracted. The defaults are CLIP's.
        pixel_std: of each channel; divided by after that.
    """

    image: ImageConfig = ViTConfig()
    text: TextConfig = TextConfig()
    embed_dim: int = 512
    init_logit_scale: float = 1 / 0.07
    init_logit_bias: float | None = None
    pixel_mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    pixel_std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)
    compute: ComputeConfig = ComputeConfig()

    def __post_init__(self):
        _check_positive(embed_dim=self.embed_dim)
        image = self.image
        if isinstance(image, ViTConfig) and not image.projection and image.width != self.embed_dim:
            raise ValueError(
                f"image.projection=False needs embed_dim={self.embed_dim} to be "
                f"image.width={image.width}"
            )
        if self.init_logit_scale <= 0:
            raise ValueError(f"init_logit_scale={self.init_logit_scale} must be positive")
