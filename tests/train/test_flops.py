"""What a step is taken to compute, against what its program computes."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from clipjax.config import LoraConfig, StageConfig
from clipjax.core.flops import program_flops
from clipjax.models import init_params, with_params
from clipjax.models.cost import image_forward_flops, text_forward_flops
from clipjax.train.flops import run_flops, training_flops

CASES = {
    "all": ({}, 3, 3),
    "locked": ({"optim.lock_image": 0}, 1, 3),
    "half locked": ({"optim.lock_text": 1}, 3, 2),
    "frozen by name": ({"optim.freeze": ("text/*",)}, 3, 1),
    "LoRA of one tower": ({"optim.lora": LoraConfig(rank=2, matrices=("text/*",))}, 1, 2),
}


@pytest.fixture
def two_blocks(tiny_config, replace_in):
    return replace_in(tiny_config, "model.text.depth", 2)


@pytest.mark.parametrize("name", CASES)
def test_gradients_cost_what_is_trained(two_blocks, replace_in, name):
    changes, image, text = CASES[name]
    config = two_blocks
    for field, value in changes.items():
        config = replace_in(config, field, value)
    model = config.model
    expected = image * image_forward_flops(model) + text * text_forward_flops(model)
    assert training_flops(config) == expected


@pytest.mark.parametrize("tower", ["image", "text"])
def test_three_times_forward_is_what_the_program_of_a_tower_multiplies(two_blocks, tower):
    """Within what the gradient of the first layer's input, which nobody asks for, would cost."""
    model = two_blocks.model
    params = jax.eval_shape(lambda: init_params(model, 0))
    side, length = model.image.image_size, model.text.context_length
    inputs = {
        "image": jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32),
        "text": jax.ShapeDtypeStruct((1, length), jnp.int32),
    }[tower]

    def total(params, inputs):
        built = with_params(model, params)
        return (built.encode_image(inputs) if tower == "image" else built.encode_text(inputs)).sum()

    forward = program_flops(total, params, inputs)
    both = program_flops(jax.value_and_grad(total), params, inputs)
    assert 2.5 < both / forward < 3.05


def test_patches_that_are_left_out_cost_nothing(tiny_config):
    """Of four patches and a class token two patches stay: three tokens of five."""
    model = tiny_config.model
    halved = dataclasses.replace(model, image=dataclasses.replace(model.image, patch_dropout=0.5))
    whole, half = (image_forward_flops(each, training=True) for each in (model, halved))
    assert image_forward_flops(halved) == whole
    width, mlp, depth, dim = 32, 64, model.image.depth, model.embed_dim

    def of_tokens(tokens):
        block = 2 * tokens * width * (4 * width + 2 * mlp) + 4 * tokens**2 * width
        return 2 * 4 * 3 * 8**2 * width + depth * block + 2 * width * dim

    assert (whole, half) == (of_tokens(5), of_tokens(3))


def test_the_cost_of_a_run_is_that_of_its_stages(tiny_config):
    stages = {"small": StageConfig(image_size=8, global_batch_size=32)}
    stages["large"] = StageConfig(first_step=8)
    config = dataclasses.replace(tiny_config, stages=stages)
    small, large = (training_flops(part.config) for part in config.parts)
    assert small < large == training_flops(tiny_config)
    assert run_flops(config) == 8 * 32 * small + 4 * 16 * large
    assert run_flops(tiny_config) == 12 * 16 * large
