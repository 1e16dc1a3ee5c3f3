"""The benchmark of replicated pairs scans a model and both controls, and applies its bars."""

import argparse

import pytest

from clipjax.cli import bench_neurons_replication as module


@pytest.fixture
def trained_models(monkeypatch, trained):
    """Models that were trained, in order; all are one small model."""
    made = []

    def train_world(config, folder, *, seed, shuffled):
        made.append((seed, shuffled, config.neurons.every_steps))
        return trained

    monkeypatch.setattr(module, "train_world", train_world)
    return made


def run(tmp_path, seeds):
    args = {"config": module.CONFIG, "seeds": seeds, "dir": str(tmp_path)}
    return module.run(argparse.Namespace(**args))


def test_a_model_that_learnt_nothing_misses_the_bar_and_passes_as_a_control(
    trained_models, tmp_path, capsys
):
    figures = run(tmp_path, [7])
    assert trained_models == [(7, False, 750), (7, True, 750)]
    assert [row["model"] for row in figures["models"]] == ["trained", "shuffled", "untrained"]
    for row in figures["models"]:
        assert row["replicated_pairs"] == 0
        assert row["rise"] is None
        assert row["passed"] == (row["model"] != "trained")
    assert not figures["passed"]
    assert "trained 7 !" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("pairs", "rise", "passed"),
    [(20, 0.81, True), (19, 1.0, False), (20, 0.8, False), (54, None, False)],
)
def test_the_bars(trained_models, tmp_path, monkeypatch, pairs, rise, passed):
    names = ("pairs", "replicated_pairs", "replicated_units", "replicated_concepts")
    monkeypatch.setattr(module, "_found", lambda model, out: dict.fromkeys(names, pairs))
    monkeypatch.setattr(module, "rises", lambda *_: {module.CURVE: rise, module.PAIRS: 0.5})
    rows = run(tmp_path, [0])["models"]
    assert [row["passed"] for row in rows] == [passed, False, False]
