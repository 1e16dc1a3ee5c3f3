"""Tensors drawn by name, and files in memory."""

import hashlib

import numpy as np
import pytest

PIXEL_SEED = 7


def drawn(name, shape):
    """Float32 numbers that depend on the name and the shape of a tensor only.

    No leaf keeps its usual start: gains, biases, layer scales and statistics would hide mistakes.
    """
    key = int.from_bytes(hashlib.sha256(f"{name}{tuple(shape)}".encode()).digest()[:8], "little")
    noise = np.random.Generator(np.random.Philox(key)).standard_normal(shape)
    last = name.rpartition(".")[2].rpartition("/")[2]
    if last in ("logit_scale", "t") or name == "temperature":
        value = np.full(shape, 1.5) + 0.1 * noise
    elif last in ("logit_bias", "b") and len(shape) <= 1 and np.prod(shape) == 1:
        value = np.full(shape, -1.0) + 0.1 * noise
    elif last in ("running_var", "variance"):
        value = np.exp(0.3 * noise)
    elif len(shape) >= 2:
        fan_in = np.prod(shape[1:]) if last != "kernel" else np.prod(shape[:-1])
        value = noise * fan_in**-0.5
    elif last in ("gamma", "gain") or "lambda" in last or "layer_scale" in last:
        value = 0.5 + 0.1 * noise
    elif last in ("weight", "scale"):
        value = 1 + 0.2 * noise
    else:
        value = 0.2 * noise
    return np.asarray(value, np.float32)


class DrawnTensors:
    """What a layout expects, every tensor drawn by its name."""

    source = "drawn"

    def __init__(self, layout, our_shapes):
        self._shapes = {
            theirs: entry.their_shape(our_shapes[entry.ours])
            for entry in layout.entries
            for theirs in entry.theirs
        }

    def shapes(self):
        return self._shapes

    def read(self, name):
        return drawn(name, self._shapes[name])


@pytest.fixture(scope="session")
def draw():
    """The function that draws a tensor by name and shape."""
    return drawn


@pytest.fixture(scope="session")
def drawn_tensors():
    """The class of tensors drawn by what a layout expects."""
    return DrawnTensors
