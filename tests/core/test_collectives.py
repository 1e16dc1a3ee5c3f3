"""Texts by hand, and programs whose messages are known because `shard_map` writes them down."""

import math
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import PartitionSpec as P

from clipjax.core.collectives import Collective, collectives

MESH = {"data": 4, "fsdp": 2}


def program(*lines, loops=""):
    """An HLO text whose entry holds these lines."""
    body = "\n".join(f"  {line}" for line in lines)
    return f"HloModule x\n\n{loops}\nENTRY %main (p: f32[4]) -> f32[4] {{\n{body}\n}}\n"


def one(*lines, loops="", mesh=MESH):
    (found,) = collectives(program(*lines, loops=loops), mesh)
    return found


@pytest.fixture(scope="module")
def mesh_42():
    return jax.make_mesh((4, 2), ("data", "fsdp"), axis_types=(jax.sharding.AxisType.Auto,) * 2)


def compiled(function, mesh, *arguments, specs, out):
    inner = jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=out, check_vma=False)
    return collectives(jax.jit(inner).lower(*arguments).compile().as_text(), dict(mesh.shape))


@pytest.mark.parametrize("axis", ["data", "fsdp", ("data", "fsdp")])
@pytest.mark.parametrize(
    ("kind", "operation", "bytes_of"),
    [
        ("all-reduce", lambda x, axis: jax.lax.psum(x, axis), lambda n: 16 * 8 * 4),
        (
            "all-gather",
            lambda x, axis: jax.lax.all_gather(x, axis, tiled=True),
            lambda n: n * 16 * 8 * 4,
        ),
        (
            "reduce-scatter",
            lambda x, axis: jax.lax.psum_scatter(x, axis, tiled=True),
            lambda n: 16 * 8 * 4 // n,
        ),
        (
            "all-to-all",
            lambda x, axis: jax.lax.all_to_all(x, axis, 0, 1, tiled=True),
            lambda n: 16 * 8 * 4,
        ),
    ],
    ids=["all-reduce", "all-gather", "reduce-scatter", "all-to-all"],
)
def test_a_message_is_found_with_its_axes_and_bytes(mesh_42, axis, kind, operation, bytes_of):
    """Each device has [16, 8] float32."""
    whole = jnp.ones((128, 8))
    found = compiled(
        lambda x: operation(x, axis), mesh_42, whole, specs=P(("data", "fsdp")), out=P(None)
    )
    axes = (axis,) if isinstance(axis, str) else axis
    size = math.prod(MESH[name] for name in axes)
    assert [(x.kind, x.axes, x.group_size, x.times, x.exact) for x in found] == [
        (kind, axes, size, 1, True)
    ]
    assert found[0].result_bytes == bytes_of(size)


def test_a_message_to_the_neighbour_goes_along_its_axis(mesh_42):
    def shift(x):
        return jax.lax.ppermute(x, "fsdp", [(0, 1), (1, 0)])

    (found,) = compiled(shift, mesh_42, jnp.ones((8, 3)), specs=P(("data", "fsdp")), out=P(None))
    assert (found.kind, found.axes, found.result_bytes) == ("collective-permute", ("fsdp",), 12)
    assert found.members[:4] == (0, 1, 1, 0)


def test_loops_multiply_what_is_inside_them(mesh_42):
    """psum of [2, 3] float32 five times, of which each three times inside, and once outside."""

    def summed(x):
        def inner(carry, _):
            return jax.lax.psum(carry, "fsdp") / 2, None

        def outer(carry, _):
            carry, _ = jax.lax.scan(inner, jax.lax.psum(carry, "data") / 4, length=3)
            return carry, None

        return jax.lax.scan(outer, jax.lax.psum(x, ("data", "fsdp")), length=5)[0]

    found = compiled(summed, mesh_42, jnp.ones((16, 3)), specs=P(("data", "fsdp")), out=P(None))
    times = {one.axes: (one.loops, one.times) for one in found}
    assert times == {
        ("data", "fsdp"): ((), 1),
        ("data",): ((5,), 5),
        ("fsdp",): ((5, 3), 15),
    }
    assert {one.result_bytes for one in found} == {24}


