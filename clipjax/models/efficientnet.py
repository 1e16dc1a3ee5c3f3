"""EfficientNet, Tan and Le 2019, https://arxiv.org/abs/1905.11946, the image tower of ALIGN.

Deviation: no dropout of residual branches (drop connect).
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Key

from clipjax.config import ComputeConfig, EfficientNetConfig
from clipjax.config.fields import Remat
from clipjax.core.partition import constrain_batch
from clipjax.models.layers.batch_norm import BatchNorm
from clipjax.models.layers.block import rematerialised
from clipjax.models.taps import tap, within

FeatureMap = Float[Array, "batch height width channels"]
NextMap = Float[Array, "batch rows columns outputs"]

# Stages of B0, table 1 of the paper: expansion, kernel, stride, channels in and out, blocks.
_STAGES = (
    (1, 3, 1, 32, 16, 1),
    (6, 3, 2, 16, 24, 2),
    (6, 5, 2, 24, 40, 2),
    (6, 3, 2, 40, 80, 3),
    (6, 5, 1, 80, 112, 3),
    (6, 5, 2, 112, 192, 4),
    (6, 3, 1, 192, 320, 1),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MBConvSizes:
    """One block.

    Attributes:
        hidden: channels between expansion and projection.
        squeezed: channels in the middle of squeeze-and-excitation.
        symmetric: of a stride, padding on both sides alike instead of one more at the end.
        residual: whether the input is added.
    """

    inputs: int
    hidden: int
    outputs: int
    squeezed: int
    kernel: int
    stride: int
    symmetric: bool
    residual: bool

    @property
    def padding(self) -> tuple[int, int]:
        """Zeros before and behind each axis of the map."""
        half = self.kernel // 2
        return (half - 1, half) if self.stride == 2 and not self.symmetric else (half, half)


def mbconvs(config: EfficientNetConfig) -> tuple[MBConvSizes, ...]:
    """Returns the blocks of a network in order, its channels and repeats scaled.

    >>> len(mbconvs(EfficientNetConfig()))
    55
    """
    blocks: list[MBConvSizes] = []
    for expansion, kernel, stride, first, last, repeats in _STAGES:
        outputs = config.scaled(last)
        for repeat in range(math.ceil(config.depth_factor * repeats)):
            inputs = outputs if repeat else config.scaled(first)
            blocks.append(
                MBConvSizes(
                    inputs=inputs,
                    hidden=expansion * inputs,
                    outputs=outputs,
                    squeezed=max(1, inputs // 4),
                    kernel=kernel,
                    stride=1 if repeat else stride,
                    symmetric=len(blocks) in config.symmetric_padding,
                    residual=repeat > 0,
                )
            )
    return tuple(blocks)


class ConvNorm(nnx.Module):
    """A convolution without bias, then batch norm."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        config: EfficientNetConfig,
        *,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
        kernel: int = 1,
        stride: int = 1,
        padding: tuple[int, int] = (0, 0),
        depthwise: bool = False,
    ):
        fan_out = kernel**2 * (1 if depthwise else outputs)
        self.conv = nnx.Conv(
            inputs,
            outputs,
            (kernel, kernel),
            strides=(stride, stride),
            padding=(padding, padding),
            feature_group_count=inputs if depthwise else 1,
            use_bias=False,
            kernel_init=nnx.initializers.normal((2 / fan_out) ** 0.5),
            kernel_metadata={"axes": (None, None, None, "embed")},
            dtype=dtype,
            rngs=rngs,
        )
        self.norm = BatchNorm(
            outputs,
            eps=config.batch_norm_eps,
            momentum=config.batch_norm_momentum,
            frozen=config.frozen_batch_norm,
            dtype=dtype,
        )

    def __call__(self, x: FeatureMap, *, train: bool) -> NextMap:
        """Returns the normalised map."""
        return self.norm(checkpoint_name(self.conv(x), "conv"), train=train)


