"""Self-attention with norms inside and no bias of the keys, for EVA and for text."""

from typing import Literal

import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float

from clipjax.config.fields import AttentionImplementation
from clipjax.models.layers.attention import keys_seen, merged_heads
from clipjax.models.layers.block import layer_norm
from clipjax.models.layers.dot_product import attend
from clipjax.models.layers.rotary import Rotary, turned


def rms_norm(width: int, eps: float, dtype: jnp.dtype, rngs: nnx.Rngs) -> nnx.RMSNorm:
    """Returns RMSNorm over the last axis; statistics in float32.

    Source: Zhang and Sennrich 2019, https://arxiv.org/abs/1910.07467.
    """
    return nnx.RMSNorm(width, epsilon=eps, dtype=dtype, scale_metadata={"axes": (None,)}, rngs=rngs)


class NormedAttention(nnx.Module):
    """Self-attention whose keys have no bias: one would add the same to all scores of a query.

    Source: Fang et al. 2023, "EVA-02", section 2.1, https://arxiv.org/abs/2303.11331 (sub-LN);
        Henry et al. 2020, https://arxiv.org/abs/2010.04245 (normalised queries and keys).
    """

    def __init__(  # noqa: PLR0913 (each is a choice of the config)
        self,
        width: int,
        num_heads: int,
        *,
        causal: bool,
        bias: bool,
        norm: Literal["qk", "inner"] | None,
        norm_eps: float,
        in_std: float,
        out_std: float,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
        implementation: AttentionImplementation = "auto",
    ):
        """Makes the parameters.

        Args:
            width: of the tokens.
            num_heads: of the attention.
            causal: whether a token sees only itself and those before it.
            bias: of queries, values and the output.
            norm: qk: RMSNorm of each head's queries and keys, before they are turned; inner:
                LayerNorm over all heads, before the output projection.
            norm_eps: of that norm.
            in_std: initial deviation of the projection to queries, keys and values.
            out_std: initial deviation of the output projection.
            dtype: of the activations.
            rngs: of the initial numbers.
            implementation: see `ComputeConfig.attention`.
        """
        heads = (num_heads, width // num_heads)
        self.causal, self.dtype = causal, dtype
        self.implementation: AttentionImplementation = implementation
        self.qkv = nnx.LinearGeneral(
            width,
            (3, *heads),
            use_bias=False,
            kernel_init=nnx.initializers.normal(in_std),
            kernel_metadata={"axes": ("embed", None, "heads", None)},
            dtype=dtype,
            rngs=rngs,
        )
        self.qv_bias = (
            nnx.Param(jnp.zeros((2, *heads)), axes=(None, "heads", None)) if bias else None
        )
        self.query_norm = rms_norm(heads[1], norm_eps, dtype, rngs) if norm == "qk" else None
        self.key_norm = rms_norm(heads[1], norm_eps, dtype, rngs) if norm == "qk" else None
        self.norm = layer_norm(width, norm_eps, dtype, rngs) if norm == "inner" else None
        self.out = merged_heads(heads, width, std=out_std, bias=bias, dtype=dtype, rngs=rngs)

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
        if self.qv_bias is not None:
            bias = self.qv_bias[...].astype(self.dtype)
            query, value = query + bias[0], value + bias[1]
        if self.query_norm is not None and self.key_norm is not None:
            query, key = self.query_norm(query), self.key_norm(key)
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
        mixed = checkpoint_name(mixed, "attn")
        if self.norm is not None:
            mixed = self.norm(mixed.reshape(x.shape)).reshape(mixed.shape)
        return self.out(mixed)
