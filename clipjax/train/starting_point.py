"""Weights of another run or of another codebase that a run goes on from (`init.from`)."""

import sys

import jax
from jax.sharding import Mesh

from clipjax.config import TrainConfig, UserError
from clipjax.data.tokenizers import AbsentTokenizer, Tokenizer
from clipjax.interchange.pretrained import Pretrained, open_pretrained
from clipjax.interchange.same_model import model_differences, model_facts


def starting_weights(config: TrainConfig, mesh: Mesh) -> dict[str, jax.Array]:
    """Returns parameters and model state, each in its place on the mesh.

    Raises:
        UserError: if they are those of another model than the config describes.
    """
    found = _open(config)
    differing = model_differences(model_facts(config.model), model_facts(found.config))
    if differing:
        told = ", ".join(
            f"config.model.{name}={ours!r}, there {theirs!r}"
            for name, (ours, theirs) in differing.items()
        )
        raise UserError(
            f"config.init.from={found.spec}: holds another model: {told}. Set config.model to what "
            "it is."
        )
    params = found.params(config.model, mesh)
    if jax.process_index() == 0:
        print(f"{len(params):,} arrays read from {found.spec}.", file=sys.stderr, flush=True)
    return params


def starting_tokenizer(config: TrainConfig) -> Tokenizer | None:
    """Returns the tokenizer of the weights; None if they are random, or came without one.

    Raises:
        UserError: if they came without one and the config would train a new one.
    """
    if not config.init.from_:
        return None
    found = _open(config)
    if not isinstance(found.tokenizer, AbsentTokenizer):
        # Ids of other tokens would be read without a word.
        return found.tokenizer
    if config.tokenizer.kind == "bpe":
        raise UserError(
            f"config.init.from={found.spec}: came without its tokenizer ({found.tokenizer.reason}) "
            "and config.tokenizer.kind='bpe' trains a new one, whose ids mean other words. Set "
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


__all__ = ["starting_tokenizer", "starting_weights"]
