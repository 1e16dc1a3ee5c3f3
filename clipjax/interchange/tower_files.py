"""Where a tower by itself stands: a file, a folder or a repository, and what is said beside it."""

import operator
from pathlib import Path
from typing import Any

import numpy as np

from clipjax.config import DualEncoderConfig, UserError
from clipjax.interchange import hub
from clipjax.interchange.single_tower import tower_from
from clipjax.interchange.weights_file import (
    INDEX_SUFFIX,
    PICKLE_SUFFIXES,
    open_tensors,
    pickle_refusal,
    read_json,
)
from clipjax.models.surgery import Part

_TEXT_FIELDS = {
    "num_attention_heads": "text.num_heads",
    "layer_norm_eps": "text.norm_eps",
    "pad_token_id": "text.pad_id",
    "hidden_act": "text.activation",
}
_IMAGE_FIELDS = {"mean": "pixel_mean", "std": "pixel_std"}
_ACTIVATIONS = {"gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh"}
_CONFIG = "config.json"


def tower_path(spec: str) -> Path:
    """Returns the file of weights behind "hf:org/name", a folder or a file.

    Raises:
        UserError: if there is none, several, or one that would run code.
    """
    path = hub.download(spec) if spec.startswith(hub.PREFIX) else Path(spec)
    if not path.is_dir():
        return path
    files = sorted(path.iterdir())
    indices = [file for file in files if file.name.endswith(INDEX_SUFFIX)]
    found = indices or [file for file in files if file.suffix in (".safetensors", ".npz")]
    if len(found) == 1:
        return found[0]
    pickles = [file for file in files if file.suffix in PICKLE_SUFFIXES]
    if not found and pickles:
        raise UserError(pickle_refusal(str(pickles[0])))
    names = ", ".join(file.name for file in found) or "none"
    raise UserError(
        f"{spec}: expected one file of weights (.safetensors, .npz) in it, found {names}. Give the "
        "file itself."
    )


def tower_params(spec: str, config: DualEncoderConfig, part: Part) -> dict[str, np.ndarray]:
    """Returns the parameters of one tower by our names, without the projection.

    Args:
        spec: as of `tower_path`.
        config: of the model that the tower is for.
        part: which tower.

    Raises:
        UserError: if the file holds another tower, or a config.json beside it says so.
    """
    path = tower_path(spec)
    tensors = open_tensors(path)
    beside = path.parent / _CONFIG
    if beside.is_file():
        _check_config(beside, read_json(beside), config, part)
    return tower_from(tensors, config, part)


def _check_config(path: Path, told: dict[str, Any], config: DualEncoderConfig, part: str) -> None:
    """Raises UserError where the file says what shapes do not, and it is not so in the config."""
    names = _TEXT_FIELDS if part == "text" else _IMAGE_FIELDS
    section = told if part == "text" else told.get("pretrained_cfg", {})
    for theirs, ours in names.items():
        value = section.get(theirs) if isinstance(section, dict) else None
        if value is None:
            continue
        if theirs == "hidden_act":
            value = _ACTIVATIONS.get(str(value), value)
        value = tuple(value) if isinstance(value, list) else value
        found = operator.attrgetter(ours)(config)
        if found != value:
            raise UserError(
                f"{path}: {theirs} is {section[theirs]!r}, and config.model.{ours} is {found!r}. "
                "Set it to what the weights were trained with."
            )
