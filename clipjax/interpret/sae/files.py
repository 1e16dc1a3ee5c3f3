"""The folder of an autoencoder: sae.json and sae.npz; while it is trained, training.npz too."""

import dataclasses
import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from clipjax.config.errors import UserError
from clipjax.core.files import replaced
from clipjax.interpret.sae.model import Sae
from clipjax.interpret.sae.options import SaeOptions

SCHEMA = 1
RECORD, ARRAYS, TRAINING = "sae.json", "sae.npz", "training.npz"

_WEIGHTS = ("encoder", "encoder_bias", "decoder", "bias")
_MEANS = ("image_mean", "text_mean")
_IDENTITY = "identity"


def save_sae(folder: str | os.PathLike[str], sae: Sae) -> None:
    """Writes an autoencoder; sae.json last: with it the folder is whole."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {**sae.weights, "image_mean": sae.image_mean, "text_mean": sae.text_mean}
    with replaced(folder / ARRAYS) as file:
        np.savez(file, allow_pickle=False, **arrays)
    record = {
        "schema": SCHEMA,
        "options": dataclasses.asdict(sae.options),
        "embed_dim": int(sae.decoder.shape[1]),
        "scale": sae.scale,
        "threshold": sae.threshold,
        "steps": sae.steps,
        "features": dict(sae.features),
    }
    with replaced(folder / RECORD) as file:
        file.write((json.dumps(record, indent=1) + "\n").encode())


def load_sae(folder: str | os.PathLike[str], flag: str = "--sae") -> Sae:
    """Reads what `save_sae` wrote.

    Args:
        folder: of the autoencoder.
        flag: what names it in messages.

    Raises:
        UserError: if there is no whole autoencoder of this release.
    """
    folder = Path(folder)
    where = f"{flag}={folder}"
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        if record["schema"] != SCHEMA:
            raise UserError(
                f"{where}: has schema {record['schema']}, this release reads {SCHEMA}. Train again."
            )
        with np.load(folder / ARRAYS, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in (*_WEIGHTS, *_MEANS)}
        sae = Sae(
            options=SaeOptions(**record["options"]),
            weights={name: found[name] for name in _WEIGHTS},
            image_mean=found["image_mean"],
            text_mean=found["text_mean"],
            scale=record["scale"],
            threshold=record["threshold"],
            steps=record["steps"],
            features=record["features"],
        )
        _check_shapes(sae)
    except FileNotFoundError as error:
        going = (folder / TRAINING).is_file()
        what = "a training that has not ended: run the same command again" if going else "nothing"
        raise UserError(
            f"{where}: no {Path(error.filename).name} there, {what}. `clipjax sae train` writes it."
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{where}: not an autoencoder ({type(error).__name__}: {error}). Train it again."
        ) from error
    return sae


def save_state(folder: Path, state: Any, identity: Mapping[str, Any]) -> None:
    """Writes the state of a training.

    One .npz and no Orbax: it is some MB that every device holds whole, and one file is replaced
    whole or not at all.
    """
    folder.mkdir(parents=True, exist_ok=True)
    leaves, _ = jax.tree_util.tree_flatten_with_path(jax.device_get(state))
    arrays = {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}
    with replaced(folder / TRAINING) as file:
        np.savez(file, allow_pickle=False, **{_IDENTITY: np.array(_text(identity))}, **arrays)


def load_state(folder: Path, like: Any, identity: Mapping[str, Any], *, force: bool = False) -> Any:
    """Returns the state that a training left; None where there is nothing to go on with.

    Args:
        folder: of the autoencoder.
        like: a state of the same structure.
        identity: of this training.
        force: whether what is there of another one is passed over.

    Raises:
        UserError: if the folder holds another training or another autoencoder.
    """
    path = folder / TRAINING
    if not force:
        _check_other(folder, identity)
    if not path.is_file():
        return None
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
            if str(arrays[_IDENTITY]) != _text(identity):
                if force:
                    return None
                raise UserError(
                    f"{folder}: holds a training with other options or features that has not "
                    "ended. Name another folder, or add --force to replace it."
                )
            return jax.tree_util.tree_map_with_path(
                lambda place, leaf: _same(arrays[jax.tree_util.keystr(place)], leaf), like
            )
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{path}: cannot be read ({type(error).__name__}). Remove it, or add --force."
        ) from error


def remove_state(folder: Path) -> None:
    """Removes the state of a training that has ended."""
    (folder / TRAINING).unlink(missing_ok=True)


def finished_sae(folder: Path, features: str, options: SaeOptions) -> Sae | None:
    """Returns the autoencoder of a folder if it is of these features and options, else None."""
    if not (folder / RECORD).is_file():
        return None
    try:
        sae = load_sae(folder)
    except UserError:
        return None
    same = sae.options == options and sae.features.get("identity") == features
    return sae if same else None


def _check_other(folder: Path, identity: Mapping[str, Any]) -> None:
    options = SaeOptions(**identity["options"])
    found = finished_sae(folder, identity["features"], options)
    if (folder / RECORD).is_file() and found is None:
        raise UserError(
            f"{folder}: holds an autoencoder with other options or of other features. Name another "
            "folder, or add --force to replace it."
        )


def _check_shapes(sae: Sae) -> None:
    latents, dim = sae.options.latents, sae.image_mean.size
    wanted = {
        "encoder": (dim, latents),
        "encoder_bias": (latents,),
        "decoder": (latents, dim),
        "bias": (dim,),
    }
    for name, shape in wanted.items():
        if sae.weights[name].shape != shape:
            raise ValueError(f"{name} is {sae.weights[name].shape}, not {shape}")


def _same(array: np.ndarray, leaf: Any) -> np.ndarray:
    if array.shape != leaf.shape or array.dtype != leaf.dtype:
        raise ValueError("of another shape")
    return array


def _text(identity: Mapping[str, Any]) -> str:
    return json.dumps(identity, sort_keys=True)
