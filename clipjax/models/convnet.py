"""A small residual ConvNet with pre-activation, He et al. 2016, https://arxiv.org/abs/1603.05027.

Deviation: LayerNorm over channels instead of batch norm, so that an image's embedding does not
depend on the batch it came in.
"""

import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Key

from clipjax.config import ComputeConfig, ConvNetConfig
from clipjax.config.fields import Activation, Remat
from clipjax.core.partition import constrain_batch
from clipjax.models.layers.block import ACTIVATIONS, layer_norm, rematerialised
from clipjax.models.taps import tap, within

FeatureMap = Float[Array, "batch height width channels"]


def _conv(
    inputs: int, outputs: int, dtype: jnp.dtype, rngs: nnx.Rngs, *, size: int = 3, stride: int = 1
) -> nnx.Conv:
    return nnx.Conv(
        inputs,
        outputs,
        (size, size),
        strides=(stride, stride),
        kernel_init=nnx.initializers.he_normal(),
        kernel_metadata={"axes": (None, None, None, "embed")},
        bias_metadata={"axes": (None,)},
        dtype=dtype,
        rngs=rngs,
    )


class ResidualBlock(nnx.Module):
    """x + conv(act(norm(conv(act(norm(x))))))."""

    def __init__(self, width: int, config: ConvNetConfig, dtype: jnp.dtype, *, rngs: nnx.Rngs):
        self.activation: Activation = config.activation
        self.norm_1 = layer_norm(width, config.norm_eps, dtype, rngs)
        self.conv_1 = _conv(width, width, dtype, rngs)
        self.norm_2 = layer_norm(width, config.norm_eps, dtype, rngs)
        self.conv_2 = _conv(width, width, dtype, rngs)

    def __call__(self, x: FeatureMap) -> FeatureMap:
        """Returns the feature map after two convolutions."""
        x = constrain_batch(x)
        act = ACTIVATIONS[self.activation]
        y = checkpoint_name(self.conv_1(act(self.norm_1(x))), "conv")
        y = tap("act", act(tap("pre", self.norm_2(y))))
        return tap("out", x + checkpoint_name(self.conv_2(y), "conv"))


class ConvNet(nnx.Module):
    """Stem, stages that halve the resolution, mean over positions, hidden layer, projection."""

    def __init__(
        self, config: ConvNetConfig, embed_dim: int, *, compute: ComputeConfig, rngs: nnx.Rngs
    ):
        self.dtype = jnp.dtype(compute.dtype)
        self.remat: Remat = compute.remat
        self.stem = _conv(3, config.widths[0], self.dtype, rngs, stride=config.stem_stride)
        self.activation: Activation = config.activation
        norms, downs, stages = [], [], []
        for i, (width, depth) in enumerate(zip(config.widths, config.depths, strict=True)):
            if i:
                norms.append(layer_norm(config.widths[i - 1], config.norm_eps, self.dtype, rngs))
                # Patches of 2 x 2: on CPU three times as fast as a strided 3 x 3 convolution.
                downs.append(_conv(config.widths[i - 1], width, self.dtype, rngs, size=2, stride=2))
            stages.append(
                nnx.List(ResidualBlock(width, config, self.dtype, rngs=rngs) for _ in range(depth))
            )
        self.norms, self.downs = nnx.List(norms), nnx.List(downs)
        self.stages = nnx.List(stages)
        self.norm = layer_norm(config.widths[-1], config.norm_eps, self.dtype, rngs)
        self.is_deep = config.hidden > 0
        if self.is_deep:
            self.hidden = nnx.Linear(
                config.widths[-1],
                config.hidden,
                kernel_init=nnx.initializers.he_normal(),
                kernel_metadata={"axes": ("embed", "mlp")},
                bias_metadata={"axes": ("mlp",)},
                dtype=self.dtype,
                rngs=rngs,
            )
        self.project = nnx.Linear(
            config.hidden or config.widths[-1],
            embed_dim,
            use_bias=False,
            kernel_metadata={"axes": ("mlp" if config.hidden else "embed", None)},
            dtype=self.dtype,
            rngs=rngs,
        )

    def __call__(
        self, pixels: Float[Array, "batch height width 3"], train_key: Key[Array, ""] | None = None
    ) -> Float[Array, "batch embed"]:
        """Returns one embedding per image, not normalised; training changes nothing."""
        del train_key
        act, run = ACTIVATIONS[self.activation], rematerialised(self.remat)
        x = self.stem(pixels.astype(self.dtype))
        for i, stage in enumerate(self.stages):
            if i:
                x = self.downs[i - 1](act(self.norms[i - 1](x)))
            for j, block in enumerate(stage):
                x, _ = within(f"stages/{i}/blocks/{j}", run)(block, x)
        x = self.norm(x.mean(axis=(1, 2)))
        if self.is_deep:
            x = within("hidden", self._activations)(self.hidden(x))
        return self.project(x)

    def _activations(self, x: Float[Array, "batch hidden"]) -> Float[Array, "batch hidden"]:
        return tap("mlp_act", ACTIVATIONS[self.activation](tap("mlp_pre", x)))
