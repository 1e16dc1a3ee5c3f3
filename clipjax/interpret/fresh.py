"""The same architecture before it has learnt anything: what is found there is of no account."""

import hashlib
import os
from pathlib import Path

import jax

from clipjax.core.checkpoint import CheckpointReader
from clipjax.inference.load import Model
from clipjax.interchange.run_directory import checkpoint_config
from clipjax.models import init_model_state, init_params


def fresh(model: Model, seed: int) -> Model:
    """Returns a model with the initial parameters of a seed, where those of `model` are.

    Args:
        model: whose config, tokenizer and devices are taken.
        seed: of the parameters.
    """
    places = {name: array.sharding for name, array in model.params.items()}
    make = jax.jit(
        lambda: {**init_params(model.config, seed), **init_model_state(model.config)},
        out_shardings=places,
    )
    about = f"untrained {seed} {model.config!r}"
    identity = hashlib.sha256(about.encode()).hexdigest()
    return Model(model.config, make(), model.tokenizer, model.encoder, 0, identity)


def seed_of_run(spec: str | os.PathLike[str], step: int | None = None) -> int:
    """Returns the seed that a run began with; 0 for a model that is not a run of ours.

    Args:
        spec: what the model was loaded from.
        step: of the checkpoint; the newest by default.
    """
    reader = CheckpointReader(Path(spec) / "checkpoints")
    steps = reader.steps()
    if not steps:
        return 0
    return checkpoint_config(reader, steps[-1] if step is None else step).seed
