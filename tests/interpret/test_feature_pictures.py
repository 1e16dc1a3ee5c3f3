import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import clipjax
from clipjax.config import UserError
from clipjax.interpret.feature_pictures import (
    VisualiseConfig,
    amplitudes_of,
    before_activation,
    natural_amplitudes,
    noise_pictures,
    visualise,
)
from clipjax.interpret.judge import judge
from clipjax.models import tapped, with_params

# Of a model with patches of half its width: moved, a picture is another one.
QUICK = VisualiseConfig(steps=60, batch_size=4, jitter=0, noise=0.0)
PATH = "image/blocks/0/mlp_act"


@pytest.fixture(scope="module")
def model(trained):
    return clipjax.load(trained[0])


def activations(model, pictures, path):
    def run(pixels):
        return with_params(model.config, model.params).encode_image(pixels)

    return np.asarray(jax.jit(tapped(run, read={path: "max"}))(jnp.asarray(pictures))[1][path])


def test_a_picture_drives_its_unit_beyond_all_of_a_thousand(model):
    units = [0, 5, 7, 11, 13]  # more than a batch
    pictures, reached = visualise(model, PATH, units, QUICK)
    side = model.config.image.image_size
    assert pictures.shape == (5, side, side, 3)
    before = before_activation(PATH, model.config)
    assert before == "image/blocks/0/mlp_pre"
    seen = activations(model, pictures, before)
    np.testing.assert_allclose(seen[np.arange(5), units], reached, rtol=1e-4, atol=1e-4)
    rng = np.random.default_rng(0)
    flat = np.broadcast_to(rng.integers(0, 256, (500, 1, 1, 3)), (500, side, side, 3))
    others = [flat.astype(np.uint8), noise_pictures(500, side, seed=3)]
    most = activations(model, np.concatenate(others), before).max(axis=0)
    assert (reached > most[units]).all()


def test_a_picture_does_not_depend_on_those_beside_it(model):
    whole, _ = visualise(model, PATH, [3, 1, 2, 9], QUICK)
    alone, _ = visualise(model, PATH, [2], QUICK)
    # Rounding to bytes may fall either way.
    assert np.abs(whole[2].astype(int) - alone[0]).max() <= 2
    other, _ = visualise(model, PATH, [2], dataclasses.replace(QUICK, seed=1))
    assert np.abs(other[0].astype(int) - alone[0]).max() > 20


def test_the_other_sign_is_what_a_unit_likes_least(model):
    _, most = visualise(model, "shared/embed", [0, 1], QUICK)
    _, least = visualise(model, "shared/embed", [0, 1], QUICK, signs=[-1, -1])
    assert (most > least + 0.1).all()


def test_a_unit_that_never_fires_has_a_picture_all_the_same(model):
    """Behind a ReLU that is shut there is no gradient; before it there is."""
    image = dataclasses.replace(model.config.image, activation="relu")
    config = dataclasses.replace(model.config, image=image)
    name = next(n for n in model.params if n.startswith("image/") and n.endswith("fc1/bias"))
    params = {**model.params, name: model.params[name] - 30.0}
    shut = clipjax.Model(config, params, model.tokenizer, model.encoder, 0)
    noise = noise_pictures(64, image.image_size)
    assert (activations(shut, noise, PATH) == 0).all()
    before = activations(shut, noise, before_activation(PATH, config)).max(axis=0)
    _, reached = visualise(shut, PATH, [0, 1, 2], QUICK)
    assert (reached > before[:3]).all()


def test_maco_keeps_the_amplitudes(model):
    how = dataclasses.replace(QUICK, parametrisation="maco")
    side = model.config.image.image_size
    steep = natural_amplitudes(side) ** 2
    pictures, reached = visualise(model, PATH, [4], how, amplitudes=steep)
    fourier, free = visualise(model, PATH, [4], QUICK)
    # Sigmoid and bytes bend them a little: high frequencies stay far below those of free ones.
    high = natural_amplitudes(side) < 4
    share = [amplitudes_of(p)[high].sum() / amplitudes_of(p).sum() for p in (pictures, fourier)]
    assert share[0] < 0.5 * share[1]
    assert reached[0] < free[0]


def test_what_cannot_be_drawn_is_said(model):
    with pytest.raises(UserError, match="no picture drives"):
        visualise(model, "text/blocks/0/mlp_act", [0])
    with pytest.raises(UserError, match=r"Did you mean 'image/blocks/0/mlp_act'"):
        visualise(model, "image/blocks/0/mlp_acts", [0])
    with pytest.raises(UserError, match="has units 0 to"):
        visualise(model, PATH, [10_000])
    with pytest.raises(UserError, match="is a pattern"):
        visualise(model, "image/blocks/*/mlp_act", [0])
    with pytest.raises(ValueError, match="steps=0"):
        VisualiseConfig(steps=0)


class Colours:
    """Takes a picture for the channel that is brightest in it."""

    def encode_image(self, pictures):
        return np.asarray(pictures, np.float64).mean(axis=(1, 2))

    def encode_text(self, names):
        return np.eye(3)[["red", "green", "blue"].index(names[0]) :][: len(names)]


def test_a_judge_counts_what_he_sees_and_what_noise_would_give():
    pictures = np.zeros((4, 8, 8, 3), np.uint8)
    for place, channel in enumerate((0, 0, 1, 2)):
        pictures[place, ..., channel] = 200
    noise = np.zeros((10, 8, 8, 3), np.uint8)
    noise[:7, ..., 0] = 9  # red to him
    noise[7:, ..., 1] = 9
    found = judge(Colours(), pictures, [0, 0, 1, 1], ["red", "green", "blue"], noise)
    assert found.predicted.tolist() == [0, 0, 1, 2]
    assert found.share == 0.75
    assert found.noise_share == pytest.approx((0.7 + 0.7 + 0.3 + 0.3) / 4)
    assert found.others_share == pytest.approx((0.5 + 0.5 + 0.25 + 0.25) / 4)
    with pytest.raises(UserError, match="no pictures to judge"):
        judge(Colours(), pictures[:0], [], ["red"], noise)
