"""CLIP's ResNet, Radford et al. 2021, section 2.4, https://arxiv.org/abs/2103.00020.

It differs from He et al. 2016, https://arxiv.org/abs/1512.03385, in three things: a stem of three
convolutions and an average pool (He et al. 2018, https://arxiv.org/abs/1812.01187); average pools
instead of strides inside the stages, against aliasing (Zhang 2019,
https://arxiv.org/abs/1904.11486); attention instead of a mean at the end.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Key

from clipjax.config import ComputeConfig, ResNetConfig
from clipjax.config.fields import AttentionImplementation, Remat
from clipjax.core.partition import constrain_batch
from clipjax.models.layers.attention import merged_heads
from clipjax.models.layers.batch_norm import BatchNorm
from clipjax.models.layers.block import Blocks, gradient_once, rematerialised
from clipjax.models.layers.dot_product import attend
from clipjax.models.taps import tap, within

FeatureMap = Float[Array, "batch height width channels"]
SmallerMap = Float[Array, "batch rows columns outputs"]

_EXPANSION = 4
# PyTorch's default for convolutions: uniform between -+ fan_in^-0.5.
_UNIFORM = nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def _conv(
    inputs: int, outputs: int, size: int, dtype: jnp.dtype, rngs: nnx.Rngs, *, stride: int = 1
) -> nnx.Conv:
    return nnx.Conv(
        inputs,
        outputs,
        (size, size),
        strides=(stride, stride),
        padding=size // 2,  # on both sides, which SAME is not where a stride leaves a rest
        use_bias=False,
        kernel_init=_UNIFORM,
        kernel_metadata={"axes": (None, None, None, "embed")},
        dtype=dtype,
        rngs=rngs,
    )


def _batch_norm(
    channels: int, config: ResNetConfig, dtype: jnp.dtype, *, start: float = 1.0
) -> BatchNorm:
    return BatchNorm(
        channels,
        eps=config.batch_norm_eps,
        momentum=config.batch_norm_momentum,
        frozen=config.frozen_batch_norm,
        dtype=dtype,
        start=start,
    )


def average_pool(x: FeatureMap, size: int) -> SmallerMap:
    """Returns the means of squares of `size` x `size`, which divides height and width."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // size, size, width // size, size, channels)
    return x.mean(axis=(2, 4))


class Bottleneck(nnx.Module):
    """relu(shortcut(x) + three convolutions); the last batch norm starts at zero."""

    def __init__(
        self,
        inputs: int,
        width: int,
        stride: int,
        config: ResNetConfig,
        dtype: jnp.dtype,
        *,
        rngs: nnx.Rngs,
    ):
        outputs = _EXPANSION * width
        self.stride = stride
        self.conv_1 = _conv(inputs, width, 1, dtype, rngs)
        self.norm_1 = _batch_norm(width, config, dtype)
        self.conv_2 = _conv(width, width, 3, dtype, rngs)
        self.norm_2 = _batch_norm(width, config, dtype)
        self.conv_3 = _conv(width, outputs, 1, dtype, rngs)
        self.norm_3 = _batch_norm(outputs, config, dtype, start=0.0)
        self.projected = stride > 1 or inputs != outputs
        if self.projected:
            self.shortcut = _conv(inputs, outputs, 1, dtype, rngs)
            self.shortcut_norm = _batch_norm(outputs, config, dtype)

    def __call__(self, x: FeatureMap, *, train: bool) -> SmallerMap:
        """Returns the feature map, `stride` times smaller."""
        x = gradient_once(constrain_batch(x))
        y = tap("pre_1", self.norm_1(checkpoint_name(self.conv_1(x), "conv"), train=train))
        y = checkpoint_name(self.conv_2(tap("act_1", jax.nn.relu(y))), "conv")
        y = tap("pre_2", self.norm_2(y, train=train))
        y = average_pool(tap("act_2", jax.nn.relu(y)), self.stride)
        y = self.norm_3(checkpoint_name(self.conv_3(y), "conv"), train=train)
        if self.projected:
            x = checkpoint_name(self.shortcut(average_pool(x, self.stride)), "conv")
            x = self.shortcut_norm(x, train=train)
        return tap("out", jax.nn.relu(tap("pre_out", x + y)))


