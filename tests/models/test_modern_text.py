import dataclasses
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clipjax.config import (
    DualEncoderConfig,
    ModernTextConfig,
    UsageError,
    from_config_dict,
    to_json_dict,
)
from clipjax.core.partition import tree_shardings
from clipjax.models import init_params, param_axes, with_params

PAD = 0
TINY = ModernTextConfig(
    vocab_size=20, context_length=6, width=16, depth=2, num_heads=2, mlp_dim=24, rope_theta=50.0
)


def text(**fields):
    return dataclasses.replace(TINY, **fields)


def tower(config):
    return jax.jit(lambda params, tokens: with_params(config, params).text(tokens))


def rms(x, scale, eps):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * scale


def turn(x, theta):
    """[tokens, heads, dim]: pairs of channels as complex numbers."""
    z = x[..., 0::2] + 1j * x[..., 1::2]
    frequencies = theta ** (-np.arange(z.shape[-1]) / z.shape[-1])
    z = z * np.exp(1j * np.arange(len(x))[:, None, None] * frequencies)
    return np.stack([z.real, z.imag], axis=-1).reshape(x.shape)


def definition(tokens, params, config, reference):
    """One text of nothing but tokens that count, in float64."""
    p = reference.within(params, "text/")
    x = p["embedding"][tokens]
    for i in range(config.depth):
        b = reference.within(p, f"blocks/stack/{i}/")
        y = rms(x, b["norm1/scale"], config.norm_eps)
        query, key, value = np.moveaxis(np.einsum("td,dshe->tshe", y, b["attn/qkv/kernel"]), 1, 0)
        if config.qk_norm:
            query = rms(query, b["attn/query_norm/scale"], config.norm_eps)
            key = rms(key, b["attn/key_norm/scale"], config.norm_eps)
        query, key = turn(query, config.rope_theta), turn(key, config.rope_theta)
        mixed = reference.attend(query, key, value, causal=config.causal)
        x = x + np.einsum("the,hed->td", mixed, b["attn/out/kernel"])
        y = rms(x, b["norm2/scale"], config.norm_eps)
        gate, value = y @ b["mlp/fc1/kernel"][:, 0], y @ b["mlp/fc1/kernel"][:, 1]
        x = x + (reference.activations["silu"](gate) * value) @ b["mlp/fc2/kernel"]
    x = rms(x, p["norm/scale"], config.norm_eps)
    pooled = {"mean": x.mean(axis=0), "last": x[-1], "first": x[0]}[config.pool]
    return pooled @ p["project/kernel"]


