"""Parts of a model that read its tokens or embeddings change their shape with it."""

import dataclasses
from typing import Any

import jax
import numpy as np
import pytest

from clipjax.config import CappaDecoderConfig, MatchingConfig, PrototypeHeadsConfig
from clipjax.models import init_params, param_shapes
from clipjax.models.surgery import grow_vocabulary, replace_projection, resize_context

SIZES: Any = {"width": 32, "depth": 1, "num_heads": 2, "mlp_dim": 64}


@pytest.fixture(scope="module")
def config(tiny_config):
    """With both heads."""
    text = tiny_config.model.text
    return dataclasses.replace(
        tiny_config.model,
        matching=MatchingConfig(
            vocab_size=text.vocab_size, context_length=text.context_length, **SIZES
        ),
        self_distill=PrototypeHeadsConfig(prototypes=50, depth=2, hidden=24, bottleneck=8),
    )


@pytest.fixture(scope="module")
def params(config):
    return {n: np.asarray(a) for n, a in jax.jit(lambda: init_params(config, 3))().items()}


def fits(config, params):
    assert {name: array.shape for name, array in params.items()} == param_shapes(config)


def test_a_head_reads_texts_of_the_new_length(config, params):
    new, arrays = resize_context(config, params, 8, how="truncate")
    fits(new, arrays)
    before, after = params["matching/positions"], arrays["matching/positions"]
    np.testing.assert_array_equal(after, np.concatenate([before[:8], before[-1:]]))


def test_a_decoder_reads_texts_of_the_new_length(config):
    text = config.text
    decoder = CappaDecoderConfig(
        vocab_size=text.vocab_size, context_length=text.context_length, **SIZES
    )
    config = dataclasses.replace(config, decoder=decoder)
    params = jax.jit(lambda: init_params(config, 3))()
    fits(*resize_context(config, params, 2 * text.context_length))


def test_a_head_knows_new_words(config, params):
    old = config.text.vocab_size
    new, arrays = grow_vocabulary(config, params, old + 5, seed=0)
    fits(new, arrays)
    table = "matching/embedding"
    np.testing.assert_array_equal(arrays[table][:old], params[table])


def test_a_head_of_embeddings_begins_anew_with_their_width(config, params):
    fits(*replace_projection(config, params, "image", seed=0, embed_dim=24))
