"""The files around the weights of a transformers model, to and from our config."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from clipjax.config import DualEncoderConfig, TextConfig, UserError, did_you_mean
from clipjax.interchange.layout import Layout
from clipjax.interchange.transformers import align, clip, siglip, siglip2

Json = Mapping[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
    """One model class of transformers.

    Attributes:
        layout: where it keeps the parameters.
        read: the config of a model from `config.json` and, unless it is None,
            `preprocessor_config.json`.
        write: those files from the config of a model.
    """

    layout: Callable[[DualEncoderConfig], Layout]
    read: Callable[[Json, Json | None], DualEncoderConfig]
    write: Callable[[DualEncoderConfig], dict[str, dict[str, Any]]]


FAMILIES: dict[str, Family] = {
    "align": Family(layout=align.layout, read=align.read, write=align.write),
    "clip": Family(layout=clip.layout, read=clip.read, write=clip.write),
    "siglip": Family(layout=siglip.layout, read=siglip.read, write=siglip.write),
    "siglip2": Family(layout=siglip2.layout, read=siglip2.read, write=siglip2.write),
}


def family_of(model_type: Any) -> Family:
    """Returns a family by the name that `config.json` gives it.

    Raises:
        UserError: if it is not known here.
    """
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise UserError(
            f"config.json: model_type is {model_type!r:.60}, expected one of "
            f"{', '.join(FAMILIES)}.{did_you_mean(str(model_type), FAMILIES)} Other models of "
            "transformers cannot be read or written here."
        )
    return FAMILIES[model_type]


def model_type_of(config: DualEncoderConfig) -> str:
    """Returns the family that a model is written as where none is named.

    A SigLIP model of square images and one of any shape have the same config; it is that of square
    images that is returned.
    """
    if config.image.kind == "efficientnet":
        return "align"
    text = config.text
    return "siglip" if isinstance(text, TextConfig) and text.pool == "last" else "clip"


def from_transformers(
    config_json: Json, preprocessor_json: Json | None
) -> tuple[DualEncoderConfig, dict[str, Any]]:
    """Returns the config of a model, and the options of its layout.

    Fields that are missing have transformers' own defaults.

    Args:
        config_json: content of `config.json`.
        preprocessor_json: content of `preprocessor_config.json`; None for the defaults.

    Raises:
        UserError: if the model or the value of a field is not supported; it names the field.
    """
    model_type = config_json.get("model_type")
    family = family_of(model_type)
    try:
        return family.read(config_json, preprocessor_json), {"model_type": model_type}
    except ValueError as error:
        raise UserError(f"config.json: {error}. Check its sizes.") from error


def to_transformers(
    config: DualEncoderConfig, *, model_type: str | None = None
) -> dict[str, dict[str, Any]]:
    """Returns the JSON files, by name, with which transformers loads a model and its processor.

    The files of the tokenizer come from `tokenizer.tokenizer_files`.

    Args:
        config: of the model.
        model_type: of the family; by default what `model_type_of` says.

    Raises:
        UserError: if the family cannot hold the model; it names the field.
    """
    return family_of(model_type or model_type_of(config)).write(config)
