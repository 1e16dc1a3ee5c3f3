"""Leaf by leaf onto the mesh: right numbers, right place, memory of their own."""

import mmap
import subprocess
import sys

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipjax.config import UserError
from clipjax.interchange.formats import layout_of
from clipjax.interchange.load_weights import (
    _placed,
    load_params,
    owned_copy,
    param_shardings,
)
from clipjax.interchange.transfer import (
    read_params,
    rolled,
    unrolled,
    unrolled_shapes,
)
from clipjax.interchange.weights_file import open_tensors
from clipjax.models import param_shapes


@pytest.fixture(scope="module")
def file(open_clip_folder, tmp_path_factory):
    return open_clip_folder(tmp_path_factory.mktemp("w") / "a") / "open_clip_model.safetensors"


@pytest.fixture(scope="module")
def layout(tiny_clip):
    return layout_of("open_clip", tiny_clip, custom_text=False)


@pytest.fixture(scope="module")
def expected(file, layout, tiny_clip):
    return {n: np.array(a) for n, a in read_params(layout, tiny_clip, open_tensors(file))}


def test_the_numbers_are_those_of_the_file(file, layout, tiny_clip, expected):
    params = load_params(layout, tiny_clip, open_tensors(file))
    assert params.keys() == expected.keys() == param_shapes(tiny_clip).keys()
    for name, array in params.items():
        assert array.dtype == np.float32
        assert len(array.devices()) == 1
        np.testing.assert_array_equal(array, expected[name], err_msg=name)


@pytest.mark.parametrize("scanned", [False, True])
def test_each_leaf_is_built_in_its_place(file, layout, tiny_clip, expected, mesh_222, scanned):
    config = rolled(tiny_clip) if scanned else tiny_clip
    places = param_shardings(config, mesh_222)
    assert any(not place.is_fully_replicated for place in places.values())
    params = load_params(layout, config, open_tensors(file), places)
    assert params.keys() == param_shapes(config).keys()
    for name, array in params.items():
        assert array.sharding == places[name]
        if name in expected:
            np.testing.assert_array_equal(array, expected[name], err_msg=name)
    if scanned:
        name = "text/blocks/stack/mlp/fc1/kernel"
        layers = [expected[f"text/blocks/stack/{i}/mlp/fc1/kernel"] for i in range(2)]
        np.testing.assert_array_equal(params[name], layers)


def test_places_and_shapes_of_a_stack_are_those_of_its_layers(tiny_clip, mesh_222):
    from clipjax.core.partition import tree_shardings
    from clipjax.models import param_axes

    assert unrolled_shapes(tiny_clip) == unrolled_shapes(rolled(tiny_clip))
    assert unrolled_shapes(tiny_clip) == param_shapes(unrolled(tiny_clip))
    for config in (tiny_clip, rolled(tiny_clip)):
        leaves = {n: jax.ShapeDtypeStruct(s, np.float32) for n, s in param_shapes(config).items()}
        direct = tree_shardings(leaves, param_axes(config), mesh_222)
        assert param_shardings(config, mesh_222) == direct


def test_what_becomes_of_the_file_does_not_matter(file, layout, tiny_clip, expected, tmp_path):
    path = tmp_path / "w.safetensors"
    path.write_bytes(file.read_bytes())
    params = load_params(layout, tiny_clip, open_tensors(path))
    with open(path, "r+b") as spoilt:
        spoilt.write(b"\xff" * path.stat().st_size)
    for name, array in params.items():
        np.testing.assert_array_equal(array, expected[name], err_msg=name)


def test_a_leaf_has_memory_of_its_own_also_where_the_file_is_aligned(tmp_path):
    """XLA on CPU takes over what lies on a multiple of 64, as the start of a mapping does."""
    path = tmp_path / "w"
    path.write_bytes(np.arange(1 << 16, dtype=np.float32).tobytes())
    with open(path, "rb") as file:
        mapped = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.float32)
    assert mapped.ctypes.data % 64 == 0
    placed = _placed(mapped, jax.sharding.SingleDeviceSharding(jax.devices()[0]))
    path.write_bytes(bytes(4 << 16))
    assert mapped[-1] == 0
    np.testing.assert_array_equal(placed, np.arange(1 << 16, dtype=np.float32))


def test_what_was_read_may_be_donated(file, layout, tiny_clip, expected):
    params = load_params(layout, tiny_clip, open_tensors(file))
    doubled = jax.jit(lambda p: jax.tree.map(lambda x: 2 * x, p), donate_argnums=0)(params)
    for name, array in doubled.items():
        np.testing.assert_array_equal(array, 2 * expected[name], err_msg=name)


def test_a_tensor_that_is_missing_is_told_before_anything_is_read(layout, tiny_clip, file):
    class Without:
        source = "w"

        def shapes(self):
            shapes = dict(open_tensors(file).shapes())
            del shapes["visual.proj"]
            return {**shapes, "visual.projection": (3,)}

        def read(self, name):
            raise AssertionError("read")

    with pytest.raises(UserError, match=r"visual\.proj Did you mean 'visual\.projection'"):
        load_params(layout, tiny_clip, Without())


@settings(max_examples=60, deadline=None)
@given(
    shape=st.lists(st.integers(0, 200), min_size=0, max_size=3),
    order=st.randoms(use_true_random=False),
    step=st.sampled_from([1, 2, -1]),
)
def test_a_copy_is_equal_contiguous_and_aligned_whatever_the_axes(shape, order, step):
    array = np.arange(np.prod(shape, dtype=int), dtype=np.float32).reshape(shape)
    axes = list(range(array.ndim))
    order.shuffle(axes)
    view = np.asarray(array.transpose(axes)[tuple(slice(None, None, step) for _ in axes)])
    copy = owned_copy(view)
    np.testing.assert_array_equal(copy, view)
    assert copy.flags.c_contiguous
    assert copy.ctypes.data % 64 == 0 or copy.size == 0
    assert not np.shares_memory(copy, array) or array.size == 0


@pytest.mark.parametrize("shape", [(3, 4, 70), (12, 70), (6, 2, 70)])
def test_large_matrices_are_turned_in_tiles(shape):
    """Those of attention have their heads apart: the view has more than two axes."""
    matrix = np.random.default_rng(0).standard_normal((300, 840)).astype(np.float32)
    view = matrix.T.reshape(*shape, 300) if np.prod(shape) == 840 else matrix.T
    copy = owned_copy(view)
    np.testing.assert_array_equal(copy, view)
    assert copy.flags.c_contiguous


_GATE = """
import sys
from pathlib import Path
from clipjax.cli.bench_load import load_figures
figures = load_figures("ViT-S-32", rounds=3)
print(figures["ratio"], figures["peak_over_file"])
"""


@pytest.mark.serial
@pytest.mark.slow
def test_memory_and_time_of_a_load_stay_near_those_of_the_file(make_child_env):
    """ViT-S-32, a quarter of a gigabyte; `clipjax bench load` measures ViT-L-14."""
    pytest.importorskip("safetensors")
    done = subprocess.run(
        [sys.executable, "-c", _GATE],
        env=make_child_env(1),
        capture_output=True,
        text=True,
        check=True,
        timeout=500,
    )
    ratio, peak = map(float, done.stdout.splitlines()[-1].split())
    assert peak <= 1.2
    assert ratio <= 1.5
