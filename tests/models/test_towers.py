"""What every tower in the tables passes, in every option that changes its graph."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clipjax.config import (
    BertConfig,
    CheckpointConfig,
    ComputeConfig,
    ConvNeXtConfig,
    DualEncoderConfig,
    EfficientNetConfig,
    EvaConfig,
    ModernTextConfig,
    ResNetConfig,
)
from clipjax.core.checkpoint import CheckpointReader, CheckpointWriter
from clipjax.core.partition import tree_shardings
from clipjax.core.stacks import stacked
from clipjax.models import (
    IMAGE_TOWERS,
    TEXT_TOWERS,
    init_model_state,
    init_params,
    model_state_of,
    param_axes,
    param_shapes,
    with_params,
)

EMBED = 8
SMALL = {"width": 16, "depth": 2, "num_heads": 2, "mlp_dim": 24}


def image_towers(tiny):
    eva = {"image_size": 12, "patch_size": 4, "rope_grid": 3, **SMALL}
    return {
        "vit": tiny.vit(),
        "vit-map": tiny.vit(pool="map", pre_norm=False, patch_bias=True),
        "vit-late": tiny.vit(class_position=False, registers=1),
        "vit-mean": tiny.vit(pool="mean", positions="sincos2d", norm_before_pool=True),
        "vit-clipa": tiny.vit(pool="mean", unpooled_class_token=True, pre_norm=False),
        "vit-rope": tiny.vit(positions="rope2d", registers=2, layer_scale=0.1),
        "vit-none": tiny.vit(pool="mean", positions="none", registers=1),
        "vit-coca": tiny.vit(pool="coca", pooler_queries=5, pooler_heads=2),
        "convnet": tiny.convnet(),
        "resnet": ResNetConfig(image_size=32, depths=(1, 1, 2, 1), width=4, num_heads=4),
        "convnext": ConvNeXtConfig(image_size=32, widths=(4, 8, 8, 16), depths=(1, 1, 2, 1)),
        "convnext-mlp": ConvNeXtConfig(
            image_size=32, widths=(4, 8, 8, 16), depths=(1, 1, 1, 1), projection="mlp"
        ),
        "efficientnet": EfficientNetConfig(
            image_size=32, width_factor=0.1, depth_factor=0.1, projection=True
        ),
        "eva": EvaConfig(**eva),
        "eva-plain": EvaConfig(
            **eva,
            swiglu=False,
            mlp_norm=False,
            attention_norm=False,
            rope=False,
            fused_qkv=True,
        ),
        "eva-post": EvaConfig(
            **eva, swiglu=False, mlp_norm=False, attention_norm=False, rope=False, post_norm=True
        ),
    }


def text_towers(tiny):
    text = {"vocab_size": 20, "context_length": 6, **SMALL}
    bert = {**text, "max_positions": 10}
    return {
        "transformer": tiny.text(),
        "transformer-siglip": tiny.text(causal=False, pool="last", projection_bias=True),
        "transformer-scaled": tiny.text(layer_scale=0.1),
        "bert": BertConfig(**bert),
        "bert-pooler": BertConfig(
            **bert, pool="pooler", projection="linear_bias", first_position=0, token_types=2
        ),
        "modern": ModernTextConfig(**text),
        "modern-causal": ModernTextConfig(**text, causal=True, pool="last", qk_norm=False),
    }


class Tower:
    """A dual encoder of which one tower is looked at."""

    def __init__(self, which, kind, tiny):
        self.which = which
        towers = (image_towers if which == "image" else text_towers)(tiny)
        other = {"text": tiny.text()} if which == "image" else {"image": tiny.vit()}
        self.config = DualEncoderConfig(**{which: towers[kind]}, **other, embed_dim=EMBED)
        self.is_variant = "-" in kind
        self._jitted = {}

    def params(self, config=None):
        """Numbers of every leaf, the statistics too."""
        shapes = param_shapes(config or self.config)
        rng = np.random.default_rng(5)
        # Gates and swish take most of what passes: without this nothing of an image is left.
        gain = 2 if self.config.image.kind == "efficientnet" else 1
        params = {}
        for name, shape in sorted(shapes.items()):
            noise = rng.standard_normal(shape)
            last = name.rpartition("/")[2]
            if last == "variance":
                value = np.exp(0.2 * noise)
            elif last in ("scale", "gain"):
                value = gain + 0.2 * noise
            elif last == "kernel":
                value = noise / np.sqrt(np.prod(shape[:-1]))
            elif name == "log_logit_scale":
                value = np.full(shape, 2.0)
            else:
                value = 0.3 * noise
            params[name] = jnp.asarray(value, jnp.float32)
        return params

    def inputs(self, count=4, seed=0, size=None):
        rng = np.random.default_rng(seed)
        if self.which == "image":
            side = size or self.config.image.image_size
            # Of different contrast: the mean over a map of noise tells little.
            images = rng.integers(0, 256, (count, side, side, 3))
            return jnp.asarray(images * np.linspace(0.2, 1, count)[:, None, None, None], jnp.uint8)
        tokens = rng.integers(2, 19, (count, self.config.text.context_length)).astype(np.int32)
        tokens[:, -1] = 19
        return jnp.asarray(tokens)

    def encode(self, params, inputs, config=None):
        model = with_params(config or self.config, params)
        return model.encode_image(inputs) if self.which == "image" else model.encode_text(inputs)

    def jitted(self, config=None):
        """One function a config: to trace and compile it takes longer than any test."""
        if config not in self._jitted:
            self._jitted[config] = jax.jit(
                lambda params, inputs: self.encode(params, inputs, config)
            )
        return self._jitted[config]

    def with_compute(self, **fields):
        return dataclasses.replace(self.config, compute=ComputeConfig(**fields))

    def own(self, names):
        return [name for name in names if name.startswith(f"{self.which}/")]


def _cases():
    plain = types.SimpleNamespace(
        vit=lambda **f: dict(f), convnet=lambda **f: dict(f), text=lambda **f: dict(f)
    )
    cases = [("image", kind) for kind in image_towers(plain)]
    cases += [("text", kind) for kind in text_towers(plain)]
    return cases


CASES = _cases()


@pytest.fixture(scope="module", params=CASES, ids=[f"{which}-{kind}" for which, kind in CASES])
def tower(request, tiny):
    """Each tower with each option, in tiny."""
    return Tower(*request.param, tiny)


def test_the_list_knows_every_tower(tiny):
    assert {config.kind for config in image_towers(tiny).values()} == set(IMAGE_TOWERS)
    assert {config.kind for config in text_towers(tiny).values()} == set(TEXT_TOWERS)


def test_compiled_equals_eager_and_a_row_knows_only_itself(tower):
    params, inputs = tower.params(), tower.inputs()
    together = np.asarray(tower.jitted()(params, inputs))
    assert together.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, rtol=1e-5)
    if not tower.is_variant:  # the code that is traced is the same
        np.testing.assert_allclose(tower.encode(params, inputs), together, atol=1e-6)
    order = np.array([2, 0, 3, 1])
    np.testing.assert_allclose(tower.jitted()(params, inputs[order]), together[order], atol=1e-6)
    others = inputs.at[1:].set(tower.inputs(seed=1)[1:])
    np.testing.assert_allclose(tower.jitted()(params, others)[0], together[0], atol=1e-6)
    assert np.abs(together[0] - together[1]).max() > 1e-3


def test_a_gradient_reaches_every_leaf(tower):
    """A leaf without one is never used, or is cut off; statistics have none."""
    params, inputs = tower.params(), tower.inputs()
    directions = np.random.default_rng(1).standard_normal((len(inputs), EMBED))
    grads = jax.jit(jax.grad(lambda p: (tower.encode(p, inputs) * directions).sum()))(params)
    learned = tower.own(jax.eval_shape(lambda: init_params(tower.config, 0)))
    assert learned
    for name in learned:
        gradient = np.asarray(grads[name])
        assert np.isfinite(gradient).all(), name
        assert np.abs(gradient).max() > 1e-9, name


def test_bfloat16_stays_near_float32(tower):
    params, inputs = tower.params(), tower.inputs()
    half = tower.with_compute(dtype="bfloat16")
    exact, rounded = tower.jitted()(params, inputs), tower.jitted(half)(params, inputs)
    assert rounded.dtype == jnp.float32
    # Eight bits of mantissa: a rounding is 2^-9 of a number, and some tens of them add up.
    assert 0 < np.abs(exact - rounded).max() < 40 * 2**-9
    assert (np.asarray(exact) * np.asarray(rounded)).sum(axis=1).min() > 0.99


def test_scanned_equals_unrolled(tower):
    params, inputs = tower.params(), tower.inputs()
    scanned = tower.with_compute(scan_layers=True)
    layers = {n: jnp.asarray(p) for n, p in stacked((n, np.asarray(p)) for n, p in params.items())}
    expected = param_shapes(scanned)
    assert {name: p.shape for name, p in layers.items()} == expected
    np.testing.assert_allclose(
        tower.jitted(scanned)(layers, inputs), tower.jitted()(params, inputs), atol=1e-6
    )


def test_sharded_equals_unsharded_on_eight_devices(tower, mesh_222):
    params, inputs = tower.params(), tower.inputs(8)
    expected = tower.jitted()(params, inputs)
    split = jax.device_put(params, tree_shardings(params, param_axes(tower.config), mesh_222))
    assert any(not split[name].sharding.is_fully_replicated for name in tower.own(split))
    rows = jax.NamedSharding(mesh_222, jax.P(("data", "fsdp")))
    with jax.set_mesh(mesh_222):
        actual = tower.jitted()(split, jax.device_put(inputs, rows))
    np.testing.assert_allclose(actual, expected, atol=1e-5)


def test_training_changes_statistics_and_nothing_else(tower):
    """Only batch norm accumulates; in evaluation nothing does."""
    if tower.which == "text":
        pytest.skip("text towers take no part in training otherwise")
    params, inputs = tower.params(), tower.inputs()

    @jax.jit
    def run(params, key):
        model = with_params(tower.config, params)
        embeds = model.encode_image(inputs, key)
        return embeds, model_state_of(model)

    _, evaluated = run(params, None)
    for name, array in evaluated.items():
        np.testing.assert_array_equal(array, params[name])
    _, trained = run(params, jax.random.key(0))
    statistics = init_model_state(tower.config)
    assert trained.keys() == evaluated.keys() == statistics.keys()
    for name, array in trained.items():
        assert np.abs(np.asarray(array) - np.asarray(params[name])).max() > 1e-4, name


def test_another_resolution(tower):
    if tower.which == "text":
        pytest.skip("a text has no resolution")
    image = dataclasses.replace(tower.config.image, image_size=2 * tower.config.image.image_size)
    config = dataclasses.replace(tower.config, image=image)
    inputs = tower.inputs(2, size=image.image_size)
    embeds = tower.jitted(config)(tower.params(config), inputs)
    assert embeds.shape == (2, EMBED)
    assert np.isfinite(embeds).all()


def test_what_is_saved_is_what_is_restored(tower, tmp_path):
    params = tower.params()
    writer = CheckpointWriter(tmp_path, CheckpointConfig(), {})
    writer.save(1, {"params": params})
    writer.close()
    like = {
        name: jax.ShapeDtypeStruct(p.shape, p.dtype, sharding=p.sharding)
        for name, p in params.items()
    }
    found = CheckpointReader(tmp_path).restore(1, {"params": like})["params"]
    assert found.keys() == params.keys()
    for name, array in found.items():
        np.testing.assert_array_equal(array, params[name])
