"""open_clip_config.json: the model's config and how pictures are prepared for it."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from clipjax.config import DualEncoderConfig, UserError
from clipjax.interchange.open_clip.vit_config import from_open_clip, to_open_clip

CONFIG_FILE = "open_clip_config.json"
_RESIZE = {"crop": "shortest", "squash": "squash", "pad": "longest"}
_INTERPOLATIONS = ("bicubic", "bilinear")


def read_config(files: Mapping[str, Any]) -> tuple[DualEncoderConfig, dict[str, Any]]:
    """Returns our config and the options of the layout.

    Args:
        files: JSON objects of the directory by name.

    Raises:
        UserError: if they say something that is not read here.
    """
    found = files[CONFIG_FILE]
    if not isinstance(found.get("model_cfg"), Mapping):
        raise UserError(f"{CONFIG_FILE}: no model_cfg in it.")
    config, options = from_open_clip(found["model_cfg"])
    prepare = found.get("preprocess_cfg") or {}
    changes: dict[str, Any] = {}
    for ours, theirs in (("pixel_mean", "mean"), ("pixel_std", "std")):
        if theirs in prepare:
            changes[ours] = _three(theirs, prepare[theirs])
    if "resize_mode" in prepare:
        changes["resize"] = _one_of("resize_mode", prepare, {v: k for k, v in _RESIZE.items()})
    if "interpolation" in prepare:
        known = {name: name for name in _INTERPOLATIONS}
        changes["interpolation"] = _one_of("interpolation", prepare, known)
    return dataclasses.replace(config, **changes), options


def write_config(config: DualEncoderConfig) -> dict[str, Any]:
    """Returns the JSON objects of a directory by name."""
    return {
        CONFIG_FILE: {
            "model_cfg": to_open_clip(config),
            "preprocess_cfg": {
                "mean": list(config.pixel_mean),
                "std": list(config.pixel_std),
                "interpolation": config.interpolation,
                "resize_mode": _RESIZE[config.resize],
            },
        }
    }


def _three(name: str, values: Any) -> tuple[float, ...]:
    try:
        red, green, blue = (float(value) for value in values)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{CONFIG_FILE}: preprocess_cfg.{name}={values!r:.60}; expected three numbers."
        ) from error
    return red, green, blue


def _one_of(name: str, section: Mapping[str, Any], known: Mapping[str, str]) -> str:
    if section[name] not in known:
        raise UserError(
            f"{CONFIG_FILE}: preprocess_cfg.{name}={section[name]!r:.60} is not one of "
            f"{', '.join(known)}."
        )
    return known[section[name]]
