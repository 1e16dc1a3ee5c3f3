import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clipjax.config import (
    ComputeConfig,
    ConvNetConfig,
    DualEncoderConfig,
    TextConfig,
    UserError,
    ViTConfig,
)
from clipjax.interpret.head_effects import HeadReads, direct_effects
from clipjax.interpret.vit_parts import in_plain_form, take_apart
from clipjax.models import param_shapes, tapped, with_params

TEXT = TextConfig(width=16, depth=1, num_heads=2, mlp_dim=16, context_length=8, vocab_size=64)
SMALL = {"image_size": 16, "patch_size": 8, "width": 16, "depth": 2, "num_heads": 2, "mlp_dim": 24}

TOWERS = {
    "class token": ViTConfig(**SMALL),
    "mean": ViTConfig(**SMALL, pool="mean", pre_norm=False, registers=2, patch_bias=True),
    "norm, then mean": ViTConfig(**SMALL, pool="mean", norm_before_pool=True, layer_scale=0.5),
    "rotary": ViTConfig(**SMALL, positions="rope2d", projection_bias=True, activation="quick_gelu"),
    "unpooled class token": ViTConfig(**SMALL, pool="mean", unpooled_class_token=True),
    "no projection": ViTConfig(**SMALL, projection=False, registers=1),
}


def model_of(image, *, scan=False):
    """A small model in which no bias is 0, no gain 1, and no head like another."""
    config = DualEncoderConfig(
        image=image, text=TEXT, embed_dim=16, compute=ComputeConfig(scan_layers=scan)
    )
    rng, params = np.random.default_rng(0), {}
    for name, shape in sorted(param_shapes(config).items()):
        numbers = rng.normal(size=shape) * (0.2 if name.endswith("kernel") else 0.3)
        numbers += name.endswith(("/scale", "/gain"))
        params[name] = jnp.asarray(numbers, jnp.float32)
    return config, params


IMAGES = np.random.default_rng(1).integers(0, 256, (5, 16, 16, 3), np.uint8)


def apart(config, params):
    """Parts and effects, and the embedding of the model itself before it is of unit length."""
    plain, numbers = in_plain_form(config, params)

    def run(numbers, images):
        model = with_params(plain, numbers)
        pixels = model._pixels(images)
        parts = take_apart(model, images)
        effects = direct_effects(model.image, parts)
        return dataclasses.asdict(parts), dataclasses.asdict(effects), model.image(pixels)

    return jax.tree.map(np.asarray, jax.jit(run)(numbers, IMAGES))


@pytest.mark.parametrize("name", TOWERS)
def test_the_sum_of_all_effects_is_the_embedding(name):
    config, params = model_of(TOWERS[name])
    _, effects, embeds = apart(config, params)
    whole = (
        effects["heads"].sum(axis=(1, 2))
        + effects["mlps"].sum(axis=1)
        + effects["biases"]
        + effects["first"]
    )
    # About fifty terms of the size of the embedding are added in float32.
    atol = 1e-5 * np.abs(embeds).max()
    np.testing.assert_allclose(whole, embeds, atol=atol)
    np.testing.assert_allclose(effects["embeds"], embeds, atol=atol)
    assert np.abs(effects["heads"]).max() > 0.05 * np.abs(embeds).max()


def test_hidden_units_are_those_that_taps_read():
    config, params = model_of(TOWERS["class token"])
    parts, _, _ = apart(config, params)

    def run(params, images):
        return with_params(config, params).encode_image(images)

    _, reads = jax.jit(tapped(run, read={"image/*/mlp_act": "all"}))(params, IMAGES)
    for layer in range(2):
        np.testing.assert_allclose(
            parts["layers"][layer]["hidden"],
            reads[f"image/blocks/{layer}/mlp_act"],
            atol=2e-5,
        )


def test_removing_a_head_from_the_sum_is_ablating_it_in_the_last_layer():
    """In the last layer nothing reads a head but the MLP of its block and the last norm."""
    config, params = model_of(dataclasses.replace(TOWERS["class token"], depth=1))
    params["image/blocks/stack/0/mlp/fc2/kernel"] *= 0  # nothing reads it but the norm
    _, effects, embeds = apart(config, params)
    without = dict(params)
    kernel = np.array(without["image/blocks/stack/0/attn/out/kernel"])
    kernel[1] = 0
    without["image/blocks/stack/0/attn/out/kernel"] = jnp.asarray(kernel)
    parts, less, _ = apart(config, without)
    old, _, _ = apart(config, params)
    # The deviation of the last norm is held: undo what the ablation did to it.
    moved = old["weights"][:, 0] / parts["weights"][:, 0]
    bias = np.asarray(params["image/norm/bias"]) @ np.asarray(params["image/project/kernel"])
    frozen = (less["embeds"] - bias) * moved[:, None] + bias
    np.testing.assert_allclose(embeds - frozen, effects["heads"][:, 0, 1], atol=2e-5)


def test_reads_and_maps_are_the_effects_and_stacked_layers_do():
    config, params = model_of(TOWERS["norm, then mean"], scan=True)
    _, effects, embeds = apart(config, params)
    reads = HeadReads(config, params, [1, 0])
    found = np.einsum("blhc,lhcd->blhd", reads(IMAGES), reads.maps)
    wanted = effects["heads"][:, [1, 0]] / np.linalg.norm(embeds, axis=1)[:, None, None, None]
    np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize(
    ("image", "why"),
    [
        (ConvNetConfig(), "kind='convnet'.*need a Vision Transformer"),
        (ViTConfig(**SMALL, pool="map"), "pool='map'.*need 'cls' or 'mean'"),
    ],
)
def test_other_towers_are_refused_with_what_is_needed(image, why):
    with pytest.raises(UserError, match=why):
        HeadReads(DualEncoderConfig(image=image, text=TEXT, embed_dim=16), {}, [0])
