import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clipjax.config import ComputeConfig
from clipjax.core.stacks import stacked
from clipjax.models import Patches, init_params, with_params
from clipjax.models.layers.patch_dropout import kept_patches

CHOICES = {
    "pool": ("cls", "mean", "map"),
    "positions": ("learned", "sincos2d"),
    "pre_norm": (False, True),
    "patch_bias": (False, True),
    "projection": (False, True),
}


@pytest.mark.parametrize(
    "fields",
    [dict(zip(CHOICES, values, strict=True)) for values in itertools.product(*CHOICES.values())],
    ids=lambda fields: "-".join(str(value) for value in fields.values()),
)
def test_every_option_has_the_parameters_it_needs_and_the_right_output(fields, tiny):
    config = tiny.model(tiny.vit(**fields), embed_dim=16)
    shapes = jax.eval_shape(lambda: init_params(config, 0))
    image = {name.removeprefix("image/") for name in shapes if name.startswith("image/")}
    assert ("class_token" in image) == (fields["pool"] == "cls")
    assert ("pool/probe" in image) == (fields["pool"] == "map")
    assert ("positions" in image) == (fields["positions"] == "learned")
    assert ("pre_norm/scale" in image) == fields["pre_norm"]
    assert ("patchify/bias" in image) == fields["patch_bias"]
    assert ("project/kernel" in image) == fields["projection"]
    if "positions" in image:
        assert shapes["image/positions"].shape == (9 + (fields["pool"] == "cls"), 16)
    pixels = jax.ShapeDtypeStruct((3, 12, 12, 3), jnp.float32)
    embeds = jax.eval_shape(lambda p, x: with_params(config, p).image(x), shapes, pixels)
    assert embeds.shape == (3, 16)


OPTIONS = [
    {"pool": "cls", "registers": 3},
    {"pool": "mean", "registers": 3, "norm_before_pool": True},
    {"pool": "map", "registers": 2, "unpooled_class_token": True},
    {"pool": "mean", "unpooled_class_token": True},
    {"layer_scale": 0.1, "qkv_bias": False},
    {"positions": "rope2d", "projection_bias": True},
    {"positions": "none"},
    {"image_size": 14, "crop_remainder": True},
]


@pytest.mark.parametrize("fields", OPTIONS, ids=str)
def test_the_rarer_options_have_the_parameters_they_need(fields, tiny):
    config = tiny.model(tiny.vit(**fields), embed_dim=16)
    vit = config.image
    shapes = jax.eval_shape(lambda: init_params(config, 0))
    image = {n.removeprefix("image/"): s.shape for n, s in shapes.items() if n.startswith("image/")}
    assert ("class_token" in image) == (vit.pool == "cls" or vit.unpooled_class_token)
    assert image.get("registers") == ((vit.registers, 16) if vit.registers else None)
    assert ("blocks/stack/0/ls_2/gain" in image) == (vit.layer_scale is not None)
    assert ("blocks/stack/0/attn/qkv/bias" in image) == vit.qkv_bias
    assert ("project/bias" in image) == vit.projection_bias
    # Registers and a class token that is not there have no positions.
    places = (9 + ("class_token" in image), 16) if vit.positions == "learned" else None
    assert image.get("positions") == places


def patches_of(pixels, side):
    """[patches, side * side * 3], row by row."""
    rows, columns = pixels.shape[0] // side, pixels.shape[1] // side
    return np.stack(
        [
            pixels[i * side : (i + 1) * side, j * side : (j + 1) * side].reshape(-1)
            for i in range(rows)
            for j in range(columns)
        ]
    )


def angles_of(pixels, config, front):
    """Half of the pairs turns with the row, half with the column; what stands in front does not."""
    rows, columns = pixels.shape[0] // config.patch_size, pixels.shape[1] // config.patch_size
    quarter = config.width // config.num_heads // 4
    speeds = [10_000 ** (-i / quarter) for i in range(quarter)]
    return np.array(
        [[0.0] * (2 * quarter)] * front
        + [
            [r * s for s in speeds] + [c * s for s in speeds]
            for r in range(rows)
            for c in range(columns)
        ]
    )


