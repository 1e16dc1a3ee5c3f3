"""Weights of another run or of another codebase that a run goes on from (section `init`)."""

import dataclasses
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from clipjax.config import DualEncoderConfig, TrainConfig, UserError
from clipjax.core.distributed import host_copy
from clipjax.data.tokenizers import AbsentTokenizer, Tokenizer, tokenizer_from_json
from clipjax.interchange.load_weights import param_shardings
from clipjax.interchange.pretrained import Pretrained, open_pretrained
from clipjax.interchange.same_model import HEADS, model_differences, model_facts
from clipjax.interchange.tokenizer_files import read_tokenizer
from clipjax.interchange.tower_files import tower_params, tower_path
from clipjax.models import param_shapes
from clipjax.models.surgery import Part, moved_positions


def starting_weights(config: TrainConfig, mesh: Mesh) -> dict[str, jax.Array]:
    """Returns the parameters and model state that are not random, in their places on the mesh.

    Raises:
        UserError: if they are those of another model than the config describes.
    """
    places = param_shardings(config.model, mesh)
    params: dict[str, jax.Array] = {}
    if config.init.from_:
        params |= _whole_model(config, mesh, places)
    towers: dict[Part, str] = {"image": config.init.image_from, "text": config.init.text_from}
    for part, spec in towers.items():
        if spec:
            arrays = tower_params(spec, config.model, part)
            params |= {name: _placed(array, places[name]) for name, array in arrays.items()}
            _tell(f"{len(arrays):,} arrays of the {part} tower read from {spec}.")
    return params


def _whole_model(
    config: TrainConfig, mesh: Mesh, places: Mapping[str, Any]
) -> dict[str, jax.Array]:
    found = _open(config)
    own = _of_the_sizes(config.model, found.config)
    differing = model_differences(model_facts(own), model_facts(found.config))
    if differing:
        told = ", ".join(
            f"config.model.{name}={ours!r}, there {theirs!r}"
            for name, (ours, theirs) in differing.items()
        )
        raise UserError(
            f"config.init.from={found.spec}: holds another model: {told}. Set config.model to what "
            "it is."
        )
    other: Any = {n: None for n in HEADS if getattr(own, n) != getattr(found.config, n)}
    own = dataclasses.replace(own, **other)  # ours begin anew
    params = found.params(own, mesh)
    _tell(f"{len(params):,} arrays read from {found.spec}.")
    wanted = param_shapes(config.model)
    for name, table in params.items():
        if table.shape == wanted[name]:
            continue
        moved = moved_positions(
            own, config.model, name, host_copy(table), how=config.init.text_positions
        )
        params[name] = _placed(moved, places[name])
        _tell(f"{name}: resampled from {table.shape[0]:,} rows to {len(moved):,}.")
    return params


def _of_the_sizes(model: DualEncoderConfig, found: DualEncoderConfig) -> DualEncoderConfig:
    """Returns the model for pictures and texts of the sizes of another one."""
    fields: dict[str, Any] = {}
    if model.image.kind == found.image.kind and model.image.image_size != found.image.image_size:
        fields["image"] = dataclasses.replace(model.image, image_size=found.image.image_size)
        fields["resize_side"] = found.resize_side
    if model.text.kind == found.text.kind:
        length = found.text.context_length
        fields["text"] = dataclasses.replace(model.text, context_length=length)
        fields |= model.of_length(length)
    try:
        return dataclasses.replace(model, **fields)
    except ValueError:
        return model  # of other patches: the differences say it


def _placed(array: np.ndarray, place: Any) -> jax.Array:
    return jax.make_array_from_callback(array.shape, place, lambda index: array[index])


def _tell(line: str) -> None:
    if jax.process_index() == 0:
        print(line, file=sys.stderr, flush=True)


def starting_tokenizer(config: TrainConfig) -> Tokenizer | None:
    """Returns the tokenizer of the weights; None if they are random, or came without one.

    Raises:
        UserError: if they came without one and the config would train a new one.
    """
    if config.init.text_from:
        field, spec = "text_from", config.init.text_from
        tokenizer = read_tokenizer(Path(tower_path(spec)).parent, config.model)
    elif config.init.from_:
        found = _open(config)
        field, spec, tokenizer = "from", found.spec, found.tokenizer
        if not isinstance(tokenizer, AbsentTokenizer):
            length = config.model.text.context_length
            tokenizer = tokenizer_from_json({**tokenizer.to_json(), "context_length": length})
    else:
        return None
    if not isinstance(tokenizer, AbsentTokenizer):
        # Ids of other tokens would be read without a word.
        return tokenizer
    if config.tokenizer.kind == "bpe":
        raise UserError(
            f"config.init.{field}={spec}: came without its tokenizer ({tokenizer.reason}) and "
            "config.tokenizer.kind='bpe' trains a new one, whose ids mean other words. Set "
            "config.tokenizer to the one of the weights."
        )
    return None


def _open(config: TrainConfig) -> Pretrained:
    found = open_pretrained(config.init.from_, preset_name=config.init.preset or None)
    if found.directory is None:
        raise UserError(
            f"config.init.from={found.spec}: a preset has no weights to begin with. Give a path or "
            "hf:ORG/NAME; the model itself is chosen by config.model."
        )
    return found
