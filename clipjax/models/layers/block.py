"""The pre-norm transformer block, and how a stack of blocks is run."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float

from clipjax.config.fields import Activation, AttentionImplementation, Remat
from clipjax.config.model import ComputeConfig
from clipjax.core.partition import constrain_batch
from clipjax.models.layers.attention import Attention
from clipjax.models.layers.rotary import Rotary
from clipjax.models.taps import leaving, scan_layers, tap, within

Tokens = Float[Array, "batch tokens width"]
Activations = Float[Array, "batch *places width"]
Mask = Bool[Array, "batch tokens"] | None
"""Which tokens can be seen; None for all."""
Statistics = Any
"""The `nnx.State` of the batch norms of a block, empty for most."""


def quick_gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Returns x * sigmoid(1.702 x), the approximation that OpenAI's CLIP was trained with."""
    return x * jax.nn.sigmoid(1.702 * x)


# jax.nn.gelu defaults to the tanh form; PyTorch and CLIP to the exact one. Both are written out.
ACTIVATIONS: dict[Activation, Callable[[jax.Array], jax.Array]] = {
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
    "quick_gelu": quick_gelu,
    "silu": jax.nn.silu,
    "relu": jax.nn.relu,
}


def layer_norm(
    width: int, eps: float, dtype: jnp.dtype, rngs: nnx.Rngs, *, bias: bool = True
) -> nnx.LayerNorm:
    """Returns LayerNorm over the last axis; statistics in float32, the variance in two passes."""
    return nnx.LayerNorm(
        width,
        epsilon=eps,
        dtype=dtype,
        use_bias=bias,
        use_fast_variance=False,
        scale_metadata={"axes": (None,)},
        bias_metadata={"axes": (None,)},
        rngs=rngs,
    )


class Mlp(nnx.Module):
    """Two linear maps with an activation between them."""

    def __init__(
        self,
        width: int,
        hidden: int,
        *,
        activation: Activation,
        in_std: float,
        out_std: float,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
        bias: bool = True,
    ):
        self.activation: Activation = activation
        self.fc1 = nnx.Linear(
            width,
            hidden,
            use_bias=bias,
            kernel_init=nnx.initializers.normal(in_std),
            kernel_metadata={"axes": ("embed", "mlp")},
            bias_metadata={"axes": ("mlp",)},
            dtype=dtype,
            rngs=rngs,
        )
        self.fc2 = nnx.Linear(
            hidden,
            width,
            use_bias=bias,
            kernel_init=nnx.initializers.normal(out_std),
            kernel_metadata={"axes": ("mlp", "embed")},
            bias_metadata={"axes": (None,)},
            dtype=dtype,
            rngs=rngs,
        )

    def __call__(
        self, x: Float[Array, "batch *tokens width"]
    ) -> Float[Array, "batch *tokens width"]:
        """Maps each token by itself."""
        x = tap("mlp_pre", checkpoint_name(self.fc1(x), "fc1"))
        return self.fc2(tap("mlp_act", ACTIVATIONS[self.activation](x)))


class LayerScale(nnx.Module):
    """A learned gain of each channel of a residual branch.

    Source: Touvron et al. 2021, "Going deeper with Image Transformers", section 2,
        https://arxiv.org/abs/2103.17239.
    """

    def __init__(self, width: int, start: float, *, dtype: jnp.dtype):
        self.gain = nnx.Param(jnp.full(width, start, jnp.float32), axes=(None,))
        self.dtype = dtype

    def __call__(self, x: Float[Array, "*batch width"]) -> Float[Array, "*batch width"]:
        """Returns x, every channel times its gain."""
        return x * self.gain[...].astype(self.dtype)


