import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clipjax.config import AugmentConfig
from clipjax.core.mesh import batch_sharding
from clipjax.train.augment import augment, row_keys

KEY = jax.random.key(0)
run = jax.jit(augment, static_argnames="config")


@pytest.fixture(scope="module")
def images():
    return jnp.asarray(np.random.default_rng(0).integers(0, 256, (24, 6, 8, 3)).astype(np.uint8))


def test_nothing_is_changed_by_default(images):
    assert augment(images, KEY, AugmentConfig()) is images


@pytest.mark.parametrize(
    "config",
    [
        AugmentConfig(colour_jitter_probability=1.0, rand_augment_magnitude=30),
        AugmentConfig(colour_jitter=(1.0, 1.0, 1.0, 0.5), colour_jitter_probability=0.0),
    ],
)
def test_a_strength_without_its_probability_changes_nothing(images, config):
    assert augment(images, KEY, config) is images


ONE_BY_ONE = {
    "flip": AugmentConfig(flip=0.5),
    "shift": AugmentConfig(shift=2),
    "rand_augment": AugmentConfig(rand_augment_layers=2),
    "colour_jitter": AugmentConfig(colour_jitter=(0.32, 0.32, 0.32, 0.08)),
    "grey": AugmentConfig(grey_probability=0.5),
    "colour": AugmentConfig(colour=0.3),
    "noise": AugmentConfig(noise=0.1),
}
ALL = AugmentConfig(
    flip=0.5,
    shift=2,
    rand_augment_layers=2,
    colour_jitter=(0.32, 0.32, 0.32, 0.08),
    grey_probability=0.2,
    colour=0.3,
    noise=0.1,
)
CONFIGS = {**ONE_BY_ONE, "all": ALL}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_a_row_depends_on_its_number_and_on_nothing_of_other_rows(images, config):
    """The other rows are permuted, then cut off: row 5 stays, and so does what was done to it."""
    out = run(images, KEY, config=config)
    assert out.dtype == jnp.float32
    others = np.random.default_rng(0).permutation(len(images))
    others[[5, int(np.flatnonzero(others == 5)[0])]] = 5, others[5]
    moved = run(images[others], KEY, config=config)
    np.testing.assert_array_equal(moved[5], out[5])
    assert (np.asarray(moved) != np.asarray(out)).mean() > 0.5
    np.testing.assert_array_equal(run(images[:8], KEY, config=config), out[:8])


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_eight_devices_give_the_bits_of_one_and_do_not_talk(images, config, mesh):
    place = batch_sharding(mesh)
    split = jax.device_put(images, place)
    out = run(split, KEY, config=config)
    assert out.sharding.is_equivalent_to(place, out.ndim)
    np.testing.assert_array_equal(out, run(images, KEY, config=config))
    program = run.lower(split, KEY, config=config).compile().as_text()
    assert "f32[3,6,8,3]" in program
    assert not re.search(r"all-|collective|reduce-scatter", program)


def test_the_key_of_a_row_is_folded_in():
    keys = row_keys(jax.random.fold_in(KEY, 7), 5)
    expected = jax.random.fold_in(jax.random.fold_in(KEY, 7), 3)
    assert keys[3] == expected


def test_is_a_pure_function_of_the_key(images):
    np.testing.assert_array_equal(run(images, KEY, config=ALL), run(images, KEY, config=ALL))
    other = run(images, jax.random.key(1), config=ALL)
    assert np.abs(run(images, KEY, config=ALL) - other).max() > 10


def test_flipping_always_mirrors_left_and_right_exactly(images):
    out = run(images, KEY, config=AugmentConfig(flip=1.0))
    np.testing.assert_array_equal(out, np.asarray(images)[:, :, ::-1])


def test_flipping_half_mirrors_each_image_or_leaves_it(images):
    out = np.asarray(run(images, KEY, config=AugmentConfig(flip=0.5)))
    pixels = np.asarray(images)
    kept = (out == pixels).all(axis=(1, 2, 3))
    mirrored = (out == pixels[:, :, ::-1]).all(axis=(1, 2, 3))
    assert (kept ^ mirrored).all()
    # Of 24 fair coins: fewer than 3 or more than 21 heads once in 30,000.
    assert 3 <= mirrored.sum() <= 21


def shifted(image, down, right):
    rows = np.clip(np.arange(image.shape[0]) + down, 0, image.shape[0] - 1)
    columns = np.clip(np.arange(image.shape[1]) + right, 0, image.shape[1] - 1)
    return image[rows][:, columns]


def test_shifts_by_whole_pixels_no_further_than_asked_and_repeat_the_border(images):
    out = np.asarray(run(images, KEY, config=AugmentConfig(shift=1)))
    moves = list(itertools.product((-1, 0, 1), repeat=2))
    seen = set()
    for image, moved in zip(np.asarray(images), out, strict=True):
        found = [move for move in moves if (shifted(image, *move) == moved).all()]
        assert len(found) == 1
        seen.add(found[0])
    assert {down for down, _ in seen} == {right for _, right in seen} == {-1, 0, 1}