def embedded(pixels, p, config):
    """What enters the blocks, and how many tokens stand in front of the patches."""
    x = patches_of(pixels, config.patch_size) @ p["patchify/kernel"].reshape(-1, config.width)
    x = x + p.get("patchify/bias", 0.0)
    front = []
    if "class_token" in p:
        front.append(p["class_token"])
    table = p.get("positions", np.zeros((len(front) + len(x), config.width)))
    x = x + table[len(front) :]
    front = [token + place for token, place in zip(front, table, strict=False)]
    front += list(p.get("registers", ()))
    return np.concatenate([np.reshape(front, (-1, config.width)), x]), len(front)


def definition(pixels, params, config, reference):
    """One image through the tower in float64."""
    p = reference.within(params, "image/")
    x, front = embedded(pixels, p, config)
    if config.pre_norm:
        x = reference.layer_norm(x, p["pre_norm/scale"], p["pre_norm/bias"], config.norm_eps)
    for i in range(config.depth):
        x = reference.block(
            x,
            reference.within(p, f"blocks/stack/{i}/"),
            causal=False,
            activation=reference.activations[config.activation],
            eps=config.norm_eps,
            angles=angles_of(pixels, config, front) if config.positions == "rope2d" else None,
        )
    if config.norm_before_pool:
        x = reference.layer_norm(x, p["norm/scale"], p["norm/bias"], config.norm_eps)
    x = x[0] if config.pool == "cls" else x[front:].mean(axis=0)
    if not config.norm_before_pool:
        x = reference.layer_norm(x, p["norm/scale"], p["norm/bias"], config.norm_eps)
    return x @ p["project/kernel"] + p.get("project/bias", 0.0) if config.projection else x


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"pool": "mean", "pre_norm": False, "patch_bias": True, "activation": "quick_gelu"},
        {"pool": "mean", "unpooled_class_token": True, "pre_norm": False},
        {"pool": "mean", "norm_before_pool": True, "qkv_bias": False, "layer_scale": 1e-4},
        {"registers": 3, "projection_bias": True},
        {"pool": "mean", "registers": 3, "positions": "rope2d"},
        {"positions": "rope2d", "layer_scale": 1e-4},
        {"positions": "none"},
    ],
    ids=str,
)
def test_matches_the_float64_definition(fields, tiny, reference):
    config = tiny.model(tiny.vit(**fields))
    params = tiny.params(config)
    pixels = np.random.default_rng(0).normal(size=(2, 12, 12, 3)).astype(np.float32)
    out = jax.jit(lambda p, x: with_params(config, p).image(x))(params, pixels)
    for example in range(2):
        expected = definition(reference.f64(pixels[example]), params, config.image, reference)
        np.testing.assert_allclose(out[example], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("positions", ["rope2d", "none"])
def test_patches_of_an_image_of_another_shape_match_the_float64_definition(
    positions, tiny, reference
):
    """Rows and columns are what they are: no place is stretched. Order and padding do not count."""
    config = tiny.model(tiny.vit(positions=positions, registers=2))
    params = tiny.params(config)
    rng = np.random.default_rng(0)
    pixels = rng.normal(size=(8, 28, 3)).astype(np.float32)
    values, places = np.zeros((1, 17, 48), np.float32), np.full((1, 17, 2), 99, np.int16)
    order = rng.permutation(14)
    values[0, order] = patches_of(pixels, 4)
    places[0, order] = [(r, c) for r in range(2) for c in range(7)]
    patches = Patches(
        values=values, positions=places, mask=np.arange(17)[None] < 14, grid=np.array([[2, 7]])
    )
    out = jax.jit(lambda p, x: with_params(config, p).image(x))(params, patches)
    expected = definition(reference.f64(pixels), params, config.image, reference)
    np.testing.assert_allclose(out[0], expected, rtol=1e-4, atol=1e-4)


def test_pixels_that_fill_no_patch_are_not_seen(tiny):
    config = tiny.model(tiny.vit(image_size=15, crop_remainder=True))
    whole = tiny.model(tiny.vit(image_size=12))
    params, images = tiny.params(config), tiny.images(2, 15)
    encode = jax.jit(lambda p, x: with_params(config, p).encode_image(x))
    other = images.copy()
    other[:, 12:], other[:, :, 12:] = 0, 255
    np.testing.assert_array_equal(encode(params, other), encode(params, images))
    expected = jax.jit(lambda p, x: with_params(whole, p).encode_image(x))(
        params, images[:, :12, :12]
    )
    np.testing.assert_allclose(encode(params, images), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"image_size": 14}, "patch_size=4 does not divide image_size=14; crop_remainder=True"),
        ({"image_size": 3, "crop_remainder": True}, "image_size=3 is less than patch_size=4"),
        ({"unpooled_class_token": True}, "the class token is pooled"),
        ({"registers": -1}, "registers=-1"),
        ({"patch_dropout": 1.0}, "patch_dropout=1.0"),
        ({"positions": "rope2d", "width": 12, "num_heads": 2}, "divisible by 4, got 6"),
    ],
)
def test_options_that_do_not_go_together_are_refused(fields, message, tiny):
    with pytest.raises(ValueError, match=message):
        tiny.vit(**fields)


