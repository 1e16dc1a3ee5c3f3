"""CapPa in big_vision's names: shapes and meaning of Flax Linen's modules, and round trips."""

import dataclasses
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clipjax.config import (
    CappaDecoderConfig,
    CocaDecoderConfig,
    DualEncoderConfig,
    TextConfig,
    UserError,
    ViTConfig,
)
from clipjax.interchange.formats import layout_of
from clipjax.interchange.transfer import check_tensors, read_params, written
from clipjax.models import param_shapes, with_params

IDS, LENGTH = 20, 6


def cappa_config(*, width=16, bias=False, share=0.75, **image):
    fields = {"pool": "mean", "norm_before_pool": True, "pre_norm": False, "patch_bias": True}
    sizes = {"depth": 2, "num_heads": 2, "mlp_dim": 24}
    return DualEncoderConfig(
        image=ViTConfig(image_size=12, patch_size=4, width=16, **(fields | sizes | image)),
        text=TextConfig(vocab_size=IDS, context_length=LENGTH, width=16, **sizes),
        decoder=CappaDecoderConfig(
            vocab_size=IDS,
            context_length=LENGTH,
            width=width,
            bias=bias,
            parallel_share=share,
            **sizes,
        ),
        embed_dim=8,
    )


CONFIGS = {
    "published": cappa_config(),
    "two_widths": cappa_config(width=8),
    "bias": cappa_config(bias=True, share=0.0),
}


@pytest.fixture(params=CONFIGS, ids=str)
def config(request):
    return CONFIGS[request.param]


@pytest.fixture(scope="module")
def linen():
    """Flax's older modules, whose names and axes the files have."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import flax.linen
    return flax.linen


def tensors_of(config, drawn_tensors, **options):
    layout = layout_of("big_vision_cappa", config, **options)
    return layout, drawn_tensors(layout, param_shapes(config))


def test_the_image_tower_and_the_decoder_have_one_place_each(config, drawn_tensors):
    layout, _ = tensors_of(config, drawn_tensors)
    ours = [entry.ours for entry in layout.entries]
    apart = ("text/", "log_logit_scale", "image/project/")
    wanted = [name for name in param_shapes(config) if not name.startswith(apart)]
    assert sorted(ours) == sorted(wanted)
    theirs = [name for entry in layout.entries for name in entry.theirs]
    assert len(theirs) == len(set(theirs))
    assert all(name.startswith("params/") for name in theirs)


def test_what_is_written_is_what_was_read(config, drawn_tensors):
    layout, tensors = tensors_of(config, drawn_tensors, prefix="")
    params = dict(read_params(layout, config, tensors))
    pairs = dict(written(layout, config, params))
    assert pairs.keys() == tensors.shapes().keys()
    for name, array in pairs.items():
        np.testing.assert_array_equal(array, tensors.read(name), err_msg=name)


def filled(config, layout, tensors, rest=0.0):
    """All parameters: those of the file, the others with one number everywhere."""
    read = {name: jnp.asarray(array) for name, array in read_params(layout, config, tensors)}
    return {n: jnp.full(shape, rest) for n, shape in param_shapes(config).items()} | read


def within(tensors, prefix):
    """The nested parameters of one module."""
    tree = {}
    for name in tensors.shapes():
        if name.startswith(prefix + "/"):
            *path, leaf = name.removeprefix(prefix + "/").split("/")
            node = tree
            for part in path:
                node = node.setdefault(part, {})
            node[leaf] = jnp.asarray(tensors.read(name))
    return {"params": tree}


def block(linen, x, image, tensors, decoder, mask):
    """One decoder block made of Flax's modules."""
    prefix = "decoder/EncDecBlock1"

    def attention(name, x, y, mask=None):
        layer = linen.MultiHeadDotProductAttention(decoder.num_heads, use_bias=False)
        return layer.apply(within(tensors, f"{prefix}/{name}"), x, y, mask=mask)

    def norm(name, x):
        return linen.LayerNorm(use_bias=decoder.bias).apply(within(tensors, f"{prefix}/{name}"), x)

    def dense(name, x, features):
        layer = linen.Dense(features, use_bias=decoder.bias)
        return layer.apply(within(tensors, f"{prefix}/MLP/{name}"), x)

    y = norm("LayerNorm1", x)
    x = x + attention("SelfAttn", y, y, mask)
    x = x + attention("CrossAttn", norm("LayerNorm2", x), image)
    y = linen.gelu(dense("Dense_0", norm("LayerNorm3", x), decoder.mlp_dim))
    return x + dense("Dense_1", y, decoder.width)


