"""Every file in configs/ loads, converts and describes a model that can be built."""

import ast
from pathlib import Path

import jax
import numpy as np
import pytest

from clipjax.cli.configs import load_config
from clipjax.models import abstract_model

FILES = sorted((Path(__file__).parents[1] / "configs").glob("**/*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_config_describes_a_model_that_can_be_built(path):
    config = load_config(str(path), [])
    model = abstract_model(config.model)
    size, length = config.model.image.image_size, config.model.text.context_length
    images = jax.ShapeDtypeStruct((2, size, size, 3), np.uint8)
    tokens = jax.ShapeDtypeStruct((2, length), np.int32)
    expected = (2, config.model.embed_dim)
    assert jax.eval_shape(lambda m, x: m.encode_image(x), model, images).shape == expected
    assert jax.eval_shape(lambda m, x: m.encode_text(x), model, tokens).shape == expected


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_config_says_what_it_is_and_where_its_data_comes_from(path):
    text = ast.get_docstring(ast.parse(path.read_text()))
    assert text
    assert "data" in text.lower()


def test_a_preset_can_be_chosen_on_the_command_line():
    config = load_config(f"{FILES[0].parent / 'clip.py'}:ViT-L-14", [])
    assert config.model.image.patch_size == 14
    assert config.optim.peak_learning_rate == 4e-4
