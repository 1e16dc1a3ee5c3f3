"""Low-rank adaptation, Hu et al. 2021, https://arxiv.org/abs/2106.09685.

The factors are parameters beside those of the model, `lora/MATRIX/a` and `lora/MATRIX/b`. A step
adds alpha / rank a @ b to the frozen matrices and then runs the model as ever, so that what is
exported, W + alpha / rank a @ b, is what was trained.
"""

import dataclasses
import fnmatch
import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from clipjax.config import DualEncoderConfig, LoraConfig, UsageError, did_you_mean
from clipjax.core.kernels import input_axes, is_fused
from clipjax.core.stacks import layer_names
from clipjax.models.params import Params, param_axes, param_shapes

_PARTS = {"qkv": ("q", "k", "v"), "key_value": ("key", "value")}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Matrix:
    """A linear map inside a parameter.

    Attributes:
        parameter: its name.
        part: which part of a fused kernel.
        layers: of a stacked parameter, one matrix each; None for a single matrix.
        inputs: shape of what it maps from.
        outputs: shape of what it maps to.
    """

    parameter: str
    part: int | None
    layers: int | None
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


def matrices(config: DualEncoderConfig) -> dict[str, Matrix]:
    """Returns the linear maps of a model by name; convolutions and tables are none.

    With `compute.scan_layers` the layers of a stack are one entry.
    """
    axes, found = param_axes(config), {}
    for name, shape in param_shapes(config).items():
        stem, _, last = name.rpartition("/")
        inputs = input_axes(axes[name]) if last == "kernel" else 0
        if not inputs:
            continue
        stacked = len(shape) > len(axes[name])
        inner = shape[1:] if stacked else shape
        layers = shape[0] if stacked else None
        parts = _parts(stem, axes[name], inner)
        for part, own in enumerate(parts or (stem,)):
            found[own] = Matrix(
                parameter=name,
                part=part if parts else None,
                layers=layers,
                inputs=inner[:inputs],
                outputs=inner[inputs + bool(parts) :],
            )
    return found


def _parts(stem: str, axes: tuple[str | None, ...], shape: tuple[int, ...]) -> tuple[str, ...]:
    """Returns the names of the matrices of a fused kernel [inputs, parts, ...]; none for others."""
    if not is_fused(axes):
        return ()
    place, _, own = stem.rpartition("/")
    names = _PARTS.get(own, tuple(f"{own}_{part}" for part in range(shape[1])))
    return tuple(f"{place}/{name}" for name in names)


def chosen(config: DualEncoderConfig, lora: LoraConfig) -> dict[str, Matrix]:
    """Returns the matrices that are updated; none if the rank is 0.

    Raises:
        UsageError: if a pattern matches no matrix.
    """
    if not lora.rank:
        return {}
    known, found = matrices(config), {}
    for pattern in lora.matrices:
        matching = {n: m for n, m in known.items() if _matches(n, m, pattern)}
        if not matching:
            raise UsageError(
                f"config.optim.lora.matrices: {pattern!r} matches no matrix."
                f"{did_you_mean(pattern, known)} There are {', '.join(sorted(_kinds(known)))}."
            )
        found |= matching
    return {name: known[name] for name in known if name in found}


def _matches(name: str, matrix: Matrix, pattern: str) -> bool:
    if matrix.layers is None:
        return fnmatch.fnmatchcase(name, pattern)
    each = {fnmatch.fnmatchcase(layer, pattern) for layer in layer_names(name, matrix.layers)}
    if len(each) > 1:
        raise UsageError(
            f"config.optim.lora.matrices: {pattern!r} chooses some layers of a stack only. With "
            "model.compute.scan_layers=True all or none can be updated."
        )
    return each.pop()


def _kinds(names: Mapping[str, Matrix]) -> set[str]:
    return {"*/" + "/".join(name.split("/")[-2:]) for name in names}


def init_lora(config: DualEncoderConfig, lora: LoraConfig, seed: int) -> Params:
    """Returns the first factors: a normal with deviation inputs^-0.5, b zero; empty for rank 0.

    Every matrix draws from its own stream, so that choosing more changes none.
    """
    params: Params = {}
    for name, matrix in chosen(config, lora).items():
        layers = () if matrix.layers is None else (matrix.layers,)
        inputs, outputs = math.prod(matrix.inputs), math.prod(matrix.outputs)
        stream = jax.random.fold_in(jax.random.key(seed), _number(name))
        a = jax.random.normal(stream, (*layers, inputs, lora.rank), jnp.float32)
        params[f"lora/{name}/a"] = inputs**-0.5 * a
        params[f"lora/{name}/b"] = jnp.zeros((*layers, lora.rank, outputs), jnp.float32)
    return params


def _number(name: str) -> int:
    import zlib

    return zlib.crc32(name.encode())


def merged(params: Mapping[str, jax.Array], config: DualEncoderConfig, lora: LoraConfig) -> Params:
    """Returns the parameters of the model with the updates added, without the factors.

    Args:
        params: of the model, and its factors if the rank is not 0.
        config: of the model.
        lora: rank, weight and matrices.
    """
    out = {name: array for name, array in params.items() if not name.startswith("lora/")}
    for name, matrix in chosen(config, lora).items():
        a, b = params[f"lora/{name}/a"], params[f"lora/{name}/b"]
        # The matrix units' default would round W's update to bfloat16.
        update = jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST) * (lora.alpha / lora.rank)
        layers = () if matrix.layers is None else (matrix.layers,)
        update = update.reshape(*layers, *matrix.inputs, *matrix.outputs)
        whole = out[matrix.parameter]
        if matrix.part is None:
            out[matrix.parameter] = whole + update
        else:
            axis = len(layers) + len(matrix.inputs)
            place = (slice(None),) * axis + (matrix.part,)
            out[matrix.parameter] = whole.at[place].add(update)
    return out
