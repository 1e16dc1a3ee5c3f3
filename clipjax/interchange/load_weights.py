"""From the tensors of a file to arrays in their place on the mesh, one leaf at a time."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from clipjax.config import DualEncoderConfig
from clipjax.core.partition import tree_shardings
from clipjax.core.stacks import stack_of
from clipjax.interchange.layout import Layout
from clipjax.interchange.transfer import Tensors, read_params, rolled, unrolled_shapes
from clipjax.models import param_axes, param_shapes

_ALIGNMENT = 64  # of the buffers that XLA takes over on CPU instead of copying them
_TILE = (128, 16)


def load_params(
    layout: Layout,
    config: DualEncoderConfig,
    tensors: Tensors,
    shardings: Mapping[str, Any] | None = None,
) -> dict[str, jax.Array]:
    """Returns our parameters and statistics by name, float32.

    Beside what is returned, no more than one leaf is in memory at a time.

    Args:
        layout: of the file.
        config: of the model.
        tensors: of the file.
        shardings: place of each leaf by name; None for the first device.

    Raises:
        UserError: if the file does not hold the tensors of the model; before anything is read.
    """
    first = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    found = {}
    for name, array in read_params(layout, config, tensors):
        found[name] = _placed(array, first if shardings is None else shardings[name])
    return found


def param_shardings(config: DualEncoderConfig, mesh: Mesh) -> dict[str, Any]:
    """Returns the place of every parameter and statistic on a mesh."""
    axes = param_axes(rolled(config))  # the axes of a layer: the stack's own is not among them
    if config.compute.scan_layers:
        shapes = param_shapes(config)
    else:
        shapes = unrolled_shapes(config)
        axes = {name: axes[(stack_of(name) or (name, 0))[0]] for name in shapes}
    leaves = {name: jax.ShapeDtypeStruct(shape, np.float32) for name, shape in shapes.items()}
    return tree_shardings(leaves, axes, mesh)


def _placed(array: np.ndarray, sharding: Any) -> jax.Array:
    # Each part is copied out of the file into a buffer that nobody else will ever write to, so
    # that XLA may keep it: a page of the mapped file would change when the file does.
    return jax.make_array_from_callback(
        array.shape, sharding, lambda index: owned_copy(np.asarray(array[index])), dtype=array.dtype
    )


def owned_copy(array: np.ndarray) -> np.ndarray:
    """Returns a contiguous copy at an address that is a multiple of 64."""
    buffer = np.empty(array.nbytes + _ALIGNMENT, np.uint8)
    start = -buffer.ctypes.data % _ALIGNMENT
    out = buffer[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    matrix = _transposed_matrix(array)
    if matrix is None:
        out[...] = array
    else:
        _copy_transposed(matrix, out.reshape(matrix.shape))
    return out


def _transposed_matrix(array: np.ndarray) -> np.ndarray | None:
    """Returns a view with two axes of which the first is the one that runs through the memory."""
    for split in range(1, array.ndim):
        shape = (math.prod(array.shape[:split]), math.prod(array.shape[split:]))
        if min(shape) < _TILE[0]:
            continue
        try:
            matrix = array.reshape(shape, copy=False)
        except ValueError:
            continue
        if matrix.strides[0] == array.itemsize:
            return matrix
    return None


def _copy_transposed(matrix: np.ndarray, out: np.ndarray) -> None:
    # Row by row, each number that is read would be on another page.
    for row in range(0, matrix.shape[0], _TILE[0]):
        for column in range(0, matrix.shape[1], _TILE[1]):
            part = np.s_[row : row + _TILE[0], column : column + _TILE[1]]
            out[part] = matrix[part]
