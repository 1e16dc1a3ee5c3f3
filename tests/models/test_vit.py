import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clipjax.models import init_params, with_params

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


def patches_of(pixels, side):
    """[patches, side * side * 3], row by row."""
    grid = pixels.shape[0] // side
    return np.stack(
        [
            pixels[i * side : (i + 1) * side, j * side : (j + 1) * side].reshape(-1)
            for i in range(grid)
            for j in range(grid)
        ]
    )


def definition(pixels, params, config, reference):
    """One image through CLIP's tower in float64."""
    p = reference.within(params, "image/")
    x = patches_of(pixels, config.patch_size) @ p["patchify/kernel"].reshape(-1, config.width)
    if config.patch_bias:
        x = x + p["patchify/bias"]
    if config.pool == "cls":
        x = np.concatenate([p["class_token"][None], x])
    if config.positions == "learned":
        x = x + p["positions"]
    if config.pre_norm:
        x = reference.layer_norm(x, p["pre_norm/scale"], p["pre_norm/bias"], config.norm_eps)
    for i in range(config.depth):
        x = reference.block(
            x,
            reference.within(p, f"blocks/stack/{i}/"),
            causal=False,
            activation=reference.activations[config.activation],
            eps=config.norm_eps,
        )
    x = x[0] if config.pool == "cls" else x.mean(axis=0)
    x = reference.layer_norm(x, p["norm/scale"], p["norm/bias"], config.norm_eps)
    return x @ p["project/kernel"] if config.projection else x


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"pool": "mean", "pre_norm": False, "patch_bias": True, "activation": "quick_gelu"},
    ],
    ids=["clip", "mean"],
)
def test_matches_the_float64_definition(fields, tiny, reference):
    config = tiny.model(tiny.vit(**fields))
    params = tiny.params(config)
    pixels = np.random.default_rng(0).normal(size=(2, 12, 12, 3)).astype(np.float32)
    out = jax.jit(lambda p, x: with_params(config, p).image(x))(params, pixels)
    for example in range(2):
        expected = definition(reference.f64(pixels[example]), params, config.image, reference)
        np.testing.assert_allclose(out[example], expected, rtol=1e-4, atol=1e-4)


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
