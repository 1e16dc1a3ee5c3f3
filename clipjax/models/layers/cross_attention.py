"""Attention whose queries and keys come from different tokens.

Source: Vaswani et al. 2017, section 3.2.3, https://arxiv.org/abs/1706.03762.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float

from clipjax.config.fields import Activation, AttentionImplementation
from clipjax.core.partition import constrain_batch
from clipjax.models.layers.attention import keys_seen, merged_heads
from clipjax.models.layers.block import Mlp, gradient_once, layer_norm
from clipjax.models.layers.dot_product import attend

Tokens = Float[Array, "batch tokens width"]
Context = Float[Array, "batch seen channels"]


class CrossAttention(nnx.Module):
    """Multi-head attention of tokens to others, or to each other with a mask for every pair.

    Where both have one width, the projections are one kernel, as in `Attention`; otherwise two
    kernels, and the biases in one array for all three.
    """

    def __init__(
        self,
        width: int,
        context_width: int,
        num_heads: int,
        *,
        bias: bool,
        in_std: float,
        out_std: float,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
        implementation: AttentionImplementation = "auto",
    ):
        self.implementation: AttentionImplementation = implementation
        heads = (num_heads, width // num_heads)
        normal = nnx.initializers.normal(in_std)
        self.fused = width == context_width
        self.biased = bias and not self.fused
        if self.fused:
            self.qkv = nnx.LinearGeneral(
                width,
                (3, *heads),
                use_bias=bias,
                kernel_init=normal,
                kernel_metadata={"axes": ("embed", None, "heads", None)},
                bias_metadata={"axes": (None, "heads", None)},
                dtype=dtype,
                rngs=rngs,
            )
        else:
            self.query = nnx.LinearGeneral(
                width,
                heads,
                use_bias=False,
                kernel_init=normal,
                kernel_metadata={"axes": ("embed", "heads", None)},
                dtype=dtype,
                rngs=rngs,
            )
            self.key_value = nnx.LinearGeneral(
                context_width,
                (2, *heads),
                use_bias=False,
                kernel_init=normal,
                kernel_metadata={"axes": ("embed", None, "heads", None)},
                dtype=dtype,
                rngs=rngs,
            )
        if self.biased:
            self.bias = nnx.Param(jnp.zeros((3, *heads)), axes=(None, "heads", None))
        self.out = merged_heads(heads, width, std=out_std, bias=bias, dtype=dtype, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "#batch tokens width"],
        context: Context,
        mask: Bool[Array, "batch 1 #tokens seen"] | None = None,
        *,
        causal: bool = False,
    ) -> Tokens:
        """Returns what each token reads from the context.

        Args:
            x: the tokens that ask; those of one example for the whole batch are projected once.
            context: the tokens that answer.
            mask: which of them each token can see; all by default.
            causal: no token sees those behind its own place.
        """
        query, key, value = self._projected(x, context)
        query = jnp.broadcast_to(query, (len(context), *query.shape[1:]))
        mixed = attend(
            query, key, value, mask=mask, causal=causal, implementation=self.implementation
        )
        return self.out(checkpoint_name(mixed, "attn"))

    def _projected(
        self, x: Float[Array, "#batch tokens width"], context: Context
    ) -> tuple[
        Float[Array, "#batch tokens heads dim"],
        Float[Array, "batch seen heads dim"],
        Float[Array, "batch seen heads dim"],
    ]:
        if self.fused:
            # As the layer itself would do it, whose gradient may be one that ends in float32.
            x, kernel, _ = self.qkv.promote_dtype((x, self.qkv.kernel[...], None), dtype=x.dtype)
            dims = (((2,), (0,)), ((), ()))
            product = self.qkv.dot_general or jax.lax.dot_general
            query = product(x, kernel[:, 0], dims)
            pair = product(context, kernel[:, 1:], dims)
            bias = self.qkv.bias
        else:
            query, pair = self.query(x), self.key_value(context)
            bias = self.bias if self.biased else None
        if bias is not None:
            offset = bias[...].astype(x.dtype)
            query, pair = query + offset[0], pair + offset[1:]
        query, pair = checkpoint_name(query, "qkv"), checkpoint_name(pair, "qkv")
        return query, pair[:, :, 0], pair[:, :, 1]


class CrossBlock(nnx.Module):
    """x + attention(norm(x), norm(context)), then x + mlp(norm(x)); started like `Block`."""

    def __init__(
        self,
        width: int,
        num_heads: int,
        mlp_dim: int,
        *,
        depth: int,
        activation: Activation,
        norm_eps: float,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
        implementation: AttentionImplementation = "auto",
    ):
        out_std = width**-0.5 * (2 * depth) ** -0.5
        self.ln_1 = layer_norm(width, norm_eps, dtype, rngs)
        self.ln_context = layer_norm(width, norm_eps, dtype, rngs)
        self.attn = CrossAttention(
            width,
            width,
            num_heads,
            bias=True,
            in_std=width**-0.5,
            out_std=out_std,
            dtype=dtype,
            rngs=rngs,
            implementation=implementation,
        )
        self.ln_2 = layer_norm(width, norm_eps, dtype, rngs)
        self.mlp = Mlp(
            width,
            mlp_dim,
            activation=activation,
            in_std=(2 * width) ** -0.5,
            out_std=out_std,
            dtype=dtype,
            rngs=rngs,
        )

    def __call__(
        self, x: Tokens, context: Context, mask: Bool[Array, "batch seen"] | None = None
    ) -> Tokens:
        """Returns the tokens after attention to the context and MLP.

        Args:
            x: the tokens.
            context: what they read.
            mask: which tokens of the context can be seen; all by default.
        """
        x = constrain_batch(x)
        context = self.ln_context(context)
        x = x + self.attn(self.ln_1(gradient_once(x)), context, keys_seen(mask))
        return x + self.mlp(self.ln_2(gradient_once(x)))


class QueryPool(nnx.Module):
    """CoCa's attentional pooler: learned queries read from normed tokens, in their own width.

    Source: Yu et al. 2022, "CoCa", section 3.2, https://arxiv.org/abs/2205.01917.
    """

    def __init__(
        self,
        width: int,
        context_width: int,
        num_heads: int,
        *,
        queries: int,
        norm_eps: float,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
        implementation: AttentionImplementation = "auto",
    ):
        self.queries = nnx.Param(
            nnx.initializers.normal(1.0)(rngs.params(), (queries, width)), axes=(None, "embed")
        )
        self.ln_queries = layer_norm(width, norm_eps, dtype, rngs)
        self.ln_context = layer_norm(context_width, norm_eps, dtype, rngs)
        self.attn = CrossAttention(
            width,
            context_width,
            num_heads,
            bias=True,
            in_std=width**-0.5,
            out_std=width**-0.5,
            dtype=dtype,
            rngs=rngs,
            implementation=implementation,
        )

    def __call__(
        self, context: Context, mask: Bool[Array, "batch seen"] | None = None
    ) -> Float[Array, "batch queries width"]:
        """Returns what each query reads.

        Args:
            context: the tokens.
            mask: which of them can be seen; all by default.
        """
        queries = self.ln_queries(self.queries[...])[None]
        return self.attn(queries, self.ln_context(context), keys_seen(mask))
