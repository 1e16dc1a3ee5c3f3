"""BERT, Devlin et al. 2018, https://arxiv.org/abs/1810.04805, and its heirs RoBERTa and XLM-R.

Deviation: no dropout; a text of nothing but padding sees all of it instead of nothing.
"""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int32

from clipjax.config import BertConfig, ComputeConfig
from clipjax.core.partition import constrain_batch, gather_table
from clipjax.models.layers.attention import Attention
from clipjax.models.layers.block import ACTIVATIONS, Blocks, Mlp, gradient_once, layer_norm
from clipjax.models.layers.pooling import mean_of
from clipjax.models.taps import mark, tap

_STD = 0.02


class PostNormBlock(nnx.Module):
    """norm(x + attention(x)), then norm(x + mlp(x))."""

    def __init__(self, config: BertConfig, *, compute: ComputeConfig, rngs: nnx.Rngs):
        dtype = jnp.dtype(compute.dtype)
        self.attn = Attention(
            config.width,
            config.num_heads,
            causal=False,
            in_std=_STD,
            out_std=_STD,
            dtype=dtype,
            rngs=rngs,
            implementation=compute.attention,
        )
        self.ln_1 = layer_norm(config.width, config.norm_eps, dtype, rngs)
        self.mlp = Mlp(
            config.width,
            config.mlp_dim,
            activation=config.activation,
            in_std=_STD,
            out_std=_STD,
            dtype=dtype,
            rngs=rngs,
        )
        self.ln_2 = layer_norm(config.width, config.norm_eps, dtype, rngs)

    def __call__(
        self, x: Float[Array, "batch tokens width"], mask: Bool[Array, "batch tokens"]
    ) -> Float[Array, "batch tokens width"]:
        """Returns the tokens after attention and MLP."""
        x = gradient_once(constrain_batch(x))
        x = self.ln_1(x + self.attn(x, mask))
        x = gradient_once(x)
        return tap("out", self.ln_2(x + self.mlp(x)))


class Bert(nnx.Module):
    """Words, positions and types, post-norm blocks, one pooled vector, projection.

    All tokens see each other, padding excepted.
    """

    def __init__(
        self, config: BertConfig, embed_dim: int, *, compute: ComputeConfig, rngs: nnx.Rngs
    ):
        dtype = jnp.dtype(compute.dtype)
        width, normal = config.width, nnx.initializers.normal(_STD)
        self.config, self.dtype = config, dtype

        def table(rows: int, *axes: str | None) -> nnx.Param:
            return nnx.Param(normal(rngs.params(), (rows, width)), axes=axes)

        def linear(inputs: int, outputs: int, *, bias: bool, axis: str | None = None) -> nnx.Linear:
            return nnx.Linear(
                inputs,
                outputs,
                use_bias=bias,
                kernel_init=normal,
                kernel_metadata={"axes": ("embed", axis)},
                bias_metadata={"axes": (axis,)},
                dtype=dtype,
                rngs=rngs,
            )

        self.embedding = table(config.vocab_size, "vocab", "embed")
        self.positions = table(config.max_positions, None, "embed")
        self.types = table(config.token_types, None, None)
        self.norm = layer_norm(width, config.norm_eps, dtype, rngs)

        def block(rngs: nnx.Rngs) -> PostNormBlock:
            return PostNormBlock(config, compute=compute, rngs=rngs)

        self.blocks = Blocks(block, config.depth, compute=compute, rngs=rngs)
        if config.has_pooler:
            self.pooler = linear(width, width, bias=True)
        if config.projection == "mlp":
            hidden = (width + embed_dim) // 2
            self.hidden = linear(width, hidden, bias=False, axis="mlp")
            self.project = linear(hidden, embed_dim, bias=False)
        elif config.projection != "none":
            self.project = linear(width, embed_dim, bias=config.projection == "linear_bias")

    def __call__(self, tokens: Int32[Array, "batch tokens"]) -> Float[Array, "batch embed"]:
        """Returns one embedding per text, not normalised.

        Args:
            tokens: with fewer than `context_length` of them the result is the same as with padding
                behind.
        """
        return self.pooled_and_tokens(tokens)[0]

    def pooled_and_tokens(
        self, tokens: Int32[Array, "batch tokens"]
    ) -> tuple[Float[Array, "batch embed"], Float[Array, "batch tokens width"]]:
        """Returns the embeddings, and the tokens that a decoder goes on from."""
        config, real = self.config, tokens != self.config.pad_id
        mask = real | ~real.any(axis=1, keepdims=True)
        rows = position_rows(real, config.first_position)
        x = gather_table(self.embedding[...])[tokens] + gather_table(self.positions[...])[rows]
        x = self.norm((x + self.types[0]).astype(self.dtype))
        mark(lambda: {"counted": mask, "cls": 0})
        seen = self.blocks(x, mask)
        return self._projected(self._pooled(seen, mask)), seen

    def _projected(self, x: Float[Array, "batch width"]) -> Float[Array, "batch embed"]:
        if self.config.projection == "none":
            return x
        if self.config.projection == "mlp":
            x = ACTIVATIONS["gelu"](self.hidden(x))
        return self.project(x)

    def _pooled(
        self, x: Float[Array, "batch tokens width"], mask: Bool[Array, "batch tokens"]
    ) -> Float[Array, "batch width"]:
        if self.config.pool == "mean":
            return mean_of(x, mask)
        if self.config.pool == "max":
            # By its place: the gradient of a maximum compares values, which XLA may compute twice
            # and round differently, and is NaN where none is equal.
            place = jnp.where(mask[..., None], x, -jnp.inf).argmax(axis=1, keepdims=True)
            return jnp.take_along_axis(x, place, axis=1)[:, 0]
        return jnp.tanh(self.pooler(x[:, 0])) if self.config.pool == "pooler" else x[:, 0]


def position_rows(real: Bool[Array, "batch tokens"], first: int) -> Int32[Array, "batch tokens"]:
    """Returns the row of the table of positions for each token.

    Args:
        real: which tokens are not padding.
        first: 0: tokens are counted from 0, padding too (BERT). Otherwise tokens that are not
            padding are counted from it, and padding has the row before (RoBERTa).
    """
    if first == 0:
        return jnp.broadcast_to(jnp.arange(real.shape[1], dtype=jnp.int32), real.shape)
    return jnp.cumsum(real, axis=1, dtype=jnp.int32) * real + (first - 1)
