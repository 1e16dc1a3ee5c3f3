"""A text tower with what language models took up after CLIP.

Rotary positions, Su et al. 2021, https://arxiv.org/abs/2104.09864; gated MLPs, Shazeer 2020,
https://arxiv.org/abs/2002.05202; RMSNorm, Zhang and Sennrich 2019,
https://arxiv.org/abs/1910.07467; normalised queries and keys, Henry et al. 2020,
https://arxiv.org/abs/2010.04245.
"""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int32

from clipjax.config import ComputeConfig, ModernTextConfig
from clipjax.config.errors import UsageError
from clipjax.core.partition import constrain_batch, gather_table
from clipjax.models.layers.block import Blocks, Mask, Tokens, gradient_once
from clipjax.models.layers.gated_mlp import GatedMlp
from clipjax.models.layers.normed_attention import NormedAttention, rms_norm
from clipjax.models.layers.pooling import mean_of
from clipjax.models.layers.rotary import Rotary, rotary_1d
from clipjax.models.taps import mark, tap


class ModernBlock(nnx.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)); no biases.

    Initialised with width^-0.5, residual outputs with width^-0.5 (2 depth)^-0.5.
    """

    def __init__(self, config: ModernTextConfig, *, compute: ComputeConfig, rngs: nnx.Rngs):
        dtype = jnp.dtype(compute.dtype)
        std = config.width**-0.5
        out_std = std * (2 * config.depth) ** -0.5
        self.norm1 = rms_norm(config.width, config.norm_eps, dtype, rngs)
        self.attn = NormedAttention(
            config.width,
            config.num_heads,
            causal=config.causal,
            bias=False,
            norm="qk" if config.qk_norm else None,
            norm_eps=config.norm_eps,
            in_std=std,
            out_std=out_std,
            dtype=dtype,
            rngs=rngs,
            implementation=compute.attention,
        )
        self.norm2 = rms_norm(config.width, config.norm_eps, dtype, rngs)
        self.mlp = GatedMlp(
            config.width,
            config.mlp_dim,
            bias=False,
            inner_norm_eps=None,
            in_std=std,
            out_std=out_std,
            dtype=dtype,
            rngs=rngs,
        )

    def __call__(self, x: Tokens, mask: Mask, rotary: Rotary) -> Tokens:
        """Returns the tokens after attention and MLP."""
        x = constrain_batch(x)
        x = x + self.attn(self.norm1(gradient_once(x)), mask, rotary)
        return tap("out", x + self.mlp(self.norm2(gradient_once(x))))


class ModernText(nnx.Module):
    """Token embeddings, blocks that do not see padding, one pooled vector, projection."""

    def __init__(
        self, config: ModernTextConfig, embed_dim: int, *, compute: ComputeConfig, rngs: nnx.Rngs
    ):
        dtype = jnp.dtype(compute.dtype)
        width = config.width
        self.config, self.dtype = config, dtype
        self.embedding = nnx.Param(
            0.02 * nnx.initializers.normal(1.0)(rngs.params(), (config.vocab_size, width)),
            axes=("vocab", "embed"),
        )

        def block(rngs: nnx.Rngs) -> ModernBlock:
            return ModernBlock(config, compute=compute, rngs=rngs)

        self.blocks = Blocks(block, config.depth, compute=compute, rngs=rngs)
        self.norm = rms_norm(width, config.norm_eps, dtype, rngs)
        self.project = nnx.Linear(
            width,
            embed_dim,
            use_bias=False,
            kernel_init=nnx.initializers.normal(width**-0.5),
            kernel_metadata={"axes": ("embed", None)},
            dtype=dtype,
            rngs=rngs,
        )

    def __call__(self, tokens: Int32[Array, "batch tokens"]) -> Float[Array, "batch embed"]:
        """Returns one embedding per text, not normalised.

        Args:
            tokens: with fewer than `context_length` of them the result is the same as with padding
                behind.

        Raises:
            UsageError: if there are more than `context_length`.
        """
        config, count = self.config, tokens.shape[1]
        # Any length could be turned, but none beyond that of training was ever learned.
        if count > config.context_length:
            raise UsageError(
                f"a text of {count} tokens: model.text.context_length={config.context_length} is "
                "the longest. Cut the texts, or train with a longer one."
            )
        seen = _seen(tokens, config.pad_id)
        rotary = rotary_1d(count, config.width // config.num_heads, config.rope_theta)
        x = gather_table(self.embedding[...])[tokens].astype(self.dtype)
        mark(lambda: {"counted": seen, "cls": 0 if config.pool == "first" else None})
        x = self.norm(self.blocks(x, seen, rotary))
        if config.pool == "mean":
            x = mean_of(x, seen)
        elif config.pool == "last":
            last = jnp.max(jnp.where(seen, jnp.arange(count), 0), axis=1)
            x = jnp.take_along_axis(x, last[:, None, None], axis=1)[:, 0]
        else:
            x = x[:, 0]
        return self.project(x)


def _seen(tokens: Int32[Array, "batch tokens"], pad_id: int) -> Bool[Array, "batch tokens"]:
    """Returns which tokens are not padding; the first one counts always.

    A text of nothing but padding would otherwise be a mean over nothing.
    """
    return (tokens != pad_id) | (jnp.arange(tokens.shape[1]) == 0)
