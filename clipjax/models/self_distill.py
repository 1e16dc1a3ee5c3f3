"""What a model has for learning from its own average, see `clipjax.losses.self_distillation`."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from clipjax.config import DualEncoderConfig, PrototypeHeadsConfig, ViTConfig
from clipjax.models.layers.block import ACTIVATIONS

_STD = 0.02
_LEAST_SQUARE = 1e-24


def unit(x: Float[Array, "..."], axis: int) -> Float[Array, "..."]:
    """Returns vectors of unit length along an axis; the gradient of a zero vector is finite."""
    return x * jax.lax.rsqrt(jnp.maximum((x * x).sum(axis=axis, keepdims=True), _LEAST_SQUARE))


class PrototypeHead(nnx.Module):
    """Linear maps with GELU between them, a unit vector, and the prototypes it is compared with.

    Source: Caron et al. 2021, "DINO", section 3.2, https://arxiv.org/abs/2104.14294. Prototypes
    are brought to unit length where they are used: weight normalisation with a gain of 1.
    """

    def __init__(
        self, width: int, config: PrototypeHeadsConfig, *, dtype: jnp.dtype, rngs: nnx.Rngs
    ):
        normal = nnx.initializers.truncated_normal(_STD)
        widths = [width, *[config.hidden] * (config.depth - 1), config.bottleneck]

        def linear(number: int) -> nnx.Linear:
            split = ("embed", "mlp") if number % 2 == 0 else ("mlp", "embed")
            return nnx.Linear(
                widths[number],
                widths[number + 1],
                kernel_init=normal,
                kernel_metadata={"axes": split},
                bias_metadata={"axes": (None,)},
                dtype=dtype,
                rngs=rngs,
            )

        self.layers = nnx.List(linear(number) for number in range(config.depth))
        shape = (config.bottleneck, config.prototypes)
        self.prototypes = nnx.Param(normal(rngs.params(), shape), axes=(None, "vocab"))

    def __call__(self, x: Float[Array, "batch *places width"]) -> Float[Array, "..."]:
        """Returns unit vectors [batch, places, bottleneck], float32."""
        for number, layer in enumerate(self.layers):
            x = layer(ACTIVATIONS["gelu"](x) if number else x)
        return unit(x.astype(jnp.float32), -1)

    def kernel(self) -> Float[Array, "bottleneck prototypes"]:
        """Returns the prototypes, float32, of unit length."""
        return unit(self.prototypes[...], 0)


class SelfDistillHeads(nnx.Module):
    """A head for embeddings, one for patches, and what stands where a patch is hidden."""

    def __init__(self, config: DualEncoderConfig, *, rngs: nnx.Rngs):
        heads, image = config.self_distill, config.image
        assert heads is not None
        assert isinstance(image, ViTConfig)
        dtype = jnp.dtype(config.compute.dtype)
        self.crops = PrototypeHead(config.embed_dim, heads, dtype=dtype, rngs=rngs)
        self.patches = PrototypeHead(image.width, heads, dtype=dtype, rngs=rngs)
        token = nnx.initializers.normal(_STD)(rngs.params(), (image.width,))
        self.mask_token = nnx.Param(token, axes=(None,))
