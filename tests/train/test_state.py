import dataclasses

import jax
import numpy as np
import pytest

from clipjax.optim import make_optimizer
from clipjax.train.state import TrainState, abstract_state, as_dict, evaluated_params, init_state


@pytest.fixture(scope="module")
def state(make_trainer, step_config):
    return make_trainer(step_config).init()


def test_a_new_state_is_at_step_zero(state):
    assert (int(state.step), int(state.bad_steps)) == (0, 0)
    assert state.model_state == {}


def test_the_moving_average_starts_as_a_copy_of_the_parameters(state):
    assert set(state.ema) == set(state.params)
    for name, value in state.params.items():
        np.testing.assert_array_equal(state.ema[name], value)
        # Donated together with the parameters, it must not be the same buffer.
        assert state.ema[name].unsafe_buffer_pointer() != value.unsafe_buffer_pointer(), name


def test_the_average_is_evaluated_where_there_is_one(state, step_config):
    assert evaluated_params(step_config, state) == state.ema
    without = dataclasses.replace(state, ema={})
    assert evaluated_params(step_config, without) == state.params


def test_a_run_without_a_moving_average_holds_none(step_config, replace_in):
    config = replace_in(step_config, "optim.ema_decay", 0.0)
    optimizer = make_optimizer(config.optim, config.num_steps)
    assert jax.eval_shape(lambda: init_state(config, optimizer)).ema == {}


def test_the_abstract_state_describes_the_real_one(state, make_trainer, step_config):
    like = make_trainer(step_config).like
    assert jax.tree.structure(like) == jax.tree.structure(state)
    for shape, leaf in zip(jax.tree.leaves(like), jax.tree.leaves(state), strict=True):
        assert (shape.shape, shape.dtype) == (leaf.shape, leaf.dtype)
        assert leaf.sharding.is_equivalent_to(shape.sharding, leaf.ndim)


def test_moments_and_average_are_split_like_their_parameter(step_config, mesh_222):
    optimizer = make_optimizer(step_config.optim, 20)
    like = abstract_state(step_config, optimizer, mesh_222)
    (adam,) = [part for part in like.opt_state if hasattr(part, "mu")]
    split = 0
    for name, leaf in like.params.items():
        specs = {tree[name].sharding.spec for tree in (like.params, like.ema, adam.mu, adam.nu)}
        assert specs == {leaf.sharding.spec}
        split += not leaf.sharding.is_fully_replicated
    assert split > 10
    assert like.step.sharding.is_fully_replicated
    assert adam.count.sharding.is_fully_replicated


def test_as_dict_gives_every_field_and_builds_the_state_again(state):
    fields = as_dict(state)
    assert list(fields) == [
        "step",
        "params",
        "model_state",
        "opt_state",
        "ema",
        "bad_steps",
        "guard",
        "self_teacher",
    ]
    again = TrainState(**fields)
    assert jax.tree.structure(again) == jax.tree.structure(state)
