"""Muon: momentum whose matrices are made orthogonal; AdamW's moments for all else."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from clipjax.core.kernels import input_axes, is_convolution, is_fused
from clipjax.core.stacks import is_stacked
from clipjax.optim.names import LORA, TOWERS, Parameters, Shape, layers_of, places

_STEPS, _COEFFICIENTS = 5, (3.4445, -4.7750, 2.0315)
_UPDATE_RMS = 0.2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Matrices:
    """The linear maps that a parameter holds: [layers, inputs, parts, outputs] once reshaped.

    Attributes:
        layers: of a stack, or 1.
        inputs: numbers that each map sums over.
        parts: maps that are fused, such as queries, keys and values, or 1.
    """

    layers: int
    inputs: int
    parts: int


class MuonState(NamedTuple):
    """The momentum of matrices, and the state of all else."""

    matrices: Any
    others: Any


def scale_by_muon(
    matrices: Mapping[str, Matrices], others: optax.GradientTransformation, beta: float, dtype: Any
) -> optax.GradientTransformation:
    """Returns Muon's direction of each matrix, with a root mean square of 0.2.

    That is what AdamW's updates have, hence one learning rate and weight decay serve both.

    Args:
        matrices: what `matrices_of` gives.
        others: of the parameters that are not among them.
        beta: share of the momentum that is kept in a step.
        dtype: of the momentum.

    Source: Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks",
        https://kellerjordan.github.io/posts/muon/; the size of updates: Liu et al. 2025, "Muon is
        Scalable for LLM Training", section 2.2, https://arxiv.org/abs/2502.16982.
    """
    trace = optax.trace(beta, nesterov=True, accumulator_dtype=dtype)

    def split(tree: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        return (
            {name: leaf for name, leaf in tree.items() if name in matrices},
            {name: leaf for name, leaf in tree.items() if name not in matrices},
        )

    def init(params: Any) -> MuonState:
        ours, rest = split(params)
        return MuonState(matrices=trace.init(ours), others=others.init(rest))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, MuonState]:
        del params
        ours, rest = split(updates)
        traced: Any
        traced, momentum = trace.update(ours, state.matrices)
        moved: Any
        moved, other = others.update(rest, state.others)
        moved |= {name: _orthogonal(array, matrices[name]) for name, array in traced.items()}
        return moved, MuonState(matrices=momentum, others=other)

    return optax.GradientTransformation(init, update)


def orthogonalized(matrices: Float[Array, "*maps rows columns"]) -> Float[Array, "..."]:
    """Returns matrices whose singular values are near 1, from about 0.7 to 1.2; zeros stay zeros.

    Five steps of a quintic Newton-Schulz iteration with Jordan's coefficients. It is not to
    converge: it is steep at zero, so that small singular values are large after few steps.
    """
    a, b, c = _COEFFICIENTS
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = jnp.swapaxes(matrices, -1, -2) if tall else matrices
    tiny = jnp.finfo(x.dtype).tiny
    x = x / jnp.maximum(jnp.max(jnp.abs(x), (-2, -1), keepdims=True), tiny)  # squares may underflow
    x = x / jnp.maximum(jnp.sqrt(jnp.sum(jnp.square(x), (-2, -1), keepdims=True)), tiny)
    for _ in range(_STEPS):
        gram = x @ jnp.swapaxes(x, -1, -2)
        x = a * x + (b * gram + c * gram @ gram) @ x
    return jnp.swapaxes(x, -1, -2) if tall else x


def _orthogonal(array: Array, form: Matrices) -> Array:
    x = array.reshape(form.layers, form.inputs, form.parts, -1).swapaxes(1, 2)
    x = orthogonalized(x) * (_UPDATE_RMS * math.sqrt(max(x.shape[-2:])))
    return x.swapaxes(1, 2).reshape(array.shape)


def matrices_of(parameters: Parameters) -> dict[str, Matrices]:
    """Returns the parameters that Muon moves, and the matrices in each.

    They are kernels and low-rank factors, those of convolutions as [window x inputs, outputs]. Left
    to AdamW are the towers' entrances (patches, stems), tables, the map to a vocabulary, and
    convolutions of single channels, which mix nothing.
    """
    layers, model = layers_of(parameters.shapes), parameters.model
    entrance = {
        name
        for tower in TOWERS
        for name, place in places(tower, [own[0] for own in layers.values()], model).items()
        if place == "front"
    }
    return {
        name: form
        for name, shape in parameters.shapes.items()
        if layers[name][0] not in entrance and (form := _form(name, shape, parameters)) is not None
    }


def _form(name: str, shape: Shape, parameters: Parameters) -> Matrices | None:
    inner = shape[is_stacked(name) :]
    layers = shape[0] if is_stacked(name) else 1
    if name.startswith(LORA):
        return Matrices(layers=layers, inputs=inner[0], parts=1)
    axes = parameters.axes[name]
    if not name.endswith("/kernel") or "vocab" in axes:
        return None
    if is_convolution(axes):
        depthwise = inner[-2] == 1
        return None if depthwise else Matrices(layers=layers, inputs=math.prod(inner[:-1]), parts=1)
    count = input_axes(axes)
    parts = inner[count] if is_fused(axes) else 1
    return Matrices(layers=layers, inputs=math.prod(inner[:count]), parts=parts)
