import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from clipjax.config import MeshConfig, UsageError
from clipjax.core.mesh import (
    batch_devices,
    batch_sharding,
    check_batch_size,
    local_rows,
    make_mesh,
    put_rows,
    replicated,
)


@pytest.mark.parametrize(
    ("sizes", "shape"),
    [
        ((-1, 1, 1), (8, 1, 1)),
        ((-1, 2, 2), (2, 2, 2)),
        ((2, -1, 1), (2, 4, 1)),
        ((1, 2, -1), (1, 2, 4)),
        ((2, 2, 2), (2, 2, 2)),
        ((8, -1, 1), (8, 1, 1)),
    ],
)
def test_one_axis_takes_what_is_left(sizes, shape):
    mesh = make_mesh(MeshConfig(data=sizes[0], fsdp=sizes[1], tensor=sizes[2]))
    assert tuple(mesh.shape.items()) == tuple(zip(("data", "fsdp", "tensor"), shape, strict=True))


@pytest.mark.parametrize("sizes", [(4, 1, 1), (-1, 3, 1), (-1, 16, 1), (16, 1, 1), (3, 3, 1)])
def test_a_mesh_that_does_not_fill_the_devices_names_its_sizes_and_their_number(sizes):
    with pytest.raises(UsageError, match=rf"data={sizes[0]}, fsdp={sizes[1]}.* 8 devices"):
        make_mesh(MeshConfig(data=sizes[0], fsdp=sizes[1], tensor=sizes[2]))


def test_a_mesh_may_use_the_first_devices_only():
    assert make_mesh(MeshConfig(), num_devices=2).size == 2


def test_a_batch_is_split_over_data_and_fsdp_only(mesh, mesh_222):
    assert (batch_devices(mesh), batch_devices(mesh_222)) == (8, 4)
    assert batch_sharding(mesh_222).shard_shape((8, 3)) == (2, 3)
    assert replicated(mesh_222).spec == P()


def test_a_batch_that_cannot_be_split_names_the_field_and_the_nearest_sizes(mesh, mesh_222):
    with pytest.raises(UsageError, match=r"config\.data\.x=12 .* 8 devices.* can: 8 and 16\."):
        check_batch_size("data.x", 12, mesh)
    with pytest.raises(UsageError, match=r"config\.data\.x=3 .* 4 devices.* can: 4\."):
        check_batch_size("data.x", 3, mesh_222)
    check_batch_size("data.x", 12, mesh_222)


def test_one_process_holds_every_row(mesh, mesh_222):
    for each in (mesh, mesh_222):
        np.testing.assert_array_equal(local_rows(each, 16), np.arange(16))


def test_rows_come_back_as_they_were_put(mesh, mesh_222):
    array = np.random.default_rng(0).integers(0, 256, (16, 4, 3), dtype=np.uint8)
    for each in (mesh, mesh_222):
        out = put_rows(array, local_rows(each, 16), 16, each)
        assert out.sharding == batch_sharding(each)
        assert out.dtype == np.uint8
        np.testing.assert_array_equal(out, array)


def aligned(shape):
    """A float32 buffer that begins at a multiple of 64 bytes: one that JAX takes over."""
    count = int(np.prod(shape)) * 4
    raw = np.zeros(count + 64, np.uint8)
    start = -raw.ctypes.data % 64
    out = raw[start : start + count].view(np.float32).reshape(shape)
    assert out.ctypes.data % 64 == 0
    return out


@pytest.mark.parametrize("devices", [1, 8])
def test_a_buffer_may_be_refilled_as_soon_as_its_rows_are_put(devices):
    """A ring of four aligned buffers and steps that nobody waits for, as in training."""
    mesh = make_mesh(MeshConfig(), num_devices=devices)
    buffers = [aligned((64, 1024)) for _ in range(4)]
    rows = local_rows(mesh, 64)
    step = jax.jit(lambda x: (x @ x.T).sum() * 0 + x.mean())
    kept, results = [], []
    for number in range(40):
        buffer = buffers[number % 4]
        buffer[...] = number
        kept.append(put_rows(buffer, rows, 64, mesh))
        results.append(step(kept[-1]))
        buffer[...] = np.nan
    for number, (batch, result) in enumerate(zip(kept, results, strict=True)):
        np.testing.assert_array_equal(batch, np.full((64, 1024), number, np.float32))
        assert result == number
