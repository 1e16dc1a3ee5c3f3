"""open_clip's config of a model, read and written."""

import dataclasses
import json

import hypothesis
import hypothesis.strategies as st
import pytest

from clipjax.config import DualEncoderConfig, TextConfig, UserError, ViTConfig, preset
from clipjax.config.presets_siglip import SIGLIPS
from clipjax.config.presets_vit import VITS
from clipjax.interchange.open_clip.config import from_open_clip, to_open_clip

PRESETS = VITS | SIGLIPS


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_comes_back_from_its_own_config(name):
    document = json.loads(json.dumps(to_open_clip(PRESETS[name])))
    config, options = from_open_clip(document["model_cfg"], document["preprocess_cfg"])
    assert config == PRESETS[name]
    assert options == {"custom_text": "SigLIP" in name}


# As open_clip publishes them, tokenizers and all.
SIGLIP2 = {
    "embed_dim": 768,
    "init_logit_bias": -10,
    "custom_text": True,
    "vision_cfg": {
        "image_size": 256,
        "timm_model_name": "vit_base_patch32_siglip_256",
        "timm_model_pretrained": False,
        "timm_pool": "map",
        "timm_proj": "none",
    },
    "text_cfg": {
        "context_length": 64,
        "vocab_size": 256000,
        "hf_tokenizer_name": "timm/ViT-B-32-SigLIP2-256",
        "tokenizer_kwargs": {"clean": "canonicalize"},
        "width": 768,
        "heads": 12,
        "layers": 12,
        "no_causal_mask": True,
        "proj_bias": True,
        "pool_type": "last",
        "norm_kwargs": {"eps": 1e-06},
        "act_kwargs": {"approximate": "tanh"},
    },
}
BIG_CLIPA = {
    "embed_dim": 1280,
    "vision_cfg": {
        "image_size": 336,
        "layers": 48,
        "width": 1664,
        "head_width": 104,
        "mlp_ratio": 4.9231,
        "patch_size": 14,
        "no_ln_pre": True,
        "pool_type": "avg",
        "final_ln_after_pool": True,
    },
    "text_cfg": {
        "context_length": 32,
        "vocab_size": 32000,
        "hf_tokenizer_name": "bert-base-uncased",
        "tokenizer_kwargs": {"strip_sep_token": True},
        "width": 1280,
        "heads": 20,
        "layers": 32,
        "pool_type": "last",
        "no_causal_mask": True,
    },
}
CLIP = {
    "embed_dim": 512,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 224, "layers": 12, "width": 768, "patch_size": 32},
    "text_cfg": {
        "context_length": 77,
        "vocab_size": 49408,
        "width": 512,
        "heads": 8,
        "layers": 12,
    },
}


def test_a_published_siglip():
    config, options = from_open_clip(
        SIGLIP2,
        {
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
            "interpolation": "bicubic",
            "resize_mode": "squash",
        },
    )
    # open_clip's config does not say with which scale training starts.
    expected = dataclasses.replace(preset("ViT-B-32-SigLIP2-256"), init_logit_scale=1 / 0.07)
    assert config == expected
    assert config.text.activation == "gelu_tanh"
    assert options == {"custom_text": True}


def test_a_published_clipa():
    preprocess = {
        "size": [336, 336],
        "mode": "RGB",
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "interpolation": "bilinear",
        "resize_mode": "squash",
        "fill_color": 0,
    }
    config, options = from_open_clip(BIG_CLIPA, preprocess)
    assert config == preset("ViT-bigG-14-CLIPA-336")
    assert config.image.mlp_dim == 8192
    assert options == {"custom_text": False}


def test_without_preprocessing_it_is_that_of_clip():
    assert from_open_clip(CLIP)[0] == preset("ViT-B-32-quickgelu")


def changed(model, section, **fields):
    copy = json.loads(json.dumps(model))
    (copy if section is None else copy[section]).update(fields)
    return copy


