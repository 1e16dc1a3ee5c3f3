import copy
import dataclasses
import json

import pytest

from clipjax.config import DualEncoderConfig, TextConfig, UserError, ViTConfig
from clipjax.interchange.transformers import (
    FAMILIES,
    from_transformers,
    layout,
    model_type_of,
    to_transformers,
)
from clipjax.models import param_shapes

CLIP = DualEncoderConfig(
    image=ViTConfig(image_size=48, patch_size=16, width=32, depth=2, num_heads=4, mlp_dim=40),
    text=TextConfig(
        vocab_size=70, context_length=9, width=24, depth=3, num_heads=3, mlp_dim=56, norm_eps=1e-4
    ),
    embed_dim=20,
    crop_offset="down",
)
TANH = {"activation": "gelu_tanh", "norm_eps": 1e-6}
SIGLIP = DualEncoderConfig(
    image=dataclasses.replace(
        CLIP.image, pool="map", pre_norm=False, patch_bias=True, projection=False, **TANH
    ),
    text=dataclasses.replace(CLIP.text, causal=False, pool="last", projection_bias=True, **TANH),
    embed_dim=32,
    init_logit_scale=10.0,
    init_logit_bias=-10.0,
    pixel_mean=(0.5, 0.5, 0.5),
    pixel_std=(0.5, 0.5, 0.5),
    resize="squash",
)
CONFIGS = {"clip": CLIP, "siglip": SIGLIP, "siglip2": SIGLIP}


@pytest.fixture(params=list(CONFIGS))
def model_type(request):
    return request.param


def files_of(model_type):
    """The JSON of both files as a reader gets it: written out and parsed."""
    files = to_transformers(CONFIGS[model_type], model_type=model_type)
    files = json.loads(json.dumps(files))
    return files["config.json"], files["preprocessor_config.json"]


def test_a_round_trip_gives_the_config_back(model_type):
    assert from_transformers(*files_of(model_type)) == (
        CONFIGS[model_type],
        {"model_type": model_type},
    )


@pytest.mark.parametrize(
    "change",
    [
        {"init_logit_scale": 10.0},
        {"resize": "squash", "interpolation": "bilinear", "crop_offset": "nearest"},
        {"resize": "crop", "resize_side": 60},
        {"resize": "squash", "resize_side": 60},
        {"pixel_mean": (0.1, 0.2, 0.3)},
        {"text": dataclasses.replace(CLIP.text, end_id=5)},
        {"image": dataclasses.replace(CLIP.image, activation="quick_gelu", norm_eps=1e-7)},
    ],
)
def test_what_a_clip_may_have_comes_back(change):
    config = dataclasses.replace(CLIP, **change)
    files = to_transformers(config)
    assert from_transformers(files["config.json"], files["preprocessor_config.json"])[0] == config


def test_every_parameter_has_one_place(model_type):
    config = CONFIGS[model_type]
    entries = layout(config, model_type=model_type).entries
    assert sorted(entry.ours for entry in entries) == sorted(param_shapes(config))


def test_the_family_follows_from_the_model():
    assert (model_type_of(CLIP), model_type_of(SIGLIP)) == ("clip", "siglip")
    assert to_transformers(SIGLIP)["config.json"]["model_type"] == "siglip"
    assert layout(CLIP).entries == layout(CLIP, model_type="clip").entries
    assert {"clip", "siglip", "siglip2"} <= FAMILIES.keys()


def test_the_defaults_are_the_published_base_models():
    """An empty config.json; by the papers' tables."""
    clip, _ = from_transformers({"model_type": "clip"}, None)
    quick = {"activation": "quick_gelu"}
    image, text = ViTConfig(**quick), TextConfig(**quick)
    assert clip == DualEncoderConfig(image=image, text=text, crop_offset="down")
    siglip, _ = from_transformers({"model_type": "siglip", "vision_config": None}, None)
    assert (siglip.image.image_size, siglip.image.patch_size) == (224, 16)
    assert (siglip.text.vocab_size, siglip.text.context_length) == (32000, 64)
    assert (siglip.resize, siglip.interpolation) == ("squash", "bicubic")
    naflex, _ = from_transformers({"model_type": "siglip2"}, None)
    assert (naflex.image.image_size, naflex.interpolation) == (256, "bilinear")
    assert naflex.image.num_patches == 256


# ---- files as they were published


def test_pixels_that_fill_no_patch_are_left_out(model_type):
    """So400m/14 at 384 pixels: 27 patches a side, and 6 pixels that are not looked at."""
    settings, _ = files_of(model_type)
    settings["vision_config"]["patch_size"] = 14
    config, _ = from_transformers(settings, None)
    sizes = (42, False) if model_type == "siglip2" else (48, True)
    assert (config.image.image_size, config.image.crop_remainder) == sizes
    assert config.image.num_patches == 9


