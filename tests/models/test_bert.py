"""The encoder against a float64 one written from the papers; what masking and positions mean."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clipjax.config import BertConfig
from clipjax.core.partition import tree_shardings
from clipjax.models import init_params, param_axes, with_params
from clipjax.models.bert import position_rows

PAD, VOCAB, LENGTH, WIDTH = 1, 30, 8, 16


def bert(**fields):
    return BertConfig(
        **{
            "vocab_size": VOCAB,
            "context_length": LENGTH,
            "max_positions": LENGTH + 2,
            "pad_id": PAD,
            "width": WIDTH,
            "depth": 2,
            "num_heads": 2,
            "mlp_dim": 24,
            **fields,
        }
    )


def texts(tiny):
    """Short, full, with padding inside, with padding in front."""
    return tiny.tokens(
        [0, 5, 6, 2, 1, 1, 1, 1],
        [0, 5, 6, 7, 8, 9, 10, 2],
        [0, 5, 1, 6, 2, 1, 1, 1],
        [1, 1, 1, 0, 5, 6, 7, 2],
    )


def encoder(config):
    return jax.jit(lambda params, tokens: with_params(config, params).text(tokens))


def definition(tokens, params, config, reference):
    """One text in float64: padding is left out altogether, but for the places that it takes."""
    p, bert = reference.within(params, "text/"), config.text
    real = np.flatnonzero(tokens != bert.pad_id)
    places = real if bert.first_position == 0 else bert.first_position + np.arange(len(real))
    x = p["embedding"][tokens[real]] + p["positions"][places] + p["types"][0]
    x = reference.layer_norm(x, p["norm/scale"], p["norm/bias"], bert.norm_eps)
    for i in range(bert.depth):
        q = reference.within(p, f"blocks/stack/{i}/")
        x = x + reference.attention(x, reference.within(q, "attn/"), causal=False)
        x = reference.layer_norm(x, q["ln_1/scale"], q["ln_1/bias"], bert.norm_eps)
        y = reference.activations[bert.activation](x @ q["mlp/fc1/kernel"] + q["mlp/fc1/bias"])
        x = x + y @ q["mlp/fc2/kernel"] + q["mlp/fc2/bias"]
        x = reference.layer_norm(x, q["ln_2/scale"], q["ln_2/bias"], bert.norm_eps)
    pooled = {"mean": x.mean(0), "max": x.max(0)}.get(bert.pool, x[0])
    if bert.pool == "pooler":
        pooled = np.tanh(pooled @ p["pooler/kernel"] + p["pooler/bias"])
    if bert.projection == "mlp":
        pooled = reference.activations["gelu"](pooled @ p["hidden/kernel"])
    if bert.projection != "none":
        pooled = pooled @ p["project/kernel"]
    return pooled + (p["project/bias"] if bert.projection == "linear_bias" else 0)


CHOICES = {
    "pool": ("first", "pooler", "mean", "max"),
    "projection": ("linear", "linear_bias", "mlp", "none"),
    "first_position": (0, PAD + 1),
}


@pytest.mark.parametrize(
    "fields",
    [
        dict(zip(CHOICES, values, strict=True))
        for i, values in enumerate(itertools.product(*CHOICES.values()))
        if i % 3 == 0  # every value of a field, and every pool with both kinds of positions
    ],
    ids=lambda fields: "-".join(str(value) for value in fields.values()),
)
def test_matches_the_float64_definition(fields, tiny, reference):
    config = tiny.model(text=bert(token_types=2, **fields), embed_dim=WIDTH)
    params, tokens = tiny.params(config), texts(tiny)
    # Where padding is in front the first token that counts is not the first one of the row.
    count = 4 if config.text.pool in ("mean", "max") else 3
    out = encoder(config)(params, tokens)
    for row in range(count):
        expected = definition(tokens[row], params, config, reference)
        np.testing.assert_allclose(out[row], expected, rtol=1e-4, atol=1e-4)


def test_rows_of_positions_are_those_of_bert_and_of_roberta():
    real = jnp.array([[True, True, False, True, False], [False, True, True, True, True]])
    assert position_rows(real, 0).tolist() == [[0, 1, 2, 3, 4]] * 2
    assert position_rows(real, 2).tolist() == [[2, 3, 1, 4, 1], [1, 2, 3, 4, 5]]
    assert position_rows(real, 1).tolist() == [[1, 2, 0, 3, 0], [0, 1, 2, 3, 4]]


@pytest.mark.parametrize("pool", CHOICES["pool"])
def test_padding_behind_a_text_changes_nothing(pool, tiny):
    config = tiny.model(text=bert(pool=pool))
    params, tokens = tiny.params(config), texts(tiny)[:1]
    encode = encoder(config)
    np.testing.assert_allclose(
        encode(params, tokens[:, :4]), encode(params, tokens), rtol=1e-5, atol=1e-6
    )
    other = tokens.copy()
    other[0, 4] = 9
    assert np.abs(encode(params, other) - encode(params, tokens)).max() > 1e-3


@pytest.mark.parametrize("pool", CHOICES["pool"])
def test_a_text_of_padding_has_a_finite_embedding_and_gradients(pool, tiny):
    config = tiny.model(text=bert(pool=pool))
    tokens = np.full((2, LENGTH), PAD, np.int32)

    def loss(params):
        return (with_params(config, params).encode_text(jnp.asarray(tokens))[:, 0]).sum()

    value, grads = jax.jit(jax.value_and_grad(loss))(tiny.params(config))
    assert np.isfinite(value)
    assert all(np.isfinite(g).all() for g in grads.values())


@pytest.mark.parametrize("projection", CHOICES["projection"])
@pytest.mark.parametrize("unused", [False, True])
def test_gradients_reach_every_parameter_that_is_used(projection, unused, tiny):
    config = tiny.model(
        text=bert(projection=projection, pool="mean", unused_pooler=unused), embed_dim=WIDTH
    )
    params, tokens = tiny.params(config), texts(tiny)

    def loss(params):
        return (with_params(config, params).encode_text(jnp.asarray(tokens))[:, 0]).sum()

    grads = jax.jit(jax.grad(loss))(params)
    still = {n for n, g in grads.items() if n.startswith("text/") and not np.abs(g).max() > 0}

    assert still == ({"text/pooler/kernel", "text/pooler/bias"} if unused else set())


@pytest.mark.parametrize("remat", ["none", "names", "dots", "full"])
def test_scanned_and_recomputed_blocks_give_the_same_gradients(remat, tiny):
    plain = tiny.model(text=bert())
    scanned = dataclasses.replace(
        plain, compute=dataclasses.replace(plain.compute, scan_layers=True, remat=remat)
    )
    params, tokens = tiny.params(plain), texts(tiny)
    stacked = {name: p for name, p in params.items() if "/stack/" not in name}
    names = {name.partition("text/blocks/stack/0/")[2] for name in params} - {""}
    for name in names:
        layers = [params[f"text/blocks/stack/{i}/{name}"] for i in range(2)]
        stacked[f"text/blocks/stack/{name}"] = jnp.stack(layers)
    stacked |= {n: p for n, p in tiny.params(scanned).items() if n.startswith("image/")}

    def value_and_grad(config, params):
        def loss(params):
            return (with_params(config, params).encode_text(jnp.asarray(tokens))[:, 0]).sum()

        return jax.jit(jax.value_and_grad(loss))(params)

    value, grads = value_and_grad(plain, params)
    other, scanned_grads = value_and_grad(scanned, stacked)
    np.testing.assert_allclose(other, value, rtol=1e-5)
    name = "mlp/fc1/kernel"
    for i in range(2):
        np.testing.assert_allclose(
            scanned_grads[f"text/blocks/stack/{name}"][i],
            grads[f"text/blocks/stack/{i}/{name}"],
            rtol=1e-3,
            atol=1e-6,
        )


def test_bfloat16_stays_near_and_sharded_gives_the_same(tiny, mesh_222):
    config = tiny.model(text=bert())
    params, tokens = tiny.params(config, size=0.1), np.tile(texts(tiny), (2, 1))
    encode = jax.jit(lambda p, t: with_params(config, p).encode_text(t))
    exact = encode(params, tokens)
    half = dataclasses.replace(
        config, compute=dataclasses.replace(config.compute, dtype="bfloat16")
    )
    rounded = jax.jit(lambda p, t: with_params(half, p).encode_text(t))(params, tokens)
    assert rounded.dtype == jnp.float32
    assert 1e-4 < np.abs(rounded - exact).max() < 0.1
    split = jax.device_put(params, tree_shardings(params, param_axes(config), mesh_222))
    assert not split["text/embedding"].sharding.is_fully_replicated
    assert not split["text/blocks/stack/0/mlp/fc1/kernel"].sharding.is_fully_replicated
    rows = jax.NamedSharding(mesh_222, jax.P(("data", "fsdp")))
    with jax.set_mesh(mesh_222):
        sharded = jax.jit(lambda p, t: with_params(config, p).encode_text(t))(
            split, jax.device_put(tokens, rows)
        )
    np.testing.assert_allclose(sharded, exact, atol=1e-5)


def test_initial_deviation_is_that_of_bert(tiny):
    config = tiny.model(text=bert(width=32, vocab_size=200, pool="pooler"), embed_dim=16)
    params = jax.jit(init_params, static_argnums=(0, 1))(config, 0)
    for name, value in params.items():
        if not name.startswith("text/"):
            continue
        if name.endswith("/bias"):
            assert not value.any(), name
        elif not name.endswith("/scale"):
            assert abs(value.std() / 0.02 - 1) < 5 / np.sqrt(2 * value.size), name


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_positions": LENGTH + 1}, "no row for the last of context_length=8"),
        ({"first_position": 1}, r"must be 0 \(padding is counted, BERT\) or pad_id \+ 1 = 2"),
        ({"pool": "pooler", "unused_pooler": True}, "the pooler is used"),
        ({"num_heads": 3}, "does not divide width=16"),
        ({"token_types": 0}, "token_types=0 must be positive"),
    ],
)
def test_a_config_that_cannot_be_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        bert(**fields)


def test_without_projection_the_space_has_the_towers_width(tiny):
    with pytest.raises(ValueError, match=r"embed_dim=8 to be text\.width=16"):
        tiny.model(text=bert(projection="none"))