def test_what_xla_adds_by_itself_is_found(mesh_42):
    """The sum over an axis that is split: one all-reduce of 16 float32 along it."""
    place = jax.sharding.NamedSharding
    x = jax.ShapeDtypeStruct((8, 16), jnp.float32, sharding=place(mesh_42, P("data")))
    text = jax.jit(lambda x: x.sum(0), out_shardings=place(mesh_42, P())).lower(x).compile()
    (found,) = collectives(text.as_text(), dict(mesh_42.shape))
    assert (found.kind, found.axes, found.result_bytes) == ("all-reduce", ("data",), 64)


@pytest.mark.parametrize(
    ("groups", "axes", "first"),
    [
        ("{{0,1},{2,3},{4,5},{6,7}}", ("fsdp",), (0, 1)),
        ("{{0,2,4,6},{1,3,5,7}}", ("data",), (0, 2, 4, 6)),
        ("{}", ("data", "fsdp"), tuple(range(8))),
        ("[4,2]<=[8]", ("fsdp",), (0, 1)),
        ("[2,4]<=[4,2]T(1,0)", ("data",), (0, 2, 4, 6)),
        ("[1,8]<=[8]", ("data", "fsdp"), tuple(range(8))),
        ("mesh['x'=4,'y'=2] {'y'}", ("fsdp",), (0, 1)),
        ("mesh['x'=4,'y'=2] {'x'}", ("data",), (0, 2, 4, 6)),
        ("mesh['x'=8,'y'=1] {'x'}", ("data", "fsdp"), tuple(range(8))),
        ("mesh['x'=8] {'x':(4)2}", ("fsdp",), (0, 1)),
        ("mesh['x'=8] {'x':(2)2}", ("data",), (0, 2)),
        ("mesh['x'=8] {'x':(1)2,'x':(4)2}", ("data", "fsdp"), (0, 1, 4, 5)),
        ("mesh['x'=2,'y'=4], device_ids=([4,2]T(1,0)) {'x'}", ("fsdp",), (0, 1)),
        ("mesh['x'=2,'y'=4], device_ids=(0,2,4,6,1,3,5,7) {'y'}", ("data",), (0, 2, 4, 6)),
    ],
)
def test_every_way_to_write_groups_means_the_same(groups, axes, first):
    found = one(f"ROOT %a = f32[4]{{0}} all-reduce(%p), replica_groups={groups}, to_apply=%add")
    assert (found.axes, found.members, found.group_size) == (axes, first, len(first))


@given(st.permutations(range(3)), st.sampled_from([(2, 2, 2), (4, 2, 1), (2, 3, 4)]))
def test_groups_counted_with_a_transposition_are_those_of_numpy(order, sizes):
    """Each axis of a transposed grid; the reference lists the groups."""
    total, last = math.prod(sizes), sizes[order[-1]]
    listed = np.arange(total).reshape(sizes).transpose(order).reshape(-1, last).tolist()
    mesh = dict(zip("abc", sizes, strict=True))
    lines = [
        f"%x = f32[4]{{0}} all-reduce(%p), replica_groups={groups}, to_apply=%add"
        for groups in (
            f"[{total // last},{last}]<=[{','.join(map(str, sizes))}]"
            f"T({','.join(map(str, order))})",
            "{" + ",".join("{" + ",".join(map(str, group)) + "}" for group in listed) + "}",
        )
    ]
    counted, written = (collectives(program(line), mesh) for line in lines)
    assert counted == written
    assert len(counted) == (last > 1)


