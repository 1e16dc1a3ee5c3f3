import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clipjax.config import AugmentConfig
from clipjax.train.augment import augment

KEY = jax.random.key(0)
run = jax.jit(augment, static_argnames="config")


@pytest.fixture(scope="module")
def images():
    return jnp.asarray(np.random.default_rng(0).integers(0, 256, (24, 6, 8, 3)).astype(np.uint8))


def test_nothing_is_changed_by_default(images):
    assert augment(images, KEY, AugmentConfig()) is images


ALL = AugmentConfig(flip=0.5, colour=0.3, shift=2, noise=0.1)


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


def test_every_image_is_changed_in_its_own_way(images):
    same = jnp.broadcast_to(images[:1], images.shape)
    for config in (AugmentConfig(colour=0.3), AugmentConfig(noise=0.1)):
        out = np.asarray(run(same, KEY, config=config))
        assert len({row.tobytes() for row in out}) == len(out)
