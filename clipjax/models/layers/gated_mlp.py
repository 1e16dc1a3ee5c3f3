"""A gated MLP, Shazeer 2020, "GLU Variants Improve Transformer", https://arxiv.org/abs/2002.05202."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from clipjax.models.layers.block import layer_norm
from clipjax.models.taps import tap


class GatedMlp(nnx.Module):
    """SwiGLU: silu(gate) * value, both linear in the input, and a linear map of that.

    One matrix makes both halves; the gate is the first.
    """

    def __init__(
        self,
        width: int,
        hidden: int,
        *,
        bias: bool,
        inner_norm_eps: float | None,
        in_std: float,
        out_std: float,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        """Makes the parameters.

        Args:
            width: of the tokens.
            hidden: units of each half.
            bias: of all maps.
            inner_norm_eps: of a LayerNorm between the product and the last map; None for no norm.
            in_std: initial deviation of the two halves.
            out_std: initial deviation of the last map.
            dtype: of the activations.
            rngs: of the initial numbers.
        """
        self.fc1 = nnx.LinearGeneral(
            width,
            (2, hidden),
            use_bias=bias,
            kernel_init=nnx.initializers.normal(in_std),
            kernel_metadata={"axes": ("embed", None, "mlp")},
            bias_metadata={"axes": (None, "mlp")},
            dtype=dtype,
            rngs=rngs,
        )
        self.norm = (
            None if inner_norm_eps is None else layer_norm(hidden, inner_norm_eps, dtype, rngs)
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

    def __call__(self, x: Float[Array, "batch tokens width"]) -> Float[Array, "batch tokens width"]:
        """Maps each token by itself."""
        halves = checkpoint_name(self.fc1(x), "fc1")
        x = tap("mlp_act", jax.nn.silu(halves[..., 0, :]) * halves[..., 1, :])
        return self.fc2(x if self.norm is None else self.norm(x))