def test_one_that_is_started_and_ended_apart_counts_once_by_its_result():
    group = "replica_groups={{0,1},{2,3},{4,5},{6,7}}"
    for start in ("((bf16[3]{0}), bf16[6]{0})", "(bf16[3]{0}, bf16[6]{0})"):
        found = one(
            f"%g = {start} all-gather-start(%p), channel_id=1, {group}, dimensions={{0}}",
            "ROOT %d = bf16[6]{0} all-gather-done(%g)",
        )
        assert (found.kind, found.result_bytes) == ("all-gather", 12)


def test_an_operation_inside_an_asynchronous_call_counts_once():
    called = (
        "%inner (q: f32[8]) -> f32[4] {\n"
        "  ROOT %r = f32[4]{0} reduce-scatter(%q), replica_groups={{0,1},{2,3},{4,5},{6,7}}\n}\n"
    )
    found = one(
        "%s = ((f32[8]{0}), f32[4]{0}) async-start(%p), calls=%inner",
        "%u = ((f32[8]{0}), f32[4]{0}) async-update(%s), calls=%inner",
        "ROOT %d = f32[4]{0} async-done(%u), calls=%inner",
        loops=called,
    )
    assert (found.kind, found.result_bytes, found.times) == ("reduce-scatter", 16, 1)


def test_fragments_of_one_collective_count_once():
    """As the TPU's compiler writes them, here in two fusions; another collective has none."""
    rest = "replica_groups={{0,1},{2,3},{4,5},{6,7}}, dimensions={0}"

    def fusion(name, channel, chain):
        return (
            f"%{name} (q: bf16[3]) -> bf16[6] {{\n"
            f"  ROOT %g.{name} = bf16[6]{{0}} all-gather(%q), channel_id={channel}, {rest}, "
            f'frontend_attributes={{chain_id="{chain}"}}\n}}\n'
        )

    called = fusion("first", 7, 0) + fusion("second", 7, 0) + fusion("third", 8, 1)
    text = program(
        *(
            f"%f.{n} = bf16[6]{{0}} fusion(%p), kind=kCustom, calls=%{n}"
            for n in ("first", "second")
        ),
        "%f.3 = bf16[6]{0} fusion(%p), kind=kCustom, calls=%third",
        f"%h = bf16[6]{{0}} all-gather(%p), channel_id=7, {rest}",
        loops=called,
    )
    assert [found.result_bytes for found in collectives(text, MESH)] == [12, 12, 12]


def loop(condition, config=""):
    """A loop around an all-reduce, and its call."""
    body = (
        "%body (b: (s32[], f32[4])) -> (s32[], f32[4]) {\n"
        "  %a = f32[4]{0} all-reduce(%b), replica_groups={{0,1},{2,3},{4,5},{6,7}}\n}\n"
        f"%cond (c: (s32[], f32[4])) -> pred[] {{\n{condition}\n}}\n"
    )
    call = (
        "%w = (s32[], f32[4]{0}) while(%p), condition=%cond, body=%body, "
        f'metadata={{op_name="jit(step)/while"}}{config}'
    )
    return one(call, loops=body)


def test_the_length_of_a_loop_is_known_or_that_of_its_condition():
    bound = "  %n = s32[]{:T(128)} constant(12)\n  ROOT %l = pred[] compare(%i, %n), direction=LT"
    assert loop(bound).loops == (12,)
    known = ', backend_config={"known_trip_count":{"n":"7"}}'
    found = loop(bound, known)
    assert (found.loops, found.exact, found.loop_name) == ((7,), True, "jit(step)/while")


def test_a_loop_of_unknown_length_counts_once_and_says_so():
    found = loop("  ROOT %l = pred[] compare(%i, %n), direction=LT")
    assert (found.times, found.exact) == (1, False)