@pytest.mark.parametrize(
    ("causal", "qk_norm", "pool"),
    [
        *itertools.product((False, True), (True,), ("mean", "last", "first")),
        (False, False, "mean"),
    ],
)
def test_matches_the_float64_definition(causal, qk_norm, pool, tiny, reference):
    """Padding behind a text must not be seen at all: the definition knows of none."""
    config = tiny.model(text=text(causal=causal, qk_norm=qk_norm, pool=pool))
    params = tiny.params(config)
    rows = tiny.tokens([18, 3, 7, 19, PAD, PAD], [18, 2, 1, 4, 5, 19], [7] + [PAD] * 5)
    out = tower(config)(params, rows)
    for example, length in enumerate((4, 6, 1)):
        expected = definition(rows[example, :length], params, config.text, reference)
        np.testing.assert_allclose(out[example], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("pool", ["mean", "last", "first"])
def test_how_much_padding_there_is_does_not_matter(pool, tiny):
    config = tiny.model(text=text(pool=pool))
    params = tiny.params(config)
    rows = tiny.tokens([18, 3, 7, PAD, PAD, PAD], [18, 19, PAD, PAD, PAD, PAD])
    short = tower(config)(params, rows[:, :3])
    np.testing.assert_allclose(tower(config)(params, rows), short, rtol=1e-5, atol=1e-6)
    moved = dict(params)
    moved["text/embedding"] = params["text/embedding"].at[PAD].add(3.0)
    np.testing.assert_array_equal(
        tower(config)(moved, rows), tower(config)(params, rows)
    )  # also what padding looks like


def test_the_padding_id_is_the_one_of_the_config(tiny):
    config = tiny.model(text=text(pad_id=5))
    params = tiny.params(config)
    rows = tiny.tokens([18, 3, 5, 5, 5, 5], [18, 3, 0, 0, 0, 0])
    out = tower(config)(params, rows)
    np.testing.assert_allclose(out[0], tower(config)(params, rows[:1, :2])[0], atol=1e-5)
    assert np.abs(out[0] - out[1]).max() > 1e-3


def test_order_matters(tiny):
    config = tiny.model(text=text())
    params, rows = tiny.params(config), tiny.tokens([1, 2, 3, 4], [4, 2, 3, 1])
    out = tower(config)(params, rows)
    assert np.abs(out[0] - out[1]).max() > 1e-3


def test_a_causal_tower_sees_nothing_behind_the_pooled_token(tiny):
    params = tiny.params(tiny.model(text=text()))
    rows = tiny.tokens([1, 2, 3, 4], [1, 9, 8, 7])
    for causal in (True, False):
        out = tower(tiny.model(text=text(causal=causal, pool="first")))(params, rows)
        assert np.array_equal(out[0], out[1]) == causal


def test_a_text_of_padding_only_is_finite(tiny):
    config = tiny.model(text=text())
    params, rows = tiny.params(config), tiny.tokens([PAD] * 6, [1, 2, PAD, PAD, PAD, PAD])

    def loss(params):
        return (with_params(config, params).encode_text(jnp.asarray(rows)) ** 3).sum()

    value, grads = jax.jit(jax.value_and_grad(loss))(params)
    assert np.isfinite(value)
    assert all(np.isfinite(g).all() for g in grads.values())


def test_a_text_longer_than_the_context_is_refused(tiny):
    config = tiny.model(text=text())
    params = tiny.params(config)
    tower(config)(params, tiny.tokens([1] * 6))
    with pytest.raises(UsageError, match=r"a text of 7 tokens: model\.text\.context_length=6"):
        tower(config)(params, tiny.tokens([1] * 7))


def test_it_has_neither_biases_nor_a_table_of_positions(tiny):
    shapes = jax.eval_shape(lambda: init_params(tiny.model(text=text()), 0))
    names = [n for n in shapes if n.startswith("text/")]
    assert not [n for n in names if "bias" in n or "positions" in n]
    assert shapes["text/blocks/stack/0/attn/query_norm/scale"].shape == (8,)


def test_the_gradient_reaches_every_parameter(tiny):
    config = tiny.model(text=text())
    rows = jnp.asarray(np.arange(18, dtype=np.int32).reshape(3, 6))
    weights = np.random.default_rng(0).normal(size=8)
    grads = jax.jit(jax.grad(lambda p: (with_params(config, p).encode_text(rows) @ weights).std()))(
        tiny.params(config, size=0.1)
    )
    dead = [n for n, g in grads.items() if n.startswith("text/") and not np.abs(g).max() > 1e-7]
    assert not dead


def test_scanned_sharded_and_rounded_it_stays_the_same(tiny, mesh_222):
    config = tiny.model(text=text())
    params = tiny.params(config, size=0.1)
    rows = np.random.default_rng(0).integers(0, 20, (8, 6)).astype(np.int32)
    expected = tower(config)(params, rows)
    eager = with_params(config, params).text(jnp.asarray(rows))
    np.testing.assert_allclose(eager, expected, atol=1e-5)
    order = np.random.default_rng(1).permutation(8)
    np.testing.assert_allclose(tower(config)(params, rows[order]), expected[order], atol=1e-5)

    split = jax.device_put(params, tree_shardings(params, param_axes(config), mesh_222))
    placed = jax.device_put(rows, jax.NamedSharding(mesh_222, jax.P(("data", "fsdp"))))
    with jax.set_mesh(mesh_222):
        np.testing.assert_allclose(tower(config)(split, placed), expected, atol=1e-5)

    scanned = dataclasses.replace(config.compute, scan_layers=True, remat="dots")
    stacked = {n: p for n, p in params.items() if "/stack/" not in n}
    for name in params:
        if "/stack/0/" in name:
            layers = [params[name], params[name.replace("/stack/0/", "/stack/1/")]]
            stacked[name.replace("/stack/0/", "/stack/")] = jnp.stack(layers)
    out = tower(dataclasses.replace(config, compute=scanned))(stacked, rows)
    np.testing.assert_allclose(out, expected, atol=1e-5)

    half = dataclasses.replace(config.compute, dtype="bfloat16")
    out = tower(dataclasses.replace(config, compute=half))(params, rows)
    assert out.dtype == jnp.bfloat16
    difference = np.abs(np.asarray(out, np.float32) - expected).max()
    assert 0 < difference < 0.05 * np.abs(expected).max()


def test_configs_survive_json():
    config = DualEncoderConfig(text=text(pool="last", pad_id=3))
    saved = json.loads(json.dumps(to_json_dict(config)))
    assert saved["text"]["kind"] == "modern"
    assert from_config_dict(DualEncoderConfig, saved) == config
    named = from_config_dict(DualEncoderConfig, {"text": {"kind": "modern", "width": 64}})
    assert named.text == ModernTextConfig(width=64)


def test_heads_of_an_odd_width_cannot_be_turned():
    with pytest.raises(ValueError, match="heads of an even width, got 3"):
        ModernTextConfig(width=12, num_heads=4)
