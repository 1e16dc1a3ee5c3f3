import json

import jax.numpy as jnp
import pytest

from clipjax.config import CheckpointConfig, UserError
from clipjax.core.best_checkpoints import BestCheckpoints, best_step, read_best
from clipjax.core.checkpoint import CheckpointWriter

METRIC = "eval/pets/acc1"


@pytest.fixture
def writer(tmp_path):
    made = []

    def make(**fields):
        config = CheckpointConfig(best_metric=METRIC, **fields)
        made.append(CheckpointWriter(tmp_path / "checkpoints", config, {}))
        return made[-1]

    yield make
    for one in made:
        one.close()


def train(made, scores):
    for step, score in scores.items():
        made.save(step, {"x": jnp.full(2, step)})
        made.rate(step, {METRIC: score, "eval/other/acc1": -score})
        made.wait()


@pytest.mark.parametrize(
    ("keep_best", "left"),
    [(1, [2, 6]), (2, [2, 4, 6]), (3, [2, 3, 4, 6]), (9, [1, 2, 3, 4, 5, 6])],
)
def test_the_best_outlive_newer_ones(writer, keep_best, left):
    made = writer(keep=1, keep_best=keep_best)
    train(made, {1: 0.1, 2: 0.9, 3: 0.5, 4: 0.8, 5: 0.2, 6: 0.3})
    assert made.steps() == left
    assert best_step(made.directory.parent) == 2


def test_of_equal_ones_the_latest_and_nan_is_the_worst(writer):
    made = writer(keep=1)
    train(made, {1: 0.5, 2: 0.5, 3: float("nan"), 4: 0.1})
    assert made.steps() == [2, 4]
    assert json.loads((made.directory / "best.json").read_text())["scores"]["3"] is None


def test_a_resumed_run_remembers(writer):
    made = writer(keep=1)
    train(made, {1: 0.9, 2: 0.1})
    made.close()
    again = writer(keep=1)
    train(again, {3: 0.2, 4: 0.3})
    assert again.steps() == [1, 4]


def test_scores_of_another_metric_are_forgotten(tmp_path):
    one = BestCheckpoints(tmp_path, METRIC)
    one.add(7, 0.5)
    assert BestCheckpoints(tmp_path, METRIC).best(3) == [7]
    assert BestCheckpoints(tmp_path, "eval/x/y").best(3) == []


@pytest.mark.parametrize("content", ["", "{", "[]", '{"metric": "m"}', '{"scores": {"a": 1}}'])
def test_a_damaged_file_is_none(tmp_path, content):
    (tmp_path / "best.json").write_text(content)
    assert read_best(tmp_path) is None


def test_without_scores_there_is_no_best(tmp_path):
    with pytest.raises(UserError, match="no checkpoint has a score"):
        best_step(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    BestCheckpoints(tmp_path / "checkpoints", METRIC).add(5, 0.5)  # whose checkpoint is gone
    with pytest.raises(UserError, match="no checkpoint has a score"):
        best_step(tmp_path)