def test_colour_is_one_gain_and_one_offset_a_channel(images):
    """Every channel of every image is a line through its pixels; both within their bounds."""
    strength = 0.3
    out = np.asarray(run(images, KEY, config=AugmentConfig(colour=strength)), np.float64)
    gains = []
    for image, changed in zip(np.asarray(images, np.float64), out, strict=True):
        for channel in range(3):
            x, y = image[..., channel].ravel(), changed[..., channel].ravel()
            gain, offset = np.polyfit(x - 127.5, y - 127.5, 1)
            np.testing.assert_allclose(y - 127.5, gain * (x - 127.5) + offset, atol=1e-3)
            assert abs(gain - 1) <= strength + 1e-6
            assert abs(offset) <= 127.5 * strength + 1e-3
            gains.append(gain)
    assert np.std(gains) > 0.05


def test_noise_has_the_deviation_asked_for(images):
    out = np.asarray(run(images, KEY, config=AugmentConfig(noise=0.1)))
    noise = out - np.asarray(images, np.float32)
    expected = 12.75
    assert abs(noise.std() / expected - 1) < 5 / np.sqrt(2 * noise.size)
    assert abs(noise.mean()) < 5 * expected / np.sqrt(noise.size)


def test_what_is_not_asked_for_does_not_move_what_is(images):
    """Each change has a key of its own: adding noise leaves the flips where they were."""
    flips = np.asarray(run(images, KEY, config=AugmentConfig(flip=0.5)))
    both = np.asarray(run(images, KEY, config=AugmentConfig(flip=0.5, noise=1e-4)))
    assert np.abs(both - flips).max() < 1
    greyed = np.asarray(run(images, KEY, config=AugmentConfig(grey_probability=0.5)))
    both = np.asarray(run(images, KEY, config=AugmentConfig(flip=0.5, grey_probability=0.5)))
    were, are = ((np.ptp(x, axis=-1) == 0).all(axis=(1, 2)) for x in (greyed, both))
    assert 0 < were.sum() < len(were)
    np.testing.assert_array_equal(are, were)


def test_every_image_is_changed_in_its_own_way(images):
    same = jnp.broadcast_to(images[:1], images.shape)
    jitter = AugmentConfig(colour_jitter=(0.4, 0.4, 0.4, 0.1), colour_jitter_probability=1.0)
    for config in (AugmentConfig(colour=0.3), AugmentConfig(noise=0.1), jitter):
        out = np.asarray(run(same, KEY, config=config))
        assert len({row.tobytes() for row in out}) == len(out)


def test_the_share_asked_for_is_jittered_and_the_rest_is_untouched(images):
    many = jnp.tile(images, (20, 1, 1, 1))
    config = AugmentConfig(colour_jitter=(0.4, 0.4, 0.4, 0.1), colour_jitter_probability=0.8)
    out = np.asarray(run(many, KEY, config=config))
    untouched = (out == np.asarray(many)).all(axis=(1, 2, 3)).mean()
    # Four standard deviations of 480 draws.
    assert abs(untouched - 0.2) < 4 * np.sqrt(0.2 * 0.8 / len(many))
    assert out.min() >= 0
    assert out.max() <= 255


def test_the_share_asked_for_is_grey_with_the_weights_of_the_standard(images):
    many = jnp.tile(images, (20, 1, 1, 1))
    out = np.asarray(run(many, KEY, config=AugmentConfig(grey_probability=0.2)))
    pixels = np.asarray(many, np.float32)
    grey = np.repeat(pixels @ np.float32([[0.299], [0.587], [0.114]]), 3, axis=-1)
    is_grey = np.abs(out - grey).max(axis=(1, 2, 3)) < 1e-3
    kept = (out == pixels).all(axis=(1, 2, 3))
    assert (is_grey ^ kept).all()
    assert abs(is_grey.mean() - 0.2) < 4 * np.sqrt(0.2 * 0.8 / len(many))


def test_grey_comes_after_the_colours_and_before_the_noise(images):
    config = AugmentConfig(
        rand_augment_layers=2,
        colour_jitter=(0.4, 0.4, 0.4, 0.5),
        colour_jitter_probability=1.0,
        grey_probability=1.0,
    )
    out = np.asarray(run(images, KEY, config=config))
    np.testing.assert_array_equal(out, np.repeat(out[..., :1], 3, axis=-1))
    out = np.asarray(run(images, KEY, config=AugmentConfig(grey_probability=1.0, noise=0.1)))
    assert np.abs(out - out[..., :1]).mean() > 1
