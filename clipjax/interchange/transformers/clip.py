"""CLIPModel of transformers."""

import math
from collections.abc import Mapping
from typing import Any

from clipjax.config import DualEncoderConfig, TextConfig, UserError, ViTConfig
from clipjax.interchange.layout import Entry, Layout, linear, norm, same
from clipjax.interchange.requirements import require
from clipjax.interchange.transformers.fields import Section
from clipjax.interchange.transformers.preprocessing import FILE, read_square, write_square
from clipjax.interchange.transformers.towers import (
    FORMAT,
    POSITION_IDS,
    encoder,
    read_sides,
    read_tower,
    text_embeddings,
    written_tower,
)

NAME = "transformers' CLIPModel"

_TOP = {"projection_dim": 512, "logit_scale_init_value": 2.6592}
_TOWER = {"num_hidden_layers": 12, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}
_VISION = {
    **_TOWER,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_attention_heads": 12,
    "num_channels": 3,
    "image_size": 224,
    "patch_size": 32,
}
_TEXT = {
    **_TOWER,
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_attention_heads": 8,
    "vocab_size": 49408,
    "max_position_embeddings": 77,
    "eos_token_id": 49407,
}
_PREPROCESSOR = {
    "do_resize": True,
    "size": {"shortest_edge": 224},
    "resample": 3,
    "do_center_crop": True,
    "crop_size": {"height": 224, "width": 224},
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}

# Files from before transformers 4.31 have this wrong id of the end: there, and since then wherever
# it is met, the features at the largest id of a text are pooled.
_LEGACY_END = 2

_WANTED = {
    "image.kind": "vit",
    "image.pool": "cls",
    "image.registers": 0,
    "image.class_position": True,
    "image.positions": "learned",
    "image.pre_norm": True,
    "image.layer_scale": None,
    "image.patch_bias": False,
    "image.qkv_bias": True,
    "image.projection": True,
    "image.projection_bias": False,
    "text.kind": "transformer",
    "text.causal": True,
    "text.pool": "eot",
    "text.projection": True,
    "text.projection_bias": False,
    "text.layer_scale": None,
    "init_logit_bias": None,
    "decoder": None,
}


def layout(config: DualEncoderConfig) -> Layout:
    """Returns where a CLIPModel keeps the parameters of a model.

    Raises:
        UserError: if the model is none that it can hold.
    """
    vit, text = _towers(config)
    embeddings, place = "vision_model.embeddings", "vision_model"
    entries: tuple[Entry, ...] = (
        same("log_logit_scale", "logit_scale"),
        Entry(
            ours="image/patchify/kernel",
            theirs=(f"{embeddings}.patch_embedding.weight",),
            kind="conv",
        ),
        same("image/class_token", f"{embeddings}.class_embedding"),
        same("image/positions", f"{embeddings}.position_embedding.weight"),
        *norm("image/pre_norm", f"{place}.pre_layrnorm"),  # so spelt there
        *encoder("image", place, vit.depth),
        *norm("image/norm", f"{place}.post_layernorm"),
        *linear("image/project", "visual_projection", bias=False),
        *text_embeddings(),
        *encoder("text", "text_model", text.depth),
        *linear("text/project", "text_projection", bias=False),
    )
    return Layout(format=FORMAT, entries=entries, ignored=(POSITION_IDS,))


def _towers(config: DualEncoderConfig) -> tuple[ViTConfig, TextConfig]:
    require(config, NAME, _WANTED)
    vit, text = config.image, config.text
    assert isinstance(vit, ViTConfig)
    assert isinstance(text, TextConfig)
    return vit, text


def read(values: Mapping[str, Any], preprocessor: Mapping[str, Any] | None) -> DualEncoderConfig:
    """Returns the config of a model from its `config.json` and `preprocessor_config.json`.

    Raises:
        UserError: if a field has a value that is not supported here.
    """
    top = Section("config.json", values, _TOP)
    vision = Section("config.json: vision_config", _section(values, "vision_config"), _VISION)
    text = Section("config.json: text_config", _section(values, "text_config"), _TEXT)
    vision.must_be("num_channels", 3)
    image_size = vision.side("image_size")
    return DualEncoderConfig(
        image=ViTConfig(**read_sides(image_size, vision.side("patch_size")), **read_tower(vision)),
        text=TextConfig(
            vocab_size=text.integer("vocab_size"),
            context_length=text.integer("max_position_embeddings"),
            end_id=_end_id(text),
            **read_tower(text),
        ),
        embed_dim=top.integer("projection_dim"),
        init_logit_scale=_scale(top.number("logit_scale_init_value")),
        **read_square(preprocessor, _PREPROCESSOR, image_size),
    )


def _section(values: Mapping[str, Any], name: str) -> Any:
    """Returns a section; older files repeat it under another name, which counts."""
    older = values.get(f"{name}_dict")
    return values.get(name) if older is None else older


def _end_id(text: Section) -> int | None:
    end, last = text.integer("eos_token_id"), text.integer("vocab_size") - 1
    return None if end in (_LEGACY_END, last) else end


def _scale(logarithm: float) -> float:
    if abs(logarithm - _TOP["logit_scale_init_value"]) < 1e-4:  # shortened there
        return 1 / 0.07
    return float(f"{math.exp(logarithm):.12g}")  # 10 comes back as 10


def write(config: DualEncoderConfig) -> dict[str, dict[str, Any]]:
    """Returns `config.json` and `preprocessor_config.json` of a model.

    Raises:
        UserError: if the model is none that a CLIPModel can hold.
    """
    vit, text = _towers(config)
    require(config, NAME, {"resize": ("crop", "squash")})
    if text.eot_id == _LEGACY_END and text.vocab_size > _LEGACY_END + 1:
        raise UserError(
            f"{NAME} cannot hold this model: config.text.end_id={_LEGACY_END} means the largest id "
            "of a text there. Give the end of a text another id."
        )
    settings = {
        "model_type": "clip",
        "architectures": ["CLIPModel"],
        "projection_dim": config.embed_dim,
        "logit_scale_init_value": math.log(config.init_logit_scale),
        "vision_config": {
            "model_type": "clip_vision_model",
            "image_size": vit.image_size,
            "patch_size": vit.patch_size,
            "num_channels": 3,
            "projection_dim": config.embed_dim,
            **written_tower(vit),
        },
        "text_config": {
            "model_type": "clip_text_model",
            "vocab_size": text.vocab_size,
            "max_position_embeddings": text.context_length,
            "projection_dim": config.embed_dim,
            "bos_token_id": max(text.eot_id - 1, 0),
            "eos_token_id": text.eot_id,
            "pad_token_id": text.pad_id,
            **written_tower(text),
        },
    }
    return {"config.json": settings, FILE: write_square(config, "CLIP")}
