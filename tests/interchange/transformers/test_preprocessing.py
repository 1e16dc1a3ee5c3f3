import dataclasses
import json

import pytest

from clipjax.config import PRESETS, UserError
from clipjax.interchange.transformers import from_transformers, to_transformers

CLIP = dataclasses.replace(PRESETS["ViT-L-14-336"], crop_offset="down")
SIGLIP = dataclasses.replace(PRESETS["ViT-B-16-SigLIP"], resize="squash")


def read(preprocessor, config=CLIP, model_type=None):
    """The config of a model with another preprocessor_config.json."""
    files = to_transformers(config, model_type=model_type)
    return from_transformers(files["config.json"], preprocessor)[0]


def written(config, model_type=None):
    return json.loads(
        json.dumps(to_transformers(config, model_type=model_type)["preprocessor_config.json"])
    )


def test_an_early_file_of_clip():
    """Sizes are single numbers; what is not there is so by default."""
    early = {"crop_size": 336, "do_center_crop": True, "do_normalize": True, "size": 336}
    early |= {"image_mean": [0.1, 0.2, 0.3], "image_std": [1, 2, 3], "resample": 3}
    config = read(early)
    assert (config.resize, config.interpolation) == ("crop", "bicubic")
    assert (config.pixel_mean, config.pixel_std) == ((0.1, 0.2, 0.3), (1.0, 2.0, 3.0))


def test_without_a_file_the_size_is_the_models():
    assert read(None) == CLIP


def test_a_processor_within_another_file():
    assert read({"image_processor": written(CLIP), "processor_class": "CLIPProcessor"}) == CLIP


@pytest.mark.parametrize(
    ("change", "fields"),
    [
        ({}, ("crop", None, "down")),
        ({"size": {"shortest_edge": 384}}, ("crop", 384, "down")),
        (
            {"do_center_crop": False, "size": {"height": 336, "width": 336}},
            ("squash", None, "nearest"),
        ),
        ({"size": {"height": 336, "width": 336}}, ("squash", None, "nearest")),
        ({"size": {"height": 384, "width": 384}}, ("squash", 384, "down")),
    ],
)
def test_how_a_picture_becomes_a_square(change, fields):
    config = read(written(CLIP) | change)
    assert (config.resize, config.resize_side, config.crop_offset) == fields
    assert read(written(config)) == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": {"shortest_edge": 224}}, "size is {'shortest_edge': 224}, expected at least"),
        ({"size": {"height": 336, "width": 400}}, "size is .*equal height and width"),
        ({"size": {"shortest_edge": 336, "longest_edge": 400}}, "size is .*a shortest_edge, or"),
        ({"size": {"longest_edge": 400}}, "size is .*expected a shortest_edge, or"),
        ({"size": None}, "size is None, expected"),
        ({"crop_size": 224}, "crop_size is 224, expected the image_size of the model, 336"),
        ({"crop_size": {"height": 336}}, "crop_size is .*expected the image_size of the model"),
        ({"do_center_crop": False}, "size is {'shortest_edge': 336}, expected a height and"),
        ({"resample": 1}, r"resample is 1, expected 2 \(bilinear\) or 3 \(bicubic\)"),
        ({"do_rescale": False}, "do_rescale is False, expected True"),
        ({"rescale_factor": 1 / 127.5}, "rescale_factor is 0.0078.*expected 1 / 255"),
        ({"do_normalize": False}, "do_normalize is False, expected True"),
        ({"do_resize": None}, "do_resize is None, expected True"),
        ({"image_mean": [0.5]}, r"image_mean is \[0.5\], expected three numbers"),
        ({"image_std": ["a", 1, 1]}, "image_std is .*expected three numbers"),
    ],
)
def test_a_step_that_is_not_supported_is_named(change, message):
    with pytest.raises(UserError, match=f"preprocessor_config.json: {message}"):
        read(written(CLIP) | change)


def test_a_default_that_does_not_fit_is_called_one():
    with pytest.raises(UserError, match=r"'height': 224.*the default of transformers, expected"):
        read({"size": {"shortest_edge": 336}})


def test_one_number_for_all_channels():
    assert read(written(CLIP) | {"image_std": 0.5}).pixel_std == (0.5, 0.5, 0.5)


def test_siglip_squeezes():
    assert "crop_size" not in written(SIGLIP)
    assert read(written(SIGLIP), SIGLIP) == SIGLIP
    with pytest.raises(UserError, match="size is 224"):
        read(written(SIGLIP) | {"size": 224}, SIGLIP)


def test_patches_must_be_the_models():
    file = written(SIGLIP, "siglip2")
    assert (file["patch_size"], file["max_num_patches"]) == (16, 196)
    assert read(file, SIGLIP, "siglip2") == SIGLIP
    with pytest.raises(UserError, match="patch_size is 14, expected 16"):
        read(file | {"patch_size": 14}, SIGLIP, "siglip2")
