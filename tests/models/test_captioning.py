"""What holds for every model with a decoder."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clipjax.config import CappaDecoderConfig, CocaDecoderConfig, UsageError
from clipjax.core.partition import tree_shardings
from clipjax.losses import chunked_captioning_loss
from clipjax.models import DECODERS, abstract_model, param_axes, param_shapes, with_params

LENGTH, IDS = 6, 20
TOKENS = np.array([[18, 3, 7, 19, 0, 0], [18, 19, 0, 0, 0, 0], [18, 1, 2, 3, 4, 19]], np.int32)


def cappa_decoder(**fields):
    return CappaDecoderConfig(
        **(
            dict(vocab_size=IDS, context_length=LENGTH, width=8, depth=2, num_heads=2, mlp_dim=12)
            | fields
        )
    )


@pytest.fixture(scope="module")
def configs(tiny):
    """One config for each way of captioning, by name."""
    sizes = {"depth": 2, "num_heads": 2, "mlp_dim": 24}
    bare = {"pre_norm": False, "patch_bias": True, "norm_before_pool": True}
    return {
        "coca": tiny.model(
            tiny.vit(pool="coca", pooler_queries=5, pooler_heads=2),
            tiny.text(pool="class", width=8),
            decoder=CocaDecoderConfig(width=8, **sizes),
        ),
        "coca-patches": tiny.model(
            text=tiny.text(pool="class", class_mask="shifted"),
            decoder=CocaDecoderConfig(width=16, **sizes),
        ),
        "cappa": tiny.model(tiny.vit(pool="mean", **bare), decoder=cappa_decoder()),
        "cap": tiny.model(
            tiny.vit(pool="map", projection=False, width=8, pre_norm=False, patch_bias=True),
            decoder=cappa_decoder(bias=True, parallel_share=0.0),
        ),
    }


NAMES = ("coca", "coca-patches", "cappa", "cap")


def changed(config, **compute):
    return dataclasses.replace(config, compute=dataclasses.replace(config.compute, **compute))


def forward(config):
    def call(params, images, tokens, parallel=None):
        model = with_params(config, params)
        return model.forward_captioning(images, tokens, parallel=parallel)

    return call


@functools.cache
def compiled(config):
    """Compiled once for all tests."""
    return jax.jit(forward(config))


def test_the_tests_know_every_decoder(configs):
    kinds = {config.decoder.kind for config in configs.values()}
    assert kinds == set(DECODERS)
    assert set(NAMES) == set(configs)


@pytest.mark.parametrize("name", NAMES)
def test_one_forward_pass_gives_embeddings_and_logits(name, configs, tiny):
    config = configs[name]
    params, images = tiny.params(config, size=0.1), tiny.images()
    together = compiled(config)(params, images, TOKENS)
    assert together[2].shape == (3, LENGTH, IDS)
    apart = jax.jit(
        lambda p, i, t: (
            with_params(config, p).encode_image(i),
            with_params(config, p).encode_text(t),
            with_params(config, p).caption_logits(i, t),
        )
    )(params, images, TOKENS)
    for one, alone in zip(together, apart, strict=True):
        np.testing.assert_allclose(one, alone, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_stays_near_and_results_are_float32(name, configs, tiny):
    params, images = tiny.params(configs[name], size=0.1), tiny.images()
    exact = compiled(configs[name])(params, images, TOKENS)
    rounded = jax.jit(forward(changed(configs[name], dtype="bfloat16")))(params, images, TOKENS)
    for one, other in zip(exact, rounded, strict=True):
        assert one.dtype == other.dtype == jnp.float32
        difference = float(np.abs(one - other).max() / np.abs(one).max())
        assert 1e-4 < difference < 0.1


@pytest.mark.parametrize("name", NAMES)
def test_places_see_the_image_and_the_tokens_before_what_they_predict(name, configs, tiny):
    config = configs[name]
    params = tiny.params(config)

    def call(params, images, tokens):
        return np.asarray(compiled(config)(params, images, tokens)[2])

    logits = call(params, tiny.images(), TOKENS)
    other = TOKENS.copy()
    other[:, 3] = 11
    moved = np.abs(call(params, tiny.images(), other) - logits).max(axis=(0, 2))
    first = 3 if config.decoder.kind == "coca" else 4
    assert moved[:first].max() < 1e-6
    assert moved[first:].min() > 1e-4
    elsewhere = np.abs(call(params, tiny.images(seed=1), TOKENS) - logits)
    assert elsewhere.max(axis=2).min() > 1e-4


@pytest.mark.parametrize("name", NAMES)
def test_targets_are_what_the_logits_predict(name, configs):
    config = configs[name]
    logits = jnp.arange(3.0 * LENGTH * IDS).reshape(3, LENGTH, IDS)
    model = abstract_model(config)
    shown, targets, counted = model.caption_targets(logits, jnp.asarray(TOKENS))
    if config.decoder.kind == "coca":
        np.testing.assert_array_equal(shown, logits[:, :-1])
        np.testing.assert_array_equal(targets, TOKENS[:, 1:])
    else:
        np.testing.assert_array_equal(shown, logits)
        np.testing.assert_array_equal(targets, TOKENS)
    np.testing.assert_array_equal(counted, np.asarray(targets) != 0)


@pytest.mark.parametrize("name", NAMES)
def test_what_the_loss_takes_gives_the_logits_and_their_targets(name, configs, tiny):
    """Both towers run once, and no logit is formed; the loss is that of `caption_targets`."""
    config, parallel = configs[name], None
    if name == "cappa":
        parallel = jnp.array([True, False, True])
    params = tiny.params(config, size=0.1)

    def inputs(params, images, tokens):
        return with_params(config, params).captioning_inputs(images, tokens, parallel=parallel)

    image, text, _, captions = jax.jit(inputs)(params, tiny.images(), TOKENS)
    expected = compiled(config)(params, tiny.images(), TOKENS, parallel)
    np.testing.assert_allclose(image, expected[0], atol=1e-6)
    np.testing.assert_allclose(text, expected[1], atol=1e-6)
    model = abstract_model(config)
    logits, targets, counted = model.caption_targets(expected[2], jnp.asarray(TOKENS))
    np.testing.assert_array_equal(captions.targets, targets)
    np.testing.assert_array_equal(captions.counted, counted)
    # The sums over 8 channels of numbers of size 1 are added in another order.
    offset = 0.0 if captions.bias is None else captions.bias
    np.testing.assert_allclose(captions.hidden @ captions.kernel + offset, logits, atol=1e-5)
    log_probabilities = jax.nn.log_softmax(logits)
    hits = np.take_along_axis(np.asarray(log_probabilities), np.asarray(targets)[..., None], -1)
    loss = chunked_captioning_loss(*captions, block=7)
    np.testing.assert_allclose(loss, -hits[..., 0][np.asarray(counted)].mean(), rtol=1e-5)


def test_ids_that_a_decoder_does_not_know_do_not_count(configs):
    """As with open_clip's coca_roberta-ViT-B-32, whose decoder has CLIP's smaller vocabulary."""
    config = configs["coca"]
    decoder = dataclasses.replace(config.decoder, vocab_size=8)
    config = dataclasses.replace(config, decoder=decoder)
    assert param_shapes(config)["decoder/project/kernel"] == (8, 8)
    _, targets, counted = abstract_model(config).caption_targets(
        jnp.zeros((3, LENGTH, 8)), jnp.asarray(TOKENS)
    )
    assert targets.max() == 7
    expected = [
        [True, True, False, False, False],
        [False] * 5,
        [True, True, True, True, False],
    ]
    np.testing.assert_array_equal(counted, expected)


@pytest.mark.parametrize("name", NAMES)
def test_the_gradient_of_both_losses_reaches_every_leaf(name, configs, tiny):
    config = configs[name]
    parallel = jnp.array([True, False, True]) if name == "cappa" else None
    images, tokens = jnp.asarray(tiny.images()), jnp.asarray(TOKENS)

    def loss(params):
        image, text, logits = forward(config)(params, images, tokens, parallel)
        similar = jnp.exp(params["log_logit_scale"]) * image @ text.T
        picked = jax.nn.log_softmax(logits)[..., 1] + jax.nn.log_softmax(logits)[..., 2]
        return jnp.sum(jax.nn.log_softmax(similar) * jnp.eye(3)) + picked.sum()

    grads = jax.jit(jax.grad(loss))(tiny.params(config))
    silent = [name for name, grad in grads.items() if not np.abs(grad).max() > 0]
    assert silent == []


@pytest.mark.parametrize("name", NAMES)
def test_captions_do_not_depend_on_their_batch(name, configs, tiny):
    config = configs[name]
    params, call = tiny.params(config), compiled(config)
    whole = call(params, tiny.images(), TOKENS)
    order = np.array([2, 0, 1])
    permuted = call(params, tiny.images()[order], TOKENS[order])
    for one, other in zip(whole, permuted, strict=True):
        np.testing.assert_allclose(np.asarray(one)[order], other, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("name", NAMES)
def test_scanned_and_rematerialised_are_the_same(name, configs, tiny):
    config = configs[name]
    params, images = tiny.params(config), tiny.images()
    unrolled = compiled(config)(params, images, TOKENS)
    scanned = changed(config, scan_layers=True, remat="names")
    stacks = {}
    for key, value in params.items():
        head, found, tail = key.partition("/stack/")
        layer, _, leaf = tail.partition("/")
        stacks.setdefault(f"{head}/stack/{leaf}" if found else key, {})[layer] = value
    stacked = {
        key: jnp.stack([parts["0"], parts["1"]]) if "/stack/" in key else parts[""]
        for key, parts in stacks.items()
    }
    other = jax.jit(forward(scanned))(stacked, images, TOKENS)
    for one, two in zip(unrolled, other, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=3e-5)


def test_compiled_is_eager(configs, tiny):
    """For all kinds it is the same code that is traced; here the one with most of it."""
    config = configs["coca"]
    params, images = tiny.params(config), tiny.images()
    eager = forward(config)(params, jnp.asarray(images), jnp.asarray(TOKENS))
    for one, two in zip(eager, compiled(config)(params, images, TOKENS), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=3e-5)


THREES = ((0, 1, 2), (3, 4, 5), (6, 7, 7))


@pytest.mark.parametrize("name", NAMES)
def test_sharded_parameters_give_the_same_logits(name, configs, tiny, mesh_222):
    config = configs[name]
    params = tiny.params(config)
    images, tokens = tiny.images(8), np.tile(TOKENS, (3, 1))[:8]
    expected = [
        np.concatenate(parts)[:8]
        for parts in zip(
            *(compiled(config)(params, images[[*some]], TOKENS) for some in THREES), strict=True
        )
    ]
    split = jax.device_put(params, tree_shardings(params, param_axes(config), mesh_222))
    whole = [n for n, p in split.items() if p.sharding.is_fully_replicated]
    assert "decoder/project/kernel" not in whole
    rows = jax.NamedSharding(mesh_222, jax.P(("data", "fsdp")))
    with jax.set_mesh(mesh_222):
        actual = jax.jit(forward(config))(
            split, jax.device_put(images, rows), jax.device_put(tokens, rows)
        )
    for one, other in zip(expected, actual, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=3e-5)


@pytest.mark.parametrize("name", NAMES)
def test_a_larger_image_has_more_to_read_and_the_same_decoder(name, configs, tiny):
    config = configs[name]
    image = dataclasses.replace(config.image, image_size=24)
    larger = dataclasses.replace(config, image=image)
    shapes, more = param_shapes(config), param_shapes(larger)
    assert {n for n in shapes if shapes[n] != more[n]} == {"image/positions"}
    params = {n: jax.ShapeDtypeStruct(shape, jnp.float32) for n, shape in more.items()}
    inputs = jnp.asarray(tiny.images(3, 24)), jnp.asarray(TOKENS)
    assert jax.eval_shape(forward(larger), params, *inputs)[2].shape == (3, LENGTH, IDS)


def test_without_a_decoder_there_are_no_captions(configs, tiny):
    config = dataclasses.replace(configs["coca"], decoder=None)
    model = abstract_model(config)
    with pytest.raises(UsageError, match=r"model\.decoder is not set"):
        model.caption_logits(jnp.asarray(tiny.images()), jnp.asarray(TOKENS))


def test_only_a_decoder_that_can_predicts_in_parallel(configs, tiny):
    inputs = jnp.asarray(tiny.images()), jnp.asarray(TOKENS), jnp.ones(3, bool)
    for name, message in (
        ("coca", r"kind='coca' predicts captions token by token"),
        ("cap", r"parallel_share=0 has no token for what is hidden"),
    ):
        shapes = param_shapes(configs[name])
        params = {n: jax.ShapeDtypeStruct(shape, jnp.float32) for n, shape in shapes.items()}
        with pytest.raises(UsageError, match=message):
            jax.eval_shape(forward(configs[name]), params, *inputs)
