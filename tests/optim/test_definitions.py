"""Each optimizer against its paper's formulas, in float64 and written anew."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from clipjax.config import DualEncoderConfig, OptimConfig
from clipjax.optim import Parameters, learning_rate, make_optimizer
from clipjax.optim.muon import matrices_of, orthogonalized

STEPS = 6
CONFIG = OptimConfig(
    peak_learning_rate=0.05, warmup_steps=2, weight_decay=0.3, beta1=0.8, beta2=0.9, clip_norm=None
)
SHAPES = {
    "wide/kernel": (33, 40),
    "small/kernel": (5, 40),
    "cube/kernel": (35, 3, 32),
    "n/bias": (),
}
AXES = {"wide/kernel": ("embed", "mlp"), "small/kernel": ("embed", "mlp"), "n/bias": ()}
AXES["cube/kernel"] = ("embed", None, "mlp")


def rates(config):
    schedule = learning_rate(config, STEPS)
    return [float(schedule(step)) for step in range(STEPS)]


def lion(weight, grads, config, decay):
    """Chen et al. 2023, algorithm 2."""
    m = 0.0
    for rate, g in zip(rates(config), grads, strict=True):
        c = config.beta1 * m + (1 - config.beta1) * g
        weight = weight - rate * (np.sign(c) + decay * weight)
        m = config.beta2 * m + (1 - config.beta2) * g
    return weight


def lamb(weight, grads, config, decay):
    """You et al. 2019, algorithm 2; without a trust ratio where nothing decays."""
    m = v = 0.0
    for t, (rate, g) in enumerate(zip(rates(config), grads, strict=True), 1):
        m = config.beta1 * m + (1 - config.beta1) * g
        v = config.beta2 * v + (1 - config.beta2) * g**2
        r = m / (1 - config.beta1**t) / (np.sqrt(v / (1 - config.beta2**t)) + config.eps)
        r = r + decay * weight
        trust = np.linalg.norm(weight) / np.linalg.norm(r) if decay else 1.0
        weight = weight - rate * trust * r
    return weight


def adafactor(weight, grads, config, decay):
    """Shazeer and Stern 2018, algorithm 4, without what Zhai et al. 2022 leave out."""
    rows, columns = sorted(range(weight.ndim), key=lambda axis: weight.shape[axis])[-2:] or (0, 0)
    factored = weight.ndim > 1 and weight.shape[rows] >= 32
    r = c = v = m = 0.0
    for t, (rate, g) in enumerate(zip(rates(config), grads, strict=True), 1):
        keep = min(config.beta2, 1 - t**-0.8)
        square = g**2 + 1e-30
        if factored:
            r = keep * r + (1 - keep) * square.mean(columns, keepdims=True)
            c = keep * c + (1 - keep) * square.mean(rows, keepdims=True)
            second = r * c / r.mean(rows, keepdims=True)
        else:
            second = v = keep * v + (1 - keep) * square
        m = config.beta1 * m + (1 - config.beta1) * g / np.sqrt(second)
        weight = weight - rate * (m + decay * weight)
    return weight


def sgd(weight, grads, config, decay):
    """Sutskever et al. 2013, as in torch; Nesterov's form looks one step ahead."""
    m = 0.0
    for rate, g in zip(rates(config), grads, strict=True):
        m = config.beta1 * m + g
        update = g + config.beta1 * m if config.nesterov else m
        weight = weight - rate * (update + decay * weight)
    return weight


def newton_schulz(x):
    x = x / np.linalg.norm(x)
    for _ in range(5):
        s = x @ x.T
        x = 3.4445 * x - 4.775 * s @ x + 2.0315 * s @ s @ x
    return x


def muon(weight, grads, config, decay):
    """Jordan 2024 and equation 4 of Liu et al. 2025; fused kernels matrix by matrix."""
    if weight.ndim < 2:
        return lamb(weight, grads, config, decay)  # which is Adam without decay
    if weight.ndim == 3:
        parts = [
            muon(weight[:, i], [g[:, i] for g in grads], config, decay)
            for i in range(weight.shape[1])
        ]
        return np.stack(parts, 1)
    m = 0.0
    for rate, g in zip(rates(config), grads, strict=True):
        m = config.beta1 * m + (1 - config.beta1) * g
        ahead = config.beta1 * m + (1 - config.beta1) * g
        update = 0.2 * np.sqrt(max(weight.shape)) * newton_schulz(ahead)
        weight = weight - rate * (update + decay * weight)
    return weight


def walk(config, start, grads):
    shapes = {name: array.shape for name, array in start.items()}
    parameters = Parameters(model=DualEncoderConfig(), shapes=shapes, axes=AXES)
    optimizer = make_optimizer(config, STEPS, parameters)
    params = {name: jnp.asarray(array, jnp.float32) for name, array in start.items()}
    state = optimizer.init(params)
    for step in range(STEPS):
        now = {name: jnp.asarray(grads[name][step], jnp.float32) for name in params}
        updates, state = optimizer.update(now, state, params)
        params = optax.apply_updates(params, updates)
    return params


