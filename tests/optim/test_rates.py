import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from clipjax.config import (
    ComputeConfig,
    ConvNetConfig,
    DualEncoderConfig,
    LoraConfig,
    OptimConfig,
    TextConfig,
    UsageError,
    ViTConfig,
)
from clipjax.models import param_axes, param_shapes
from clipjax.optim import Parameters, make_optimizer, rate_factors

MODEL = DualEncoderConfig(
    image=ViTConfig(image_size=16, patch_size=8, width=8, depth=3, num_heads=2, mlp_dim=8),
    text=TextConfig(vocab_size=30, context_length=8, width=8, depth=2, num_heads=2, mlp_dim=8),
    embed_dim=8,
)
SCANNED = dataclasses.replace(MODEL, compute=ComputeConfig(scan_layers=True))


def parameters_of(model, **more):
    shapes = {**param_shapes(model), **more}
    return Parameters(model=model, shapes=shapes, axes=param_axes(model))


def factors(model=MODEL, more=None, **fields):
    return rate_factors(OptimConfig(**fields), parameters_of(model, **(more or {})))


def test_without_rates_every_factor_is_one():
    assert set(factors().values()) == {1.0}


def test_the_last_pattern_that_matches_decides():
    found = factors(rates=("image/*=0.1", "*/attn/*=3", "log_logit_scale=10"))
    assert found["image/patchify/kernel"] == 0.1
    assert found["image/blocks/stack/0/attn/qkv/kernel"] == 3
    assert found["text/blocks/stack/0/attn/qkv/kernel"] == 3
    assert found["text/embedding"] == 1
    assert found["log_logit_scale"] == 10


def test_layers_decay_from_behind_as_in_beit():
    """Of three blocks the last one is at d, the first at d^3, the patches at d^4."""
    found = factors(layer_decay_image=0.5)
    assert found["image/patchify/kernel"] == found["image/positions"] == 0.5**4
    for block in range(3):
        assert found[f"image/blocks/stack/{block}/mlp/fc1/kernel"] == 0.5 ** (3 - block)
    assert found["image/norm/scale"] == found["image/project/kernel"] == 1
    assert {v for n, v in found.items() if not n.startswith("image/")} == {1.0}
    text = factors(layer_decay_text=0.1, rates=("text/*=2",))
    np.testing.assert_allclose(text["text/embedding"], 2 * 0.1**3)
    np.testing.assert_allclose(text["text/blocks/stack/1/ln_1/bias"], 2 * 0.1)


def test_of_a_stack_each_layer_has_its_own_factor():
    fields = {"layer_decay_image": 0.5, "rates": ("image/blocks/stack/1/attn/*=4",)}
    single, stacks = factors(**fields), factors(SCANNED, **fields)
    name = "image/blocks/stack/attn/qkv/kernel"
    assert stacks[name] == (0.125, 1.0, 0.5)
    for name, found in stacks.items():
        head, stack, rest = name.partition("/stack/")
        if stack:
            layers = range(param_shapes(SCANNED)[name][0])
            expected = tuple(single[f"{head}/stack/{i}/{rest}"] for i in layers)
            assert found == (expected if len(set(expected)) > 1 else expected[0])
        else:
            assert found == single[name]


def test_blocks_of_a_convnet_decay_through_its_stages():
    image = ConvNetConfig(image_size=16, widths=(4, 8, 12), depths=(1, 2, 1))
    found = factors(dataclasses.replace(MODEL, image=image), layer_decay_image=0.5)
    assert found["image/stem/kernel"] == 0.5**5
    assert found["image/stages/0/0/conv_1/kernel"] == 0.5**4
    assert found["image/downs/0/kernel"] == found["image/stages/1/0/conv_1/kernel"] == 0.5**3
    assert found["image/stages/1/1/conv_1/kernel"] == 0.5**2
    assert found["image/stages/2/0/conv_1/kernel"] == 0.5
    assert found["image/norm/scale"] == 1


def test_low_rank_factors_decay_with_the_layer_that_they_change():
    more = {
        "lora/image/blocks/stack/0/attn/q/a": (8, 2),
        "lora/image/blocks/stack/attn/v/a": (3, 8),
    }
    found = factors(more=more, layer_decay_image=0.5, lora=LoraConfig(rank=2))
    assert found["lora/image/blocks/stack/0/attn/q/a"] == 0.125
    assert found["lora/image/blocks/stack/attn/v/a"] == (0.125, 0.25, 0.5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rates": ("image/patchfy/*=2",)}, "config.optim.rates: 'image/patchfy/*' matches no"),
        (
            {"no_decay": ("*/position",)},
            "config.optim.no_decay: '*/position' matches no parameter.",
        ),
        ({"no_decay": ("!text/embeding",)}, "'!text/embeding' matches no parameter."),
    ],
)
def test_a_pattern_without_a_match_is_told(fields, message):
    with pytest.raises(UsageError) as error:
        make_optimizer(OptimConfig(**fields), 10, parameters_of(MODEL))
    assert message in str(error.value)
    assert "Did you mean" in str(error.value)


def shrunk(model, chosen, **fields):
    """What a step without a gradient leaves of parameters that are all one."""
    config = OptimConfig(
        peak_learning_rate=0.5, warmup_steps=0, schedule="constant", weight_decay=0.5, **fields
    )
    optimizer = make_optimizer(config, 10, parameters_of(model))
    params = {name: jnp.ones(param_shapes(model)[name]) for name in chosen}
    zeros = {name: jnp.zeros_like(param) for name, param in params.items()}
    updates, _ = optimizer.update(zeros, optimizer.init(params), params)
    return {name: np.asarray(params[name] + updates[name]) for name in chosen}


def test_a_rate_multiplies_the_decay_too():
    chosen = ("image/positions", "text/positions")
    found = shrunk(MODEL, chosen, rates=("image/*=0.5",))
    np.testing.assert_array_equal(np.unique(found["image/positions"]), [0.875])
    np.testing.assert_array_equal(np.unique(found["text/positions"]), [0.75])


def test_patterns_say_what_does_not_decay():
    chosen = ("image/positions", "text/positions", "text/embedding", "text/norm/scale")
    found = shrunk(MODEL, chosen, no_decay=("*/positions", "!text/positions"))
    means = [float(found[name].mean()) for name in chosen]
    assert means == [1.0, 0.75, 0.75, 1.0]


def test_of_a_stack_some_layers_do_not_decay():
    name = "image/blocks/stack/mlp/fc1/kernel"
    found = shrunk(SCANNED, (name,), no_decay=("image/blocks/stack/1/*",))[name]
    assert [float(layer.mean()) for layer in found] == [0.75, 1.0, 0.75]
    assert [float(layer.std()) for layer in found] == [0.0] * 3
