"""Our own runs as a source of weights, and converted weights as a run of no steps."""

import dataclasses
import functools
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from clipjax.config import (
    CheckpointConfig,
    DualEncoderConfig,
    LossConfig,
    TokenizerConfig,
    TrainConfig,
    UserError,
    from_config_dict,
    to_json_dict,
)
from clipjax.core.checkpoint import CheckpointReader, CheckpointWriter, find_checkpoints
from clipjax.core.partition import tree_shardings
from clipjax.core.stacks import stacked, unstacked
from clipjax.data.tokenizers import Tokenizer
from clipjax.interchange.load_weights import owned_copy, param_shardings
from clipjax.interchange.same_model import HEADS
from clipjax.models import (
    init_model_state,
    init_params,
    model_state_names,
    param_axes,
    param_shapes,
)
from clipjax.models.lora import init_lora, merged
from clipjax.optim import trained_in_run


def pick_checkpoint(
    directory: str | os.PathLike[str], step: int | None
) -> tuple[CheckpointReader, int]:
    """Returns a reader and a verified step.

    Raises:
        UserError: if the step does not exist or is damaged, or no whole checkpoint is left.
    """
    reader = find_checkpoints(directory)
    if step is None:
        step = reader.newest_verified()
        if step is None:
            raise UserError(f"{reader.directory}: every checkpoint is damaged.")
    elif step not in reader.steps():
        raise UserError(
            f"{reader.directory}: no checkpoint of step {step}. There are {reader.steps()}."
        )
    elif problem := reader.problem(step):
        raise UserError(f"{reader.path(step)} is damaged: {problem}.")
    return reader, step


def checkpoint_config(reader: CheckpointReader, step: int) -> TrainConfig:
    """Returns the resolved config that a checkpoint carries; no code is run."""
    return from_config_dict(TrainConfig, json.loads(reader.read(step, "config.json")))


def restore_params(
    reader: CheckpointReader, step: int, model: DualEncoderConfig, mesh: Mesh
) -> dict[str, jax.Array]:
    """Returns parameters and statistics; the moving average where the run kept one.

    Args:
        reader: of the checkpoints.
        step: of a finished one.
        model: that of the checkpoint, layers stacked or not as one likes.
        mesh: where they go.
    """
    config = checkpoint_config(reader, step)
    saved = config.model
    shapes = jax.eval_shape(functools.partial(_evaluated, config))
    shardings = tree_shardings(shapes, param_axes(saved), mesh)
    like = jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        shapes,
        shardings,
    )
    found = reader.restore(step, {name: part for name, part in like.items() if part})
    arrays = {name: array for part in found.values() for name, array in part.items()}
    statistics = {name: arrays.pop(name) for name in model_state_names(saved)}
    params = {**merged(arrays, saved, config.optim.lora), **statistics}
    absent = tuple(f"{name}/" for name in HEADS if getattr(model, name) is None)
    params = {name: array for name, array in params.items() if not name.startswith(absent)}
    if saved.compute.scan_layers == model.compute.scan_layers:
        return params
    return _restacked(params, model, mesh)


def _evaluated(config: TrainConfig) -> dict[str, dict[str, jax.Array]]:
    """Returns what of a checkpoint is evaluated; only its shapes are looked at."""
    params = init_params(config.model, 0) | init_lora(config.model, config.optim.lora, 0)
    shapes = {name: array.shape for name, array in params.items()}
    averaged: set[str] = set()
    if config.optim.ema_decay:
        averaged = {n for n, on in trained_in_run(config, shapes).items() if on}
    statistics = init_model_state(config.model)
    return {
        "params": {name: array for name, array in params.items() if name not in averaged},
        "ema": {name: array for name, array in params.items() if name in averaged}
        | (statistics if config.optim.ema_decay else {}),
        "model_state": {} if config.optim.ema_decay else statistics,
    }


def _restacked(
    params: Mapping[str, jax.Array], model: DualEncoderConfig, mesh: Mesh
) -> dict[str, jax.Array]:
    arrays = {name: np.asarray(array) for name, array in params.items()}
    restack = stacked if model.compute.scan_layers else unstacked
    arrays = dict(restack(arrays.items()))
    places = param_shardings(model, mesh)
    return {
        name: jax.device_put(owned_copy(arrays[name]), places[name]) for name in param_shapes(model)
    }


def write_run(
    directory: Path,
    model: DualEncoderConfig,
    params: Mapping[str, jax.Array],
    tokenizer: Tokenizer,
    record: Mapping[str, Any],
) -> None:
    """Writes a checkpoint of step 0 that holds a model and nothing of a run.

    Args:
        directory: as the --workdir of a run.
        model: its config.
        params: parameters and statistics.
        tokenizer: of the model.
        record: where it comes from.
    """
    config = TrainConfig(
        model=model,
        loss=LossConfig(kind="softmax" if model.init_logit_bias is None else "sigmoid"),
        tokenizer=_tokenizer_config(tokenizer),
    )
    statistics = jax.eval_shape(lambda: init_model_state(model))
    state: dict[str, Any] = {"params": {n: p for n, p in params.items() if n not in statistics}}
    if statistics:
        state["model_state"] = {name: params[name] for name in statistics}
    files = {
        "config.json": json.dumps(to_json_dict(config), indent=1).encode(),
        "tokenizer.json": json.dumps(tokenizer.to_json()).encode(),
        "run.json": json.dumps({**record, "tokenizer": tokenizer.digest()}, indent=1).encode(),
    }
    writer = CheckpointWriter(directory / "checkpoints", CheckpointConfig(), files)
    try:
        writer.save(0, state)
        writer.wait()
    finally:
        writer.close()


def _tokenizer_config(tokenizer: Tokenizer) -> TokenizerConfig:
    """Returns the section that names the kind; what it is, stands in the tokenizer.json."""
    saved = tokenizer.to_json()
    if saved["kind"] in ("sentencepiece", "huggingface"):
        kept = {name: saved[name] for name in ("lowercase", "strip_punctuation", "pad_id")}
        return TokenizerConfig(kind=saved["kind"], path="tokenizer.json of the checkpoint", **kept)
    kind = saved["kind"] if saved["kind"] in ("byte", "clip") else "bpe"
    return dataclasses.replace(TokenizerConfig(), kind=kind, lowercase=saved.get("lowercase", True))