@pytest.mark.parametrize(
    ("section", "fields", "tower", "expected"),
    [
        ("text_cfg", {"pool_type": "argmax", "eos_id": 7}, "text", {"pool": "eot", "end_id": None}),
        ("text_cfg", {"pool_type": "eos", "eos_id": 7}, "text", {"pool": "eot", "end_id": 7}),
        # open_clip's default for it.
        ("text_cfg", {"pool_type": "eos"}, "text", {"pool": "eot", "end_id": 2}),
        ("text_cfg", {"pool_type": "last", "eos_id": 7}, "text", {"pool": "last", "end_id": 7}),
        ("text_cfg", {"pool_type": "last"}, "text", {"pool": "last", "end_id": None}),
        ("text_cfg", {"embed_cls": True, "pad_id": 3}, "text", {"pool": "class", "pad_id": 3}),
        ("text_cfg", {"proj_type": "none"}, "text", {"projection": False}),
        ("text_cfg", {"mlp_ratio": 3}, "text", {"mlp_dim": 1536}),
        ("text_cfg", {"ls_init_value": 1e-4}, "text", {"layer_scale": 1e-4}),
        ("text_cfg", {"norm_kwargs": None, "act_kwargs": None}, "text", {"norm_eps": 1e-5}),
        ("text_cfg", {"final_ln_after_pool": True, "output_tokens": True}, "text", {}),
        (
            "vision_cfg",
            {"image_size": [224, 224], "patch_size": (16, 16)},
            "image",
            {"patch_size": 16},
        ),
        ("vision_cfg", {"pool_type": "avg"}, "image", {"pool": "mean", "norm_before_pool": True}),
        ("vision_cfg", {"final_ln_after_pool": True}, "image", {"pool": "cls"}),
        (
            "vision_cfg",
            {"attentional_pool": True, "attn_pooler_heads": 4},
            "image",
            {"pool": "coca", "pooler_heads": 4},
        ),
        ("vision_cfg", {"pos_embed_type": "sin_cos_2d"}, "image", {"positions": "learned"}),
        ("vision_cfg", {"patch_dropout": 0.5}, "image", {"patch_dropout": 0.5}),
        ("vision_cfg", {"head_width": 96}, "image", {"num_heads": 8}),
        ("vision_cfg", {"timm_model_name": None, "qk_norm": False}, "image", {}),
        (None, {"init_logit_scale": 2.302585092994046}, None, {"init_logit_scale": 10.0}),
        (None, {"init_logit_bias": -10}, None, {"init_logit_bias": -10.0}),
    ],
)
def test_what_each_setting_means(section, fields, tower, expected):
    model = changed(CLIP, section, **fields)
    if "proj_type" in fields:
        model["embed_dim"] = 512
    config, _ = from_open_clip(model)
    assert config.text.width == 512
    part = config if tower is None else getattr(config, tower)
    for name, value in expected.items():
        assert getattr(part, name) == value
        assert type(getattr(part, name)) is type(value)


def test_timm_does_not_look_at_the_switch_of_quick_gelu():
    config, _ = from_open_clip(
        changed(changed(SIGLIP2, None, quick_gelu=True), "text_cfg", act_kwargs=None)
    )
    assert config.image.activation == "gelu_tanh"
    assert config.text.activation == "quick_gelu"