def test_the_end_of_a_text_in_older_files():
    """Before transformers 4.31 the id was wrong: 2, which there means the largest id."""
    settings, preprocessor = files_of("clip")
    settings["text_config"]["eos_token_id"] = 2
    assert from_transformers(settings, preprocessor)[0].text.eot_id == 69
    settings["text_config"]["eos_token_id"] = 7
    assert from_transformers(settings, preprocessor)[0].text.eot_id == 7


def test_sections_under_their_older_names_count():
    settings, _ = files_of("clip")
    settings["text_config_dict"] = {**settings["text_config"], "hidden_act": "quick_gelu"}
    settings["vision_config_dict"] = None
    config, _ = from_transformers(settings, None)
    assert (config.text.activation, config.image.activation) == ("quick_gelu", "gelu")


def test_activations_of_other_names_are_the_same_function():
    settings, _ = files_of("siglip")
    settings["vision_config"]["hidden_act"] = "gelu_new"
    assert from_transformers(settings, None)[0].image.activation == "gelu_tanh"


@pytest.mark.parametrize(
    ("section", "field", "value", "message"),
    [
        ("vision_config", "hidden_act", "mish", "hidden_act is 'mish', expected one of gelu"),
        ("vision_config", "num_channels", 1, "num_channels is 1, expected 3"),
        ("vision_config", "patch_size", [16, 8], r"patch_size is \[16, 8\], expected a whole"),
        ("vision_config", "hidden_size", "32", "hidden_size is '32', expected a whole number"),
        ("text_config", "layer_norm_eps", None, "layer_norm_eps is None, expected a number"),
        ("text_config", "num_attention_heads", 5, "num_heads=5 does not divide width=24"),
    ],
)
def test_a_field_that_is_not_supported_is_named(model_type, section, field, value, message):
    settings, preprocessor = files_of(model_type)
    settings[section][field] = value
    with pytest.raises(UserError, match=f"config.json.*{message}"):
        from_transformers(settings, preprocessor)


@pytest.mark.parametrize(
    ("model_type", "section", "field", "value", "message"),
    [
        ("clip", "text_config", "eos_token_id", [1, 2], r"eos_token_id is \[1, 2\]"),
        ("siglip", "vision_config", "vision_use_head", False, "vision_use_head is False"),
        ("siglip", "text_config", "projection_size", 24, "projection_size is 24, expected 32"),
        ("siglip2", "vision_config", "num_patches", 12, "num_patches is 12, expected a square"),
    ],
)
def test_fields_of_one_family(model_type, section, field, value, message):
    settings, preprocessor = files_of(model_type)
    settings[section][field] = value
    with pytest.raises(UserError, match=f"config.json: {section}: {message}"):
        from_transformers(settings, preprocessor)


@pytest.mark.parametrize("name", [None, "clip_vision_model", "sigilp", 3])
def test_other_families_are_refused(name):
    with pytest.raises(UserError, match=r"model_type is .*expected one of .*clip, siglip"):
        from_transformers({"model_type": name}, None)


def test_a_section_that_is_none(model_type):
    settings, preprocessor = files_of(model_type)
    settings["text_config"] = [1]
    with pytest.raises(UserError, match=r"text_config is \[1\], expected an object"):
        from_transformers(settings, preprocessor)


@pytest.mark.parametrize(
    ("config", "model_type", "message"),
    [
        (SIGLIP, "clip", r"CLIPModel cannot hold this model: config.image.pool is 'map'"),
        (CLIP, "siglip", r"SiglipModel cannot hold this model: config.image.pool is 'cls'"),
        (dataclasses.replace(SIGLIP, init_logit_bias=None), "siglip2", "init_logit_bias is None"),
        (dataclasses.replace(CLIP, resize="pad"), "clip", "config.resize is 'pad'"),
        (
            dataclasses.replace(CLIP, text=dataclasses.replace(CLIP.text, end_id=2)),
            "clip",
            "config.text.end_id=2 means the largest id",
        ),
    ],
)
def test_a_model_that_a_family_cannot_hold(config, model_type, message):
    with pytest.raises(UserError, match=message):
        to_transformers(config, model_type=model_type)


@pytest.mark.parametrize(
    "change",
    [
        {"registers": 2},
        {"positions": "rope2d", "width": 32},
        {"layer_scale": 0.1},
        {"patch_bias": True, "pool": "cls"},
        {"qkv_bias": False},
        {"projection_bias": True},
        {"projection": False, "width": 20, "num_heads": 5},
        {"unpooled_class_token": True, "pool": "mean"},
    ],
)
def test_an_image_tower_that_no_family_holds(change):
    config = dataclasses.replace(CLIP, image=dataclasses.replace(CLIP.image, **change))
    for family in ("clip", "siglip", "siglip2"):
        with pytest.raises(UserError, match="cannot hold this model"):
            layout(config, model_type=family)


def test_the_files_are_not_shared():
    """What a caller changes in one does not reach the next."""
    first = to_transformers(CLIP)
    untouched = copy.deepcopy(first)
    first["config.json"]["text_config"]["vocab_size"] = 1
    first["preprocessor_config.json"]["image_mean"][0] = 7.0
    assert to_transformers(CLIP) == untouched
