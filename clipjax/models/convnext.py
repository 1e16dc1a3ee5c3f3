"""ConvNeXt, Liu et al. 2022, https://arxiv.org/abs/2201.03545."""

import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Key

from clipjax.config import ComputeConfig, ConvNeXtConfig
from clipjax.config.fields import Activation
from clipjax.core.partition import constrain_batch
from clipjax.models.layers.block import (
    ACTIVATIONS,
    Blocks,
    LayerScale,
    Mlp,
    gradient_once,
    layer_norm,
)
from clipjax.models.taps import tap, within

FeatureMap = Float[Array, "batch height width channels"]
SmallerMap = Float[Array, "batch rows columns outputs"]

_STD = 0.02
_START = nnx.initializers.normal(_STD)


def _patches(inputs: int, outputs: int, size: int, dtype: jnp.dtype, rngs: nnx.Rngs) -> nnx.Conv:
    """Returns a linear map of squares that do not overlap."""
    return nnx.Conv(
        inputs,
        outputs,
        (size, size),
        strides=(size, size),
        padding="VALID",
        kernel_init=_START,
        kernel_metadata={"axes": (None, None, None, "embed")},
        bias_metadata={"axes": (None,)},
        dtype=dtype,
        rngs=rngs,
    )


class ConvNeXtBlock(nnx.Module):
    """x + gain * mlp(norm(depthwise 7 x 7 convolution of x))."""

    def __init__(self, width: int, config: ConvNeXtConfig, dtype: jnp.dtype, *, rngs: nnx.Rngs):
        self.conv = nnx.Conv(
            width,
            width,
            (7, 7),
            padding=3,
            feature_group_count=width,
            kernel_init=_START,
            kernel_metadata={"axes": (None, None, None, "embed")},
            bias_metadata={"axes": (None,)},
            dtype=dtype,
            rngs=rngs,
        )
        self.norm = layer_norm(width, config.norm_eps, dtype, rngs)
        self.mlp = Mlp(
            width,
            4 * width,
            activation=config.activation,
            in_std=_STD,
            out_std=_STD,
            dtype=dtype,
            rngs=rngs,
        )
        self.scaled = config.layer_scale is not None
        if config.layer_scale is not None:
            self.scale = LayerScale(width, config.layer_scale, dtype=dtype)

    def __call__(self, x: FeatureMap) -> FeatureMap:
        """Returns the feature map after one residual branch."""
        x = gradient_once(constrain_batch(x))
        y = self.mlp(self.norm(checkpoint_name(self.conv(x), "conv")))
        return tap("out", x + (self.scale(y) if self.scaled else y))


class Stage(nnx.Module):
    """Equal blocks, behind a norm and a map of 2 x 2 patches in all stages but the first."""

    def __init__(
        self,
        inputs: int | None,
        width: int,
        depth: int,
        config: ConvNeXtConfig,
        *,
        compute: ComputeConfig,
        rngs: nnx.Rngs,
    ):
        dtype = jnp.dtype(compute.dtype)
        self.halves = inputs is not None
        if inputs is not None:
            self.norm = layer_norm(inputs, config.norm_eps, dtype, rngs)
            self.down = _patches(inputs, width, 2, dtype, rngs)
        self.blocks = Blocks(
            lambda rngs: ConvNeXtBlock(width, config, dtype, rngs=rngs),
            depth,
            compute=compute,
            rngs=rngs,
        )

    def __call__(self, x: FeatureMap) -> SmallerMap:
        """Returns the feature map after all blocks."""
        return self.blocks(self.down(self.norm(x)) if self.halves else x)


class Head(nnx.Module):
    """From the pooled features to the shared space: one linear map, or two with a hidden layer."""

    def __init__(
        self,
        width: int,
        embed_dim: int,
        config: ConvNeXtConfig,
        dtype: jnp.dtype,
        *,
        rngs: nnx.Rngs,
    ):
        self.activation: Activation = config.activation
        self.hidden = config.projection == "mlp"
        inputs = 2 * embed_dim if self.hidden else width
        if self.hidden:
            self.fc1 = nnx.Linear(
                width,
                inputs,
                kernel_init=nnx.initializers.normal(width**-0.5),
                kernel_metadata={"axes": ("embed", "mlp")},
                bias_metadata={"axes": ("mlp",)},
                dtype=dtype,
                rngs=rngs,
            )
        self.fc2 = nnx.Linear(
            inputs,
            embed_dim,
            use_bias=False,
            kernel_init=nnx.initializers.normal(inputs**-0.5),
            kernel_metadata={"axes": ("mlp", "embed") if self.hidden else ("embed", None)},
            dtype=dtype,
            rngs=rngs,
        )

    def __call__(self, x: Float[Array, "batch width"]) -> Float[Array, "batch embed"]:
        """Returns the embeddings."""
        return self.fc2(ACTIVATIONS[self.activation](self.fc1(x)) if self.hidden else x)


class ConvNeXt(nnx.Module):
    """Stem of 4 x 4 patches, stages that halve the resolution, mean over places, norm, head."""

    def __init__(
        self, config: ConvNeXtConfig, embed_dim: int, *, compute: ComputeConfig, rngs: nnx.Rngs
    ):
        widths, self.dtype = config.widths, jnp.dtype(compute.dtype)
        self.stem = _patches(3, widths[0], 4, self.dtype, rngs)
        self.stem_norm = layer_norm(widths[0], config.norm_eps, self.dtype, rngs)
        inputs = (None, *widths[:-1])
        self.stages = nnx.List(
            Stage(before, width, depth, config, compute=compute, rngs=rngs)
            for before, width, depth in zip(inputs, widths, config.depths, strict=True)
        )
        self.norm = layer_norm(widths[-1], config.norm_eps, self.dtype, rngs)
        self.head = Head(widths[-1], embed_dim, config, self.dtype, rngs=rngs)

    def __call__(
        self, pixels: Float[Array, "batch height width 3"], train_key: Key[Array, ""] | None = None
    ) -> Float[Array, "batch embed"]:
        """Returns one embedding per image, not normalised; training changes nothing."""
        del train_key
        x = self.stem_norm(self.stem(pixels.astype(self.dtype)))
        for i, stage in enumerate(self.stages):
            x = within(f"stages/{i}", stage)(x)
        return self.head(self.norm(x.mean(axis=(1, 2))))
