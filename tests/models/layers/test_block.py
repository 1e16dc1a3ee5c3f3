import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from clipjax.config import ComputeConfig
from clipjax.models.layers.block import ACTIVATIONS, Block, Blocks, layer_norm

WIDTH, HEADS, HIDDEN, DEPTH = 12, 3, 20, 3


def make_block(rngs, *, causal=False, activation="gelu", depth=DEPTH, width=WIDTH, hidden=HIDDEN):
    return Block(
        width,
        HEADS,
        hidden,
        depth=depth,
        causal=causal,
        activation=activation,
        norm_eps=1e-5,
        dtype=jnp.dtype("float32"),
        rngs=rngs,
    )


def arrays(module):
    state = nnx.to_flat_state(nnx.state(module, nnx.Param))
    return {"/".join(map(str, path)): leaf.get_value() for path, leaf in state}


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(0).normal(size=(2, 5, WIDTH)).astype(np.float32)


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_activation_matches_its_definition(name, reference):
    """Near zero, where the forms differ least, and far out, where each is 0 or x."""
    x = np.concatenate([np.linspace(-6, 6, 241), [-1e4, 1e4]])
    out = ACTIVATIONS[name](jnp.asarray(x, jnp.float32))
    expected = reference.activations[name](reference.f64(np.float32(x)))
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-6)


def test_the_three_activations_are_three():
    """The largest differences: exact and tanh 5e-4, exact and quick 2e-2."""
    x = jnp.linspace(-5, 5, 1001)
    exact, tanh, quick = (ACTIVATIONS[name](x) for name in ("gelu", "gelu_tanh", "quick_gelu"))
    assert 2e-4 < np.abs(exact - tanh).max() < 1e-3
    assert 1e-2 < np.abs(exact - quick).max() < 3e-2


def test_layer_norm_of_large_means_keeps_the_variance():
    """One pass, E[x^2] - E[x]^2, has no digit left at a mean of 1e4 and a deviation of 1."""
    x = 1e4 + np.random.default_rng(0).normal(size=(4, 64)).astype(np.float32)
    norm = layer_norm(64, 1e-5, jnp.dtype("float32"), nnx.Rngs(0))
    exact = np.asarray(x, np.float64)
    exact = (exact - exact.mean(-1, keepdims=True)) / exact.std(-1, keepdims=True)
    # The mean itself rounds to eps * 1e4.
    np.testing.assert_allclose(norm(jnp.asarray(x)), exact, atol=2e-3)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_block_matches_the_float64_definition(causal, activation, x, reference):
    block = make_block(nnx.Rngs(1), causal=causal, activation=activation)
    params = {name: reference.f64(value) for name, value in arrays(block).items()}
    out = block(jnp.asarray(x))
    for example in range(2):
        expected = reference.block(
            reference.f64(x[example]),
            params,
            causal=causal,
            activation=reference.activations[activation],
            eps=1e-5,
        )
        np.testing.assert_allclose(out[example], expected, rtol=1e-5, atol=1e-5)


def test_initial_deviations_are_those_of_clip():
    width, hidden, depth = 48, 192, 5
    params = arrays(make_block(nnx.Rngs(2), width=width, hidden=hidden, depth=depth))
    out_std = width**-0.5 * (2 * depth) ** -0.5
    documented = {
        "attn/qkv/kernel": width**-0.5,
        "attn/out/kernel": out_std,
        "mlp/fc1/kernel": (2 * width) ** -0.5,
        "mlp/fc2/kernel": out_std,
    }
    for name, std in documented.items():
        kernel = np.asarray(params.pop(name))
        assert abs(kernel.std() / std - 1) < 5 / np.sqrt(2 * kernel.size), name
        assert abs(kernel.mean()) < 5 * std / np.sqrt(kernel.size), name
    for name, value in params.items():
        np.testing.assert_array_equal(value, 1.0 if name.endswith("scale") else 0.0, name)


def make_blocks(**compute):
    return Blocks(
        lambda rngs: make_block(rngs), DEPTH, compute=ComputeConfig(**compute), rngs=nnx.Rngs(3)
    )