@pytest.mark.parametrize(
    ("definition", "fields"),
    [
        (lion, {}),
        (lamb, {}),
        (adafactor, {}),
        (adafactor, {"beta1": 0.0}),
        (sgd, {}),
        (sgd, {"nesterov": True}),
        (sgd, {"beta1": 0.0}),
        (muon, {}),
    ],
    ids=lambda value: value.__name__ if callable(value) else str(value),
)
def test_the_definition_in_float64(definition, fields):
    """Inputs are what float32 holds; an update is off by some 1e-6 of itself, muon's by 482 of
    its roundings of 6e-8. The largest update is some 10 times the rate of 0.05.
    """
    config = dataclasses.replace(CONFIG, kind=definition.__name__, **fields)
    rng = np.random.default_rng(3)
    start = {n: np.float64(np.float32(rng.normal(size=s))) for n, s in SHAPES.items()}
    grads = {n: np.float64(np.float32(rng.normal(size=(STEPS, *s)))) for n, s in SHAPES.items()}
    found = walk(config, start, grads)
    error = STEPS * 0.05 * (482 * 6e-8 if definition is muon else 1e-5)
    for name, weight in start.items():
        decay = 0.0 if name == "n/bias" else config.weight_decay
        expected = definition(weight, grads[name], config, decay)
        np.testing.assert_allclose(found[name], expected, rtol=1e-6, atol=error, err_msg=name)
        assert np.abs(expected - weight).max() > 100 * error


@pytest.mark.parametrize("shape", [(20, 6), (6, 20), (3, 8, 8), (2, 3, 4, 9)])
def test_singular_values_come_near_one(shape):
    """Those above 0.01 of the norm rise or fall into the interval that Jordan names."""
    u, _, v = np.linalg.svd(np.random.default_rng(0).normal(size=shape), full_matrices=False)
    values = np.linspace(1, 0.05, u.shape[-1])
    x = (u * values) @ v
    found = np.linalg.svd(np.asarray(orthogonalized(jnp.asarray(x, jnp.float32))))[1]
    assert 0.65 < found.min() < found.max() < 1.25
    for scale in (1e-18, 1e18):  # and the size of the gradient does not matter
        again = orthogonalized(jnp.asarray(x * scale, jnp.float32))
        np.testing.assert_allclose(again, orthogonalized(jnp.asarray(x, jnp.float32)), atol=1e-4)


def test_a_matrix_of_zeros_stays_one():
    assert not np.any(orthogonalized(jnp.zeros((2, 3, 4))))


def test_which_parameters_are_matrices():
    shapes = {
        "image/patchify/kernel": (4, 4, 3, 8),
        "image/positions": (5, 8),
        "image/blocks/stack/attn/qkv/kernel": (2, 8, 3, 2, 4),
        "image/blocks/stack/attn/qkv/bias": (2, 3, 2, 4),
        "image/blocks/stack/attn/out/kernel": (2, 2, 4, 8),
        "image/stages/0/blocks/stack/conv/kernel": (3, 7, 7, 1, 8),
        "image/stages/1/down/kernel": (2, 2, 8, 16),
        "image/pool/probe": (1, 8),
        "text/embedding": (30, 8),
        "text/project/kernel": (8, 4),
        "decoder/project/kernel": (8, 30),
        "lora/text/blocks/stack/attn/q/a": (2, 8, 3),
        "log_logit_scale": (),
    }
    conv = (None, None, None, "embed")
    axes = {
        "image/patchify/kernel": conv,
        "image/positions": (None, "embed"),
        "image/blocks/stack/attn/qkv/kernel": ("embed", None, "heads", None),
        "image/blocks/stack/attn/qkv/bias": (None, "heads", None),
        "image/blocks/stack/attn/out/kernel": ("heads", None, "embed"),
        "image/stages/0/blocks/stack/conv/kernel": conv,
        "image/stages/1/down/kernel": conv,
        "image/pool/probe": (None, None),
        "text/embedding": ("vocab", None),
        "text/project/kernel": ("embed", None),
        "decoder/project/kernel": ("embed", "vocab"),
        "log_logit_scale": (),
    }
    found = matrices_of(Parameters(model=DualEncoderConfig(), shapes=shapes, axes=axes))
    forms = {name: dataclasses.astuple(form) for name, form in found.items()}
    assert forms == {
        "image/blocks/stack/attn/qkv/kernel": (2, 8, 3),
        "image/blocks/stack/attn/out/kernel": (2, 8, 1),
        "image/stages/1/down/kernel": (1, 32, 1),
        "text/project/kernel": (1, 8, 1),
        "lora/text/blocks/stack/attn/q/a": (2, 8, 1),
    }
