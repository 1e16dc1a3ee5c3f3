import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clipjax.config import UsageError
from clipjax.models import Patches, patches_of, with_params

SIDE = 4  # of a patch

CONFIGS = {
    "clip": {},
    "mean": {"pool": "mean", "pre_norm": False, "patch_bias": True},
    "siglip": {"pool": "map", "pre_norm": False, "patch_bias": True, "projection": False},
    "sincos": {"pool": "map", "positions": "sincos2d", "projection": False},
    "rotary": {"pool": "cls", "positions": "rope2d", "registers": 3},
    "clipa": {"pool": "mean", "unpooled_class_token": True, "pre_norm": False},
    "nowhere": {"pool": "mean", "positions": "none", "norm_before_pool": True},
}


def cut(image):
    """[patches, values] and [patches, 2] of one image, row by row."""
    rows, columns = image.shape[0] // SIDE, image.shape[1] // SIDE
    places = [(r, c) for r in range(rows) for c in range(columns)]
    values = [
        image[r * SIDE : (r + 1) * SIDE, c * SIDE : (c + 1) * SIDE].reshape(-1) for r, c in places
    ]
    return np.stack(values), np.array(places, np.int16)


def batch_of(images, most, garbage=None):
    """A batch of images of any shapes, padded with zeros or with garbage."""
    rng = np.random.default_rng(garbage)
    shape = (len(images), most)
    values = np.zeros((*shape, 3 * SIDE**2), np.uint8)
    positions = np.zeros((*shape, 2), np.int16)
    if garbage is not None:
        values[...] = rng.integers(0, 256, values.shape)
        positions[...] = rng.integers(-(2**15), 2**15, positions.shape)
    mask, grid = np.zeros(shape, bool), np.zeros((len(images), 2), np.int32)
    for i, image in enumerate(images):
        patches, places = cut(image)
        values[i, : len(patches)], positions[i, : len(patches)] = patches, places
        mask[i, : len(patches)] = True
        grid[i] = image.shape[0] // SIDE, image.shape[1] // SIDE
    return Patches(values=values, positions=positions, mask=mask, grid=grid)


@pytest.fixture(scope="module", params=CONFIGS)
def encoder(request, tiny):
    """(config, parameters, encode) of one kind of tower."""
    config = tiny.model(tiny.vit(**CONFIGS[request.param]), embed_dim=16)
    params = tiny.params(config)
    encode = jax.jit(lambda p, x: with_params(config, p).encode_image(x))
    return config, params, encode


@pytest.fixture(scope="module")
def mixed():
    """Four images: square, wide, tall and a single patch."""
    rng = np.random.default_rng(3)
    sizes = [(3, 3), (2, 5), (6, 1), (1, 1)]
    return [rng.integers(0, 256, (SIDE * h, SIDE * w, 3)).astype(np.uint8) for h, w in sizes]


def test_square_images_give_the_same_as_the_ordinary_path(encoder, tiny):
    _, params, encode = encoder
    images = tiny.images(3)
    expected = encode(params, images)
    np.testing.assert_allclose(encode(params, batch_of(images, 9)), expected, atol=1e-5)
    np.testing.assert_allclose(encode(params, batch_of(images, 14)), expected, atol=1e-5)


def test_what_padding_holds_and_how_much_there_is_changes_nothing(encoder, mixed):
    _, params, encode = encoder
    plain = np.asarray(encode(params, batch_of(mixed, 12)))
    for garbage in (1, 2):
        np.testing.assert_array_equal(encode(params, batch_of(mixed, 12, garbage)), plain)
    np.testing.assert_allclose(encode(params, batch_of(mixed, 17, 5)), plain, atol=1e-6)
    for i, image in enumerate(mixed):  # nor do the others in the batch
        np.testing.assert_allclose(encode(params, batch_of([image], 12))[0], plain[i], atol=1e-6)


def test_the_order_of_the_patches_changes_nothing(encoder, mixed):
    _, params, encode = encoder
    batch = batch_of(mixed, 12)
    turn = np.random.default_rng(0).permutation(12)
    turned = dataclasses.replace(
        batch, **{k: getattr(batch, k)[:, turn] for k in ("values", "positions", "mask")}
    )
    np.testing.assert_allclose(encode(params, turned), encode(params, batch), atol=1e-5)


def test_the_shape_of_an_image_matters(tiny):
    """The same patches as 2 x 6 and as 3 x 4: only the positions tell them apart."""
    config = tiny.model(tiny.vit(pool="mean"))
    params = tiny.params(config)
    encode = jax.jit(lambda p, x: with_params(config, p).encode_image(x))
    rng = np.random.default_rng(0)
    wide = batch_of([rng.integers(0, 256, (2 * SIDE, 6 * SIDE, 3)).astype(np.uint8)], 12)
    other = batch_of([np.zeros((3 * SIDE, 4 * SIDE, 3), np.uint8)], 12)
    reshaped = dataclasses.replace(wide, positions=other.positions, grid=other.grid)
    assert np.abs(encode(params, wide) - encode(params, reshaped)).max() > 1e-3


@pytest.mark.parametrize("compute", [{"scan_layers": True, "remat": "full"}, {"remat": "names"}])
def test_scanned_and_rematerialised_blocks_see_the_mask(compute, tiny, mixed):
    plain = tiny.model(tiny.vit(pool="map"))
    config = tiny.model(tiny.vit(pool="map"), compute=compute)
    params = tiny.params(plain)
    stacked = params
    if config.compute.scan_layers:
        stacked = {k: v for k, v in params.items() if "/stack/" not in k}
        for tower in ("image", "text"):
            head = f"{tower}/blocks/stack/"
            for name in [k for k in params if k.startswith(head + "0/")]:
                rest = name.removeprefix(head + "0/")
                both = jnp.stack([params[f"{head}{i}/{rest}"] for i in range(2)])
                stacked[f"{head}{rest}"] = both

    def total(params, batch, config):
        out = with_params(config, params).encode_image(batch)
        return (out * jnp.arange(out.shape[1])).sum()

    gradient = jax.jit(jax.value_and_grad(total), static_argnums=2)
    value, grads = gradient(params, batch_of(mixed, 12), plain)
    got, others = gradient(stacked, batch_of(mixed, 12, garbage=1), config)
    np.testing.assert_allclose(got, value, rtol=1e-5)
    for name in ("image/patchify/kernel", "image/positions", "image/pool/probe"):
        assert np.isfinite(grads[name]).all()
        assert np.abs(grads[name]).max() > 0
        np.testing.assert_allclose(others[name], grads[name], rtol=1e-3, atol=1e-5)


def test_patches_are_read_from_a_training_batch():
    names = {"patches": 0, "patch_positions": 1, "patch_mask": 2, "patch_grid": 3, "tokens": 4}
    found = patches_of(names)
    assert (found.values, found.positions, found.mask, found.grid) == (0, 1, 2, 3)
    assert jax.tree.leaves(found) == [0, 1, 2, 3]


def test_a_convnet_refuses_patches_in_one_line(tiny, mixed):
    config = tiny.model(tiny.convnet())
    model = with_params(config, tiny.params(config))
    with pytest.raises(UsageError, match=r"^model\.image\.kind='convnet'.*image_mode='naflex'\.$"):
        model.encode_image(batch_of(mixed, 12))
