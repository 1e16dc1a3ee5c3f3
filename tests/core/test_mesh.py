import dataclasses

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import PartitionSpec as P

from clipjax.config import MeshConfig, UsageError
from clipjax.core.mesh import (
    batch_devices,
    batch_sharding,
    check_batch_size,
    local_rows,
    make_mesh,
    mesh_sizes,
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
    assert mesh.axis_names == ("replica", "data", "fsdp", "tensor")
    assert mesh.devices.shape == (1, *shape)


@pytest.mark.parametrize(
    ("fields", "devices", "slices", "platform", "sizes"),
    [
        ({}, 256, 1, "tpu", (1, 16, 16, 1)),
        ({}, 256, 2, "tpu", (2, 8, 16, 1)),
        ({}, 256, 1, "gpu", (1, 32, 8, 1)),
        ({}, 8, 1, "cpu", (1, 1, 8, 1)),
        ({}, 36, 1, "gpu", (1, 4, 9, 1)),  # four hosts of nine
        ({}, 4, 1, "gpu", (1, 4, 1, 1)),  # too few to be worth it
        ({"tensor": 2}, 8, 1, "gpu", (1, 4, 1, 2)),
        ({"data": 4}, 8, 1, "gpu", (1, 4, 2, 1)),
        ({"fsdp": 64}, 256, 1, "tpu", (1, 4, 64, 1)),
        ({"replica": 4}, 256, 1, "gpu", (4, 8, 8, 1)),
        ({"replica": -1, "data": 2}, 64, 1, "gpu", (4, 2, 8, 1)),
    ],
)
def test_parameters_are_sharded_over_neighbours_and_copied_beyond(
    fields, devices, slices, platform, sizes
):
    assert mesh_sizes(MeshConfig(**fields), devices, slices, platform) == sizes


@given(
    st.integers(1, 512),
    st.integers(1, 4),
    st.sampled_from(["tpu", "gpu", "cpu"]),
    st.sampled_from([None, 1, 2, 3]),
    st.sampled_from([-1, 1, 4]),
    st.sampled_from([None, 1, 8, 32]),
    st.sampled_from([1, 2]),
)
def test_sizes_fill_the_devices_or_are_refused(n, slices, platform, replica, data, fsdp, tensor):
    config = MeshConfig(replica=replica, data=data, fsdp=fsdp, tensor=tensor)
    try:
        sizes = mesh_sizes(config, n * slices, slices, platform)
    except UsageError:
        return
    assert np.prod(sizes) == n * slices
    for asked, found in zip((replica, data, fsdp, tensor), sizes, strict=True):
        assert asked in (None, -1, found)


@pytest.mark.parametrize(
    ("sizes", "ways"),
    [
        ((4, 1, 1), "with data=8,"),
        ((-1, 3, 1), "with fsdp=2 or 4"),
        ((-1, 16, 1), "with fsdp=4 or 8"),
        ((16, 1, 1), "with data=8"),
        ((3, 3, 1), "An axis"),
    ],
)
def test_a_mesh_that_does_not_fill_the_devices_names_what_would(sizes, ways):
    told = rf"data={sizes[0]}, fsdp={sizes[1]}.* 8 devices.*{ways}"
    with pytest.raises(UsageError, match=told):
        make_mesh(MeshConfig(data=sizes[0], fsdp=sizes[1], tensor=sizes[2]))


@dataclasses.dataclass(frozen=True, kw_only=True)
class StandIn:
    """What `create_hybrid_device_mesh` looks at of a TPU."""

    id: int
    slice_index: int
    process_index: int
    coords: tuple[int, ...]
    core_on_chip: int = 0
    platform: str = "tpu"
    device_kind: str = "stand-in"


def sliced_devices(count, slices):
    return [
        StandIn(
            id=number,
            process_index=number // 4,
            slice_index=number * slices // count,
            coords=(number % 4, number * slices % count // slices // 4, 0),
        )
        for number in range(count)
    ]


@pytest.mark.parametrize("fields", [{}, {"replica": 1, "data": 2, "fsdp": -1}])
def test_only_copies_cross_the_network_between_slices(fields):
    devices = sliced_devices(32, 2)
    mesh = make_mesh(MeshConfig(**fields), devices=devices)
    slice_of = np.vectorize(lambda device: device.slice_index)(mesh.devices)
    # Along fsdp and tensor all devices are of one slice.
    assert (slice_of == slice_of[:, :, :1, :1]).all()
    assert mesh.devices.shape == ((2, 1, 16, 1) if not fields else (1, 2, 16, 1))


def test_slices_that_parameters_would_be_split_over_are_refused():
    with pytest.raises(UsageError, match=r"fsdp=32.* over 2 slices: .*set replica=2"):
        make_mesh(MeshConfig(replica=1, data=1, fsdp=32), devices=sliced_devices(32, 2))


def test_a_mesh_may_use_the_first_devices_only():
    assert make_mesh(MeshConfig(), num_devices=2).size == 2


def test_a_batch_is_split_over_all_axes_but_tensor(mesh, mesh_222):
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
