"""CLIP's text transformer, Radford et al. 2021, section 2.4, https://arxiv.org/abs/2103.00020."""

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int32

from clipjax.config import ComputeConfig, TextConfig
from clipjax.core.partition import gather_table
from clipjax.models.layers.block import Block, Blocks, layer_norm
from clipjax.models.layers.pooling import first_end
from clipjax.models.taps import mark


class TextTransformer(nnx.Module):
    """Token and position embeddings, pre-norm blocks, one pooled vector, projection.

    No padding mask, as in CLIP: with causal attention the features at the end token see nothing
    behind it; SigLIP trains with visible padding. Only CoCa's class token behind the text comes
    with a mask, for all tokens.
    """

    def __init__(
        self, config: TextConfig, embed_dim: int, *, compute: ComputeConfig, rngs: nnx.Rngs
    ):
        dtype = jnp.dtype(compute.dtype)
        width = config.width
        self.config, self.dtype = config, dtype
        self.embedding = nnx.Param(
            0.02 * nnx.initializers.normal(1.0)(rngs.params(), (config.vocab_size, width)),
            axes=("vocab", "embed"),
        )
        places = config.context_length + int(config.pool == "class")
        self.positions = nnx.Param(
            0.01 * nnx.initializers.normal(1.0)(rngs.params(), (places, width)),
            axes=(None, "embed"),
        )
        if config.pool == "class":
            self.class_token = nnx.Param(
                0.01 * nnx.initializers.normal(1.0)(rngs.params(), (width,)), axes=(None,)
            )

        def block(rngs: nnx.Rngs) -> Block:
            return Block(
                width,
                config.num_heads,
                config.mlp_dim,
                depth=config.depth,
                causal=config.causal,
                activation=config.activation,
                norm_eps=config.norm_eps,
                dtype=dtype,
                rngs=rngs,
                layer_scale=config.layer_scale,
                implementation=compute.attention,
            )

        self.blocks = Blocks(block, config.depth, compute=compute, rngs=rngs)
        self.norm = layer_norm(width, config.norm_eps, dtype, rngs)
        if config.projection:
            self.project = nnx.Linear(
                width,
                embed_dim,
                use_bias=config.projection_bias,
                kernel_init=nnx.initializers.normal(width**-0.5),
                kernel_metadata={"axes": ("embed", None)},
                bias_metadata={"axes": (None,)},
                dtype=dtype,
                rngs=rngs,
            )

    def __call__(self, tokens: Int32[Array, "batch tokens"]) -> Float[Array, "batch embed"]:
        """Returns one embedding per text, not normalised.

        Args:
            tokens: with fewer than `context_length` of them the result is the same as with padding
                behind, if attention is causal and the end token or a class token is pooled (see
                `clipjax.models.text_lengths`).
        """
        return self.pooled_and_tokens(tokens)[0]

    def pooled_and_tokens(
        self, tokens: Int32[Array, "batch tokens"]
    ) -> tuple[Float[Array, "batch embed"], Float[Array, "batch tokens width"]]:
        """Returns the embeddings, and the tokens that a decoder goes on from.

        The tokens are normed, except beside a class token, where only that one is.
        """
        mark(lambda: self._marks(tokens))
        x = gather_table(self.embedding[...])[tokens]
        if self.config.pool == "class":
            shape = (len(tokens), 1, self.config.width)
            x = jnp.concatenate([x, jnp.broadcast_to(self.class_token[...], shape)], axis=1)
            x = (x + self._positions(tokens.shape[1])).astype(self.dtype)
            x = self.blocks(x, self._seen(tokens))
            return self._projected(self.norm(x[:, -1])), x[:, :-1]
        x = (x + self.positions[: tokens.shape[1]]).astype(self.dtype)
        seen = self.norm(self.blocks(x))
        return self._projected(self._pooled(seen, tokens)), seen

    def _positions(self, count: int) -> Float[Array, "all width"]:
        """Returns those of `count` tokens and the class token, which has the last one always."""
        if count == self.config.context_length:
            return self.positions[...]
        return jnp.concatenate([self.positions[:count], self.positions[-1:]])

    def _seen(self, tokens: Int32[Array, "batch tokens"]) -> Bool[Array, "batch all"]:
        """Returns which of the tokens and the class token behind them can be seen."""
        shifted = self.config.class_mask == "shifted"
        ends = ((0, 0), (1, 0)) if shifted else ((0, 0), (0, 1))
        return jnp.pad(tokens != self.config.pad_id, ends, constant_values=True)

    def _marks(self, tokens: Int32[Array, "batch tokens"]) -> dict[str, Any]:
        """Returns what taps know of the tokens; padding counts where the tower pools it too."""
        if self.config.pool == "class":
            real = tokens != self.config.pad_id
            return {"counted": jnp.pad(real, ((0, 0), (0, 1)), constant_values=True), "cls": -1}
        if self.config.pool == "eot":
            end = jnp.argmax(tokens == self.config.eot_id, axis=1)
            return {"counted": jnp.arange(tokens.shape[1]) <= end[:, None], "eot": end}
        return {"eot": -1} if self.config.pool == "last" else {}

    def _pooled(
        self, x: Float[Array, "batch tokens width"], tokens: Int32[Array, "batch tokens"]
    ) -> Float[Array, "batch width"]:
        if self.config.pool == "eot":
            return first_end(x, tokens, self.config.eot_id)
        return x[:, -1] if self.config.pool == "last" else x.mean(axis=1)

    def _projected(self, x: Float[Array, "batch width"]) -> Float[Array, "batch embed"]:
        return self.project(x) if self.config.projection else x
