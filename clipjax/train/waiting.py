"""What a step leaves as it was: parameters that are trained in another stage, or in other layers.

A parameter that some stage trains has moments all along. Where it is locked its gradient is zero,
which alone would still let its moments fade and its weights decay.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from clipjax.optim import Trained, along_layers

Arrays = Mapping[str, jax.Array]


def of_trained(which: Mapping[str, Trained], new: Arrays, old: Arrays) -> dict[str, jax.Array]:
    """Returns the new arrays of what is trained now, and the old ones of what is not.

    Args:
        which: what is trained now.
        new: arrays by the names of parameters.
        old: the same before.
    """
    return {name: _chosen(which[name], array, old[name]) for name, array in new.items()}


def zeros_for_the_others(which: Mapping[str, Trained], grads: Arrays, like: Arrays) -> Arrays:
    """Returns a gradient for each parameter of `like`: zero for what is not trained now."""
    zeros = {name: jnp.zeros_like(array) for name, array in like.items()}
    return of_trained(which, {**zeros, **grads}, zeros)


def kept_moments(which: Mapping[str, Trained], new: Any, old: Any) -> Any:
    """Returns a new optimizer state in which the moments of what is not trained now are the old.

    Args:
        which: what is trained now.
        new: state after an update.
        old: the same before.
    """
    if all(trained is True for trained in which.values()):
        return new

    def chosen(path: tuple[Any, ...], array: jax.Array, before: jax.Array) -> jax.Array:
        name = str(getattr(path[-1], "key", ""))
        return _chosen(which.get(name, True), array, before)

    return jax.tree_util.tree_map_with_path(chosen, new, old)


def _chosen(trained: Trained, new: jax.Array, old: jax.Array) -> jax.Array:
    if isinstance(trained, bool):
        return new if trained else old
    if new.shape[:1] != (len(trained),):
        return new  # of all layers together
    return jnp.where(along_layers(trained, new.shape), new, old)
