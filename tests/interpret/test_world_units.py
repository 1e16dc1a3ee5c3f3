"""Strict units are those that scikit-learn's AUROC finds in activations of our own making."""

import dataclasses

import jax
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from clipjax.config import UserError
from clipjax.core.mesh import make_mesh
from clipjax.data.emoji_world import load_emoji_world
from clipjax.data.resize import EvaluationTransform
from clipjax.data.tokenizers import ByteTokenizer
from clipjax.inference.encoder import Encoder
from clipjax.inference.load import Model
from clipjax.interpret.world_units import FACETS, WorldUnits, world_units
from clipjax.models import with_params
from clipjax.models.params import param_shapes

PATH = "image/blocks/0/mlp_act"


@pytest.fixture(scope="module")
def world():
    """Every fourteenth stimulus, and six words."""
    whole = load_emoji_world()
    rows = np.arange(0, len(whole.stimuli), 14)
    return dataclasses.replace(
        whole,
        stimuli=tuple(whole.stimuli[i] for i in rows),
        captions=tuple(whole.captions[i] for i in rows),
        held_out=whole.held_out[rows],
        labels=whole.labels[rows][:, :6],
        concepts=whole.concepts[:6],
        photo=whole.photo[rows],
        edges=whole.edges[rows],
        words=whole.words[:6, :3],
        trained_words=whole.trained_words[:6],
        scrambled=whole.scrambled[:6, :3],
        scrambled_words=whole.scrambled_words[:6],
    )


@pytest.fixture(scope="module")
def model(tiny_config):
    config = tiny_config.model
    rng = np.random.default_rng(0)
    params = {
        name: jax.numpy.asarray(0.2 * rng.standard_normal(shape), jax.numpy.float32)
        for name, shape in sorted(param_shapes(config).items())
    }
    tokenizer = ByteTokenizer(context_length=config.text.context_length, lowercase=True)
    encoder = Encoder(config, tokenizer, make_mesh(tiny_config.mesh, num_devices=1))
    return Model(config, params, tokenizer, encoder, 0)


def activations(model, pictures):
    """The hidden layer of the only block, from parameters, maximum over tokens."""
    from clipjax.models.taps import taps

    side = model.config.image.image_size
    batch = np.zeros((len(pictures), side, side, 3), np.uint8)
    for row, picture in zip(batch, pictures, strict=True):
        EvaluationTransform.of(model.config)(picture, row)
    with taps(read={PATH: "all"}) as reads:
        with_params(model.config, model.params).encode_image(jax.numpy.asarray(batch))
    return np.asarray(reads[PATH], np.float64).max(axis=1)


def test_scores_are_those_of_scikit_learn(model, world):
    found = world_units(model, world, PATH, colours=2)
    words = np.stack([world.word_pictures(0), world.word_pictures(1)], axis=1)
    of_words = activations(model, words.reshape(-1, 32, 32, 3))  # by concept, colour and view
    shown = {
        "photo": (activations(model, world.photo), world.labels),
        "edges": (activations(model, world.edge_pictures), world.labels),
        "word": (of_words, np.eye(6, dtype=bool).repeat(6, axis=0)),
    }
    assert set(found.auroc) == set(FACETS)
    for facet, (columns, labels) in shown.items():
        for unit in range(0, columns.shape[1], 9):
            for concept in range(6):
                expected = roc_auc_score(labels[:, concept], columns[:, unit])
                # Programs of other shapes may round two near-equal activations into another order.
                assert found.auroc[facet][unit, concept] == pytest.approx(expected, abs=0.02)


def test_strict_units_pass_in_every_facet_for_one_concept():
    photo = np.array([[0.9, 0.1], [0.9, 0.9], [0.85, 0.5], [0.8, 0.2]])
    edges = np.array([[0.1, 0.9], [0.9, 0.9], [0.95, 0.5], [0.9, 0.2]])
    word = np.array([[0.9, 0.9], [0.9, 0.1], [0.81, 0.5], [0.9, 0.2]])
    found = WorldUnits(auroc={"photo": photo, "edges": edges, "word": word})
    assert found.units().tolist() == [1, 2]  # 0 is for two concepts by halves, 3 not above 0.8
    assert found.concepts().tolist() == [0]
    assert found.units(0.79).tolist() == [1, 2, 3]


def test_a_path_that_is_not_there(model, world):
    with pytest.raises(UserError, match="image/blocks/0/mlp_act"):
        world_units(model, world, "image/blocks/0/mlp_acts")