DROPPING = [
    {"patch_dropout": 0.5},
    {"patch_dropout": 0.5, "pool": "mean", "positions": "sincos2d"},
    {"patch_dropout": 0.5, "positions": "rope2d", "registers": 2},
]


@pytest.mark.parametrize("fields", DROPPING, ids=str)
def test_in_training_the_key_decides_which_patches_are_dropped(fields, tiny):
    config = tiny.model(tiny.vit(**fields))
    params, images = tiny.params(config), tiny.images(3)
    encode = jax.jit(lambda p, x, key: with_params(config, p).encode_image(x, key))
    plain = tiny.model(tiny.vit(**(fields | {"patch_dropout": 0.0})))
    one, again = (np.asarray(encode(params, images, jax.random.key(1))) for _ in range(2))
    np.testing.assert_array_equal(one, again)
    assert np.abs(one - encode(params, images, jax.random.key(2))).max() > 1e-3
    evaluated = encode(params, images, None)
    expected = jax.jit(lambda p, x: with_params(plain, p).encode_image(x))(params, images)
    np.testing.assert_array_equal(evaluated, expected)
    assert np.abs(one - evaluated).max() > 1e-3


@pytest.mark.parametrize("fields", DROPPING, ids=str)
def test_dropping_is_taking_the_patches_that_were_kept(fields, tiny):
    """Those of the same image as `Patches`, each at its own place."""
    config = tiny.model(tiny.vit(**fields))
    params, key = tiny.params(config), jax.random.key(5)
    pixels = np.random.default_rng(0).normal(size=(3, 12, 12, 3)).astype(np.float32)
    tower = jax.jit(lambda p, x, key: with_params(config, p).image(x, key))
    dropped = tower(params, pixels, key)
    # round((1 - 0.5) 9) of the 9 patches stay.
    keep = np.asarray(kept_patches(key, None, (3, 9), 0.5))
    assert keep.shape == (3, 4)
    places = np.array([(r, c) for r in range(3) for c in range(3)], np.int16)
    patches = Patches(
        values=np.stack([patches_of(x, 4)[k] for x, k in zip(pixels, keep, strict=True)]),
        positions=places[keep],
        mask=np.ones(keep.shape, bool),
        grid=np.full((3, 2), 3),
    )
    np.testing.assert_allclose(dropped, tower(params, patches, None), rtol=1e-4, atol=1e-4)


