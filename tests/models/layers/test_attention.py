import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from clipjax.models.layers.attention import Attention


def make(causal, dtype=jnp.float32, width=12, heads=3):
    return Attention(
        width,
        heads,
        causal=causal,
        in_std=0.5,
        out_std=0.5,
        dtype=jnp.dtype(dtype),
        rngs=nnx.Rngs(0),
    )


def arrays(layer):
    state = nnx.to_flat_state(nnx.state(layer, nnx.Param))
    return {"/".join(map(str, path)): leaf.get_value() for path, leaf in state}


@pytest.fixture
def x():
    return np.random.default_rng(0).normal(size=(2, 5, 12)).astype(np.float32)


@pytest.mark.parametrize("causal", [False, True])
def test_matches_the_float64_definition(causal, x, reference):
    layer = make(causal)
    layer.qkv.bias[...] = np.random.default_rng(1).normal(size=(3, 3, 4)).astype(np.float32)
    layer.out.bias[...] = np.random.default_rng(2).normal(size=12).astype(np.float32)
    params = {name: reference.f64(value) for name, value in arrays(layer).items()}
    out = layer(jnp.asarray(x))
    for example in range(2):
        expected = reference.attention(reference.f64(x[example]), params, causal=causal)
        np.testing.assert_allclose(out[example], expected, rtol=2e-5, atol=2e-5)


def test_bidirectional_attention_does_not_know_the_order_of_its_tokens(x):
    layer, order = make(causal=False), np.array([3, 0, 4, 1, 2])
    np.testing.assert_allclose(
        layer(jnp.asarray(x[:, order])), layer(jnp.asarray(x))[:, order], rtol=1e-5, atol=1e-6
    )


def test_causal_attention_sees_nothing_behind_a_token(x):
    """The gradient of token 2 by tokens 3 and 4 is exactly zero, by those before it it is not."""
    layer = make(causal=True)
    grad = jax.grad(lambda x: layer(x)[:, 2].sum())(jnp.asarray(x))
    assert not np.any(grad[:, 3:])
    assert np.all(np.abs(grad[:, :3]).max(axis=-1) > 1e-4)


def test_examples_do_not_mix(x):
    layer = make(causal=False)
    grad = jax.grad(lambda x: layer(x)[0].sum())(jnp.asarray(x))
    assert not np.any(grad[1])


def test_initial_deviations_and_zero_biases():
    layer = Attention(
        64, 4, causal=False, in_std=0.25, out_std=0.03, dtype=jnp.dtype("float32"), rngs=nnx.Rngs(0)
    )
    params = arrays(layer)
    for name, std in {"qkv/kernel": 0.25, "out/kernel": 0.03}.items():
        # The standard error of a standard deviation is std / sqrt(2 n); five of them.
        kernel = np.asarray(params[name])
        assert abs(kernel.std() / std - 1) < 5 / np.sqrt(2 * kernel.size)
    assert not np.any(params["qkv/bias"])
    assert not np.any(params["out/bias"])


def test_bfloat16_computes_in_bfloat16_over_float32_parameters(x):
    layer = make(causal=True, dtype=jnp.bfloat16)
    assert {p.dtype for p in arrays(layer).values()} == {jnp.dtype("float32")}
    out = layer(jnp.asarray(x, jnp.bfloat16))
    assert out.dtype == jnp.bfloat16
    exact = make(causal=True)(jnp.asarray(x))
    assert np.abs(np.asarray(out, np.float32) - exact).max() < 0.05 * np.abs(exact).max()
