"""Trust ratios and factored moments of single layers, whether or not they are stacked.

Whatever an optimizer computes of a whole parameter it computes of each layer of a stack, so that
`compute.scan_layers` changes nothing of what is learnt.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from clipjax.core.stacks import is_stacked


def scale_by_trust_ratio(
    adapted: Callable[[Iterable[str]], Mapping[str, bool]],
) -> optax.GradientTransformation:
    """Returns LAMB's last step: an update gets the norm of its layer's parameter.

    Where either norm is zero the update stays as it is. The paper bounds the norm of the parameter
    by a function that its experiments leave open; here it is the identity.

    Args:
        adapted: says by name of which parameters; the authors leave out biases and gains.

    Source: You et al. 2019, "Large Batch Optimization for Deep Learning", algorithm 2,
        https://arxiv.org/abs/1904.00962.
    """

    def scaled(name: str, update: Array, param: Array) -> Array:
        axes = tuple(range(is_stacked(name), update.ndim))
        of_param, of_update = (
            jnp.sqrt(jnp.sum(jnp.square(array), axes, keepdims=True)) for array in (param, update)
        )
        defined = (of_param > 0) & (of_update > 0)
        return update * jnp.where(defined, of_param / jnp.where(defined, of_update, 1), 1)

    def update(updates: Any, params: Any) -> Any:
        which = adapted(updates)
        return {
            name: scaled(name, update, params[name]) if which[name] else update
            for name, update in updates.items()
        }

    return optax.stateless(update)


def scale_by_factored_rms(longest_memory: float) -> optax.GradientTransformation:
    """Returns Adafactor's division by the root of a second moment, as big_vision has it.

    Of a matrix, or the two longest axes of a larger array, only the sums over rows and columns are
    kept where both are at least 32 long; of anything smaller, each second moment.

    Args:
        longest_memory: what 1 - step^-0.8, the share of the old second moment, is cut off at.

    Source: Shazeer and Stern 2018, "Adafactor", algorithm 4, https://arxiv.org/abs/1804.04235; the
        limit: Zhai et al. 2022, "Scaling Vision Transformers", section 3.4,
        https://arxiv.org/abs/2106.04560.
    """

    def memory(step: Any, exponent: Any) -> Array:
        return jnp.minimum(longest_memory, 1 - jnp.float32(step + 1) ** -exponent)

    one = optax.scale_by_factored_rms(min_dim_size_to_factor=32, decay_rate_fn=memory)
    whole: Any = None
    of_layers = optax.FactoredState(count=whole, v_row=0, v_col=0, v=0)

    def joined(count: Any, states: Mapping[str, Any]) -> optax.FactoredState:
        rows, columns, each = (
            {name: getattr(state, field) for name, state in states.items()}
            for field in ("v_row", "v_col", "v")
        )
        return optax.FactoredState(count=count, v_row=rows, v_col=columns, v=each)

    def init(params: Any) -> optax.FactoredState:
        states = {}
        for name, param in params.items():
            make = jax.vmap(one.init, out_axes=of_layers) if is_stacked(name) else one.init
            states[name] = make(param)
        return joined(jnp.zeros((), jnp.int32), states)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        scaled, states = {}, {}
        for name, grad in updates.items():
            moments = (state.v_row[name], state.v_col[name], state.v[name])
            old = optax.FactoredState(state.count, *moments)
            scale = one.update
            if is_stacked(name):
                scale = jax.vmap(scale, in_axes=(0, of_layers, 0), out_axes=(0, of_layers))
            scaled[name], states[name] = scale(grad, old, params[name])
        return scaled, joined(optax.safe_increment(state.count), states)

    return optax.GradientTransformation(init, update)