def test_a_decoder_block_is_that_of_flax_modules_with_these_names(config, drawn_tensors, linen):
    layout, tensors = tensors_of(config, drawn_tensors, prefix="")
    params = filled(config, layout, tensors)
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, LENGTH, config.decoder.width)), jnp.float32)
    image = jnp.asarray(rng.normal(size=(2, 9, 16)), jnp.float32)
    mask = jnp.tril(jnp.ones((LENGTH, LENGTH), bool))[None, None]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = block(linen, x, image, tensors, config.decoder, mask)
    actual = with_params(config, params).decoder.blocks.stack[1](x, image)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


def test_an_image_block_is_that_of_flax_modules_with_these_names(drawn_tensors, linen):
    config = CONFIGS["published"]
    layout, tensors = tensors_of(config, drawn_tensors, prefix="")
    params = filled(config, layout, tensors)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 9, 16)), jnp.float32)
    prefix = "encoder/Transformer/encoderblock_0"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        y = linen.LayerNorm(epsilon=1e-5).apply(within(tensors, f"{prefix}/LayerNorm_0"), x)
        name = f"{prefix}/MultiHeadDotProductAttention_0"
        y = linen.MultiHeadDotProductAttention(2).apply(within(tensors, name), y, y)
    layer = with_params(config, params).image.blocks.stack[0]
    np.testing.assert_allclose(layer.attn(layer.ln_1(x)), y, rtol=1e-5, atol=1e-5)


def test_the_patches_are_those_of_a_flax_convolution(drawn_tensors, linen):
    config = CONFIGS["published"]
    layout, tensors = tensors_of(config, drawn_tensors, prefix="")
    params = filled(config, layout, tensors)
    pixels = jnp.asarray(np.random.default_rng(0).normal(size=(1, 12, 12, 3)), jnp.float32)
    conv = linen.Conv(16, (4, 4), (4, 4), padding="VALID")
    expected = conv.apply(within(tensors, "encoder/embedding"), pixels)
    patchify = with_params(config, params).image.patchify
    np.testing.assert_allclose(patchify(pixels), expected, rtol=1e-5, atol=1e-5)
    assert tensors.shapes()["encoder/pos_embedding"] == (1, 9, 16)
    assert tensors.shapes()["pos_embedding_decoder"] == (1, LENGTH, 16)
    assert tensors.shapes()["decoder/EmbedTargets/embedding"] == (IDS + 1, 16)


def test_fixed_positions_are_not_in_the_file(drawn_tensors):
    layout, tensors = tensors_of(cappa_config(positions="sincos2d"), drawn_tensors)
    assert "params/encoder/pos_embedding" not in tensors.shapes()
    assert "image/positions" not in [entry.ours for entry in layout.entries]


def test_a_file_of_cap_is_not_one_of_cappa(drawn_tensors):
    """Without the token for what is hidden, one row of the table is missing."""
    cap = cappa_config(share=0.0)
    _, tensors = tensors_of(cap, drawn_tensors)
    config = CONFIGS["published"]
    with pytest.raises(UserError, match=r"EmbedTargets/embedding is \[20, 16\], expected \[21, 1"):
        check_tensors(layout_of("big_vision_cappa", config), config, tensors)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"pool": "map"}, r"image\.pool='map', expected 'mean'"),
        ({"norm_before_pool": False}, r"norm_before_pool=False, expected True"),
        ({"registers": 2}, r"registers=2, expected 0"),
        ({"positions": "none"}, r"positions='none', expected 'learned' or 'sincos2d'"),
    ],
)
def test_a_tower_that_big_vision_has_not_is_refused(fields, message):
    with pytest.raises(UserError, match=message):
        layout_of("big_vision_cappa", cappa_config(**fields))


def test_only_a_captioner_of_this_kind_has_these_names():
    config = DualEncoderConfig(
        image=ViTConfig(pool="coca"), decoder=CocaDecoderConfig(), embed_dim=512
    )
    for other in (config, dataclasses.replace(config, decoder=None)):
        with pytest.raises(UserError, match="no decoder of kind 'cappa'"):
            layout_of("big_vision_cappa", other)


def test_the_whole_model_captions_with_what_was_read(drawn_tensors):
    """The rest of the model keeps its own numbers, and the logits do not depend on them."""
    config = CONFIGS["published"]
    layout, tensors = tensors_of(config, drawn_tensors)
    images = np.random.default_rng(0).integers(0, 256, (2, 12, 12, 3)).astype(np.uint8)
    tokens = np.array([[3, 7, 19, 0, 0, 0], [5, 4, 3, 2, 1, 19]], np.int32)
    call = jax.jit(lambda p, i, t: with_params(config, p).caption_logits(i, t))
    zeros, ones = (filled(config, layout, tensors, rest) for rest in (0.0, 1.0))
    np.testing.assert_array_equal(call(zeros, images, tokens), call(ones, images, tokens))