class Stage(nnx.Module):
    """A block that may halve the resolution, and equal ones behind it."""

    def __init__(
        self,
        inputs: int,
        width: int,
        depth: int,
        stride: int,
        config: ResNetConfig,
        *,
        compute: ComputeConfig,
        rngs: nnx.Rngs,
    ):
        dtype = jnp.dtype(compute.dtype)
        self.remat: Remat = compute.remat
        self.first = Bottleneck(inputs, width, stride, config, dtype, rngs=rngs)
        self.depth = depth
        if depth > 1:
            self.blocks = Blocks(
                lambda rngs: Bottleneck(_EXPANSION * width, width, 1, config, dtype, rngs=rngs),
                depth - 1,
                compute=compute,
                rngs=rngs,
                first=1,
            )

    def __call__(self, x: FeatureMap, *, train: bool) -> SmallerMap:
        """Returns the feature map after all blocks."""
        run = rematerialised(self.remat, train=train)
        x, moved = within("blocks/0", run)(self.first, x)
        nnx.update(self.first, moved)
        return self.blocks(x, train=train) if self.depth > 1 else x


class MeanQueryPool(nnx.Module):
    """One step of attention whose query is the mean over all places, which is also attended to."""

    def __init__(
        self,
        places: int,
        width: int,
        num_heads: int,
        embed_dim: int,
        *,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
        implementation: AttentionImplementation = "auto",
    ):
        self.implementation: AttentionImplementation = implementation
        heads = (num_heads, width // num_heads)
        normal = nnx.initializers.normal(width**-0.5)
        self.dtype = dtype
        positions = normal(rngs.params(), (places + 1, width))
        self.positions = nnx.Param(positions, axes=(None, "embed"))
        self.query = nnx.LinearGeneral(
            width,
            heads,
            kernel_init=normal,
            kernel_metadata={"axes": ("embed", "heads", None)},
            bias_metadata={"axes": ("heads", None)},
            dtype=dtype,
            rngs=rngs,
        )
        self.key_value = nnx.LinearGeneral(
            width,
            (2, *heads),
            kernel_init=normal,
            kernel_metadata={"axes": ("embed", None, "heads", None)},
            bias_metadata={"axes": (None, "heads", None)},
            dtype=dtype,
            rngs=rngs,
        )
        self.out = merged_heads(heads, embed_dim, std=width**-0.5, dtype=dtype, rngs=rngs)

    def __call__(self, x: FeatureMap) -> Float[Array, "batch embed"]:
        """Returns what the mean reads from the places and itself."""
        x = x.reshape(x.shape[0], -1, x.shape[-1])
        x = jnp.concatenate([x.mean(axis=1, keepdims=True), x], axis=1)
        x = x + self.positions[...].astype(self.dtype)
        key_value = self.key_value(x)
        read = attend(
            self.query(x[:, :1]),
            key_value[:, :, 0],
            key_value[:, :, 1],
            implementation=self.implementation,
        )
        return self.out(read)[:, 0]


class ResNet(nnx.Module):
    """Stem, four stages of bottleneck blocks, attention pooling."""

    def __init__(
        self, config: ResNetConfig, embed_dim: int, *, compute: ComputeConfig, rngs: nnx.Rngs
    ):
        width = config.width
        self.dtype = jnp.dtype(compute.dtype)
        channels = (3, width // 2, width // 2, width)
        self.stem = nnx.List(
            _conv(channels[i], channels[i + 1], 3, self.dtype, rngs, stride=1 if i else 2)
            for i in range(3)
        )
        self.stem_norms = nnx.List(_batch_norm(c, config, self.dtype) for c in channels[1:])
        stages, inputs = [], width
        for i, depth in enumerate(config.depths):
            stage_width, stride = width * 2**i, 2 if i else 1
            stages.append(
                Stage(inputs, stage_width, depth, stride, config, compute=compute, rngs=rngs)
            )
            inputs = _EXPANSION * stage_width
        self.stages = nnx.List(stages)
        self.pool = MeanQueryPool(
            (config.image_size // 32) ** 2,
            inputs,
            config.num_heads,
            embed_dim,
            dtype=self.dtype,
            rngs=rngs,
            implementation=compute.attention,
        )

    def __call__(
        self, pixels: Float[Array, "batch height width 3"], train_key: Key[Array, ""] | None = None
    ) -> Float[Array, "batch embed"]:
        """Returns one embedding per image, not normalised.

        Args:
            pixels: already normalised by mean and standard deviation.
            train_key: not None in training: batch norm takes the statistics of the batch.
        """
        train = train_key is not None
        x = pixels.astype(self.dtype)
        for conv, norm in zip(self.stem, self.stem_norms, strict=True):
            x = jax.nn.relu(norm(conv(x), train=train))
        x = average_pool(x, 2)
        for i, stage in enumerate(self.stages):
            x = within(f"stages/{i}", stage)(x, train=train)
        return self.pool(x)
