"""Holding and moving units against the same model with other weights."""

import jax.numpy as jnp
import numpy as np
import pytest

from clipjax.config import UserError
from clipjax.inference.load import Model
from clipjax.interpret.causal import place_means
from clipjax.interpret.written_models import ablate, steer
from clipjax.models import tapped, with_params

PATH = "image/blocks/1/mlp_act"
OUT = "image/blocks/stack/1/mlp/fc2"


def with_numbers(model, **changed):
    """The model with other parameters."""
    params = {**model.params, **{k: v for k, v in changed.items()}}
    return Model(model.config, params, model.tokenizer, model.encoder, 0)


def test_a_unit_held_at_zero_is_a_unit_whose_output_weights_are_zero(toy):
    units = [3, 17]
    kernel = np.array(toy.model.params[f"{OUT}/kernel"])
    kernel[units] = 0
    wanted = with_numbers(toy.model, **{f"{OUT}/kernel": kernel})
    held = ablate(toy.model, PATH, units, value="zero")
    np.testing.assert_array_equal(
        held.encode_image(toy.pictures[0]), wanted.encode_image(toy.pictures[0])
    )
    assert (held.encode_image(toy.pictures[0]) != toy.model.encode_image(toy.pictures[0])).any()
    # The other tower is as it was.
    np.testing.assert_array_equal(held.encode_text("cat"), toy.model.encode_text("cat"))


def test_a_held_unit_is_a_constant_of_the_next_layer(toy):
    """The mean over places and stimuli, that of each facet counting the same."""
    run = tapped(with_params(toy.model.config, toy.model.params).encode_image, read={PATH: "all"})
    acts = [
        np.asarray(run(jnp.asarray(pictures))[1][PATH], np.float64) for pictures in toy.pictures
    ]
    mean = np.mean([a.mean(axis=(0, 1)) for a in acts], axis=0)
    unit = 5
    kernel = np.array(toy.model.params[f"{OUT}/kernel"])
    bias = np.array(toy.model.params[f"{OUT}/bias"]) + mean[unit] * kernel[unit]
    kernel[unit] = 0
    wanted = with_numbers(
        toy.model, **{f"{OUT}/kernel": kernel, f"{OUT}/bias": bias.astype(np.float32)}
    )
    held = ablate(toy.model, PATH, [unit], facets=toy.facets)
    np.testing.assert_allclose(
        held.encode_image(toy.pictures[1]), wanted.encode_image(toy.pictures[1]), atol=2e-6
    )
    means = place_means(toy.model, PATH, toy.facets["photo"], batch_size=5)
    np.testing.assert_allclose(means, acts[0].mean(axis=(0, 1)), atol=1e-6)


def test_to_add_nothing_changes_nothing_and_to_add_is_to_move_the_bias(toy):
    pictures = toy.pictures[0]
    plain = toy.model.encode_image(pictures)
    unmoved = steer(toy.model, PATH, [4], 0.0).encode_image(pictures)
    # Another program, which may round otherwise in the last place or two.
    np.testing.assert_allclose(unmoved, plain, atol=2e-7)
    kernel = np.array(toy.model.params[f"{OUT}/kernel"])
    bias = np.array(toy.model.params[f"{OUT}/bias"]) + 1.5 * kernel[4] - 2 * kernel[9]
    wanted = with_numbers(toy.model, **{f"{OUT}/bias": bias})
    moved = steer(toy.model, PATH, [4, 9], [1.5, -2.0])
    np.testing.assert_allclose(
        moved.encode_image(pictures), wanted.encode_image(pictures), atol=2e-6
    )


def test_a_coordinate_of_the_shared_space_is_held_in_both_towers(toy):
    held = ablate(toy.model, "shared/embed", [2], value=0.25)
    for encode, items in (("encode_image", toy.pictures[0]), ("encode_text", toy.texts)):
        now, before = getattr(held, encode)(items), getattr(toy.model, encode)(items)
        assert (now[:, 2] == 0.25).all()
        np.testing.assert_array_equal(np.delete(now, 2, 1), np.delete(before, 2, 1))


def test_changes_add_up_and_another_model_has_another_identity(toy):
    held = ablate(toy.model, PATH, [1], value="zero")
    both = steer(held, "image/blocks/0/mlp_act", [2], 1.0)
    other_way = ablate(steer(toy.model, "image/blocks/0/mlp_act", [2], 1.0), PATH, [1], value=0.0)
    np.testing.assert_array_equal(
        both.encode_image(toy.pictures[0]), other_way.encode_image(toy.pictures[0])
    )
    assert len({toy.model.identity, held.identity, both.identity}) == 3
    with pytest.raises(UserError, match="is written already"):
        steer(held, PATH, [2], 1.0)


@pytest.mark.parametrize(
    ("path", "units", "value", "message"),
    [
        ("image/blocks/1/mlp_acts", [0], "zero", "Did you mean 'image/blocks/1/mlp_act'"),
        ("image/*/mlp_act", [0], "zero", "is a pattern: name one path"),
        (PATH, [24], "zero", "has units 0 to 23, not 24"),
        (PATH, [-1], "zero", "has units 0 to 23, not -1"),
        (PATH, [], "zero", "no units are named"),
        (PATH, [0], "mean", "needs stimuli of the image tower"),
        (PATH, [0], "median", "wanted 'mean', 'zero' or a number"),
    ],
)
def test_what_cannot_be_held_is_refused(toy, path, units, value, message):
    with pytest.raises(UserError, match=message):
        ablate(toy.model, path, units, value=value)