def restacked(unrolled):
    """The parameters of unrolled blocks as the scanned stack names them."""
    flat = arrays(unrolled)
    names = {re.sub(r"^stack/\d+/", "", name) for name in flat}
    return {
        name: np.stack([flat[f"stack/{i}/{name}"] for i in range(DEPTH)]) for name in sorted(names)
    }


def value_and_grads(blocks, params, x):
    """Of a function that weighs every output differently."""
    graph, state = nnx.split(blocks, nnx.Param)
    paths = {"/".join(map(str, path)): path for path, _ in nnx.to_flat_state(state)}
    weights = np.random.default_rng(4).normal(size=x.shape).astype(np.float32)

    def loss(params, x):
        flat = [(paths[name], nnx.Param(value)) for name, value in params.items()]
        out = nnx.merge(graph, nnx.from_flat_state(flat))(x)
        return (out * weights).sum()

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(params, x)


@pytest.fixture(scope="module")
def unrolled(x):
    blocks = make_blocks()
    return blocks, value_and_grads(blocks, arrays(blocks), jnp.asarray(x))


def close(actual, expected):
    scale = np.abs(expected).max()
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6 * scale)


@pytest.mark.parametrize("remat", ["none", "full"])
def test_scanned_equals_unrolled_in_value_and_gradient(remat, unrolled, x):
    blocks, (expected, (expected_params, expected_x)) = unrolled
    scanned = make_blocks(scan_layers=True, remat=remat)
    stack = {f"stack/{name}": value for name, value in restacked(blocks).items()}
    value, (grads, x_grad) = value_and_grads(scanned, stack, jnp.asarray(x))
    close(value, expected)
    close(x_grad, expected_x)
    assert len(grads) * DEPTH == len(expected_params)
    for name, grad in grads.items():
        for i in range(DEPTH):
            close(grad[i], expected_params[name.replace("stack/", f"stack/{i}/")])


@pytest.mark.parametrize("remat", ["dots", "names", "qkv_attn", "attn", "full"])
def test_what_is_saved_changes_no_value_and_no_gradient(remat, unrolled, x):
    blocks, (expected, (expected_params, expected_x)) = unrolled
    saved = make_blocks(remat=remat)
    value, (grads, x_grad) = value_and_grads(saved, arrays(blocks), jnp.asarray(x))
    close(value, expected)
    close(x_grad, expected_x)
    for name, grad in grads.items():
        close(grad, expected_params[name])


def test_scanned_layers_are_initialised_differently():
    kernel = arrays(make_blocks(scan_layers=True))["stack/attn/qkv/kernel"]
    assert kernel.shape[0] == DEPTH
    assert len({np.asarray(layer).tobytes() for layer in kernel}) == DEPTH


def gradient_program(compute):
    """The gradient of eight blocks over 64 tokens, lowered."""
    compute = dataclasses.replace(ComputeConfig(), **compute)

    def build():
        return Blocks(
            lambda rngs: make_block(rngs, depth=8, width=24, hidden=96),
            8,
            compute=compute,
            rngs=nnx.Rngs(0),
        )

    graph, state = nnx.split(nnx.eval_shape(build))
    x = jax.ShapeDtypeStruct((16, 64, 24), jnp.float32)
    return jax.jit(jax.grad(lambda s, x: nnx.merge(graph, s)(x).sum())).lower(state, x)


@pytest.mark.slow
def test_each_policy_saves_less_than_the_one_before():
    """Read off the compiled, scanned program: bytes of temporaries, forward and backward."""
    none, names, dots, full = (
        gradient_program({"scan_layers": True, "remat": remat})
        .compile()
        .memory_analysis()
        .temp_size_in_bytes
        for remat in ("none", "names", "dots", "full")
    )
    assert names < 0.6 * none
    assert dots < 0.6 * none
    assert full < 0.7 * min(names, dots)


@pytest.mark.parametrize("remat", ["names", "dots", "full"])
def test_unrolled_blocks_keep_xla_from_undoing_the_policy(remat):
    """Without the barrier XLA merges the recomputation with the forward pass (the CPU does)."""
    barriers = {
        policy: gradient_program({"remat": policy}).as_text().count("optimization_barrier")
        for policy in (remat, "none")
    }
    assert barriers[remat] > barriers["none"]
