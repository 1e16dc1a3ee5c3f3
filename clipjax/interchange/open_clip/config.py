"""open_clip's `open_clip_config.json`: how a model and its preprocessing are written there.

A family of towers is one entry of `IMAGE_FAMILIES` or `TEXT_FAMILIES`.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from clipjax.config import DualEncoderConfig, UserError, did_you_mean, to_json_dict
from clipjax.config.model import ComputeConfig
from clipjax.interchange.open_clip import (
    config_coca,
    config_hf_text,
    config_resnet,
    config_timm,
    config_timm_vit,
    config_transformer,
)
from clipjax.interchange.open_clip.families import ImageFamily, Model, TextFamily
from clipjax.interchange.open_clip.sections import Section

IMAGE_FAMILIES: list[ImageFamily] = [
    config_timm_vit.FAMILY,
    config_timm.CONVNEXT,
    config_timm.EVA,
    config_resnet.FAMILY,
    config_transformer.IMAGE,
]
TEXT_FAMILIES: list[TextFamily] = [config_hf_text.FAMILY, config_transformer.TEXT]
"""The first one that reads a section, or writes a tower, does it."""

_RESIZE = {"shortest": "crop", "squash": "squash", "longest": "pad"}
_SCALE = 1 / 0.07


def from_open_clip(
    model_cfg: Mapping[str, Any],
    preprocess_cfg: Mapping[str, Any] | None = None,
    *,
    source: str = "open_clip_config.json",
) -> tuple[DualEncoderConfig, dict[str, Any]]:
    """Returns the config of a model of open_clip, and the options of its layout.

    Dropout and stochastic depth, which only act in training, are left out.

    Args:
        model_cfg: the section of that name, or one of open_clip's own files of models.
        preprocess_cfg: the section of that name; open_clip's defaults where it is absent.
        source: of both, for messages.

    Raises:
        UserError: on a setting that is unknown, not supported, or of a wrong type.
    """
    top = Section(model_cfg, f"{source}: model_cfg")
    missing = [name for name in ("embed_dim", "vision_cfg", "text_cfg") if name not in top]
    if missing:
        raise UserError(f"{top.where}: describes no model: no {' and no '.join(missing)} in it.")
    model = Model(
        embed_dim=top.take("embed_dim", int, 0), quick_gelu=top.take("quick_gelu", bool, False)
    )
    decoder = None
    if top.take_or_none("multimodal_cfg", dict) is not None:
        section = Section(top.peek("multimodal_cfg"), f"{top.where}.multimodal_cfg")
        decoder = config_coca.read(section, model)
    vision = Section(top.take("vision_cfg", dict, {}), f"{top.where}.vision_cfg")
    text = Section(top.take("text_cfg", dict, {}), f"{top.where}.text_cfg")
    image_family = _first(IMAGE_FAMILIES, vision, "timm_model_name")
    text_family = _first(TEXT_FAMILIES, text, "hf_model_name")
    custom_text = top.take("custom_text", bool, False) or text_family.custom_text
    custom_text = custom_text or decoder is not None
    bias = top.take_or_none("init_logit_bias", float)
    scale = top.take_or_none("init_logit_scale", float)
    top.only(nonscalar_logit_scale=(False,))
    top.ignore("cast_dtype", "output_dict")
    top.done()
    try:
        config = DualEncoderConfig(
            image=image_family.read(vision, model),
            text=text_family.read(text, model),
            embed_dim=model.embed_dim,
            # A logarithm has lost the last digits: those of a number that a person wrote are fewer.
            init_logit_scale=_SCALE if scale is None else float(f"{math.exp(scale):.13g}"),
            init_logit_bias=bias,
            decoder=decoder,
        )
        config = config_coca.with_vocabulary(config, text)
    except ValueError as error:
        raise UserError(f"{source}: {error}.") from error
    vision.done()
    text.done()
    if preprocess_cfg is not None:
        config = _with_preprocessing(config, Section(preprocess_cfg, f"{source}: preprocess_cfg"))
    return config, {"custom_text": custom_text}


def to_open_clip(config: DualEncoderConfig, *, custom_text: bool | None = None) -> dict[str, Any]:
    """Returns the content of `open_clip_config.json`: `model_cfg` and `preprocess_cfg`.

    Reading it gives the same config again, `compute` apart. The tokenizer's settings
    (`hf_tokenizer_name` and what goes with it) are for the caller to add to `text_cfg`.

    Args:
        config: of the model.
        custom_text: as in the layout; by default only where open_clip needs it.

    Raises:
        UserError: if open_clip has no such model; it names what cannot be written.
    """
    image_family = next((f for f in IMAGE_FAMILIES if f.writes(config)), None)
    text_family = next((f for f in TEXT_FAMILIES if f.writes(config)), None)
    readable = config.decoder is None or config.decoder.kind == "coca"
    if image_family is None or text_family is None or not readable:
        raise UserError(
            f"open_clip's config has no model with model.image.kind={config.image.kind!r}, "
            f"model.text.kind={config.text.kind!r} and model.decoder="
            f"{config.decoder and config.decoder.kind!r}."
        )
    quick = [family.quick_gelu(config) for family in (image_family, text_family)]
    if True in quick and False in quick:
        raise UserError(
            "open_clip has one switch for quick GELU in both towers: model.image.activation="
            f"{getattr(config.image, 'activation', None)!r} and model.text.activation="
            f"{getattr(config.text, 'activation', None)!r} cannot be written."
        )
    model_cfg: dict[str, Any] = {"embed_dim": config.embed_dim}
    if True in quick:
        model_cfg["quick_gelu"] = True
    if config.init_logit_scale != _SCALE:
        model_cfg["init_logit_scale"] = math.log(config.init_logit_scale)
    if config.init_logit_bias is not None:
        model_cfg["init_logit_bias"] = config.init_logit_bias
    wanted = text_family.custom_text or image_family.custom_text(config)
    if wanted if custom_text is None else custom_text:
        model_cfg["custom_text"] = True
    model_cfg["vision_cfg"] = image_family.write(config)
    model_cfg["text_cfg"] = text_family.write(config)
    if config.decoder is not None:
        model_cfg |= config_coca.write(config)
    document = {"model_cfg": model_cfg, "preprocess_cfg": _preprocessing(config)}
    _check_same(config, from_open_clip(document["model_cfg"], document["preprocess_cfg"])[0])
    return document


def _first(families: list[Any], section: Section, name: str) -> Any:
    for family in families:
        if family.reads(section):
            return family
    wanted, names = section.peek(name), [n for family in families for n in family.names]
    raise UserError(
        f"{section.where}: no such tower is supported ({name}={wanted!r}, layers="
        f"{section.peek('layers')!r}).{did_you_mean(str(wanted), names)}"
    )


def _check_same(config: DualEncoderConfig, read: DualEncoderConfig) -> None:
    wanted = to_json_dict(dataclasses.replace(config, compute=ComputeConfig()))
    lost = [
        f"model.{name}={value!r}"
        for name, value in _flat(wanted)
        if dict(_flat(to_json_dict(read))).get(name) != value
    ]
    if lost:
        raise UserError(f"open_clip's config has no way to say {', '.join(lost)}.")


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    pairs = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            pairs += _flat(value, f"{prefix}{name}.")
        else:
            pairs.append((prefix + name, value))
    return pairs


def _with_preprocessing(config: DualEncoderConfig, section: Section) -> DualEncoderConfig:
    size = section.side("size", config.image.image_size)
    if size != config.image.image_size:
        raise UserError(
            f"{section.where}.size={size} is not the size of the image tower, "
            f"{config.image.image_size}."
        )
    mean = _channels(section, "mean", config.pixel_mean)
    std = _channels(section, "std", config.pixel_std)
    resize = section.choose("resize_mode", _RESIZE, "shortest")
    interpolation = section.choose(
        "interpolation", {name: name for name in ("bicubic", "bilinear")}, "bicubic"
    )
    section.only(mode=("RGB",), fill_color=(0,))
    section.done()
    return dataclasses.replace(
        config, pixel_mean=mean, pixel_std=std, resize=resize, interpolation=interpolation
    )


def _channels(
    section: Section, name: str, default: tuple[float, float, float]
) -> tuple[float, float, float]:
    values = section.take(name, list if name in section else tuple, default)
    numbers = [float(v) for v in values if isinstance(v, int | float)]
    if len(numbers) != 3 or len(values) != 3:
        raise UserError(f"{section.where}.{name}={values!r} must be three numbers.")
    return numbers[0], numbers[1], numbers[2]


def _preprocessing(config: DualEncoderConfig) -> dict[str, Any]:
    return {
        "mean": list(config.pixel_mean),
        "std": list(config.pixel_std),
        "interpolation": config.interpolation,
        "resize_mode": {ours: theirs for theirs, ours in _RESIZE.items()}[config.resize],
    }
