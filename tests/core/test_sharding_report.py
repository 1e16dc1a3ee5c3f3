import re

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding

from clipjax.config import MeshConfig, UsageError
from clipjax.core.mesh import make_mesh
from clipjax.core.partition import param_spec
from clipjax.core.sharding_report import state_leaves, warnings


def leaf(mesh, shape, axes, dtype=jnp.float32):
    place = NamedSharding(mesh, param_spec(shape, axes, mesh))
    return jax.ShapeDtypeStruct(shape, dtype, sharding=place)


def test_each_leaf_is_told_with_what_a_device_holds(mesh_222):
    state = {
        "params": {"a/kernel": leaf(mesh_222, (8, 6), ("embed", "mlp"))},
        "opt_state": ({"mu": {"a/kernel": leaf(mesh_222, (7, 3), (None, None), jnp.bfloat16)}},),
        "step": leaf(mesh_222, (), (), jnp.int32),
    }
    told = [(x.name, x.dtype, x.bytes, x.device_bytes) for x in state_leaves(state)]
    assert told == [
        ("opt_state/0/mu/a/kernel", "bfloat16", 42, 42),
        ("params/a/kernel", "float32", 192, 48),
        ("step", "int32", 4, 4),
    ]
    assert state_leaves(state)[1].spec == str(jax.P("fsdp", "tensor"))


@pytest.mark.parametrize(
    ("shapes", "told"),
    [
        ({"kernel": (8, 6), "table": (10, 4)}, []),
        ({"kernel": (7, 6), "table": (10, 4)}, ["fsdp=2 does not divide the 7 of axis 'embed'"]),
        ({"kernel": (8, 5), "other": (8, 6)}, ["tensor=2 does not divide the 5 of axis 'mlp'"]),
        ({"kernel": (3, 8, 6)}, []),  # stacked layers
        ({"kernel": (8, 6), "table": (9, 4)}, []),  # split along its other axis
        ({"kernel": (8, 6), "table": (9, 5)}, ["fsdp=2 does not divide the 9 of axis 'vocab'"]),
    ],
)
def test_an_axis_that_does_not_divide_is_named_with_an_example(shapes, told, mesh_222):
    axes = {name: ("embed", "mlp") for name in shapes}
    if "table" in shapes:
        axes["table"] = ("vocab", "embed")
    found = warnings([], axes, shapes, mesh_222)
    assert len(found) == len(told)
    for line, part in zip(found, told, strict=True):
        assert part in line


def test_an_axis_of_the_mesh_that_splits_nothing_is_refused_with_the_nearest_sizes():
    mesh = make_mesh(MeshConfig(data=1, tensor=8))
    shapes = {"q": (64, 12, 16), "w": (64, 36)}
    axes = {"q": ("embed", "heads", None), "w": ("embed", "mlp")}
    with pytest.raises(UsageError, match=r"tensor=8 divides no axis .* the 12 .*: 4, 6, 12\."):
        warnings([], axes, shapes, mesh)


def test_large_arrays_that_every_device_holds_are_told(mesh_222, mesh):
    shapes = {"small": (1024, 7), "split": (4096, 4096), "whole": (4095, 4097)}
    axes = dict.fromkeys(shapes, ("embed", None))
    state = {name: leaf(mesh_222, shape, axes[name]) for name, shape in shapes.items()}
    lines = warnings(state_leaves(state), axes, shapes, mesh_222)
    told = "1 leaves of at least 32 MiB .* 64 MiB together; the largest is whole"
    assert any(re.search(told, line) for line in lines)
    # Without an axis that splits parameters they are meant to be whole.
    state = {name: leaf(mesh, shape, axes[name]) for name, shape in shapes.items()}
    assert warnings(state_leaves(state), axes, shapes, mesh) == []
