import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import PartitionSpec as P

from clipjax.config import OptimConfig
from clipjax.core.mesh import BATCH_AXES
from clipjax.core.partition import (
    constrain_batch,
    constrain_heads,
    gather_table,
    param_spec,
    tree_shardings,
)
from clipjax.models import param_axes
from clipjax.optim import make_optimizer
from clipjax.train.state import abstract_state


@pytest.mark.parametrize(
    ("shape", "axes", "spec"),
    [
        ((8, 6), ("embed", "mlp"), P("fsdp", "tensor")),
        ((8, 6), ("mlp", "embed"), P("tensor", "fsdp")),
        ((8, 2, 4), ("embed", "heads", None), P("fsdp", "tensor", None)),
        ((10, 8), ("vocab", "embed"), P("fsdp", None)),  # one mesh axis splits one axis
        ((9, 8), ("vocab", "embed"), P(None, "fsdp")),  # 9 does not divide; 8 does
        ((7, 6), ("embed", "mlp"), P(None, "tensor")),
        ((7, 5), ("embed", "mlp"), P(None, None)),
        ((3, 8, 6), ("embed", "mlp"), P(None, "fsdp", "tensor")),  # stacked layers
        ((8,), (None,), P(None)),
        ((8,), ("unheard of",), P(None)),
        ((), (), P()),
    ],
)
def test_rules(mesh_222, shape, axes, spec):
    assert param_spec(shape, axes, mesh_222) == spec


@pytest.mark.parametrize(("heads", "axis"), [(4, "tensor"), (3, None)])
def test_queries_that_are_the_same_for_all_are_split_like_the_keys(mesh_222, heads, axis):
    """cuDNN takes no others; heads that the axis does not divide stay whole in all of them."""

    def both(probe, keys):
        queries = jnp.broadcast_to(probe, (len(keys), *probe.shape))
        return constrain_heads(queries), constrain_heads(keys)

    arrays = jnp.ones((1, heads, 8)), jnp.ones((8, 4, heads, 8))
    with jax.set_mesh(mesh_222):
        found = jax.jit(both)(*arrays)
    for array in found:
        wanted = jax.NamedSharding(mesh_222, P(BATCH_AXES, None, axis, None))
        assert array.sharding.is_equivalent_to(wanted, 4)
    np.testing.assert_array_equal(jax.jit(constrain_heads)(arrays[1]), arrays[1])


def test_a_mesh_axis_of_one_device_splits_nothing(mesh):
    assert param_spec((8, 8), ("embed", "mlp"), mesh) == P(None, None)


@settings(deadline=None, max_examples=100)
@given(
    st.lists(
        st.tuples(st.integers(1, 12), st.sampled_from([None, "embed", "vocab", "heads", "mlp"])),
        max_size=4,
    )
)
def test_every_spec_can_be_used(mesh_222, pairs):
    """Every shard has a whole shape, and no axis of the mesh is used twice."""
    shape, axes = tuple(s for s, _ in pairs), tuple(a for _, a in pairs)
    spec = param_spec(shape, axes, mesh_222)
    shards = jax.sharding.NamedSharding(mesh_222, spec).shard_shape(shape)
    used = [axis for axis in spec if axis]
    assert len(used) == len(set(used))
    assert np.prod(shards, dtype=int) * 2 ** len(used) == np.prod(shape, dtype=int)


def test_moments_and_the_moving_average_lie_where_their_parameters_do(tiny_config, mesh_222):
    optimizer = make_optimizer(tiny_config.optim, tiny_config.num_steps)
    state = abstract_state(tiny_config, optimizer, mesh_222)
    axes = param_axes(tiny_config.model)
    split = {name for name, leaf in state.params.items() if any(leaf.sharding.spec)}
    assert len(split) > len(axes) // 3
    for name, leaf in state.params.items():
        assert leaf.sharding.spec == param_spec(leaf.shape, axes[name], mesh_222)
    moments = [
        s
        for s in jax.tree.leaves(
            state.opt_state, is_leaf=lambda x: isinstance(x, optax.ScaleByAdamState)
        )
        if isinstance(s, optax.ScaleByAdamState)
    ]
    assert len(moments) == 1
    for tree in (moments[0].mu, moments[0].nu, state.ema):
        assert tree.keys() == state.params.keys()
        for name, leaf in tree.items():
            assert leaf.sharding == state.params[name].sharding, name
    assert moments[0].count.sharding.spec == P()
    assert state.step.sharding.spec == P()


def test_a_leaf_of_another_name_or_of_lower_rank_is_replicated(mesh_222):
    tree = {"w": jnp.zeros((4, 4)), "other": jnp.zeros((4, 4)), "inner": {"w": jnp.zeros(())}}
    found = tree_shardings(tree, {"w": ("embed", "mlp")}, mesh_222)
    assert found["w"].spec == P("fsdp", "tensor")
    assert found["other"].spec == found["inner"]["w"].spec == P()


def test_without_a_moving_average_there_is_no_leaf_for_it(tiny_config, mesh_222, replace_in):
    config = replace_in(tiny_config, "optim", OptimConfig(ema_decay=0.0))
    assert abstract_state(config, make_optimizer(config.optim, 2), mesh_222).ema == {}


def test_activations_stay_split_over_the_batch(mesh_222):
    with jax.set_mesh(mesh_222):
        out = jax.jit(lambda x: constrain_batch(x * 2))(jnp.ones((8, 3)))
    assert out.sharding.is_equivalent_to(jax.sharding.NamedSharding(mesh_222, P(BATCH_AXES)), 2)


def test_a_table_is_whole_for_the_look_up(mesh_222):
    with jax.set_mesh(mesh_222):
        out = jax.jit(lambda x: gather_table(x * 2))(jnp.ones((8, 3)))
    assert out.sharding.is_fully_replicated


def test_without_a_mesh_nothing_is_constrained():
    x = jnp.ones((8, 3))
    assert constrain_batch(x) is x
    assert gather_table(x) is x