class Block(nnx.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)); with layer scale a gain on each branch.

    Initialised as in CLIP: attention inputs with width^-0.5, residual outputs with
    width^-0.5 (2 depth)^-0.5, the first MLP map with (2 width)^-0.5.

    Source: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.3
        (scaling of the residual outputs by depth).
    """

    def __init__(  # noqa: PLR0913 (each is a choice of the config)
        self,
        width: int,
        num_heads: int,
        mlp_dim: int,
        *,
        depth: int,
        causal: bool,
        activation: Activation,
        norm_eps: float,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
        layer_scale: float | None = None,
        qkv_bias: bool = True,
        implementation: AttentionImplementation = "auto",
    ):
        out_std = width**-0.5 * (2 * depth) ** -0.5
        self.ln_1 = layer_norm(width, norm_eps, dtype, rngs)
        self.attn = Attention(
            width,
            num_heads,
            causal=causal,
            in_std=width**-0.5,
            out_std=out_std,
            dtype=dtype,
            rngs=rngs,
            qkv_bias=qkv_bias,
            implementation=implementation,
        )
        self.ln_2 = layer_norm(width, norm_eps, dtype, rngs)
        self.mlp = Mlp(
            width,
            mlp_dim,
            activation=activation,
            in_std=(2 * width) ** -0.5,
            out_std=out_std,
            dtype=dtype,
            rngs=rngs,
        )
        self.scaled = layer_scale is not None
        if layer_scale is not None:
            self.ls_1 = LayerScale(width, layer_scale, dtype=dtype)
            self.ls_2 = LayerScale(width, layer_scale, dtype=dtype)

    def __call__(self, x: Tokens, mask: Mask = None, rotary: Rotary | None = None) -> Tokens:
        """Returns the tokens after attention and MLP."""
        x = constrain_batch(x)
        mixed = self.attn(self.ln_1(gradient_once(x)), mask, rotary)
        x = x + (self.ls_1(mixed) if self.scaled else mixed)
        mapped = self.mlp(self.ln_2(gradient_once(x)))
        return tap("out", x + (self.ls_2(mapped) if self.scaled else mapped))


@jax.custom_vjp
def gradient_once(x: jax.Array) -> jax.Array:
    """Returns x; on CPU its gradient is computed once and not again in every block before.

    XLA on CPU fuses the additions along the residual stream: the gradient at a block is recomputed
    from those of all blocks behind it.
    """
    return x


def _barrier_on_cpu(_: None, gradient: jax.Array) -> tuple[jax.Array]:
    return (
        jax.lax.platform_dependent(
            gradient, cpu=jax.lax.optimization_barrier, default=lambda whole: whole
        ),
    )


gradient_once.defvjp(lambda x: (x, None), _barrier_on_cpu)


class Blocks(nnx.Module):
    """A stack of blocks: unrolled, or one compiled block scanned over stacked parameters."""

    def __init__(
        self,
        make: Callable[[nnx.Rngs], nnx.Module],
        depth: int,
        *,
        compute: ComputeConfig,
        rngs: nnx.Rngs,
        first: int = 0,
    ):
        """Makes the blocks.

        Args:
            make: makes one.
            depth: how many.
            compute: how they are run.
            rngs: of the initial numbers.
            first: number of the first one in the paths of taps.
        """
        self.remat: Remat = compute.remat
        self.scan = compute.scan_layers
        self.first = first
        self.depth = depth
        self.stack: Any
        if self.scan:
            self.stack = nnx.vmap(make, in_axes=0, out_axes=0)(rngs.split(depth))
        else:
            self.stack = nnx.List(make(rngs) for _ in range(depth))

    def __call__(self, x: Activations, *context: Any, **static: Any) -> Activations:
        """Runs all blocks in order; the statistics of their batch norms move as in one block.

        Args:
            x: the tokens or feature maps.
            context: what each block takes besides: the mask, the rotary positions.
            static: what each block takes by name and a trace does not see, such as `train`.
        """
        return within("blocks", self._run)(x, *context, **static)

    def _run(self, x: Activations, *context: Any, **static: Any) -> Activations:
        step = rematerialised(self.remat, scanned=self.scan, **static)
        if self.scan:
            numbers = range(self.first, self.first + self.depth)
            x, moved = scan_layers(
                lambda x, block: step(block, x, *context), x, self.stack, numbers
            )
            nnx.update(self.stack, moved)
            return x
        for number, block in enumerate(self.stack, self.first):
            x, moved = within(str(number), step)(block, x, *context)
            nnx.update(block, moved)
        return x


def rematerialised(
    remat: Remat, *, scanned: bool = False, **static: Any
) -> Callable[..., tuple[jax.Array, Statistics]]:
    """Returns what runs a block as `remat` says: its output, and its batch norms' statistics.

    A block inside a transformation is a copy, so what moved in it must come out by value.

    Args:
        remat: what the backward pass finds saved.
        scanned: the block is the body of a loop.
        static: what the block takes by name and a trace does not see.
    """
    policies = jax.checkpoint_policies

    def run(block: Any, x: jax.Array, *context: Any) -> tuple[jax.Array, Statistics]:
        return block(x, *context, **static), nnx.state(block, nnx.BatchStat)

    if remat == "none":
        return run
    policy = {
        "dots": policies.save_from_both_policies(
            policies.dots_with_no_batch_dims_saveable, policies.save_only_these_names("conv")
        ),
        "names": policies.save_only_these_names("qkv", "attn", "fc1", "conv"),
        "qkv_attn": policies.save_only_these_names("qkv", "attn", "conv"),
        "attn": policies.save_only_these_names("attn"),
        "full": policies.nothing_saveable,
    }[remat]
    # A loop keeps what is recomputed apart by itself; unrolled, XLA would merge it with the forward
    # pass and save everything after all.
    checkpoint = functools.partial(jax.checkpoint, policy=policy, prevent_cse=not scanned)
    return leaving(checkpoint, run)
