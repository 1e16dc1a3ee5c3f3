import dataclasses

import numpy as np
import pytest

from clipjax.config import PRESETS, DualEncoderConfig, ResNetConfig, TextConfig, UserError
from clipjax.interchange import openai
from clipjax.interchange.transfer import read_params, written
from clipjax.models import param_shapes

TEXT = TextConfig(
    vocab_size=30,
    context_length=5,
    width=64,
    num_heads=1,
    depth=2,
    mlp_dim=80,
    activation="quick_gelu",
)


def quick(name):
    """A preset as OpenAI trained it."""
    config = PRESETS[name]
    image = dataclasses.replace(config.image, activation="quick_gelu")
    text = dataclasses.replace(config.text, activation="quick_gelu")
    return dataclasses.replace(config, image=image, text=text)


def shapes_of(config):
    layout, ours = openai.layout(config), param_shapes(config)
    return {
        name: entry.their_shape(ours[entry.ours])
        for entry in layout.entries
        for name in entry.theirs
    }


@pytest.mark.parametrize("name", ["ViT-B-32", "ViT-B-16", "ViT-L-14", "ViT-L-14-336"])
def test_the_published_transformers_are_recognised(name):
    shapes = shapes_of(quick(name))
    assert openai.config_from_shapes(shapes) == quick(name)
    # The whole numbers change nothing.
    more = {**shapes, "input_resolution": (), "context_length": (), "vocab_size": ()}
    assert openai.config_from_shapes(more) == quick(name)


def resnet_shapes(side, width, depths):
    """The tensors of a ModifiedResNet that tell its sizes, and some that must not count."""
    shapes = {
        "visual.attnpool.positional_embedding": ((side // 32) ** 2 + 1, 32 * width),
        "text_projection": (64, 24),
        "positional_embedding": (5, 64),
        "token_embedding.weight": (30, 64),
        "ln_final.weight": (64,),
        **{f"transformer.resblocks.{i}.mlp.c_fc.weight": (80, 64) for i in range(2)},
    }
    for stage, depth in enumerate(depths):
        for i in range(depth):
            planes = width * 2**stage
            shapes[f"visual.layer{stage + 1}.{i}.conv1.weight"] = (planes, 4 * planes, 1, 1)
            shapes[f"visual.layer{stage + 1}.{i}.bn1.running_mean"] = (planes,)
        shapes[f"visual.layer{stage + 1}.0.downsample.0.weight"] = (4 * planes, planes, 1, 1)
    return shapes


@pytest.mark.parametrize(
    ("side", "width", "depths", "heads"),
    [
        (224, 64, (3, 4, 6, 3), 32),  # RN50
        (224, 64, (3, 4, 23, 3), 32),  # RN101
        (288, 80, (4, 6, 10, 6), 40),  # RN50x4
        (384, 96, (6, 8, 18, 8), 48),  # RN50x16
        (448, 128, (3, 15, 36, 10), 64),  # RN50x64
    ],
)
def test_the_published_resnets_are_recognised(side, width, depths, heads):
    config = openai.config_from_shapes(resnet_shapes(side, width, depths))
    image = ResNetConfig(image_size=side, width=width, depths=depths, num_heads=heads)
    assert config == DualEncoderConfig(image=image, text=TEXT, embed_dim=24)


def tiny():
    config = quick("ViT-B-32")
    sizes = {"width": 64, "num_heads": 1, "depth": 2, "mlp_dim": 96}
    image = dataclasses.replace(config.image, image_size=16, patch_size=8, **sizes)
    return dataclasses.replace(config, image=image, text=TEXT, embed_dim=24)


class Halves:
    """A file in half precision, with the whole numbers that OpenAI's have."""

    source = "ViT.safetensors"

    def __init__(self, shapes, draw):
        self.arrays = {n: draw(n, shape).astype(np.float16) for n, shape in shapes.items()}
        self.arrays["input_resolution"] = np.array(16)

    def shapes(self):
        return {name: array.shape for name, array in self.arrays.items()}

    def read(self, name):
        return self.arrays[name]


def test_half_precision_is_read_as_it_is(draw):
    config = tiny()
    file = Halves(shapes_of(config), draw)
    layout = openai.layout(openai.config_from_shapes(file.shapes()))
    params = dict(read_params(layout, config, file))
    assert {array.dtype for array in params.values()} == {np.dtype(np.float32)}
    back = dict(written(layout, config, params))
    assert back.keys() == file.arrays.keys() - {"input_resolution"}
    for name, array in back.items():
        np.testing.assert_array_equal(array, np.float32(file.arrays[name]), err_msg=name)


@pytest.mark.parametrize(
    ("drop", "change", "message"),
    [
        ("text_projection", {}, "text_projection is missing"),
        ("transformer.resblocks.0.mlp.c_fc.weight", {}, "c_fc.weight is missing"),
        (None, {"visual.positional_embedding": (6, 64)}, "6 positions are not one more than a"),
        (None, {"positional_embedding": ()}, "tuple index out of range"),
    ],
)
def test_other_files_are_refused(drop, change, message):
    shapes = {n: s for n, s in shapes_of(tiny()).items() if n != drop} | change
    with pytest.raises(UserError, match=message):
        openai.config_from_shapes(shapes)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"text": TextConfig()}, "text.activation is 'gelu'"),
        ({"init_logit_bias": -10.0}, "init_logit_bias is -10.0"),
    ],
)
def test_other_models_are_refused(change, field):
    with pytest.raises(UserError, match=f"openai cannot hold this model: config.{field}"):
        openai.layout(dataclasses.replace(quick("ViT-B-32"), **change))
