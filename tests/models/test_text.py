import jax
import numpy as np
import pytest

from clipjax.models import init_params, with_params

END = 19


def encoder(config):
    return jax.jit(lambda params, tokens: with_params(config, params).encode_text(tokens))


@pytest.fixture(scope="module")
def causal(tiny):
    """(encode, params) of CLIP's text tower."""
    config = tiny.model()
    return encoder(config), tiny.params(config)


def definition(tokens, params, config, reference):
    """One text through the tower in float64."""
    p = reference.within(params, "text/")
    x = p["embedding"][tokens] + p["positions"]
    for i in range(config.depth):
        x = reference.block(
            x,
            reference.within(p, f"blocks/stack/{i}/"),
            causal=config.causal,
            activation=reference.activations[config.activation],
            eps=config.norm_eps,
        )
    x = reference.layer_norm(x, p["norm/scale"], p["norm/bias"], config.norm_eps)
    end = END if config.end_id is None else config.end_id
    place = {"eot": list(tokens).index(end) if end in tokens else 0, "last": -1}
    x = x.mean(axis=0) if config.pool == "mean" else x[place[config.pool]]
    return x @ p["project/kernel"] + p.get("project/bias", 0.0) if config.projection else x


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"causal": False, "pool": "last", "projection_bias": True, "activation": "gelu_tanh"},
        {"causal": False, "pool": "mean"},
        {"end_id": 3, "layer_scale": 0.1},
        {"projection": False, "causal": False},
        {"end_id": 7, "projection_bias": True, "norm_eps": 1e-2},
    ],
    ids=["clip", "siglip", "mean", "end", "bare", "bias"],
)
def test_matches_the_float64_definition(fields, tiny, reference):
    bare = not fields.get("projection", True)
    config = tiny.model(text=tiny.text(**fields), embed_dim=16 if bare else 8)
    params = tiny.params(config)
    tokens = tiny.tokens([18, 3, 7, END, 0, 0], [18, END, END, 4, 5, END])
    out = jax.jit(lambda p, x: with_params(config, p).text(x))(params, tokens)
    for example in range(2):
        expected = definition(tokens[example], params, config.text, reference)
        np.testing.assert_allclose(out[example], expected, rtol=1e-4, atol=1e-4)


def test_tokens_behind_the_end_do_not_matter(causal, tiny):
    encode, params = causal
    rows = tiny.tokens([18, 3, 7, END, 0, 0], [18, 3, 7, END, 5, 11], [18, 3, 7, END, END, END])
    embeds = np.asarray(encode(params, rows))
    np.testing.assert_allclose(embeds, embeds[:1].repeat(3, axis=0), atol=1e-6)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_every_token_before_the_end_matters(place, causal, tiny):
    encode, params = causal
    rows = tiny.tokens([18, 3, 7, END, 0, 0], [18, 3, 7, END, 0, 0])
    rows[1, place] = 12
    one, other = np.asarray(encode(params, rows))
    assert np.abs(one - other).max() > 1e-3


def test_the_order_of_the_tokens_matters(causal, tiny):
    encode, params = causal
    one, other = encode(params, tiny.tokens([18, 3, 7, END, 0, 0], [18, 7, 3, END, 0, 0]))
    assert np.abs(one - other).max() > 1e-3


def test_without_the_causal_mask_tokens_behind_the_end_matter(tiny):
    config = tiny.model(text=tiny.text(causal=False))
    one, other = encoder(config)(
        tiny.params(config), tiny.tokens([18, 3, 7, END, 0, 0], [18, 3, 7, END, 5, 11])
    )
    assert np.abs(one - other).max() > 1e-3


def test_the_three_pools_read_different_places(tiny):
    """Same parameters, three embeddings; all the same where the end is the last position."""
    embeds = []
    for pool in ("eot", "last", "mean"):
        config = tiny.model(text=tiny.text(pool=pool))
        tokens = tiny.tokens([18, 3, 7, END, 0, 0], [18, 3, 7, 2, 1, END])
        embeds.append(np.asarray(encoder(config)(tiny.params(config), tokens)))
    (eot, eot_full), (last, last_full), (mean, mean_full) = embeds
    assert min(np.abs(a - b).max() for a, b in ((eot, last), (eot, mean), (last, mean))) > 1e-3
    np.testing.assert_allclose(eot_full, last_full, atol=1e-6)
    assert np.abs(eot_full - mean_full).max() > 1e-3


def test_initial_deviations_are_those_of_clip(tiny):
    config = tiny.model(
        text=tiny.text(vocab_size=500, context_length=32, width=64, depth=1), embed_dim=32
    )
    params = jax.jit(init_params, static_argnums=(0, 1))(config, 0)
    documented = {
        "text/embedding": 0.02,
        "text/positions": 0.01,
        "text/project/kernel": 64**-0.5,
    }
    for name, std in documented.items():
        value = np.asarray(params[name])
        assert abs(value.std() / std - 1) < 5 / np.sqrt(2 * value.size), name


def test_shorter_texts_are_those_with_padding_behind(tiny):
    """Causal attention and the end token: what comes behind it, and how much, is not seen."""
    config = tiny.model(text=tiny.text(context_length=9))
    params = tiny.params(config)
    encode = jax.jit(lambda p, x: with_params(config, p).encode_text(x))
    gradient = jax.jit(jax.grad(lambda p, x: with_params(config, p).encode_text(x)[:, 0].sum()))
    tokens = tiny.tokens(
        [18, 3, 19, 0, 0, 0, 0, 0, 0], [18, 3, 4, 5, 19, 0, 0, 0, 0], [18, 19, 0, 0, 0, 0, 0, 0, 0]
    )
    for length in (5, 6, 8):
        np.testing.assert_allclose(
            encode(params, tokens[:, :length]), encode(params, tokens), atol=1e-6
        )
    whole, short = gradient(params, tokens), gradient(params, tokens[:, :5])
    for name in whole:
        np.testing.assert_allclose(short[name], whole[name], rtol=1e-3, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("fields", [{"causal": False}, {"pool": "mean"}, {"pool": "last"}])
def test_where_padding_is_seen_its_length_matters(fields, tiny):
    """Why `data.text_buckets` refuses these."""
    config = tiny.model(text=tiny.text(**fields))
    params = tiny.params(config)
    encode = jax.jit(lambda p, x: with_params(config, p).encode_text(x))
    tokens = tiny.tokens([18, 3, 19, 0, 0, 0])
    assert np.abs(encode(params, tokens[:, :4]) - encode(params, tokens)).max() > 1e-3


def test_options_have_the_parameters_they_need(tiny):
    config = tiny.model(
        text=tiny.text(projection=False, projection_bias=True, layer_scale=1e-4), embed_dim=16
    )
    params = init_params(config, 0)
    assert not [name for name in params if name.startswith("text/project")]
    np.testing.assert_allclose(params["text/blocks/stack/1/ls_1/gain"], 1e-4)
    with pytest.raises(ValueError, match=r"needs embed_dim=8 to be text\.width=16"):
        tiny.model(text=tiny.text(projection=False))


def test_the_end_is_the_id_that_is_said_and_not_the_greatest(tiny):
    config = tiny.model(text=tiny.text(end_id=4))
    encode, params = encoder(config), tiny.params(config)
    rows = tiny.tokens([18, 3, 4, 7, END, 0], [18, 3, 4, END, 9, 9], [18, 3, 5, 7, END, 4])
    one, other, late = np.asarray(encode(params, rows))
    np.testing.assert_allclose(one, other, atol=1e-6)
    assert np.abs(one - late).max() > 1e-3
