"""Suites while a run trains: on its mesh, without compiling, and the best checkpoint is kept."""

import dataclasses
import json

import pytest

from clipjax.cli.main import main
from clipjax.config import CheckpointConfig, EvalsConfig, TrainConfig, UserError, to_json_dict
from clipjax.core.distributed import Cluster, joined
from clipjax.train.run import run

METRIC = "eval/quick/digits/acc5"


def test_a_run_scores_a_suite_and_keeps_the_best(tiny_config, tmp_path, capsys):
    config = dataclasses.replace(
        tiny_config,
        evals=EvalsConfig(every_steps=4, bootstrap_resamples=20, suite="quick"),
        checkpoint=CheckpointConfig(every_steps=4, keep=1, best_metric=METRIC),
    )
    with joined(Cluster()) as lifeline:
        figures = run(config, tmp_path, lifeline)
    assert set(figures["tasks"]) == {"quick/digits", "quick/emoji", "quick/emoji_captions"}
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    scores = {line["step"]: line[METRIC] for line in lines if METRIC in line}
    assert set(scores) == {4, 8, 12}
    best = max(scores, key=lambda step: (scores[step], step))
    kept = {int(path.name) for path in (tmp_path / "checkpoints").glob("0*")}
    assert {best, 12} <= kept
    assert json.loads((tmp_path / "checkpoints" / "best.json").read_text())["metric"] == METRIC
    # The command gives the same score for that checkpoint.
    out = tmp_path / "out"
    flags = ["--suite=quick/digits", f"--out={out}", "--step=best", "--resamples=20"]
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", f"--model={tmp_path}", *flags])
    assert ended.value.code == 0
    results = json.loads((out / "results.json").read_text())
    assert results["model"]["step"] == best
    assert results["tasks"]["quick/digits"]["metrics"]["acc5"]["value"] == scores[best]
    capsys.readouterr()


def test_data_that_are_missing_end_a_run_before_it_trains(tiny_config, tmp_path):
    config = dataclasses.replace(
        tiny_config, evals=EvalsConfig(suite="quick/digits,mnist", suite_data=str(tmp_path))
    )
    with pytest.raises(UserError, match="mnist: not below"), joined(Cluster()) as lifeline:
        run(config, tmp_path / "run", lifeline)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("checkpoint", "evals", "said"),
    [
        ({}, {"suite": "quick"}, r"evals\.every_steps=0 must be a multiple"),
        ({}, {"suite": "quick", "every_steps": 1500}, r"every_steps=1000"),
        ({"best_metric": "acc1"}, {"suite": "quick", "every_steps": 1000}, "expected one of eval/"),
        ({"best_metric": "eval/x/acc1"}, {"every_steps": 1000}, "expected one of eval/TASK/METRIC"),
        ({"keep_best": 0}, {"suite": "quick", "every_steps": 1000}, "keep_best=0 must be positive"),
    ],
)
def test_a_best_that_no_checkpoint_can_be_is_refused(checkpoint, evals, said):
    with pytest.raises(ValueError, match=said):
        TrainConfig(
            checkpoint=CheckpointConfig(**{"best_metric": METRIC, **checkpoint}),
            evals=EvalsConfig(**evals),
        )


def test_the_fields_are_in_a_stored_config(tiny_config):
    stored = to_json_dict(tiny_config)
    assert stored["evals"]["suite"] == stored["checkpoint"]["best_metric"] == ""
