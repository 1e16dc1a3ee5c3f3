"""Arithmetic cost of a program, counted from its trace.

A multiply-add counts as two FLOPs; matrix products and convolutions are counted, norms,
activations, softmax and look-ups are not. A training step costs three times the forward pass.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.extend import core


def program_flops(function: Callable[..., Any], *arguments: Any) -> int:
    """Returns the FLOPs of the products and convolutions of one call; nothing is compiled or run.

    Loops count as often as they run; of the branches of a conditional the dearest counts.

    Args:
        function: what `jax.make_jaxpr` can trace.
        arguments: arrays or `jax.ShapeDtypeStruct`s.

    Raises:
        ValueError: if the program has a loop whose length is not known from its trace.

    >>> import jax.numpy as jnp
    >>> program_flops(jnp.dot, jnp.ones((2, 3)), jnp.ones((3, 4)))
    48
    """
    return _flops(jax.make_jaxpr(function)(*arguments).jaxpr)


def _flops(jaxpr: core.Jaxpr) -> int:
    return sum(_equation_flops(equation) for equation in jaxpr.eqns)


def _equation_flops(equation: Any) -> int:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        shape = equation.invars[0].aval.shape
        return 2 * equation.outvars[0].aval.size * math.prod(shape[axis] for axis in contracted)
    if name == "conv_general_dilated":
        kernel = equation.invars[1].aval.shape
        outputs = kernel[params["dimension_numbers"].rhs_spec[0]]
        return 2 * equation.outvars[0].aval.size * math.prod(kernel) // outputs
    if name == "cond":
        return max(_flops(branch.jaxpr) for branch in params["branches"])
    if name == "while":
        inner = _flops(params["body_jaxpr"].jaxpr) + _flops(params["cond_jaxpr"].jaxpr)
        if inner:
            raise ValueError("a loop of unknown length holds products")
        return 0
    times = params["length"] if name == "scan" else 1
    return times * sum(_flops(inner) for inner in _programs(params))


def _programs(params: dict[str, Any]) -> list[core.Jaxpr]:
    """Returns the programs inside an equation, such as those of `jit` and `checkpoint`."""
    # A function with its own derivative holds the program of its value as `call_jaxpr`, and only
    # functions beside it.
    found = [getattr(value, "jaxpr", value) for value in params.values()]
    return [value for value in found if isinstance(value, core.Jaxpr)]
