"""Vision Transformer, Dosovitskiy et al. 2020, https://arxiv.org/abs/2010.11929."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from clipjax.config.model import ComputeConfig, ViTConfig
from clipjax.models.layers.block import Block, Blocks, layer_norm
from clipjax.models.layers.pooling import AttentionPool, mean_of
from clipjax.models.layers.positions import resampled, sincos2d
from clipjax.models.patches import Patches


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
        cls_tokens = int(config.pool == "cls")
        if cls_tokens:
            self.class_token = nnx.Param(normal(rngs.params(), (width,)), axes=(None,))
        if config.positions == "learned":
            shape = (config.num_patches + cls_tokens, width)
            self.positions = nnx.Param(normal(rngs.params(), shape), axes=(None, "embed"))
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
            )

        self.blocks = Blocks(block, config.depth, compute=compute, rngs=rngs)
        self.norm = layer_norm(width, config.norm_eps, dtype, rngs)
        if config.pool == "map":
            self.pool = AttentionPool(
                width,
                config.num_heads,
                config.mlp_dim,
                activation=config.activation,
                norm_eps=config.norm_eps,
                dtype=dtype,
                rngs=rngs,
            )
        if config.projection:
            self.project = nnx.Linear(
                width,
                embed_dim,
                use_bias=False,
                kernel_init=normal,
                kernel_metadata={"axes": ("embed", None)},
                dtype=dtype,
                rngs=rngs,
            )

    def __call__(
        self, pixels: Float[Array, "batch height width 3"] | Patches
    ) -> Float[Array, "batch embed"]:
        """Returns one embedding per image, not normalised.

        Args:
            pixels: already normalised by mean and standard deviation; square images, or patches of
                images of any shape, whose positions are then resampled.
        """
        mask = None
        if isinstance(pixels, Patches):
            x, mask = self._embed(pixels), pixels.mask
        else:
            x = self.patchify(pixels.astype(self.dtype))
            x = x.reshape(x.shape[0], -1, x.shape[-1]) + self._positions().astype(self.dtype)
        if self.config.pool == "cls":
            token = self.class_token[...].astype(self.dtype)
            if self.config.positions == "learned":
                token = token + self.positions[0].astype(self.dtype)
            token = jnp.broadcast_to(token, (x.shape[0], 1, x.shape[-1]))
            x = jnp.concatenate([token, x], axis=1)
            mask = mask if mask is None else jnp.pad(mask, ((0, 0), (1, 0)), constant_values=True)
        if self.config.pre_norm:
            x = self.pre_norm(x)
        x = self.blocks(x, mask)
        if self.config.pool == "map":
            x = self.pool(self.norm(x), mask)
        elif self.config.pool == "cls":
            x = self.norm(x[:, 0])
        else:
            x = self.norm(mean_of(x, mask))
        return self.project(x) if self.config.projection else x

    def _positions(self) -> Float[Array, "patches width"]:
        """Returns the embeddings of the grid of a square image."""
        if self.config.positions == "sincos2d":
            side = self.config.image_size // self.config.patch_size
            return jnp.asarray(sincos2d(side, side, self.config.width))
        return self.positions[int(self.config.pool == "cls") :]

    def _embed(self, patches: Patches) -> Float[Array, "batch patches width"]:
        """Returns what the convolution makes of patches, and where they are."""
        kernel = self.patchify.kernel[...].astype(self.dtype)
        x = patches.values.astype(self.dtype) @ kernel.reshape(-1, kernel.shape[-1])
        if self.patchify.bias is not None:
            x = x + self.patchify.bias[...].astype(self.dtype)
        places = resampled(self._positions(), patches.positions, patches.grid)
        return x + places.astype(self.dtype)
