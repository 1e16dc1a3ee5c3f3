"""Whether an image and a text belong together, seen by one network that reads both.

Source: Li et al. 2022, "BLIP", section 3.1 (the image-grounded text encoder),
https://arxiv.org/abs/2201.12086; Li et al. 2021, "ALBEF", section 3.2,
https://arxiv.org/abs/2107.07651.
"""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int32

from clipjax.config import DualEncoderConfig
from clipjax.core.partition import constrain_batch, gather_table
from clipjax.models.cappa import CappaBlock
from clipjax.models.layers.attention import keys_seen
from clipjax.models.layers.block import Blocks, layer_norm
from clipjax.models.layers.cross_attention import Context


class MatchingHead(nnx.Module):
    """Reads a text with every token seen, and the image in every block; one logit for the pair.

    A learned token behind the text gathers what the logit is made of.
    """

    def __init__(self, config: DualEncoderConfig, *, rngs: nnx.Rngs):
        head = config.matching
        assert head is not None
        dtype, width = jnp.dtype(config.compute.dtype), head.width
        self.config, self.dtype = head, dtype
        normal = nnx.initializers.normal
        self.embedding = nnx.Param(
            normal(0.02)(rngs.params(), (head.vocab_size, width)), axes=("vocab", "embed")
        )
        self.positions = nnx.Param(
            normal(0.01)(rngs.params(), (head.context_length + 1, width)), axes=(None, "embed")
        )
        self.token = nnx.Param(normal(0.02)(rngs.params(), (width,)), axes=(None,))

        def block(rngs: nnx.Rngs) -> CappaBlock:
            return CappaBlock(head, config.image_token_width, compute=config.compute, rngs=rngs)

        self.blocks = Blocks(block, head.depth, compute=config.compute, rngs=rngs)
        self.norm = layer_norm(width, head.norm_eps, dtype, rngs)
        self.project = nnx.Linear(
            width,
            1,
            kernel_init=normal(width**-0.5),
            kernel_metadata={"axes": ("embed", None)},
            bias_metadata={"axes": (None,)},
            dtype=dtype,
            rngs=rngs,
        )

    def __call__(
        self,
        tokens: Int32[Array, "batch tokens"],
        image: Context,
        mask: Bool[Array, "batch seen"] | None = None,
    ) -> Float[Array, " batch"]:
        """Returns the logits that image and text belong together, float32.

        Args:
            tokens: of the texts; padding is not seen. Fewer than `context_length` give the same as
                with padding behind them.
            image: tokens of the image tower.
            mask: which of them can be seen; all by default.
        """
        x = gather_table(self.embedding[...])[tokens] + self.positions[: tokens.shape[1]]
        last = jnp.broadcast_to(self.token[...] + self.positions[-1], (len(x), 1, x.shape[-1]))
        x = jnp.concatenate([x, last], axis=1).astype(self.dtype)
        real = jnp.pad(tokens != self.config.pad_id, ((0, 0), (0, 1)), constant_values=True)
        x = self.blocks(x, image, mask, keys_seen(real))
        logits = self.project(self.norm(x[:, -1]))[:, 0]
        return constrain_batch(logits.astype(jnp.float32))