def test_sincos_positions_tell_patches_apart_without_parameters(tiny):
    """Mean over patches of equal content: two images with patches exchanged differ only by them."""
    config = tiny.model(tiny.vit(pool="mean", positions="sincos2d"))
    params = tiny.params(config)
    encode = jax.jit(lambda p, x: with_params(config, p).encode_image(x))
    images = tiny.images(1)
    exchanged = images.copy()
    exchanged[:, :4, :4], exchanged[:, 8:, 8:] = images[:, 8:, 8:], images[:, :4, :4]
    assert np.abs(encode(params, images) - encode(params, exchanged)).max() > 1e-3


def test_initial_deviations_are_those_of_clip(tiny):
    width, patch = 64, 8
    config = tiny.model(
        tiny.vit(image_size=64, patch_size=patch, width=width, depth=1), embed_dim=32
    )
    params = jax.jit(init_params, static_argnums=(0, 1))(config, 0)
    documented = {
        "image/patchify/kernel": (3 * patch**2) ** -0.5,
        "image/class_token": width**-0.5,
        "image/positions": width**-0.5,
        "image/project/kernel": width**-0.5,
    }
    for name, std in documented.items():
        value = np.asarray(params[name])
        assert abs(value.std() / std - 1) < 5 / np.sqrt(2 * value.size), name


EVERYTHING = [
    {
        "pool": "mean",
        "unpooled_class_token": True,
        "registers": 2,
        "positions": "rope2d",
        "norm_before_pool": True,
        "layer_scale": 0.5,
        "projection_bias": True,
        "patch_dropout": 0.3,
    },
    {"pool": "map", "registers": 1, "qkv_bias": False, "patch_bias": True, "layer_scale": 0.5},
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fields", "side"), [*zip(EVERYTHING, (12, 20), strict=True)], ids=["mean", "map"]
)
def test_a_gradient_reaches_every_parameter_and_scanned_blocks_give_the_same(fields, side, tiny):
    config = tiny.model(tiny.vit(image_size=side, **fields))
    params, images = tiny.params(config, size=0.2), tiny.images(3, side)

    def total(params, images, config, key):
        embeds = with_params(config, params).encode_image(images, key)
        return (embeds * jnp.arange(embeds.shape[1])).sum(), embeds

    run = jax.jit(jax.grad(total, has_aux=True), static_argnums=2)
    key = jax.random.key(0) if config.image.patch_dropout else None
    grads, embeds = run(params, images, config, key)
    for name, gradient in grads.items():
        if name.startswith("image/"):
            assert np.abs(gradient).max() > 1e-6, name
    scanned = dataclasses.replace(
        config, compute=ComputeConfig(scan_layers=True, remat="full", dtype="float32")
    )
    numpy = {name: np.asarray(array) for name, array in params.items()}
    others, same = run(dict(stacked(numpy.items())), images, scanned, key)
    np.testing.assert_allclose(same, embeds, atol=1e-5)
    numpy = {name: np.asarray(array) for name, array in grads.items()}
    for name, gradient in stacked(numpy.items()):
        np.testing.assert_allclose(others[name], gradient, rtol=1e-3, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("fields", EVERYTHING, ids=["mean", "map"])
def test_bfloat16_stays_near_and_every_product_is_in_it(fields, tiny):
    config = tiny.model(tiny.vit(**fields))
    half = dataclasses.replace(config, compute=ComputeConfig(dtype="bfloat16"))
    params, images = tiny.params(config, size=0.1), tiny.images()
    encode = jax.jit(lambda p, x, c: with_params(c, p).encode_image(x), static_argnums=2)
    difference = np.abs(encode(params, images, config) - encode(params, images, half)).max()
    assert 1e-4 < difference < 0.1
    program = encode.lower(params, images, half).as_text()
    products = [line for line in program.splitlines() if "dot_general" in line]
    assert products
    assert all("bf16" in line.partition("->")[0] for line in products)
