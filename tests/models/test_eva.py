"""EVA's towers; what they compute is compared with timm's numbers in tests/interchange."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clipjax.config import EvaConfig
from clipjax.models import init_params, with_params
from clipjax.models.layers.pooling import mean_of
from clipjax.models.layers.rotary import rotary_2d, unturned_before

TINY = EvaConfig(
    image_size=16, patch_size=4, width=16, depth=2, num_heads=2, mlp_dim=24, rope_grid=2
)
PLAIN = dataclasses.replace(
    TINY, swiglu=False, mlp_norm=False, attention_norm=False, rope=False, pool="mean"
)
TOWERS = {"eva02": TINY, "plain": PLAIN, "post": dataclasses.replace(PLAIN, post_norm=True)}


def encoder(config):
    return jax.jit(lambda params, images: with_params(config, params).encode_image(images))


@pytest.fixture(params=TOWERS)
def config(request, tiny):
    return tiny.model(TOWERS[request.param])


def test_parameters_are_those_that_the_options_need(tiny):
    def names(image):
        shapes = jax.eval_shape(lambda: init_params(tiny.model(image), 0))
        return {n.removeprefix("image/blocks/stack/0/") for n in shapes if "stack/1" not in n}

    inner = {"attn/norm/scale", "attn/norm/bias", "mlp/norm/scale", "mlp/norm/bias"}
    assert names(TINY) - names(PLAIN) == inner
    assert not names(PLAIN) - names(TINY)
    assert names(TOWERS["post"]) == names(PLAIN)
    fused = dataclasses.replace(TINY, fused_qkv=True)
    assert names(fused) == names(TINY)


def test_the_gradient_reaches_every_parameter(config, tiny):
    params, images = tiny.params(config, size=0.1), tiny.images(4, 16)

    def loss(params):
        embeds = with_params(config, params).encode_image(jnp.asarray(images))
        return (embeds @ np.random.default_rng(0).normal(size=(8, 4))).std()

    grads = jax.jit(jax.grad(loss))(params)
    dead = [n for n, g in grads.items() if n.startswith("image/") and not np.abs(g).max() > 1e-7]
    assert not dead


def test_scanned_and_rematerialised_equals_unrolled(config, tiny):
    params, images = tiny.params(config, size=0.1), tiny.images(2, 16)
    expected = encoder(config)(params, images)
    stacked = {
        n: p for n, p in params.items() if "image/blocks" not in n and "text/blocks" not in n
    }
    for name in params:
        if "/stack/0/" in name:
            layers = [params[name.replace("/stack/0/", f"/stack/{i}/")] for i in range(2)]
            stacked[name.replace("/stack/0/", "/stack/")] = jnp.stack(layers)
    compute = dataclasses.replace(config.compute, scan_layers=True, remat="names")
    scanned = dataclasses.replace(config, compute=compute)
    np.testing.assert_allclose(encoder(scanned)(stacked, images), expected, atol=1e-6)


def test_bfloat16_stays_near(config, tiny):
    params, images = tiny.params(config, size=0.1), tiny.images(3, 16)
    half = dataclasses.replace(
        config, compute=dataclasses.replace(config.compute, dtype="bfloat16")
    )
    difference = np.abs(encoder(config)(params, images) - encoder(half)(params, images)).max()
    assert 1e-5 < difference < 0.1


def test_rotary_positions_stay_with_the_patches_that_are_kept(tiny):
    """Three of four patches dropped: as if the others were hidden where they stand."""
    image = dataclasses.replace(TINY, patch_dropout=0.75, pool="mean")
    config = tiny.model(image)
    params, images = tiny.params(config, size=0.1), tiny.images(2, 16)
    pixels = jnp.asarray(images, jnp.float32) / 255

    key = jax.random.key(3)

    @jax.jit
    def read(params, pixels):
        """What comes out in training, and which patches it depends on."""

        def tower(pixels):
            out = with_params(config, params).image(pixels, key)
            return (out**2).sum(), out

        grad, out = jax.grad(tower, has_aux=True)(pixels)
        return out, jnp.abs(grad).reshape(2, 4, 4, 4, 4, 3).max(axis=(2, 4, 5)) > 0

    out, seen = read(params, pixels)
    assert seen.sum(axis=(1, 2)).tolist() == [4, 4]

    @jax.jit
    def masked(params, pixels, seen):
        """The same from all patches, of which those that are not kept are hidden."""
        tower = with_params(config, params).image
        x = tower.patchify(pixels).reshape(2, 16, 16)
        front = jnp.broadcast_to(tower.class_token[...], (2, 1, 16))
        x = jnp.concatenate([front, x], axis=1) + tower.positions[...]
        seen = seen.reshape(2, 16)
        mask = jnp.pad(seen, ((0, 0), (1, 0)), constant_values=True)
        x = tower.blocks(x, mask, unturned_before(rotary_2d(4, 4, 8, grid=2), 1))
        return tower.project(tower.norm(mean_of(x[:, 1:], seen)))

    np.testing.assert_allclose(masked(params, pixels, seen), out, rtol=1e-4, atol=1e-5)
    assert not np.allclose(masked(params, pixels, jnp.ones_like(seen)), out, atol=1e-3)


def test_another_resolution_needs_only_other_positions(tiny):
    for side in (8, 24):
        image = dataclasses.replace(TINY, image_size=side)
        shapes = jax.eval_shape(lambda image=image: init_params(tiny.model(image), 0))
        same = jax.eval_shape(lambda: init_params(tiny.model(TINY), 0))
        other = {n for n in shapes if shapes[n].shape != same[n].shape}
        assert other == {"image/positions"}
        config = tiny.model(image)
        embeds = encoder(config)(tiny.params(config), tiny.images(2, side))
        np.testing.assert_allclose(np.linalg.norm(embeds, axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"image_size": 225}, "patch_size=16 does not divide image_size=225"),
        ({"swiglu": False}, "mlp_norm=True needs swiglu=True"),
        ({"width": 72}, "rope=True needs heads of a width divisible by 4, got 6"),
        ({"patch_dropout": 1.0}, r"patch_dropout=1\.0 must be in"),
        ({"rope_grid": 0}, "rope_grid=0 must be positive"),
    ],
)
def test_what_cannot_be_built_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        EvaConfig(**fields)
