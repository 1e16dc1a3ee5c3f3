"""Vision Transformer, Dosovitskiy et al. 2020, https://arxiv.org/abs/2010.11929."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Key

from clipjax.config import ComputeConfig, ViTConfig
from clipjax.models.layers.block import Block, Blocks, layer_norm
from clipjax.models.layers.cross_attention import QueryPool
from clipjax.models.layers.patch_dropout import kept_patches
from clipjax.models.layers.pooling import AttentionPool, mean_of
from clipjax.models.layers.positions import resampled, sincos2d
from clipjax.models.layers.rotary import Rotary, rotary_2d, rotary_at, taken, unturned_before
from clipjax.models.patches import Patches
from clipjax.models.taps import mark, within

Hidden = tuple[Bool[Array, "batch patches"], Float[Array, " channels"]]


class ViT(nnx.Module):
    """Patches, positions, pre-norm blocks, one pooled vector, projection.

    With class token, `pre_norm` and projection this is the tower of CLIP; with MAP pooling and
    neither it is that of SigLIP. Images of several shapes come as `Patches` (SigLIP 2's NaFlex),
    with the same parameters.
    """

    def __init__(
        self, config: ViTConfig, embed_dim: int, *, compute: ComputeConfig, rngs: nnx.Rngs
    ):
        dtype = jnp.dtype(compute.dtype)
        width, patch = config.width, config.patch_size
        normal = nnx.initializers.normal(width**-0.5)
        self.config, self.dtype = config, dtype
        self.patchify = nnx.Conv(
            3,
            width,
            (patch, patch),
            strides=(patch, patch),
            padding="VALID",
            use_bias=config.patch_bias,
            kernel_init=nnx.initializers.normal((3 * patch**2) ** -0.5),
            kernel_metadata={"axes": (None, None, None, "embed")},
            bias_metadata={"axes": (None,)},
            dtype=dtype,
            rngs=rngs,
        )
        if config.has_class_token:
            self.class_token = nnx.Param(normal(rngs.params(), (width,)), axes=(None,))
        if config.positions == "learned":
            shape = (config.num_patches + config.front_positions, width)
            self.positions = nnx.Param(normal(rngs.params(), shape), axes=(None, "embed"))
        if config.registers:
            shape = (config.registers, width)
            self.registers = nnx.Param(normal(rngs.params(), shape), axes=(None, "embed"))
        if config.pre_norm:
            self.pre_norm = layer_norm(width, config.norm_eps, dtype, rngs)

        def block(rngs: nnx.Rngs) -> Block:
            return Block(
                width,
                config.num_heads,
                config.mlp_dim,
                depth=config.depth,
                causal=False,
                activation=config.activation,
                norm_eps=config.norm_eps,
                dtype=dtype,
                rngs=rngs,
                layer_scale=config.layer_scale,
                qkv_bias=config.qkv_bias,
                implementation=compute.attention,
            )

        self.blocks = Blocks(block, config.depth, compute=compute, rngs=rngs)
        pooled_width = embed_dim if config.pool == "coca" else width
        self.norm = layer_norm(pooled_width, config.norm_eps, dtype, rngs)
        if config.pool == "map":
            self.pool = AttentionPool(
                width,
                config.num_heads,
                config.mlp_dim,
                activation=config.activation,
                norm_eps=config.norm_eps,
                dtype=dtype,
                rngs=rngs,
                implementation=compute.attention,
            )
        if config.pool == "coca":
            self.pool = QueryPool(
                embed_dim,
                width,
                config.pooler_heads,
                queries=config.pooler_queries,
                norm_eps=config.norm_eps,
                dtype=dtype,
                rngs=rngs,
                implementation=compute.attention,
            )
        if config.projection:
            self.project = nnx.Linear(
                pooled_width,
                embed_dim,
                use_bias=config.projection_bias,
                kernel_init=normal,
                kernel_metadata={"axes": ("embed", None)},
                bias_metadata={"axes": (None,)},
                dtype=dtype,
                rngs=rngs,
            )

    def __call__(
        self,
        pixels: Float[Array, "batch height width 3"] | Patches,
        train_key: Key[Array, ""] | None = None,
    ) -> Float[Array, "batch embed"]:
        """Returns one embedding per image, not normalised.

        Args:
            pixels: already normalised by mean and standard deviation; square images, or patches of
                images of any shape, whose positions are then resampled.
            train_key: in training, which patches are dropped.
        """
        return self._pooled(*self.tokens(pixels, train_key))

    def pooled_and_tokens(
        self,
        pixels: Float[Array, "batch height width 3"] | Patches,
        train_key: Key[Array, ""] | None = None,
        hidden: Hidden | None = None,
    ) -> tuple[
        Float[Array, "batch embed"],
        Float[Array, "batch seen channels"],
        Bool[Array, "batch seen"] | None,
    ]:
        """Returns the embeddings, the normed tokens that a decoder reads, and which of them count.

        The tokens are those of the patches; with CoCa's pooler, what the queries after the first
        have read.

        Args:
            pixels: as of a call.
            train_key: as of a call.
            hidden: patches of square images that are not seen, and what stands for each of them.
        """
        x, mask = self.tokens(pixels, train_key, hidden)
        if self.config.pool == "coca":
            x = self.norm(self.pool(x, mask))
            return self._projected(x[:, 0]), x[:, 1:], None
        first = int(self.config.pool == "cls")
        seen = None if mask is None else mask[:, first:]
        return self._pooled(x, mask), self.norm(x)[:, first:], seen

    def _pooled(
        self,
        x: Float[Array, "batch seen channels"],
        mask: Bool[Array, "batch seen"] | None,
    ) -> Float[Array, "batch embed"]:
        if self.config.pool == "coca":
            x = self.norm(self.pool(x, mask)[:, 0])
        elif self.config.pool == "map":
            x = within("pool", self.pool)(self.norm(x), mask)
        elif self.config.pool == "cls":
            x = self.norm(x[:, 0])
        elif self.config.norm_before_pool:
            x = mean_of(self.norm(x), mask)
        else:
            x = self.norm(mean_of(x, mask))
        return self._projected(x)

    def _projected(self, x: Float[Array, "batch channels"]) -> Float[Array, "batch embed"]:
        return self.project(x) if self.config.projection else x

    def tokens(
        self,
        pixels: Float[Array, "batch height width 3"] | Patches,
        train_key: Key[Array, ""] | None = None,
        hidden: Hidden | None = None,
    ) -> tuple[Float[Array, "batch seen channels"], Bool[Array, "batch seen"] | None]:
        """Returns what the blocks make of the tokens that are pooled, and which of them count.

        Registers are left out, and so is a class token that is not pooled.
        """
        x, mask, rotary = self.embedded(pixels, train_key, hidden)
        mark(lambda: {"counted": mask, "cls": 0 if self.config.has_class_token else None})
        x = self.blocks(x, mask, rotary)
        pooled = self.pooled_places(x.shape[1])
        pooled = jnp.asarray(pooled) if isinstance(pooled, list) else pooled
        return x[:, pooled], mask if mask is None else mask[:, pooled]

    def pooled_places(self, tokens: int) -> list[int] | slice:
        """Returns which tokens are pooled, or read by a decoder, of so many that the blocks run."""
        count = self.config.registers + int(self.config.has_class_token)
        if self.config.pool not in ("cls", "coca"):
            return slice(count, None)
        return [0, *range(count, tokens)] if self.config.registers else slice(None)

    def embedded(
        self,
        pixels: Float[Array, "batch height width 3"] | Patches,
        train_key: Key[Array, ""] | None = None,
        hidden: Hidden | None = None,
    ) -> tuple[
        Float[Array, "batch tokens channels"], Bool[Array, "batch tokens"] | None, Rotary | None
    ]:
        """Returns the tokens before the first block, which of them count, and how they are turned.

        Class token and registers come first.
        """
        config, mask = self.config, None
        if isinstance(pixels, Patches):
            x, mask = self._embed(pixels), pixels.mask
        else:
            x = self.patchify(pixels.astype(self.dtype))
            x = x.reshape(x.shape[0], -1, x.shape[-1])
            if hidden is not None:
                x = jnp.where(hidden[0][..., None], hidden[1].astype(self.dtype), x)
            places = self._positions()
            x = x if places is None else x + places.astype(self.dtype)
        rotary = self._rotary(pixels)
        if config.patch_dropout and train_key is not None:
            keep = kept_patches(train_key, mask, x.shape[:2], config.patch_dropout)
            x = jnp.take_along_axis(x, keep[..., None], axis=1)
            mask = mask if mask is None else jnp.take_along_axis(mask, keep, axis=1)
            rotary = rotary if rotary is None else taken(rotary, keep)
        front = self._front()
        count = len(front)
        if count:
            rows = jnp.broadcast_to(front, (x.shape[0], *front.shape))
            x = jnp.concatenate([rows, x], axis=1)
            mask = (
                mask if mask is None else jnp.pad(mask, ((0, 0), (count, 0)), constant_values=True)
            )
            rotary = rotary if rotary is None else unturned_before(rotary, count)
        return (self.pre_norm(x) if config.pre_norm else x), mask, rotary

    def _front(self) -> Float[Array, "tokens width"]:
        """Returns the tokens in front of the patches: class token, then registers."""
        parts = []
        if self.config.has_class_token:
            token = self.class_token[...].astype(self.dtype)
            if self.config.positions == "learned" and self.config.front_positions:
                token = token + self.positions[0].astype(self.dtype)
            parts.append(token[None])
        if self.config.registers:
            parts.append(self.registers[...].astype(self.dtype))
        return jnp.concatenate(parts) if parts else jnp.zeros((0, self.config.width), self.dtype)

    def _rotary(self, pixels: Float[Array, "batch height width 3"] | Patches) -> Rotary | None:
        if self.config.positions != "rope2d":
            return None
        if isinstance(pixels, Patches):
            return rotary_at(pixels.positions, self.config.width // self.config.num_heads)
        side = self.config.image_size // self.config.patch_size
        return rotary_2d(side, side, self.config.width // self.config.num_heads)

    def _positions(self) -> Float[Array, "patches width"] | None:
        """Returns the embeddings of the grid of a square image."""
        if self.config.positions == "sincos2d":
            side = self.config.image_size // self.config.patch_size
            return jnp.asarray(sincos2d(side, side, self.config.width))
        if self.config.positions == "learned":
            return self.positions[self.config.front_positions :]
        return None

    def _embed(self, patches: Patches) -> Float[Array, "batch patches width"]:
        """Returns what the convolution makes of patches, and where they are."""
        kernel = self.patchify.kernel[...].astype(self.dtype)
        x = patches.values.astype(self.dtype) @ kernel.reshape(-1, kernel.shape[-1])
        if self.patchify.bias is not None:
            x = x + self.patchify.bias[...].astype(self.dtype)
        table = self._positions()
        if table is None:
            return x
        return x + resampled(table, patches.positions, patches.grid).astype(self.dtype)