@pytest.mark.parametrize(
    ("model", "section", "fields", "message"),
    [
        (CLIP, "vision_cfg", {"qk_norm": True}, "vision_cfg.qk_norm=True is not supported"),
        (CLIP, "vision_cfg", {"atentional_pool": True}, "Did you mean 'attentional_pool'"),
        (CLIP, "vision_cfg", {"attentional_pool": "parallel"}, "attentional_pool='parallel'"),
        (CLIP, "vision_cfg", {"pool_type": "none"}, "supported: 'tok', 'avg'"),
        (CLIP, "vision_cfg", {"image_size": [224, 256]}, "must be the side of a square"),
        (CLIP, "vision_cfg", {"image_size": 225}, "patch_size=32 does not divide image_size=225"),
        (CLIP, "vision_cfg", {"head_width": 100}, "head_width=100 does not divide"),
        (CLIP, "vision_cfg", {"layers": "12"}, "vision_cfg.layers='12' must be int, not str"),
        (CLIP, "vision_cfg", {"layers": True}, "vision_cfg.layers=True must be int, not bool"),
        (CLIP, "vision_cfg", {"act_kwargs": {"approximate": "tanh"}}, "with quick_gelu"),
        (CLIP, "text_cfg", {"norm_kwargs": {"epsilon": 1}}, r"norm_kwargs.epsilon=1: .* 'eps'"),
        (CLIP, "text_cfg", {"pool_type": "first"}, "text_cfg.pool_type='first'"),
        (CLIP, "text_cfg", {"context_len": 76}, "Did you mean 'context_length'"),
        (CLIP, "text_cfg", {"hf_model_name": "t5-small"}, "hf_model_name='t5-small'"),
        (CLIP, None, {"vision": {}}, r"model_cfg.vision=\{\}: .*Did you mean 'vision_cfg'"),
        (CLIP, None, {"vision_cfg": None}, "vision_cfg=None must be dict"),
        (CLIP, None, {"embed_dim": 0}, "embed_dim=0 must be positive"),
        (CLIP, None, {"quick_gelu": 1}, "quick_gelu=1 must be bool"),
        (CLIP, None, {"nonscalar_logit_scale": True}, "nonscalar_logit_scale=True"),
        (SIGLIP2, "vision_cfg", {"image_size": 224}, "takes images of 256 pixels"),
        (SIGLIP2, "vision_cfg", {"timm_pool": "avg"}, "timm_pool='avg' is not supported"),
        (SIGLIP2, "vision_cfg", {"timm_pool": ""}, "timm_pool='' is not supported"),
        (SIGLIP2, "vision_cfg", {"timm_proj": "mlp"}, "timm_proj='mlp' is not supported"),
        (
            SIGLIP2,
            "vision_cfg",
            {"timm_model_name": "vit_base_patch16_siglip_255"},
            "Did you mean 'vit_base_patch16_siglip_256'",
        ),
        (
            SIGLIP2,
            "vision_cfg",
            {
                "timm_model_name": "vit_base_patch32_clip_256",
                "timm_pool": "token",
                "timm_proj": "linear",
            },
            "timm_proj='linear' is not supported for vit_base_patch32_clip_256",
        ),
    ],
)
def test_a_setting_that_would_make_another_model_is_refused_by_its_name(
    model, section, fields, message
):
    with pytest.raises(UserError, match=message) as error:
        from_open_clip(changed(model, section, **fields), source="cfg.json")
    assert str(error.value).startswith("cfg.json: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"size": 256}, "size=256 is not the size of the image tower, 224"),
        ({"resize_mode": "stretch"}, "resize_mode='stretch'"),
        ({"interpolation": "random"}, "interpolation='random'"),
        ({"mean": [0.5, 0.5]}, "must be three numbers"),
        ({"std": [0.5, "0.5", 0.5]}, "must be three numbers"),
        ({"mean": 0.5}, "mean=0.5 must be list"),
        ({"mode": "L"}, "mode='L'"),
        ({"means": []}, "Did you mean 'mean'"),
    ],
)
def test_preprocessing_that_cannot_be_followed_is_refused(fields, message):
    with pytest.raises(UserError, match=message):
        from_open_clip(CLIP, fields)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (DualEncoderConfig(image=ViTConfig(registers=4)), "model.image.registers=4"),
        (
            DualEncoderConfig(image=ViTConfig(positions="rope2d")),
            "model.image.positions='rope2d'",
        ),
        (DualEncoderConfig(text=TextConfig(pool="mean")), "model.text.pool='mean'"),
        (DualEncoderConfig(text=TextConfig(activation="silu")), "model.text.activation='silu'"),
        (DualEncoderConfig(image=ViTConfig(activation="quick_gelu")), "one switch for quick GELU"),
        (DualEncoderConfig(image=ViTConfig(pool="map", width=96)), "timm has none of these sizes"),
    ],
)
def test_a_model_that_open_clip_has_not_is_refused_by_what_it_lacks(config, message):
    with pytest.raises(UserError, match=message):
        to_open_clip(config)


