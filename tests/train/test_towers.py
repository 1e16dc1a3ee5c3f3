"""Towers beside CLIP's own, in training steps on one batch, and in a whole run."""

import dataclasses
import json

import numpy as np
import pytest

from clipjax.config import (
    EvaConfig,
    ModernTextConfig,
    TrainConfig,
    from_config_dict,
    to_json_dict,
)
from clipjax.core.distributed import Cluster, joined
from clipjax.train.run import run

MODERN = ModernTextConfig(
    vocab_size=300, context_length=16, width=32, depth=2, num_heads=2, mlp_dim=48
)
EVA = EvaConfig(
    image_size=16, patch_size=8, width=32, depth=2, num_heads=2, mlp_dim=48, patch_dropout=0.25
)


@pytest.fixture(scope="module")
def config(step_config):
    """`step_config` with EVA and the modern text tower."""
    model = dataclasses.replace(step_config.model, image=EVA, text=MODERN)
    return dataclasses.replace(step_config, model=model)


def test_a_config_of_a_run_survives_json(config):
    saved = json.loads(json.dumps(to_json_dict(config)))
    assert saved["model"]["text"]["kind"] == "modern"
    assert from_config_dict(TrainConfig, saved) == config


def test_the_loss_of_one_batch_falls(config, make_trainer):
    trainer = make_trainer(config)
    state, batch, losses = trainer.init(), trainer.batch(0), []
    for _ in range(8):
        state, metrics = trainer.step(state, batch)
        losses.append(float(metrics["train/loss"]))
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0] - 0.3
    assert trainer.compiled._cache_size() == 1


@pytest.mark.slow
def test_a_whole_run(config, tiny_config, tmp_path):
    """From a config as its file says it: a trained tokenizer, four steps, two evaluations."""
    saved = to_json_dict(tiny_config) | {
        "num_steps": 4,
        "model": to_json_dict(config.model),
        "tokenizer": {"kind": "bpe"},
    }
    with joined(Cluster()) as lifeline:
        run(from_config_dict(TrainConfig, saved), tmp_path, lifeline)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    losses = [line["train/loss"] for line in lines if "train/loss" in line]
    assert losses
    assert np.isfinite(losses).all()
