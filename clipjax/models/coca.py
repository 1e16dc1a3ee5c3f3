"""CoCa's multimodal decoder, Yu et al. 2022, section 3.2, https://arxiv.org/abs/2205.01917."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from clipjax.config import CocaDecoderConfig, ComputeConfig, DualEncoderConfig
from clipjax.core.partition import constrain_batch
from clipjax.models.layers.block import Block, Blocks, layer_norm
from clipjax.models.layers.cross_attention import Context, CrossBlock, Tokens


class CaptionBlock(nnx.Module):
    """A causal block over the text, then a block that reads the image."""

    def __init__(self, config: CocaDecoderConfig, *, compute: ComputeConfig, rngs: nnx.Rngs):
        dtype = jnp.dtype(compute.dtype)
        self.text_block = Block(
            config.width,
            config.num_heads,
            config.mlp_dim,
            depth=config.depth,
            causal=True,
            activation=config.activation,
            norm_eps=config.norm_eps,
            dtype=dtype,
            rngs=rngs,
            implementation=compute.attention,
        )
        self.image_block = CrossBlock(
            config.width,
            config.num_heads,
            config.mlp_dim,
            depth=config.depth,
            activation=config.activation,
            norm_eps=config.norm_eps,
            dtype=dtype,
            rngs=rngs,
            implementation=compute.attention,
        )

    def __call__(
        self, x: Tokens, image: Context, mask: Bool[Array, "batch seen"] | None = None
    ) -> Tokens:
        """Returns the text tokens after both.

        Args:
            x: the text tokens.
            image: the image tokens.
            mask: which image tokens can be seen; all by default.
        """
        return self.image_block(self.text_block(x), image, mask)


class CocaDecoder(nnx.Module):
    """Goes on from the tokens of the text tower, reads those of the image tower, predicts tokens.

    Padding is not masked: with causal attention no token in front of it sees it.
    """

    def __init__(self, config: DualEncoderConfig, *, rngs: nnx.Rngs):
        decoder = config.decoder
        assert isinstance(decoder, CocaDecoderConfig)
        dtype = jnp.dtype(config.compute.dtype)

        def block(rngs: nnx.Rngs) -> CaptionBlock:
            return CaptionBlock(decoder, compute=config.compute, rngs=rngs)

        self.blocks = Blocks(block, decoder.depth, compute=config.compute, rngs=rngs)
        self.norm = layer_norm(decoder.width, decoder.norm_eps, dtype, rngs)
        self.project = nnx.Linear(
            decoder.width,
            decoder.vocab_size or config.text.vocab_size,
            use_bias=False,
            kernel_init=nnx.initializers.normal(decoder.width**-0.5),
            kernel_metadata={"axes": ("embed", "vocab")},
            dtype=dtype,
            rngs=rngs,
        )

    def __call__(
        self, text: Tokens, image: Context, mask: Bool[Array, "batch seen"] | None = None
    ) -> Float[Array, "batch tokens vocab"]:
        """Returns the logits of the token behind each place, float32.

        Args:
            text: what the text tower makes of the tokens, each of those before it.
            image: what the image tower gives to be read.
            mask: which image tokens can be seen; all by default.
        """
        return constrain_batch(self.project(self.hidden(text, image, mask)).astype(jnp.float32))

    def hidden(
        self, text: Tokens, image: Context, mask: Bool[Array, "batch seen"] | None = None
    ) -> Tokens:
        """Returns what stands before the map to the vocabulary.

        Args:
            text: as of a call.
            image: as of a call.
            mask: as of a call.
        """
        return constrain_batch(self.norm(self.blocks(text, image, mask)))
