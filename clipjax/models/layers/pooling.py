"""From tokens to one vector."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int32

from clipjax.config.fields import Activation, AttentionImplementation
from clipjax.models.layers.attention import keys_seen, merged_heads
from clipjax.models.layers.block import Mlp, layer_norm
from clipjax.models.layers.dot_product import attend


class AttentionPool(nnx.Module):
    """Multi-head attention pooling (MAP): one learned query, then a residual MLP.

    Source: Zhai et al. 2021, "Scaling Vision Transformers", section 3.2,
        https://arxiv.org/abs/2106.04560.
    """

    def __init__(
        self,
        width: int,
        num_heads: int,
        mlp_dim: int,
        *,
        activation: Activation,
        norm_eps: float,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
        implementation: AttentionImplementation = "auto",
    ):
        self.implementation: AttentionImplementation = implementation
        heads = (num_heads, width // num_heads)
        normal = nnx.initializers.normal(width**-0.5)
        self.probe = nnx.Param(normal(rngs.params(), (1, width)), axes=(None, None))
        self.query = nnx.LinearGeneral(
            width,
            heads,
            kernel_init=normal,
            dtype=dtype,
            rngs=rngs,
            kernel_metadata={"axes": ("embed", "heads", None)},
            bias_metadata={"axes": ("heads", None)},
        )
        self.key_value = nnx.LinearGeneral(
            width,
            (2, *heads),
            kernel_init=normal,
            dtype=dtype,
            rngs=rngs,
            kernel_metadata={"axes": ("embed", None, "heads", None)},
            bias_metadata={"axes": (None, "heads", None)},
        )
        self.out = merged_heads(heads, width, std=width**-0.5, dtype=dtype, rngs=rngs)
        self.norm = layer_norm(width, norm_eps, dtype, rngs)
        self.mlp = Mlp(
            width,
            mlp_dim,
            activation=activation,
            in_std=width**-0.5,
            out_std=mlp_dim**-0.5,
            dtype=dtype,
            rngs=rngs,
        )

    def __call__(
        self, x: Float[Array, "batch tokens width"], mask: Bool[Array, "batch tokens"] | None = None
    ) -> Float[Array, "batch width"]:
        """Returns what the query reads from the tokens.

        Args:
            x: the tokens.
            mask: which of them can be seen; all by default.
        """
        query = jnp.broadcast_to(
            self.query(self.probe[...]), (x.shape[0], 1, *self.query.out_features)
        )
        key_value = self.key_value(x)
        read = attend(
            query.astype(x.dtype),
            key_value[:, :, 0],
            key_value[:, :, 1],
            mask=keys_seen(mask),
            implementation=self.implementation,
        )
        pooled = self.out(read)[:, 0]
        return pooled + self.mlp(self.norm(pooled))


def mean_of(
    x: Float[Array, "batch tokens width"], mask: Bool[Array, "batch tokens"] | None = None
) -> Float[Array, "batch width"]:
    """Returns the mean over the tokens, or over those that the mask keeps."""
    if mask is None:
        return x.mean(axis=1)
    return x.mean(axis=1, where=mask[..., None])


def first_end(
    x: Float[Array, "batch tokens width"], tokens: Int32[Array, "batch tokens"], end_id: int
) -> Float[Array, "batch width"]:
    """Returns the features at the first end-of-text token of each row."""
    place = jnp.argmax(tokens == end_id, axis=1)
    return jnp.take_along_axis(x, place[:, None, None], axis=1)[:, 0]