class SqueezeExcite(nnx.Module):
    """A gate for each channel, from the means of all channels.

    Source: Hu et al. 2017, "Squeeze-and-Excitation Networks", https://arxiv.org/abs/1709.01507.
    """

    def __init__(self, width: int, squeezed: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        def linear(inputs: int, outputs: int) -> nnx.Conv:
            return nnx.Conv(
                inputs,
                outputs,
                (1, 1),
                kernel_init=nnx.initializers.normal((2 / outputs) ** 0.5),
                kernel_metadata={"axes": (None, None, None, "embed")},
                bias_metadata={"axes": (None,)},
                dtype=dtype,
                rngs=rngs,
            )

        self.reduce, self.expand = linear(width, squeezed), linear(squeezed, width)

    def __call__(self, x: FeatureMap) -> FeatureMap:
        """Returns the map, each channel times its gate."""
        means = x.mean(axis=(1, 2), keepdims=True)
        return x * jax.nn.sigmoid(self.expand(jax.nn.silu(self.reduce(means))))


class MBConv(nnx.Module):
    """Expansion, depthwise convolution, squeeze-and-excitation, projection.

    Source: Sandler et al. 2018, "MobileNetV2", section 3, https://arxiv.org/abs/1801.04381.
    """

    def __init__(
        self, sizes: MBConvSizes, config: EfficientNetConfig, *, dtype: jnp.dtype, rngs: nnx.Rngs
    ):
        self.sizes, hidden = sizes, sizes.hidden
        self.expands = hidden != sizes.inputs
        if self.expands:
            self.expand = ConvNorm(sizes.inputs, hidden, config, dtype=dtype, rngs=rngs)
        self.depthwise = ConvNorm(
            hidden,
            hidden,
            config,
            dtype=dtype,
            rngs=rngs,
            kernel=sizes.kernel,
            stride=sizes.stride,
            padding=sizes.padding,
            depthwise=True,
        )
        self.gate = SqueezeExcite(hidden, sizes.squeezed, dtype=dtype, rngs=rngs)
        self.project = ConvNorm(hidden, sizes.outputs, config, dtype=dtype, rngs=rngs)

    def __call__(self, x: FeatureMap, *, train: bool) -> NextMap:
        """Returns the map after the block."""
        x = constrain_batch(x)
        y = tap("act_1", jax.nn.silu(self.expand(x, train=train))) if self.expands else x
        y = tap("act_2", jax.nn.silu(self.depthwise(y, train=train)))
        y = self.project(self.gate(y), train=train)
        return tap("out", x + y if self.sizes.residual else y)


class EfficientNet(nnx.Module):
    """Stem, MBConv blocks, with `head` a last convolution, mean over places, projection."""

    def __init__(
        self, config: EfficientNetConfig, embed_dim: int, *, compute: ComputeConfig, rngs: nnx.Rngs
    ):
        dtype = jnp.dtype(compute.dtype)
        self.config, self.dtype = config, dtype
        self.remat: Remat = compute.remat
        self.stem = ConvNorm(
            3,
            config.scaled(32),
            config,
            dtype=dtype,
            rngs=rngs,
            kernel=3,
            stride=2,
            padding=(0, 1),
        )
        blocks = mbconvs(config)
        self.blocks = nnx.List(MBConv(sizes, config, dtype=dtype, rngs=rngs) for sizes in blocks)
        if config.head:
            self.head = ConvNorm(
                blocks[-1].outputs, config.out_channels, config, dtype=dtype, rngs=rngs
            )
        if config.projection:
            self.project = nnx.Linear(
                config.out_channels,
                embed_dim,
                use_bias=False,
                kernel_init=nnx.initializers.normal(config.out_channels**-0.5),
                kernel_metadata={"axes": ("embed", None)},
                dtype=dtype,
                rngs=rngs,
            )

    def __call__(
        self, pixels: Float[Array, "batch height width 3"], train_key: Key[Array, ""] | None = None
    ) -> Float[Array, "batch embed"]:
        """Returns one embedding per image, not normalised.

        Args:
            pixels: already normalised by mean and standard deviation.
            train_key: in training; the running statistics then move.
        """
        train = train_key is not None
        x = jax.nn.silu(self.stem(pixels.astype(self.dtype), train=train))
        run = rematerialised(self.remat, train=train)
        for i, block in enumerate(self.blocks):
            x, moved = within(f"blocks/{i}", run)(block, x)
            nnx.update(block, moved)
        if self.config.head:
            x = jax.nn.silu(self.head(x, train=train))
        x = x.mean(axis=(1, 2))
        return self.project(x) if self.config.projection else x
