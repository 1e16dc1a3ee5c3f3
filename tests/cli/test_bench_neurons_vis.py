"""The benchmark of feature pictures draws the best units and has them judged by another model."""

import argparse

import numpy as np
import pytest

from clipjax.cli import bench_neurons_vis
from clipjax.cli.bench_neurons_runs import RECIPE
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


def test_each_model_is_judged_by_the_next(found, trained_seeds, capsys):
    figures = run([4, 9])
    assert trained_seeds == [4, 9, 9, 4]
    assert [(row["seed"], row["judge"], row["pictures"]) for row in figures["models"]] == [
        (4, 9, 2),
        (9, 4, 2),
    ]
    for row in figures["models"]:
        assert row["chance"] == pytest.approx(1 / 24)
        assert row["share"] in (0, 0.5, 1)
        assert row["ratio"] == pytest.approx(24 * row["share"])
        assert row["passed"] == (row["ratio"] >= 5 and row["noise_ratio"] < 1.5)
    assert figures["passed"] == all(row["passed"] for row in figures["models"])
    assert capsys.readouterr().out.count("words 4") == 2


def test_the_best_units_come_first(found, trained_seeds, monkeypatch):
    drawn = []

    def visualise(model, path, units, how):
        drawn.append((path, units, how.steps))
        return np.zeros((len(units), 16, 16, 3), np.uint8), np.zeros(len(units))

    monkeypatch.setattr("clipjax.interpret.visualise.visualise", visualise)
    run([0])
    run([0], most=1)
    assert drawn == [(PATH, [3, 1], 2), (PATH, [3], 2)]


def test_a_model_without_such_units_misses_the_bar(found, trained_seeds, capsys):
    found.auroc["word"][:] = 0.5
    figures = run([0])
    assert figures["models"] == [{"seed": 0, "judge": 1, "pictures": 0, "passed": False}]
    assert "words 0 !" in capsys.readouterr().out
