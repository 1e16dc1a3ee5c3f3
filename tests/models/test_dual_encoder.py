"""What holds for every tower in the tables, and for the two together."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clipjax.core.partition import tree_shardings
from clipjax.models import init_params, param_axes, with_params


@pytest.fixture(scope="module")
def image_configs(tiny):
    """One config for each way an image tower can end, by name."""
    return {
        "vit": tiny.model(),
        "vit-map": tiny.model(tiny.vit(pool="map", projection=False, width=8), embed_dim=8),
        "vit-mean": tiny.model(tiny.vit(pool="mean", positions="sincos2d")),
        "convnet": tiny.model(tiny.convnet()),
    }


# Of all towers and their options test_towers.py asks this and more.
IMAGE_NAMES = ("vit", "vit-map", "vit-mean", "convnet")


def image_encoder(config):
    return jax.jit(lambda params, images: with_params(config, params).encode_image(images))


def text_encoder(config):
    return jax.jit(lambda params, tokens: with_params(config, params).encode_text(tokens))


def some_tokens(config, count=3):
    rng = np.random.default_rng(0)
    shape = (count, config.text.context_length)
    return rng.integers(0, config.text.vocab_size, shape).astype(np.int32)


@pytest.mark.parametrize("name", IMAGE_NAMES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_image_embeddings_are_float32_unit_vectors(name, dtype, image_configs, tiny):
    config = image_configs[name]
    compute = dataclasses.replace(config.compute, dtype=dtype)
    config = dataclasses.replace(config, compute=compute)
    params = tiny.params(config, size=0.1)
    assert {p.dtype for p in params.values()} == {np.dtype(np.float32)}
    embeds = image_encoder(config)(params, tiny.images(3, config.image.image_size))
    assert embeds.shape == (3, 8)
    assert embeds.dtype == jnp.float32
    np.testing.assert_allclose(np.linalg.norm(embeds, axis=1), 1.0, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("pool", ["eot", "last", "mean", "class"])
def test_text_embeddings_are_float32_unit_vectors(pool, dtype, tiny):
    config = tiny.model(text=tiny.text(pool=pool), compute={"dtype": dtype})
    embeds = text_encoder(config)(tiny.params(config), some_tokens(config))
    assert embeds.shape == (3, 8)
    assert embeds.dtype == jnp.float32
    np.testing.assert_allclose(np.linalg.norm(embeds, axis=1), 1.0, rtol=1e-6)


def test_bfloat16_really_computes_in_bfloat16_and_stays_near(image_configs, tiny):
    config = image_configs["vit"]
    half = dataclasses.replace(
        config, compute=dataclasses.replace(config.compute, dtype="bfloat16")
    )
    params, images = tiny.params(config, size=0.1), tiny.images()
    exact, rounded = (np.asarray(image_encoder(c)(params, images)) for c in (config, half))
    difference = np.abs(exact - rounded).max()
    assert 1e-4 < difference < 0.1
    shapes = jax.eval_shape(lambda: init_params(config, 0))
    program = jax.jit(lambda p, x: with_params(half, p).encode_image(x)).lower(
        shapes, jax.ShapeDtypeStruct(images.shape, jnp.uint8)
    )
    products = [line for line in program.as_text().splitlines() if "dot_general" in line]
    # Scores, products and projections alike.
    assert products
    assert all("bf16" in line.partition("->")[0] for line in products)


@pytest.mark.parametrize("name", IMAGE_NAMES)
def test_an_image_does_not_depend_on_its_batch(name, image_configs, tiny):
    config = image_configs[name]
    params, images = tiny.params(config, size=0.1), tiny.images(3, config.image.image_size)
    encode = image_encoder(config)
    together = np.asarray(encode(params, images))
    other = images.copy()
    other[1:] = 255 - other[1:]
    np.testing.assert_allclose(encode(params, other)[0], together[0], atol=1e-6)
    np.testing.assert_allclose(encode(params, images[:1])[0], together[0], atol=1e-6)
    assert np.abs(encode(params, other)[1] - together[1]).max() > 1e-3


def test_a_text_does_not_depend_on_its_batch(tiny):
    config = tiny.model()
    params, tokens = tiny.params(config), some_tokens(config)
    encode = text_encoder(config)
    np.testing.assert_allclose(encode(params, tokens[:1])[0], encode(params, tokens)[0], atol=1e-6)


def test_pixels_are_normalised_by_mean_and_deviation(tiny):
    """The tower sees (pixel / 255 - mean) / std, channel by channel; floats count like bytes."""
    config = tiny.model(pixel_mean=(0.5, 0.25, 0.0), pixel_std=(0.5, 1.0, 2.0))
    params, images = tiny.params(config), tiny.images()
    pixels = (images / 255.0 - [0.5, 0.25, 0.0]) / [0.5, 1.0, 2.0]
    tower = jax.jit(lambda p, x: with_params(config, p).image(x))
    raw = np.asarray(tower(params, pixels.astype(np.float32)))
    expected = raw / np.linalg.norm(raw, axis=1, keepdims=True)
    encode = image_encoder(config)
    np.testing.assert_allclose(encode(params, images), expected, atol=1e-5)
    np.testing.assert_allclose(encode(params, images.astype(np.float32)), expected, atol=1e-5)


def test_a_zero_embedding_has_finite_gradients(tiny):
    config = tiny.model()
    params = tiny.params(config)
    params["text/project/kernel"] = np.zeros_like(params["text/project/kernel"])
    grads = jax.jit(jax.grad(lambda p, t: (with_params(config, p).encode_text(t) ** 2).sum()))(
        params, some_tokens(config)
    )
    assert all(np.isfinite(g).all() for g in grads.values())


@pytest.mark.parametrize("scan", [False, True], ids=["unrolled", "scanned"])
@pytest.mark.parametrize("name", ["vit", "vit-map", "convnet"])
def test_sharded_parameters_give_the_same_embeddings(name, scan, image_configs, tiny, mesh_222):
    """Parameters split over fsdp and tensor, the batch over data and fsdp."""
    config = image_configs[name]
    config = dataclasses.replace(
        config, compute=dataclasses.replace(config.compute, scan_layers=scan)
    )
    params = tiny.params(config, size=0.1)
    images, tokens = tiny.images(8, config.image.image_size), some_tokens(config, 8)
    expected = image_encoder(config)(params, images), text_encoder(config)(params, tokens)
    places = tree_shardings(params, param_axes(config), mesh_222)
    split = jax.device_put(params, places)
    whole = [n for n, p in split.items() if p.sharding.is_fully_replicated]
    assert "text/blocks/stack/mlp/fc1/kernel" not in whole
    assert len(whole) < len(split)
    rows = jax.NamedSharding(mesh_222, jax.P(("data", "fsdp")))
    with jax.set_mesh(mesh_222):
        embeds = (
            image_encoder(config)(split, jax.device_put(images, rows)),
            text_encoder(config)(split, jax.device_put(tokens, rows)),
        )
    for actual, wanted in zip(embeds, expected, strict=True):
        np.testing.assert_allclose(actual, wanted, atol=1e-5)


def test_scale_and_bias_start_as_configured(tiny):
    params = init_params(tiny.model(init_logit_scale=20.0, init_logit_bias=-10.0), 0)
    np.testing.assert_allclose(np.exp(params["log_logit_scale"]), 20.0, rtol=1e-6)
    assert params["logit_bias"] == -10.0
    assert "logit_bias" not in jax.eval_shape(lambda: init_params(tiny.model(), 0))
