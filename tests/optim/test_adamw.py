import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from clipjax.config import OptimConfig
from clipjax.models import init_params
from clipjax.optim import decay_mask, learning_rate, make_optimizer, update_average


def rates(num_steps, steps, **fields):
    schedule = learning_rate(OptimConfig(peak_learning_rate=1.0, **fields), num_steps)
    return [float(schedule(step)) for step in steps]


def test_learning_rate_by_hand():
    """Four steps up, then half a cosine over eight steps: a half after four of them."""
    steps = [0, 1, 2, 3, 4, 8, 12]
    expected = [0.25, 0.5, 0.75, 1.0, 1.0, 0.5, 0.0]
    np.testing.assert_allclose(rates(12, steps, warmup_steps=4), expected, atol=1e-7)


def test_the_cosine_step_by_step():
    steps = range(4, 13)
    expected = [(1 + math.cos(math.pi * (step - 4) / 8)) / 2 for step in steps]
    np.testing.assert_allclose(rates(12, steps, warmup_steps=4), expected, atol=1e-6)


def test_without_warm_up_the_first_step_is_at_the_peak():
    np.testing.assert_allclose(rates(8, [0, 4, 8], warmup_steps=0), [1.0, 0.5, 0.0], atol=1e-7)


def test_a_warm_up_of_one_step_is_none():
    assert rates(9, [0, 1], warmup_steps=1) == [1.0, 1.0]


def test_a_constant_schedule_stays_at_the_peak():
    found = rates(4, [0, 1, 2, 100], warmup_steps=2, schedule="constant")
    np.testing.assert_allclose(found, [0.5, 1.0, 1.0, 1.0])


def test_a_warm_up_longer_than_the_run_only_rises():
    found = rates(5, range(5), warmup_steps=20)
    np.testing.assert_allclose(found, np.arange(1, 6) / 20, rtol=1e-6)


def test_the_rate_is_never_negative_nor_above_the_peak():
    found = np.array(rates(50, range(80), warmup_steps=7))
    assert found.min() >= 0
    assert found.max() == 1.0
    assert found[50:].max() == 0


def test_gains_biases_and_scales_do_not_decay(tiny_config, replace_in):
    """Every name of a real model, sorted by hand."""
    config = replace_in(tiny_config, "model.init_logit_bias", -10.0)
    mask = decay_mask(jax.eval_shape(lambda: init_params(config.model, 0)))
    decayed = {name.rpartition("/")[2] for name, decays in mask.items() if decays}
    kept = {name.rpartition("/")[2] for name, decays in mask.items() if not decays}
    assert decayed == {"kernel", "embedding", "positions"}
    assert kept == {"bias", "scale", "log_logit_scale", "logit_bias", "class_token"}


def test_the_query_of_attention_pooling_decays():
    assert decay_mask({"image/pool/probe": 0, "image/pool/norm/scale": 0}) == {
        "image/pool/probe": True,
        "image/pool/norm/scale": False,
    }


def adamw_by_hand(weight, grads, config, num_steps):
    """Decoupled weight decay, Loshchilov and Hutter 2017, algorithm 2, in float64."""
    first = second = np.zeros_like(weight)
    schedule = learning_rate(config, num_steps)
    for step, grad in enumerate(grads):
        if config.clip_norm is not None:
            grad = grad * min(1.0, config.clip_norm / np.linalg.norm(grad))
        first = config.beta1 * first + (1 - config.beta1) * grad
        second = config.beta2 * second + (1 - config.beta2) * grad**2
        corrected = first / (1 - config.beta1 ** (step + 1))
        scale = np.sqrt(second / (1 - config.beta2 ** (step + 1))) + config.eps
        weight = weight - float(schedule(step)) * (corrected / scale + config.weight_decay * weight)
    return weight


def run(weight, grads, config, num_steps):
    optimizer = make_optimizer(config, num_steps)
    params = {"w/kernel": jnp.asarray(weight, jnp.float32)}
    state = optimizer.init(params)
    for grad in grads:
        updates, state = optimizer.update(
            {"w/kernel": jnp.asarray(grad, jnp.float32)}, state, params
        )
        params = optax.apply_updates(params, updates)
    return params["w/kernel"], state


@pytest.mark.parametrize("clip_norm", [None, 1.0])
@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_matches_the_float64_definition_of_adamw(clip_norm, weight_decay):
    config = OptimConfig(
        peak_learning_rate=0.1, warmup_steps=2, weight_decay=weight_decay, clip_norm=clip_norm
    )
    rng = np.random.default_rng(0)
    weight, grads = rng.normal(size=5), rng.normal(size=(6, 5)) * [[3.0]]
    found, _ = run(weight, grads, config, 6)
    np.testing.assert_allclose(found, adamw_by_hand(weight, grads, config, 6), rtol=1e-5)


def test_decay_is_decoupled_from_the_gradient():
    """Without a gradient a weight shrinks by exactly 1 - rate x decay; a gain stays."""
    config = OptimConfig(
        peak_learning_rate=0.5, warmup_steps=0, schedule="constant", weight_decay=0.25
    )
    optimizer = make_optimizer(config, 10)
    params = {"w/kernel": jnp.array([8.0, -4.0]), "norm/scale": jnp.array([8.0])}
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.update(zeros, optimizer.init(params), params)
    params = optax.apply_updates(params, updates)
    np.testing.assert_array_equal(params["w/kernel"], [7.0, -3.5])
    np.testing.assert_array_equal(params["norm/scale"], [8.0])


def test_clipping_is_by_the_norm_of_all_parameters_together():
    """Gradients 3 and 4 have norm 5: at a limit of 1 Adam's first moments are 0.1 x (0.6, 0.8)."""
    optimizer = make_optimizer(OptimConfig(clip_norm=1.0), 10)
    params = {"a/kernel": jnp.array([0.0]), "b/kernel": jnp.array([0.0])}
    grads = {"a/kernel": jnp.array([3.0]), "b/kernel": jnp.array([4.0])}
    _, state = optimizer.update(grads, optimizer.init(params), params)
    moments = optax.tree.get(state, "mu")
    np.testing.assert_allclose(moments["a/kernel"], [0.06], rtol=1e-6)
    np.testing.assert_allclose(moments["b/kernel"], [0.08], rtol=1e-6)


def test_a_gradient_below_the_limit_is_not_changed():
    optimizer = make_optimizer(OptimConfig(clip_norm=1.0), 10)
    params = {"a/kernel": jnp.array([0.0])}
    _, state = optimizer.update({"a/kernel": jnp.array([0.5])}, optimizer.init(params), params)
    np.testing.assert_allclose(optax.tree.get(state, "mu")["a/kernel"], [0.05], rtol=1e-6)


def test_the_moving_average_by_hand():
    """Steps 0, 1, 2 forget with 1/10, 2/11, 3/12; at step 2 a decay of 0.2 is the smaller one."""
    average = {"w": jnp.array([1.0])}
    for step, value in enumerate((2.0, 3.0)):
        average = update_average(average, {"w": jnp.array([value])}, jnp.int32(step), 0.2)
    after_two = 3.0 + 2 / 11 * ((2.0 + 0.1 * (1.0 - 2.0)) - 3.0)
    np.testing.assert_allclose(average["w"], [after_two], rtol=1e-6)
    average = update_average(average, {"w": jnp.array([0.0])}, jnp.int32(2), 0.2)
    np.testing.assert_allclose(average["w"], [0.2 * after_two], rtol=1e-6)


def test_a_run_without_a_moving_average_keeps_none():
    assert update_average({}, {"w": jnp.array([1.0])}, jnp.int32(0), 0.9) == {}
