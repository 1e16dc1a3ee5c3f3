"""SiglipModel of transformers: SigLIP, and the models of SigLIP 2 with square images."""

from collections.abc import Mapping
from typing import Any

from clipjax.config import DualEncoderConfig, TextConfig, ViTConfig
from clipjax.interchange.layout import (
    Entry,
    Layout,
    conv,
    linear,
    norm,
    query_and_key_value,
    same,
)
from clipjax.interchange.requirements import require
from clipjax.interchange.transformers.fields import Section
from clipjax.interchange.transformers.preprocessing import FILE, read_square, write_square
from clipjax.interchange.transformers.towers import (
    FORMAT,
    POSITION_IDS,
    encoder,
    mlp,
    read_sides,
    read_tower,
    text_embeddings,
    written_tower,
)

NAME = "transformers' SiglipModel"

_TOWER = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
}
VISION = {**_TOWER, "num_channels": 3, "patch_size": 16, "vision_use_head": True}
_VISION = {**VISION, "image_size": 224}
_TEXT = {**_TOWER, "vocab_size": 32000, "max_position_embeddings": 64}
PREPROCESSOR = {
    "do_resize": True,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}
_PREPROCESSOR = {**PREPROCESSOR, "size": {"height": 224, "width": 224}, "resample": 3}

# Zhai et al. 2023, https://arxiv.org/abs/2303.15343, section 3.2; files do not hold them.
_INIT_SCALE, _INIT_BIAS = 10.0, -10.0

_WANTED = {
    "image.kind": "vit",
    "image.pool": "map",
    "image.unpooled_class_token": False,
    "image.registers": 0,
    "image.positions": "learned",
    "image.pre_norm": False,
    "image.layer_scale": None,
    "image.patch_bias": True,
    "image.qkv_bias": True,
    "image.projection": False,
    "text.kind": "transformer",
    "text.causal": False,
    "text.pool": "last",
    "text.projection": True,
    "text.projection_bias": True,
    "text.layer_scale": None,
    "decoder": None,
}


def layout(config: DualEncoderConfig) -> Layout:
    """Returns where a SiglipModel keeps the parameters of a model.

    Raises:
        UserError: if the model is none that it can hold.
    """
    patches = conv("image/patchify", "vision_model.embeddings.patch_embedding", bias=True)
    return layout_around(config, NAME, patches)


def layout_around(config: DualEncoderConfig, form: str, patches: tuple[Entry, ...]) -> Layout:
    """Returns the layout of a model from the entries of the patches, where the families differ.

    Args:
        config: of the model.
        form: how messages call the family.
        patches: entries of what embeds the patches.
    """
    vit, text = towers(config, form)
    head = "vision_model.head"
    entries = (
        same("log_logit_scale", "logit_scale", shape=(1,)),
        same("logit_bias", "logit_bias", shape=(1,)),
        *patches,
        same("image/positions", "vision_model.embeddings.position_embedding.weight"),
        *encoder("image", "vision_model", vit.depth),
        *norm("image/norm", "vision_model.post_layernorm"),
        same("image/pool/probe", f"{head}.probe", shape=(1, 1, vit.width)),
        *query_and_key_value("image/pool/query", "image/pool/key_value", f"{head}.attention"),
        *linear("image/pool/out", f"{head}.attention.out_proj", input_axes=2),
        *norm("image/pool/norm", f"{head}.layernorm"),
        *mlp("image/pool/mlp", f"{head}.mlp"),
        *text_embeddings(),
        *encoder("text", "text_model", text.depth),
        *linear("text/project", "text_model.head"),
    )
    return Layout(format=FORMAT, entries=entries, ignored=(POSITION_IDS,))


def towers(config: DualEncoderConfig, form: str) -> tuple[ViTConfig, TextConfig]:
    """Returns the towers of a model.

    Raises:
        UserError: if they are not those of SigLIP.
    """
    require(config, form, _WANTED)
    if config.init_logit_bias is None:
        require(config, form, {"init_logit_bias": _INIT_BIAS})
    vit, text = config.image, config.text
    assert isinstance(vit, ViTConfig)
    assert isinstance(text, TextConfig)
    return vit, text


def read(values: Mapping[str, Any], preprocessor: Mapping[str, Any] | None) -> DualEncoderConfig:
    """Returns the config of a model from its `config.json` and `preprocessor_config.json`.

    Raises:
        UserError: if a field has a value that is not supported here.
    """
    vision = Section("config.json: vision_config", values.get("vision_config"), _VISION)
    image_size = vision.side("image_size")
    square = read_square(preprocessor, _PREPROCESSOR, image_size)
    return read_around(values, vision, image_size, square)


def read_around(
    values: Mapping[str, Any], vision: Section, image_size: int, picture: Mapping[str, Any]
) -> DualEncoderConfig:
    """Returns the config of a model from what the families tell in different ways.

    Args:
        values: of `config.json`.
        vision: its section of the image tower.
        image_size: of square images.
        picture: fields that say how a picture becomes pixels.
    """
    text = Section("config.json: text_config", values.get("text_config"), _TEXT)
    vision.must_be("num_channels", 3)
    vision.must_be("vision_use_head", True)
    width = vision.integer("hidden_size")
    own = text.integer("projection_size") if text.get("projection_size") is not None else None
    if (own or text.integer("hidden_size")) != width:
        name = "hidden_size" if own is None else "projection_size"
        raise text.wrong(name, f"{width}, the hidden_size of vision_config")
    return DualEncoderConfig(
        image=ViTConfig(
            **read_sides(image_size, vision.side("patch_size")),
            pool="map",
            pre_norm=False,
            patch_bias=True,
            projection=False,
            **read_tower(vision),
        ),
        text=TextConfig(
            vocab_size=text.integer("vocab_size"),
            context_length=text.integer("max_position_embeddings"),
            causal=False,
            pool="last",
            projection_bias=True,
            **read_tower(text),
        ),
        embed_dim=width,
        init_logit_scale=_INIT_SCALE,
        init_logit_bias=_INIT_BIAS,
        **picture,
    )


def write(config: DualEncoderConfig) -> dict[str, dict[str, Any]]:
    """Returns `config.json` and `preprocessor_config.json` of a model.

    Raises:
        UserError: if the model is none that a SiglipModel can hold.
    """
    vit, text = towers(config, NAME)
    require(config, NAME, {"resize": ("crop", "squash")})
    vision = {"image_size": vit.image_size}
    return {
        "config.json": written(vit, text, "siglip", "SiglipModel", vision),
        FILE: write_square(config, "Siglip"),
    }


def written(
    vit: ViTConfig, text: TextConfig, model_type: str, architecture: str, vision: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns `config.json` of a model.

    Args:
        vit: the image tower.
        text: the text tower.
        model_type: of the family.
        architecture: name of its class.
        vision: fields of the image tower in which the families differ.
    """
    return {
        "model_type": model_type,
        "architectures": [architecture],
        "vision_config": {
            "model_type": f"{model_type}_vision_model",
            "patch_size": vit.patch_size,
            "num_channels": 3,
            "vision_use_head": True,
            **vision,
            **written_tower(vit),
        },
        "text_config": {
            "model_type": f"{model_type}_text_model",
            "vocab_size": text.vocab_size,
            "max_position_embeddings": text.context_length,
            "projection_size": vit.width,
            **written_tower(text),
        },
    }
