"""AlignModel of transformers: an EfficientNet, a BERT, and a temperature.

Deviation: transformers hands `batch_norm_momentum` to torch, whose momentum is the share of a batch
and not of the past. Here 0.99 there is 0.01, as in the network that the weights come from.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from clipjax.config import BertConfig, DualEncoderConfig, EfficientNetConfig, UserError
from clipjax.interchange.bert import encoder, pooler
from clipjax.interchange.layout import Entry, Layout, batch_norm, conv, linear
from clipjax.interchange.requirements import require
from clipjax.interchange.transformers.align_pictures import FILE, read_pictures, written_pictures
from clipjax.interchange.transformers.fields import THEIR_ACTIVATION, Section
from clipjax.interchange.transformers.towers import FORMAT
from clipjax.models.efficientnet import mbconvs

NAME = "transformers' AlignModel"

# What all EfficientNets have in common.
_NETWORK: dict[str, Any] = {
    "num_channels": 3,
    "kernel_sizes": [3, 3, 5, 3, 5, 5, 3],
    "in_channels": [32, 16, 24, 40, 80, 112, 192],
    "out_channels": [16, 24, 40, 80, 112, 192, 320],
    "strides": [1, 2, 2, 2, 1, 2, 1],
    "num_block_repeats": [1, 2, 2, 3, 3, 4, 1],
    "expand_ratios": [1, 6, 6, 6, 6, 6, 6],
    "squeeze_expansion_ratio": 0.25,
    "pooling_type": "mean",
}
_VISION = {
    **_NETWORK,
    "width_coefficient": 2.0,
    "depth_coefficient": 3.1,
    "depth_divisor": 8,
    "depthwise_padding": [],
    "hidden_act": "swish",
    "batch_norm_eps": 0.001,
    "batch_norm_momentum": 0.99,
}
_TEXT = {
    "vocab_size": 30522,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
    "pad_token_id": 0,
}
_MODEL = {"projection_dim": 640, "temperature_init_value": 1.0}

# AlignProcessor pads and cuts texts to it; no file holds it.
_CONTEXT_LENGTH = 64

_WANTED = {
    "image.kind": "efficientnet",
    "image.head": False,
    "image.projection": False,
    "text.kind": "bert",
    "text.first_position": 0,
    "text.pool": "first",
    "text.projection": "linear_bias",
    "init_logit_bias": None,
    "decoder": None,
}


def layout(config: DualEncoderConfig) -> Layout:
    """Returns where an AlignModel keeps the parameters of a model.

    Raises:
        UserError: if the model is none that it can hold.
    """
    image, text = _towers(config)
    norms = list(_convolutions(image))
    entries: list[Entry] = [
        Entry(
            ours="log_logit_scale",
            theirs=("temperature",),
            kind="temperature",
            rest="log_logit_scale_rest" if config.exact_temperature else None,
        )
    ]
    for ours, kernel, norm in norms:
        entries += (*conv(f"{ours}/conv", kernel), *batch_norm(f"{ours}/norm", norm))
    for i in range(len(mbconvs(image))):
        theirs = f"vision_model.encoder.blocks.{i}.squeeze_excite"
        for name in ("reduce", "expand"):
            entries += conv(f"image/blocks/{i}/gate/{name}", f"{theirs}.{name}", bias=True)
    entries += encoder("text", "text_model", depth=text.depth)
    entries += linear("text/project", "text_projection")
    fixed: dict[str, np.ndarray] = {
        f"{norm}.num_batches_tracked": np.zeros((), np.int64) for _, _, norm in norms
    }
    if text.unused_pooler:
        entries += pooler("text", "text_model")
    else:
        dense, width = "text_model.pooler.dense", text.width
        fixed[f"{dense}.weight"] = np.zeros((width, width), np.float32)
        fixed[f"{dense}.bias"] = np.zeros(width, np.float32)
    ignored = ("text_model.embeddings.position_ids", "text_model.embeddings.token_type_ids")
    return Layout(format=FORMAT, entries=tuple(entries), ignored=ignored, fixed=fixed)


def _convolutions(image: EfficientNetConfig) -> list[tuple[str, str, str]]:
    """Returns our name, and theirs of kernel and norm, of each convolution with batch norm."""
    embeddings = "vision_model.embeddings"
    found = [("image/stem", f"{embeddings}.convolution", f"{embeddings}.batchnorm")]
    for i, block in enumerate(mbconvs(image)):
        ours, theirs = f"image/blocks/{i}", f"vision_model.encoder.blocks.{i}"
        if block.hidden != block.inputs:
            expansion = f"{theirs}.expansion"
            found.append((f"{ours}/expand", f"{expansion}.expand_conv", f"{expansion}.expand_bn"))
        depthwise, project = f"{theirs}.depthwise_conv", f"{theirs}.projection"
        found += [
            (f"{ours}/depthwise", f"{depthwise}.depthwise_conv", f"{depthwise}.depthwise_norm"),
            (f"{ours}/project", f"{project}.project_conv", f"{project}.project_bn"),
        ]
    return found


def _towers(config: DualEncoderConfig) -> tuple[EfficientNetConfig, BertConfig]:
    require(config, NAME, _WANTED)
    image, text = config.image, config.text
    assert isinstance(image, EfficientNetConfig)
    assert isinstance(text, BertConfig)
    return image, text


def read(values: Mapping[str, Any], preprocessor: Mapping[str, Any] | None) -> DualEncoderConfig:
    """Returns the config of a model from its `config.json` and `preprocessor_config.json`.

    The size of the images is what the second file cuts out: the first one's is never used there.

    Raises:
        UserError: if a field has a value that is not supported here, or the second file is missing.
    """
    if preprocessor is None:
        raise UserError(
            f"{FILE} is missing: the config.json of an ALIGN model does not tell its images' size. "
            "Copy it from where the weights come from."
        )
    model = Section("config.json", values, _MODEL)
    vision = Section("config.json: vision_config", values.get("vision_config"), _VISION)
    text = Section("config.json: text_config", values.get("text_config"), _TEXT)
    pictures = read_pictures(preprocessor)
    temperature = model.number("temperature_init_value")
    if temperature <= 0:
        raise model.wrong("temperature_init_value", "a positive number")
    return DualEncoderConfig(
        image=_read_network(vision, pictures.pop("image_size")),
        text=_read_text(text),
        embed_dim=model.integer("projection_dim"),
        init_logit_scale=1 / temperature,
        exact_temperature=True,
        **pictures,
    )


def _read_network(vision: Section, image_size: int) -> EfficientNetConfig:
    for name, value in _NETWORK.items():
        vision.must_be(name, value)
    if vision.activation() != "silu":
        raise vision.wrong("hidden_act", "'swish'")
    symmetric = vision.get("depthwise_padding")
    if not isinstance(symmetric, list) or not all(type(block) is int for block in symmetric):
        raise vision.wrong("depthwise_padding", "a list of whole numbers")
    return EfficientNetConfig(
        image_size=image_size,
        width_factor=vision.number("width_coefficient"),
        depth_factor=vision.number("depth_coefficient"),
        channels_divisor=vision.integer("depth_divisor"),
        symmetric_padding=tuple(symmetric),
        batch_norm_eps=vision.number("batch_norm_eps"),
        batch_norm_momentum=_complement(vision.number("batch_norm_momentum")),
    )


def _read_text(text: Section) -> BertConfig:
    max_positions = text.integer("max_position_embeddings")
    return BertConfig(
        vocab_size=text.integer("vocab_size"),
        context_length=min(_CONTEXT_LENGTH, max_positions),
        max_positions=max_positions,
        first_position=0,
        token_types=text.integer("type_vocab_size"),
        pad_id=text.integer("pad_token_id"),
        width=text.integer("hidden_size"),
        depth=text.integer("num_hidden_layers"),
        num_heads=text.integer("num_attention_heads"),
        mlp_dim=text.integer("intermediate_size"),
        pool="first",
        unused_pooler=True,
        projection="linear_bias",
        activation=text.activation(),
        norm_eps=text.number("layer_norm_eps"),
    )


def write(config: DualEncoderConfig) -> dict[str, dict[str, Any]]:
    """Returns `config.json` and `preprocessor_config.json` of a model.

    Raises:
        UserError: if the model is none that an AlignModel can hold.
    """
    image, text = _towers(config)
    require(config, NAME, {"resize": "squash"})
    if config.resize_side is not None:
        require(config, NAME, {"crop_offset": "down"})
    vision_config = {
        **_NETWORK,
        "model_type": "align_vision_model",
        "image_size": image.image_size,
        "width_coefficient": image.width_factor,
        "depth_coefficient": image.depth_factor,
        "depth_divisor": image.channels_divisor,
        "depthwise_padding": list(image.symmetric_padding),
        "hidden_act": "swish",
        # There it is the window of the mean, which must hold the whole map.
        "hidden_dim": image.scaled(1280),
        "batch_norm_eps": image.batch_norm_eps,
        "batch_norm_momentum": _complement(image.batch_norm_momentum),
    }
    text_config = {
        "model_type": "align_text_model",
        "vocab_size": text.vocab_size,
        "hidden_size": text.width,
        "num_hidden_layers": text.depth,
        "num_attention_heads": text.num_heads,
        "intermediate_size": text.mlp_dim,
        "hidden_act": THEIR_ACTIVATION[text.activation],
        "max_position_embeddings": text.max_positions,
        "type_vocab_size": text.token_types,
        "layer_norm_eps": text.norm_eps,
        "pad_token_id": text.pad_id,
    }
    config_json = {
        "model_type": "align",
        "architectures": ["AlignModel"],
        "projection_dim": config.embed_dim,
        "temperature_init_value": 1 / config.init_logit_scale,
        "vision_config": vision_config,
        "text_config": text_config,
    }
    return {"config.json": config_json, FILE: written_pictures(config)}


def _complement(share: float) -> float:
    # Rounded: 1 - 0.99 is not 0.01 in floating point.
    return round(1 - share, 12)
