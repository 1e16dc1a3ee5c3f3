"""CapPa's decoder, Tschannen et al. 2023, section 3, https://arxiv.org/abs/2306.07915."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int32, Key

from clipjax.config import CappaDecoderConfig, ComputeConfig, DualEncoderConfig, MatchingConfig
from clipjax.config.errors import UsageError
from clipjax.core.partition import constrain_batch, gather_table
from clipjax.models.layers.attention import keys_seen
from clipjax.models.layers.block import Blocks, Mlp, gradient_once, layer_norm
from clipjax.models.layers.cross_attention import Context, CrossAttention, Tokens


def parallel_captions(key: Key[Array, ""], batch: int, share: float) -> Bool[Array, " batch"]:
    """Returns which captions are predicted in parallel: each by itself with probability `share`."""
    return jax.random.uniform(key, (batch,)) < share


class CappaBlock(nnx.Module):
    """Self-attention, attention to the image and MLP, each behind a norm; attention has no bias."""

    def __init__(
        self,
        config: CappaDecoderConfig | MatchingConfig,
        image_width: int,
        *,
        compute: ComputeConfig,
        rngs: nnx.Rngs,
    ):
        width, dtype = config.width, jnp.dtype(compute.dtype)

        def attention(context_width: int) -> CrossAttention:
            return CrossAttention(
                width,
                context_width,
                config.num_heads,
                bias=False,
                in_std=context_width**-0.5,
                out_std=width**-0.5,
                dtype=dtype,
                rngs=rngs,
                implementation=compute.attention,
            )

        def norm() -> nnx.LayerNorm:
            return layer_norm(width, config.norm_eps, dtype, rngs, bias=config.bias)

        glorot = (2 / (width + config.mlp_dim)) ** 0.5
        self.ln_1, self.ln_2, self.ln_3 = norm(), norm(), norm()
        self.self_attn, self.image_attn = attention(width), attention(image_width)
        self.mlp = Mlp(
            width,
            config.mlp_dim,
            activation=config.activation,
            in_std=glorot,
            out_std=glorot,
            dtype=dtype,
            rngs=rngs,
            bias=config.bias,
        )

    def __call__(
        self,
        x: Tokens,
        image: Context,
        image_mask: Bool[Array, "batch seen"] | None = None,
        mask: Bool[Array, "batch 1 #tokens tokens"] | None = None,
    ) -> Tokens:
        """Returns the text tokens after all three.

        Args:
            x: the text tokens.
            image: the image tokens, already normed.
            image_mask: which of them can be seen; all by default.
            mask: which text tokens each of them sees; by default those up to its own place.
        """
        x = constrain_batch(x)
        y = self.ln_1(gradient_once(x))
        x = x + self.self_attn(y, y, mask, causal=mask is None)
        x = x + self.image_attn(self.ln_2(gradient_once(x)), image, keys_seen(image_mask))
        return x + self.mlp(self.ln_3(gradient_once(x)))


class CappaDecoder(nnx.Module):
    """Predicts the tokens of a caption from an image: one after the other, or all at once.

    Token by token, the inputs are the caption shifted right behind `start_id`, and no place sees
    those behind it. In parallel, all inputs are one learned token for what is hidden, and every
    place sees every other: all that is known of the caption is the image.
    """

    def __init__(self, config: DualEncoderConfig, *, rngs: nnx.Rngs):
        decoder = config.decoder
        assert isinstance(decoder, CappaDecoderConfig)
        dtype, width = jnp.dtype(config.compute.dtype), decoder.width
        self.config, self.dtype = decoder, dtype
        normal = nnx.initializers.normal
        ids = decoder.vocab_size + int(decoder.parallel_share > 0)
        self.embedding = nnx.Param(
            normal(1.0)(rngs.params(), (ids, width)), axes=("vocab", "embed")
        )
        self.positions = nnx.Param(
            normal(width**-0.5)(rngs.params(), (decoder.context_length, width)),
            axes=(None, "embed"),
        )

        def block(rngs: nnx.Rngs) -> CappaBlock:
            return CappaBlock(decoder, config.image_token_width, compute=config.compute, rngs=rngs)

        self.blocks = Blocks(block, decoder.depth, compute=config.compute, rngs=rngs)
        self.norm = layer_norm(width, decoder.norm_eps, dtype, rngs)
        self.project = nnx.Linear(
            width,
            decoder.vocab_size,
            kernel_init=nnx.initializers.zeros_init(),
            kernel_metadata={"axes": ("embed", "vocab")},
            bias_metadata={"axes": ("vocab",)},
            dtype=dtype,
            rngs=rngs,
        )

    def __call__(
        self,
        tokens: Int32[Array, "batch tokens"],
        image: Context,
        mask: Bool[Array, "batch seen"] | None = None,
        parallel: Bool[Array, " batch"] | None = None,
    ) -> Float[Array, "batch tokens vocab"]:
        """Returns the logits of the token at each place, float32.

        Args:
            tokens: of the captions; a place never sees its own token.
            image: tokens of the image tower.
            mask: which of them can be seen; all by default.
            parallel: which captions are predicted all at once; none by default.

        Raises:
            UsageError: if captions are to be predicted in parallel with `parallel_share=0`.
        """
        x = self.hidden(tokens, image, mask, parallel)
        return constrain_batch(self.project(x).astype(jnp.float32))

    def hidden(
        self,
        tokens: Int32[Array, "batch tokens"],
        image: Context,
        mask: Bool[Array, "batch seen"] | None = None,
        parallel: Bool[Array, " batch"] | None = None,
    ) -> Tokens:
        """Returns what stands before the map to the vocabulary.

        Args:
            tokens: as of a call.
            image: as of a call.
            mask: as of a call.
            parallel: as of a call.

        Raises:
            UsageError: as a call.
        """
        if parallel is not None and not self.config.parallel_share:
            raise UsageError(
                "model.decoder.parallel_share=0 has no token for what is hidden: captions can only "
                "be predicted token by token."
            )
        start = ((0, 0), (1, 0))
        inputs = jnp.pad(tokens[:, :-1], start, constant_values=self.config.start_id)
        seen = None
        if parallel is not None:
            inputs = jnp.where(parallel[:, None], self.config.vocab_size, inputs)
            causal = jnp.tril(jnp.ones((tokens.shape[1],) * 2, bool))
            seen = causal | parallel[:, None, None, None]
        x = gather_table(self.embedding[...])[inputs] + self.positions[: tokens.shape[1]]
        return constrain_batch(self.norm(self.blocks(x.astype(self.dtype), image, mask, seen)))