def test_how_a_model_is_computed_is_not_written():
    config = preset("ViT-B-32")
    other = dataclasses.replace(
        config, compute=dataclasses.replace(config.compute, dtype="bfloat16", scan_layers=True)
    )
    assert to_open_clip(other) == to_open_clip(config)


def test_the_caller_may_choose_the_names_of_the_text_tower():
    document = to_open_clip(preset("ViT-B-32"), custom_text=True)
    assert from_open_clip(document["model_cfg"])[1] == {"custom_text": True}
    document = to_open_clip(preset("ViT-B-16-SigLIP"), custom_text=False)
    assert from_open_clip(document["model_cfg"])[1] == {"custom_text": False}


@st.composite
def fields(draw):
    """Of the image tower, the text tower and the model; dataclasses are built in the test."""
    image_heads, text_heads = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    activation = draw(st.sampled_from(["gelu", "quick_gelu"]))
    pool = draw(st.sampled_from(["cls", "mean"]))
    optional = st.none() | st.sampled_from([1e-6, 1e-4, 0.1])
    image = dict(
        patch_size=draw(st.sampled_from([8, 14, 16, 32])),
        width=image_heads * draw(st.integers(1, 99)),
        num_heads=image_heads,
        depth=draw(st.integers(1, 50)),
        mlp_dim=draw(st.integers(1, 20_000)),
        pool=pool,
        unpooled_class_token=pool == "mean",
        norm_before_pool=pool == "mean" and draw(st.booleans()),
        pre_norm=draw(st.booleans()),
        layer_scale=draw(optional),
        patch_dropout=draw(st.sampled_from([0.0, 0.5])),
        pooler_queries=draw(st.sampled_from([256, 7])),
        activation=activation,
        norm_eps=draw(st.sampled_from([1e-5, 1e-6])),
    )
    text = dict(
        vocab_size=draw(st.integers(1, 10**6)),
        context_length=draw(st.integers(1, 512)),
        end_id=draw(st.none() | st.integers(0, 5)),
        pad_id=draw(st.integers(0, 3)),
        width=text_heads * draw(st.integers(1, 99)),
        num_heads=text_heads,
        mlp_dim=draw(st.integers(1, 20_000)),
        causal=draw(st.booleans()),
        pool=draw(st.sampled_from(["eot", "last"])),
        projection_bias=draw(st.booleans()),
        layer_scale=draw(optional),
        activation=activation
        if activation == "quick_gelu"
        else draw(st.sampled_from(["gelu", "gelu_tanh"])),
        norm_eps=draw(st.sampled_from([1e-5, 1e-12])),
    )
    model = dict(
        embed_dim=draw(st.integers(1, 4096)),
        init_logit_scale=draw(st.sampled_from([1 / 0.07, 1.0, 10.0, 17.25, 100.0, 0.123456789])),
        init_logit_bias=draw(st.none() | st.floats(-20, 20)),
        resize=draw(st.sampled_from(["crop", "squash", "pad"])),
        interpolation=draw(st.sampled_from(["bicubic", "bilinear"])),
    )
    return image, text, model


@hypothesis.given(fields(), st.none() | st.booleans())
@hypothesis.settings(deadline=None, max_examples=150)
def test_every_config_of_these_families_comes_back(fields, custom_text):
    image, text, model = fields
    config = DualEncoderConfig(image=ViTConfig(**image), text=TextConfig(**text), **model)
    document = json.loads(json.dumps(to_open_clip(config, custom_text=custom_text)))
    read, options = from_open_clip(document["model_cfg"], document["preprocess_cfg"])
    assert read == config
    assert options == {"custom_text": bool(custom_text)}
