"""Files of AlignModel: what they say, what is refused. Its tensors: test_references."""

import copy
import dataclasses
import json

import numpy as np
import pytest

from clipjax.config import BertConfig, UserError, preset
from clipjax.interchange.transfer import read_params, written
from clipjax.interchange.transformers import align
from clipjax.models import param_shapes

BASE = preset("align-base")
FILES = align.write(BASE)
PICTURES = FILES["preprocessor_config.json"]


def tiny(**text):
    image = dataclasses.replace(BASE.image, width_factor=0.25, depth_factor=0.3)
    small = {"vocab_size": 20, "width": 8, "depth": 1, "num_heads": 2, "mlp_dim": 12}
    return dataclasses.replace(
        BASE,
        image=image,
        text=dataclasses.replace(BASE.text, max_positions=64, **small, **text),
        embed_dim=image.out_channels,
    )


@pytest.mark.parametrize(
    "config",
    [
        BASE,
        tiny(),
        dataclasses.replace(tiny(), interpolation="bicubic", pixel_mean=(0.1, 0.2, 0.3)),
        dataclasses.replace(tiny(), resize_side=None, pixel_std=(0.2, 0.3, 0.4)),
        dataclasses.replace(
            tiny(), image=dataclasses.replace(tiny().image, symmetric_padding=(3, 5))
        ),
        dataclasses.replace(tiny(), init_logit_scale=16.0),
    ],
)
def test_the_config_comes_back_from_the_files_that_are_written(config):
    files = json.loads(json.dumps(align.write(config)))
    assert align.read(files["config.json"], files["preprocessor_config.json"]) == config


def test_what_the_public_weights_leave_out_has_the_defaults_of_transformers():
    """Their config.json holds no more than what differs; pictures go from -1 to 1."""
    pictures = {
        "crop_size": {"height": 289, "width": 289},
        "do_center_crop": True,
        "do_normalize": False,
        "do_rescale": True,
        "do_resize": True,
        "include_top": False,
        "resample": 2,
        "rescale_factor": 0.00784313725490196,
        "rescale_offset": True,
        "size": {"height": 346, "width": 346},
    }
    values = {"model_type": "align", "vision_config": {"image_size": 600}, "text_config": None}
    assert align.read(values, pictures) == BASE


def test_a_second_division_by_the_deviation_is_part_of_it():
    """`include_top` of EfficientNet's processor."""
    pictures = {**PICTURES, "do_normalize": True, "include_top": True}
    pictures |= {"rescale_offset": False, "rescale_factor": 1 / 255}
    pictures |= {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.25, 0.3]}
    config = align.read(FILES["config.json"], pictures)
    # ((x - mean) / std) / std
    np.testing.assert_allclose(config.pixel_mean, [0.4, 0.5, 0.6])
    np.testing.assert_allclose(config.pixel_std, [0.04, 0.0625, 0.09])


@pytest.mark.parametrize(
    ("section", "field", "value", "message"),
    [
        ("vision_config", "kernel_sizes", [3] * 7, "vision_config: kernel_sizes is"),
        ("vision_config", "hidden_act", "gelu", "hidden_act is 'gelu', expected 'swish'"),
        ("vision_config", "pooling_type", "max", "pooling_type is 'max', expected 'mean'"),
        ("vision_config", "squeeze_expansion_ratio", 0.5, "squeeze_expansion_ratio is 0.5"),
        ("vision_config", "depthwise_padding", "3", "expected a list of whole numbers"),
        ("vision_config", "width_coefficient", "2", "width_coefficient is '2', expected a number"),
        ("text_config", "hidden_act", "mish", "text_config: hidden_act is 'mish'"),
        ("text_config", "pad_token_id", None, "pad_token_id is None, expected a whole number"),
        (None, "temperature_init_value", 0, "temperature_init_value is 0, expected a positive"),
        (None, "projection_dim", 6.4, "projection_dim is 6.4, expected a whole number"),
        (None, "text_config", [1], "text_config is .1., expected an object"),
    ],
)
def test_a_field_that_cannot_be_computed_here_is_named(section, field, value, message):
    values = copy.deepcopy(FILES["config.json"])
    (values[section] if section else values)[field] = value
    with pytest.raises(UserError, match=message) as error:
        align.read(values, PICTURES)
    assert "config.json" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"do_resize": False}, "do_resize is False"),
        ({"do_rescale": False}, "do_rescale is False"),
        ({"resample": 0}, "resample is 0, expected 2 .bilinear. or 3"),
        ({"size": {"height": 346, "width": 300}}, "equal height and width"),
        ({"size": {"shortest_edge": 346}}, "equal height and width"),
        ({"crop_size": {"height": 400, "width": 400}}, "expected at most the size, 346"),
        ({"rescale_factor": 0}, "expected a positive number"),
        ({"do_normalize": True, "image_std": [0.1, 0.0, 0.1]}, "expected positive numbers"),
    ],
)
def test_a_picture_that_cannot_be_made_here_is_refused(fields, message):
    with pytest.raises(UserError, match=message) as error:
        align.read(FILES["config.json"], {**PICTURES, **fields})
    assert str(error.value).startswith("preprocessor_config.json")


def test_without_the_file_of_the_pictures_nothing_is_guessed():
    with pytest.raises(UserError, match=r"preprocessor_config\.json is missing"):
        align.read(FILES["config.json"], None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: dataclasses.replace(c, resize="crop"), "config.resize is 'crop'"),
        (lambda c: dataclasses.replace(c, crop_offset="nearest"), "config.crop_offset"),
        (lambda c: dataclasses.replace(c, init_logit_bias=-1.0), "config.init_logit_bias"),
        (
            lambda c: dataclasses.replace(
                c, image=dataclasses.replace(c.image, projection=True, head=True)
            ),
            "config.image.head is True",
        ),
        (
            lambda c: dataclasses.replace(
                c, text=dataclasses.replace(c.text, pool="mean", unused_pooler=False)
            ),
            "config.text.pool is 'mean'",
        ),
        (lambda c: dataclasses.replace(c, text=BertConfig()), "config.text.first_position is 2"),
        (lambda c: preset("ViT-B-32"), "config.image.kind is 'vit'"),
    ],
)
def test_a_model_that_is_no_align_is_not_written(change, message):
    with pytest.raises(UserError, match=message):
        align.write(change(BASE))


def test_a_model_without_pooler_is_written_with_one_and_read_without(drawn_tensors):
    """AlignModel always has one, and never reads it."""
    config = tiny(unused_pooler=False)
    layout = align.layout(config)
    params = dict(read_params(layout, config, drawn_tensors(layout, param_shapes(config))))
    tensors = dict(written(layout, config, params))
    assert not tensors["text_model.pooler.dense.weight"].any()
    assert tensors["text_model.pooler.dense.weight"].shape == (8, 8)
    drawn = drawn_tensors(layout, param_shapes(config))
    drawn._shapes = {name: array.shape for name, array in tensors.items()}
    drawn.read = tensors.__getitem__
    again = dict(read_params(layout, config, drawn))
    assert again.keys() == params.keys()
    for name, array in params.items():
        np.testing.assert_array_equal(again[name], array, err_msg=name)
