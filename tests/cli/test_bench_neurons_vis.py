"""The benchmark of feature pictures draws the best units and has them judged by other models."""

import argparse

import numpy as np
import pytest

from clipjax.cli import bench_neurons_vis
from clipjax.cli.bench_neurons_runs import RECIPE
from clipjax.interpret.judge import Judgement
from clipjax.interpret.world_units import FACETS, WorldUnits

PATH = "image/blocks/0/mlp_act"


@pytest.fixture
def found(monkeypatch):
    """Units 3 and 1 are for concepts 5 and 2, the others for none."""
    auroc = np.full((64, 24), 0.5)
    auroc[3, 5], auroc[1, 2] = 0.95, 0.85
    units = WorldUnits(auroc=dict.fromkeys(FACETS, auroc))
    monkeypatch.setattr("clipjax.interpret.world_units.world_units", lambda *_: units)
    return units


@pytest.fixture
def trained_seeds(monkeypatch, trained):
    """Seeds that were trained, in order; all are one small model."""
    seeds = []

    def train_world(config, folder, *, seed):
        seeds.append(seed)
        return trained

    monkeypatch.setattr(bench_neurons_vis, "train_world", train_world)
    return seeds


def run(seeds, **given):
    args = {"config": RECIPE, "units": PATH, "most": 60, "steps": 2, "dir": "x"}
    return bench_neurons_vis.run(argparse.Namespace(seeds=seeds, **{**args, **given}))


def test_each_model_is_judged_by_all_others(found, trained_seeds, monkeypatch, capsys):
    shares = iter([0.5, 0.0, 1.0, 0.5, 0.0, 0.0])

    def judge(model, pictures, said, names, noise):
        assert (said, len(pictures)) == ([5, 2], 2)
        share = next(shares)
        return Judgement(
            predicted=np.zeros(2, int),
            share=share,
            chance=1 / 24,
            noise_share=share / 10,
            others_share=0.25,
        )

    monkeypatch.setattr("clipjax.interpret.judge.judge", judge)
    figures = run([4, 9, 2])
    assert trained_seeds == [4, 9, 2, 9, 4, 2, 2, 4, 9]
    rows = figures["models"]
    assert [(row["seed"], row["judges"]) for row in rows] == [
        (4, [9, 2]),
        (9, [4, 2]),
        (2, [4, 9]),
    ]
    assert [row["share"] for row in rows] == [0.25, 0.75, 0]
    assert [row["ratio"] for row in rows] == pytest.approx([6, 18, 0])
    assert rows[0]["ratios"] == pytest.approx([12, 0])
    assert [row["noise_ratio"] for row in rows] == pytest.approx([0.6, 1.8, 0])
    assert [row["passed"] for row in rows] == [True, False, False]  # noise; nothing
    assert not figures["passed"]
    assert "9: 12.0, 2: 0.0" in capsys.readouterr().out


def test_the_best_units_come_first(found, trained_seeds, monkeypatch):
    drawn = []

    def visualise(model, path, units, how):
        drawn.append((path, units, how.steps))
        return np.zeros((len(units), 16, 16, 3), np.uint8), np.zeros(len(units))

    monkeypatch.setattr("clipjax.interpret.feature_pictures.visualise", visualise)
    run([0])
    run([0], most=1)
    assert drawn == [(PATH, [3, 1], 2), (PATH, [3], 2)]


def test_a_model_without_such_units_misses_the_bar(found, trained_seeds, capsys):
    found.auroc["word"][:] = 0.5
    figures = run([0])
    assert figures["models"] == [{"seed": 0, "judges": [1], "pictures": 0, "passed": False}]
    assert "words 0 !" in capsys.readouterr().out
