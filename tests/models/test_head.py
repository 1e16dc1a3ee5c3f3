"""The sparse head: both towers end in axes that are never negative, whatever the towers are."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipjax.config import DualEncoderConfig, HeadConfig, UsageError, from_config_dict, to_json_dict
from clipjax.losses.softmax import softmax_loss
from clipjax.models import is_non_negative, param_shapes, tapped, with_params

SPARSE = HeadConfig(kind="sparse_relu")
TOWERS = ("vit", "convnet", "convnext", "resnet", "eva")


@pytest.fixture(scope="module")
def image_towers(tiny):
    return {name: getattr(tiny, name)() for name in TOWERS}


def sparse(config):
    return dataclasses.replace(config, head=SPARSE)


def program(config):
    """The program of both towers, before it is compiled."""
    side, length = config.image.image_size, config.text.context_length
    params = {n: jax.ShapeDtypeStruct(s, "float32") for n, s in param_shapes(config).items()}

    def run(params, images, tokens):
        model = with_params(config, params)
        return model.encode_image(images), model.encode_text(tokens)

    images = jax.ShapeDtypeStruct((2, side, side, 3), "uint8")
    return jax.jit(run).lower(params, images, jax.ShapeDtypeStruct((2, length), "int32")).as_text()


def both_heads(config):
    """Compiles the image tower with either head."""

    def run(params, images):
        return [with_params(c, params).encode_image(images) for c in (sparse(config), config)]

    return jax.jit(run)


@pytest.mark.parametrize("name", TOWERS)
def test_it_is_the_linear_head_without_what_is_negative(name, image_towers, tiny):
    """By NumPy, from the unit vectors of the linear head: a length is lost, no sign is."""
    linear = tiny.model(image_towers[name])
    images = tiny.images(3, linear.image.image_size)
    found, expected = both_heads(linear)(tiny.params(linear), images)
    expected = np.maximum(np.asarray(expected, np.float64), 0)
    np.testing.assert_allclose(
        found, expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=2e-6
    )
    assert (expected == 0).any()
    assert (np.asarray(found)[expected == 0] == 0).all()


def test_texts_and_taps_have_it_too(tiny):
    config = sparse(tiny.model())
    params, tokens = tiny.params(config), tiny.tokens([1, 5, 2, 0, 0, 0], [1, 7, 8, 9, 2, 0])

    def run(params, tokens):
        return with_params(config, params).encode_text(tokens)

    embeds, reads = jax.jit(tapped(run, read={"shared/embed": "all"}))(params, tokens)
    assert (np.asarray(embeds) >= 0).all()
    np.testing.assert_array_equal(embeds, reads["shared/embed"])
    assert is_non_negative(config)
    assert not is_non_negative(config, "text/blocks/0/mlp_act")
    assert not is_non_negative(tiny.model())


def test_no_parameter_is_new_and_the_linear_program_is_as_it_was(tiny):
    linear = tiny.model()
    assert param_shapes(sparse(linear)) == param_shapes(linear)
    # The largest of a number and zero is nowhere but in the clamp of the length.
    texts = {
        head: program(dataclasses.replace(linear, head=head)) for head in (SPARSE, HeadConfig())
    }
    assert "relu" in texts[SPARSE]
    assert "relu" not in texts[HeadConfig()]
    assert texts[HeadConfig()] == program(linear)


@pytest.fixture(scope="module")
def zero_loss(tiny):
    """Compiles loss, embeddings and gradient of what a text tower says, before the head."""
    config = sparse(tiny.model())
    model = with_params(config, tiny.params(config))

    def loss(x):
        texts = model._embedded(x)
        return softmax_loss(model._embedded(jnp.abs(x) + 0.1), texts, jnp.float32(10.0)), texts

    return jax.jit(jax.value_and_grad(loss, has_aux=True))


@given(seed=st.integers(0, 2**31), negative=st.lists(st.booleans(), min_size=4, max_size=4))
@settings(max_examples=20, deadline=None)
def test_an_embedding_of_zeros_has_finite_gradients(zero_loss, seed, negative):
    """Some texts are all negative: zero, not of unit length, and no NaN comes of them."""
    x = np.abs(np.random.default_rng(seed).normal(size=(4, 8))).astype(np.float32)
    x[np.array(negative)] *= -1
    (value, texts), gradient = zero_loss(x)
    lengths = np.linalg.norm(texts, axis=1)
    np.testing.assert_allclose(lengths, np.where(negative, 0.0, 1.0), atol=1e-6)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


def test_it_is_in_a_stored_config_and_older_ones_have_the_linear_head(tiny):
    stored = to_json_dict(sparse(tiny.model()))
    assert stored["head"] == {"kind": "sparse_relu"}
    assert from_config_dict(DualEncoderConfig, stored).head == SPARSE
    del stored["head"]
    assert from_config_dict(DualEncoderConfig, stored).head == HeadConfig()
    with pytest.raises(UsageError, match=r"head\.kind='sparse_rel'.* 'sparse_relu'"):
        from_config_dict(DualEncoderConfig, {**stored, "head": {"kind": "sparse_rel"}})
