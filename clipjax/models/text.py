"""CLIP's text transformer, Radford et al. 2021, section 2.4, https://arxiv.org/abs/2103.00020."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int32

from clipjax.config import ComputeConfig, TextConfig
from clipjax.core.partition import gather_table
from clipjax.models.layers.block import Block, Blocks, layer_norm
from clipjax.models.layers.pooling import first_end


class TextTransformer(nnx.Module):
    """Token and position embeddings, pre-norm blocks, one pooled vector, projection.

    No padding mask, as in CLIP: with causal attention the features at the end token see nothing
    behind it; SigLIP trains with visible padding.
    """

    def __init__(
        self, config: TextConfig, embed_dim: int, *, compute: ComputeConfig, rngs: nnx.Rngs
    ):
        dtype = jnp.dtype(compute.dtype)
        width = config.width
        self.config, self.dtype = config, dtype
        self.embedding = nnx.Param(
            0.02 * nnx.initializers.normal(1.0)(rngs.params(), (config.vocab_size, width)),
            axes=("vocab", None),
        )
        self.positions = nnx.Param(
            0.01 * nnx.initializers.normal(1.0)(rngs.params(), (config.context_length, width)),
            axes=(None, "embed"),
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
                behind, if attention is causal and the end token is pooled.
        """
        x = gather_table(self.embedding[...])[tokens] + self.positions[: tokens.shape[1]]
        x = self.norm(self.blocks(x.astype(self.dtype)))
        if self.config.pool == "eot":
            x = first_end(x, tokens, self.config.eot_id)
        elif self.config.pool == "last":
            x = x[:, -1]
        else:
            x = x.mean(axis=1)
        return self.project(x) if self.config.projection else x