def test_tuples_are_summed_and_groups_of_one_left_out():
    groups = "replica_groups={{0,1},{2,3},{4,5},{6,7}}"
    found = one(
        f"%a = (f32[3]{{0}}, bf16[2,2]{{1,0}}, pred[5]{{0}}, f8e4m3fn[7]{{0}}, /*index=4*/f32[])"
        f" all-reduce(%p, %p), {groups}",
        "%b = f32[4]{0} all-reduce(%p), replica_groups={{0},{1},{2},{3},{4},{5},{6},{7}}",
    )
    assert found.result_bytes == 12 + 8 + 5 + 7 + 4


@given(st.integers(2, 512), st.integers(1, 10**6))
def test_a_sum_sends_what_scattering_and_gathering_it_send(size, part):
    """Reduce-scatter leaves a part of the sum on each device, all-gather brings all parts."""

    def sent(kind, result_bytes):
        return Collective(
            kind=kind,
            result_bytes=result_bytes,
            axes=("x",),
            members=tuple(range(size)),
            group_size=size,
            loops=(),
            loop_name="",
            exact=True,
        ).sent_bytes

    whole = size * part
    both = sent("reduce-scatter", part) + sent("all-gather", whole)
    assert math.isclose(sent("all-reduce", whole), both, rel_tol=1e-12)


def test_other_texts_are_refused():
    with pytest.raises(ValueError, match="no ENTRY"):
        collectives("no program", MESH)


def test_what_crosses_between_slices_is_that_of_one_device_of_each():
    """As the TPU's compiler writes it: the program of a slice hands it over to the host."""

    def crossing(kind, shape, target):
        return (
            f"%{kind} = ({shape}{{1,0}}, u32[], token[]) recv(%after), channel_id=1, "
            f"is_host_transfer=true, frontend_attributes={{_xla_megascale_target={target},"
            f'_xla_megascale_transfer_type="{kind}"}}'
        )

    devices = [
        types.SimpleNamespace(id=100_000 * (1 + index) + at, slice_index=index)
        for index in range(2)
        for at in (0, 1, 3, 2)
    ]
    sizes = {"replica": 2, "data": 4}
    lines = (
        crossing("ALL_REDUCE", "f32[4,8]", '"{1,2}x{0:3}"'),
        crossing("ALL_GATHER", "bf16[4,8]", '"{1,2}x{0:3}"'),
        crossing("ONE_TO_ONE", "f32[4,8]", "{{100002->200000},{200002->100000}}"),
        "%in = f32[4,8] all-reduce(%p), channel_id=2, replica_groups={{0,1,2,3}}",
        "%all = f32[4,8] all-reduce(%p), channel_id=3, replica_groups={}",
        "%image = (u8[4]{0}, u32[], token[]) recv(%after), channel_id=4, is_host_transfer=true",
    )
    found = collectives(program(*lines), sizes, devices)
    told = [(one.kind, one.result_bytes, one.axes, one.members) for one in found]
    assert told == [
        ("all-reduce", 128, ("replica",), (0, 4)),
        ("all-gather", 64, ("replica",), (0, 4)),
        ("collective-permute", 128, ("replica", "data"), (3, 4, 7, 0)),
        ("all-reduce", 128, ("data",), (0, 1, 2, 3)),
        ("all-reduce", 128, ("data",), (0, 1, 2, 3)),
    ]


def test_a_sum_of_which_each_device_keeps_its_part_is_scattered():
    """A fusion of the TPU's compiler, and the sum inside it."""
    fusion = (
        "%all-reduce-scatter.3 (input: f32[8]) -> f32[4] {\n"
        "  %sum = f32[8] all-reduce(%input), channel_id=1, replica_groups={{0,1},{2,3},{4,5},{6,7}}"
        "\n  ROOT %part = f32[4] dynamic-slice(%sum, %at), dynamic_slice_sizes={4}\n}\n"
    )
    call = "%fusion = f32[4] fusion(%p), kind=kCustom, calls=%all-reduce-scatter.3"
    found = one(call, loops=fusion)
    assert (found.kind, found.result_bytes, found.sent_bytes) == ("reduce-scatter", 16, 16)
