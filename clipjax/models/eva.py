"""EVA's Vision Transformers, Fang et al. 2023, "EVA-02", https://arxiv.org/abs/2303.11331."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key

from clipjax.config import ComputeConfig, EvaConfig
from clipjax.core.partition import constrain_batch
from clipjax.models.layers.block import Blocks, Mask, Mlp, Tokens, gradient_once, layer_norm
from clipjax.models.layers.gated_mlp import GatedMlp
from clipjax.models.layers.normed_attention import NormedAttention
from clipjax.models.layers.patch_dropout import kept_patches
from clipjax.models.layers.rotary import Rotary, rotary_2d, taken, unturned_before
from clipjax.models.taps import mark, tap

_STD = 0.02


class EvaBlock(nnx.Module):
    """Attention and MLP, each with a residual branch that is normalised first or last.

    Initialised with deviation 0.02, residual outputs with 0.02 (2 depth)^-0.5.
    """

    def __init__(self, config: EvaConfig, *, compute: ComputeConfig, rngs: nnx.Rngs):
        dtype = jnp.dtype(compute.dtype)
        out_std = _STD * (2 * config.depth) ** -0.5
        self.post_norm = config.post_norm
        self.norm1 = layer_norm(config.width, config.norm_eps, dtype, rngs)
        self.attn = NormedAttention(
            config.width,
            config.num_heads,
            causal=False,
            bias=True,
            norm="inner" if config.attention_norm else None,
            norm_eps=config.norm_eps,
            in_std=_STD,
            out_std=out_std,
            dtype=dtype,
            rngs=rngs,
            implementation=compute.attention,
        )
        self.norm2 = layer_norm(config.width, config.norm_eps, dtype, rngs)
        if config.swiglu:
            self.mlp = GatedMlp(
                config.width,
                config.mlp_dim,
                bias=True,
                inner_norm_eps=config.norm_eps if config.mlp_norm else None,
                in_std=_STD,
                out_std=out_std,
                dtype=dtype,
                rngs=rngs,
            )
        else:
            self.mlp = Mlp(
                config.width,
                config.mlp_dim,
                activation=config.activation,
                in_std=_STD,
                out_std=out_std,
                dtype=dtype,
                rngs=rngs,
            )

    def __call__(self, x: Tokens, mask: Mask = None, rotary: Rotary | None = None) -> Tokens:
        """Returns the tokens after attention and MLP."""
        x = constrain_batch(x)
        if self.post_norm:
            x = x + self.norm1(self.attn(gradient_once(x), mask, rotary))
            return tap("out", x + self.norm2(self.mlp(gradient_once(x))))
        x = x + self.attn(self.norm1(gradient_once(x)), mask, rotary)
        return tap("out", x + self.mlp(self.norm2(gradient_once(x))))


class Eva(nnx.Module):
    """A Vision Transformer with learned positions, and rotary ones inside attention (EVA02).

    Source: Fang et al. 2022, "EVA", https://arxiv.org/abs/2211.07636 (EVA01); Sun et al. 2023,
        "EVA-CLIP", https://arxiv.org/abs/2303.15389 (norms behind the branches of EVA02-E).
    """

    def __init__(
        self, config: EvaConfig, embed_dim: int, *, compute: ComputeConfig, rngs: nnx.Rngs
    ):
        dtype = jnp.dtype(compute.dtype)
        width, patch = config.width, config.patch_size
        normal = nnx.initializers.normal(_STD)
        self.config, self.dtype = config, dtype
        self.patchify = nnx.Conv(
            3,
            width,
            (patch, patch),
            strides=(patch, patch),
            padding="VALID",
            kernel_init=nnx.initializers.normal((3 * patch**2) ** -0.5),
            kernel_metadata={"axes": (None, None, None, "embed")},
            bias_metadata={"axes": (None,)},
            dtype=dtype,
            rngs=rngs,
        )
        self.class_token = nnx.Param(normal(rngs.params(), (width,)), axes=(None,))
        self.positions = nnx.Param(
            normal(rngs.params(), (1 + config.num_patches, width)), axes=(None, "embed")
        )

        def block(rngs: nnx.Rngs) -> EvaBlock:
            return EvaBlock(config, compute=compute, rngs=rngs)

        self.blocks = Blocks(block, config.depth, compute=compute, rngs=rngs)
        self.norm = layer_norm(width, config.norm_eps, dtype, rngs)
        self.project = nnx.Linear(
            width,
            embed_dim,
            kernel_init=nnx.initializers.normal(width**-0.5),
            kernel_metadata={"axes": ("embed", None)},
            bias_metadata={"axes": (None,)},
            dtype=dtype,
            rngs=rngs,
        )

    def __call__(
        self,
        pixels: Float[Array, "batch height width 3"],
        train_key: Key[Array, ""] | None = None,
    ) -> Float[Array, "batch embed"]:
        """Returns one embedding per image, not normalised.

        Args:
            pixels: already normalised by mean and standard deviation.
            train_key: in training, which patches are dropped.
        """
        x = self.patchify(pixels.astype(self.dtype))
        x = x.reshape(x.shape[0], -1, x.shape[-1])
        positions = self.positions[...].astype(self.dtype)
        x, rotary = x + positions[1:], self._rotary()
        if self.config.patch_dropout and train_key is not None:
            keep = kept_patches(train_key, None, x.shape[:2], self.config.patch_dropout)
            x = jnp.take_along_axis(x, keep[..., None], axis=1)
            rotary = rotary if rotary is None else taken(rotary, keep)
        first = self.class_token[...].astype(self.dtype) + positions[0]
        first = jnp.broadcast_to(first, (x.shape[0], 1, *first.shape))
        x = jnp.concatenate([first, x], axis=1)
        rotary = rotary if rotary is None else unturned_before(rotary, 1)
        mark(lambda: {"cls": 0})
        x = self.blocks(x, None, rotary)
        pooled = x[:, 0] if self.config.pool == "cls" else x[:, 1:].mean(axis=1)
        return self.project(self.norm(pooled))

    def _rotary(self) -> Rotary | None:
        config = self.config
        if not config.rope:
            return None
        side = config.image_size // config.patch_size
        return rotary_2d(side, side, config.width // config.num_heads, grid=config.rope_grid)
