"""Batches, padding and meshes never show in the embeddings."""

import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clipjax.config import MeshConfig
from clipjax.core.mesh import make_mesh
from clipjax.core.partition import tree_shardings
from clipjax.inference.encoder import Encoder
from clipjax.models import init_params, param_axes, with_params


class Arrays:
    """Pictures in memory; number `bad` cannot be read."""

    def __init__(self, pixels, bad=None):
        self.pixels, self.bad = pixels, bad

    def __len__(self):
        return len(self.pixels)

    def fill(self, index, out):
        if index == self.bad:
            raise ValueError(f"picture {index} cannot be read")
        out[...] = self.pixels[index]


class Letters:
    """A tokenizer: one id a letter, padded with zeros, the last id at the end."""

    context_length, vocab_size = 16, 300

    def __call__(self, text):
        ids = [ord(letter) for letter in text][:15] + [299]
        return np.array(ids + [0] * (16 - len(ids)), np.int32)

    def to_json(self):
        return {}

    def digest(self):
        return ""


TEXTS = ("a", "red square", "", "b", "blue", "an orange square at the top left", "c")


@pytest.fixture(scope="module")
def params(tiny_config):
    return jax.jit(init_params, static_argnums=(0, 1))(tiny_config.model, 0)


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).integers(0, 256, (11, 16, 16, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def expected(tiny_config, params, pixels):
    """(images, texts) embedded by the bare module in one go."""

    def encode(params, images, tokens):
        model = with_params(tiny_config.model, params)
        return model.encode_image(images), model.encode_text(tokens)

    tokens = jnp.asarray(np.stack([Letters()(text) for text in TEXTS]))
    return [np.asarray(x) for x in jax.jit(encode)(params, pixels, tokens)]


def make(tiny_config, mesh, **options):
    return Encoder(tiny_config.model, Letters(), mesh, **options)


@pytest.mark.parametrize("batch_size", [1, 4, 11, 64])
def test_the_batch_size_does_not_matter(batch_size, tiny_config, params, pixels, expected):
    encoder = make(tiny_config, make_mesh(MeshConfig(), 1), batch_size=batch_size)
    images, texts = encoder.images(params, Arrays(pixels)), encoder.texts(params, TEXTS)
    assert images.dtype == texts.dtype == np.float32
    np.testing.assert_allclose(images, expected[0], atol=2e-6)
    np.testing.assert_allclose(texts, expected[1], atol=2e-6)


@pytest.mark.parametrize("sizes", [(8, 1, 1), (2, 2, 2)], ids=["811", "222"])
def test_the_mesh_does_not_matter(sizes, tiny_config, params, pixels, expected):
    """Three items a batch are rounded up to what the mesh divides; parameters may be split."""
    data, fsdp, tensor = sizes
    mesh = make_mesh(MeshConfig(data=data, fsdp=fsdp, tensor=tensor))
    split = jax.device_put(params, tree_shardings(params, param_axes(tiny_config.model), mesh))
    encode = make(tiny_config, mesh, batch_size=3).bind(split)
    np.testing.assert_allclose(encode.images(Arrays(pixels)), expected[0], atol=1e-5)
    np.testing.assert_allclose(encode.texts(TEXTS), expected[1], atol=1e-5)


def test_any_number_of_items_is_one_compiled_program(tiny_config, params, pixels):
    encoder = make(tiny_config, make_mesh(MeshConfig(), 1), batch_size=4)
    for count in (0, 1, 4, 11):
        assert encoder.images(params, Arrays(pixels[:count])).shape == (count, 16)
        assert encoder.texts(params, TEXTS[:count]).shape == (min(count, len(TEXTS)), 16)
    assert encoder._encode_image._cache_size() == encoder._encode_text._cache_size() == 1


@pytest.mark.parametrize("bad", [0, 10])
def test_an_error_of_a_picture_reaches_the_caller_and_leaves_no_thread(
    bad, tiny_config, params, pixels
):
    encoder = make(tiny_config, make_mesh(MeshConfig(), 1), batch_size=4)
    encoder.images(params, Arrays(pixels))
    before = threading.active_count()
    with pytest.raises(ValueError, match=f"picture {bad} cannot be read"):
        encoder.images(params, Arrays(pixels, bad))
    assert threading.active_count() <= before


def test_each_call_uses_the_parameters_it_is_given(tiny_config, params, pixels, expected):
    encoder = make(tiny_config, make_mesh(MeshConfig(), 1), batch_size=16)
    other = jax.jit(init_params, static_argnums=(0, 1))(tiny_config.model, 1)
    assert np.abs(encoder.images(other, Arrays(pixels)) - expected[0]).max() > 0.01
    np.testing.assert_allclose(encoder.images(params, Arrays(pixels)), expected[0], atol=2e-6)
