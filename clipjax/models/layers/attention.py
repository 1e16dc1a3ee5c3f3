"""Multi-head attention, Vaswani et al. 2017, https://arxiv.org/abs/1706.03762."""

import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float

from clipjax.config.fields import AttentionImplementation
from clipjax.models.layers.dot_product import attend
from clipjax.models.layers.rotary import Rotary, turned


def merged_heads(
    heads: tuple[int, int],
    width: int,
    *,
    std: float,
    bias: bool = True,
    dtype: jnp.dtype,
    rngs: nnx.Rngs,
) -> nnx.LinearGeneral:
    """Returns the linear map from [heads, channels] to the width: the output of attention."""
    return nnx.LinearGeneral(
        heads,
        width,
        axis=(-2, -1),
        use_bias=bias,
        kernel_init=nnx.initializers.normal(std),
        kernel_metadata={"axes": ("heads", None, "embed")},
        bias_metadata={"axes": (None,)},
        dtype=dtype,
        rngs=rngs,
    )


class Attention(nnx.Module):
    """Self-attention with one fused projection to queries, keys and values."""

    def __init__(
        self,
        width: int,
        num_heads: int,
        *,
        causal: bool,
        in_std: float,
        out_std: float,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
        qkv_bias: bool = True,
        implementation: AttentionImplementation = "auto",
    ):
        self.causal = causal
        self.implementation: AttentionImplementation = implementation
        self.qkv = nnx.LinearGeneral(
            width,
            (3, num_heads, width // num_heads),
            use_bias=qkv_bias,
            kernel_init=nnx.initializers.normal(in_std),
            kernel_metadata={"axes": ("embed", None, "heads", None)},
            bias_metadata={"axes": (None, "heads", None)},
            dtype=dtype,
            rngs=rngs,
        )
        self.out = merged_heads(
            (num_heads, width // num_heads), width, std=out_std, dtype=dtype, rngs=rngs
        )

    def __call__(
        self,
        x: Float[Array, "batch tokens width"],
        mask: Bool[Array, "batch tokens"] | None = None,
        rotary: Rotary | None = None,
    ) -> Float[Array, "batch tokens width"]:
        """Mixes the tokens of each example.

        Args:
            x: the tokens.
            mask: which of them can be seen; all by default.
            rotary: how far queries and keys are turned; not at all by default.
        """
        qkv = checkpoint_name(self.qkv(x), "qkv")
        query, key, value = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]
        if rotary is not None:
            query, key = turned(query, rotary), turned(key, rotary)
        mixed = attend(
            query,
            key,
            value,
            mask=keys_seen(mask),
            causal=self.causal,
            implementation=self.implementation,
        )
        return self.out(checkpoint_name(mixed, "attn"))


def keys_seen(
    mask: Bool[Array, "batch tokens"] | None,
) -> Bool[Array, "batch 1 1 tokens"] | None:
    """Returns the mask of tokens as `attend` takes it."""
    return None if mask is None else mask[:, None, None, :]
