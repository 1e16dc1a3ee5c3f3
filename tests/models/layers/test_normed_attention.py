import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from clipjax.models.layers.normed_attention import NormedAttention
from clipjax.models.layers.rotary import rotary_1d

EPS = 0.1


def make(*, causal=False, bias=True, norm=None):
    layer = NormedAttention(
        12,
        3,
        causal=causal,
        bias=bias,
        norm=norm,
        norm_eps=EPS,
        in_std=0.5,
        out_std=0.5,
        dtype=jnp.dtype("float32"),
        rngs=nnx.Rngs(0),
    )
    rng = np.random.default_rng(0)
    for _, leaf in nnx.to_flat_state(nnx.state(layer, nnx.Param)):
        leaf[...] = rng.normal(size=leaf[...].shape).astype(np.float32) * 0.5
    return layer


def arrays(layer, reference):
    return {
        "/".join(map(str, path)): reference.f64(leaf[...])
        for path, leaf in nnx.to_flat_state(nnx.state(layer, nnx.Param))
    }


def rms(x, scale):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + EPS) * scale


def turn(x, theta):
    """[tokens, heads, dim]: pairs of channels as complex numbers."""
    z = x[..., 0::2] + 1j * x[..., 1::2]
    frequencies = theta ** (-np.arange(z.shape[-1]) / z.shape[-1])
    z = z * np.exp(1j * np.arange(len(x))[:, None, None] * frequencies)
    return np.stack([z.real, z.imag], axis=-1).reshape(x.shape)


def definition(x, p, reference, *, causal, norm, turned):
    query, key, value = np.moveaxis(np.einsum("td,dshe->tshe", x, p["qkv/kernel"]), 1, 0)
    if "qv_bias" in p:
        query, value = query + p["qv_bias"][0], value + p["qv_bias"][1]
    if norm == "qk":
        query, key = rms(query, p["query_norm/scale"]), rms(key, p["key_norm/scale"])
    if turned:
        query, key = turn(query, 10.0), turn(key, 10.0)
    mixed = reference.attend(query, key, value, causal=causal).reshape(len(x), -1)
    if norm == "inner":
        mixed = reference.layer_norm(mixed, p["norm/scale"], p["norm/bias"], EPS)
    return mixed @ p["out/kernel"].reshape(12, 12) + p.get("out/bias", 0.0)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(("bias", "norm"), [(True, None), (True, "inner"), (False, "qk")])
@pytest.mark.parametrize("causal", [False, True])
def test_matches_the_float64_definition(causal, bias, norm, turned, reference):
    layer = make(causal=causal, bias=bias, norm=norm)
    p = arrays(layer, reference)
    x = np.random.default_rng(1).normal(size=(2, 5, 12)).astype(np.float32)
    out = layer(jnp.asarray(x), None, rotary_1d(5, 4, 10.0) if turned else None)
    for example in range(2):
        expected = definition(
            reference.f64(x[example]), p, reference, causal=causal, norm=norm, turned=turned
        )
        np.testing.assert_allclose(out[example], expected, rtol=1e-4, atol=1e-4)


def test_a_bias_of_the_keys_would_change_nothing(reference):
    """Why there is none: softmax does not see what is added to all scores of a query."""
    layer, x = make(), np.random.default_rng(1).normal(size=(5, 12))
    p = arrays(layer, reference)
    query, key, value = np.moveaxis(np.einsum("td,dshe->tshe", x, p["qkv/kernel"]), 1, 0)
    moved = key + np.random.default_rng(2).normal(size=(3, 4))
    np.testing.assert_allclose(
        reference.attend(query, moved, value), reference.attend(query, key, value), rtol=1e-9
    )


def test_what_the_mask_hides_is_not_seen():
    layer = make(bias=False, norm="qk")
    x = jnp.asarray(np.random.default_rng(1).normal(size=(1, 5, 12)), jnp.float32)
    mask = jnp.asarray([[True, True, False, True, False]])
    grad = jax.grad(lambda x: layer(x, mask)[:, 0].sum())(x)
    assert not np.any(grad[0, [2, 4]])
    assert np.all(np.abs(grad[0, [0, 1, 3]]).max(axis=-1) > 1e-4)
