import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from clipjax.models.layers.gated_mlp import GatedMlp


def make(*, bias=True, inner_norm_eps=None, dtype="float32"):
    layer = GatedMlp(
        6,
        10,
        bias=bias,
        inner_norm_eps=inner_norm_eps,
        in_std=0.5,
        out_std=0.5,
        dtype=jnp.dtype(dtype),
        rngs=nnx.Rngs(0),
    )
    rng = np.random.default_rng(0)
    for _, leaf in nnx.to_flat_state(nnx.state(layer, nnx.Param)):
        leaf[...] = rng.normal(size=leaf[...].shape).astype(np.float32)
    return layer


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("eps", [None, 0.1])
def test_matches_the_float64_definition(bias, eps, reference):
    layer = make(bias=bias, inner_norm_eps=eps)
    p = {
        "/".join(map(str, path)): reference.f64(leaf[...])
        for path, leaf in nnx.to_flat_state(nnx.state(layer, nnx.Param))
    }
    x = np.random.default_rng(1).normal(size=(2, 3, 6)).astype(np.float32)
    gate, value = (x @ p["fc1/kernel"][:, half] for half in (0, 1))
    if bias:
        gate, value = gate + p["fc1/bias"][0], value + p["fc1/bias"][1]
    hidden = reference.activations["silu"](gate) * value
    if eps is not None:
        hidden = reference.layer_norm(hidden, p["norm/scale"], p["norm/bias"], eps)
    expected = hidden @ p["fc2/kernel"] + (p["fc2/bias"] if bias else 0.0)
    np.testing.assert_allclose(layer(jnp.asarray(x)), expected, rtol=1e-4, atol=1e-4)
    assert ("fc1/bias" in p) == ("fc2/bias" in p) == bias
    assert ("norm/scale" in p) == (eps is not None)


def test_bfloat16_stays_near():
    x = np.random.default_rng(1).normal(size=(2, 3, 6)).astype(np.float32)
    half = make(dtype="bfloat16")(jnp.asarray(x, jnp.bfloat16))
    exact = make()(jnp.asarray(x))
    assert half.dtype == jnp.bfloat16
    assert np.abs(np.asarray(half, np.float32) - exact).max() < 0.05 * np.abs(exact).max()
