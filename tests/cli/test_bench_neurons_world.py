"""The table tells which bars are missed; a model of a few steps misses nearly all."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipjax.cli.bench_neurons_world import balanced, named, table
from clipjax.cli.main import main

GOOD = {
    "seed": 0,
    "words": True,
    "seconds": 70.0,
    "zero_shot": 0.5,
    "balanced": 0.4,
    "reading": 0.99,
    "hijack": 0.6,
    "units": 50,
    "concepts": 15,
}


def test_what_misses_a_bar_is_marked():
    low = {**GOOD, "hijack": 0.49, "units": 39}
    control = {**GOOD, "words": False, "hijack": 0.06, "reading": 0.04, "units": 5}
    lines = table([GOOD, low, control]).splitlines()
    assert "!" not in lines[3]
    assert " ".join(lines[4].split()) == "words 0 0.500 0.400 0.990 0.490 ! 39 ! 15 70"
    assert " ".join(lines[5].split()) == "no words 0 0.500 0.400 0.040 0.060 ! 5 15 70"
    assert lines[1].split()[1:] == [">=0.45", ">=0.95", ">=0.5", ">=40", ">=12"]


@given(st.integers(0, 10**6))
def test_naming_is_a_choice_among_one_right_and_all_wrong_concepts(seed):
    rng = np.random.default_rng(seed)
    labels = rng.random((8, 5)) < 0.4
    labels[np.arange(8), rng.integers(5, size=8)] = True
    similarity = rng.uniform(-1, 1, (8, 5))
    expected = [
        np.mean(
            [
                all(similarity[i, c] > similarity[i, w] for w in range(5) if not labels[i, w])
                for c in range(5)
                if labels[i, c]
            ]
        )
        for i in range(8)
    ]
    assert named(similarity, labels) == pytest.approx(expected)


def test_each_concept_counts_as_much_as_the_others():
    similarity = np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.1], [0.9, 0.3]])
    labels = np.array([[True, False], [True, False], [True, False], [False, True]])
    assert balanced(similarity, labels) == 0.5
    assert named(similarity, labels).mean() == 0.75


def test_equal_answers_count_as_wrong():
    """A model that maps everything to one point names nothing."""
    labels = np.eye(3, dtype=bool)
    assert named(np.full((3, 3), 0.5), labels).tolist() == [0, 0, 0]


@pytest.mark.slow
def test_a_run_of_few_steps_has_every_figure(tmp_path, config_of_steps, monkeypatch):
    monkeypatch.setattr("clipjax.data.world_shards.COPIES", {"stimulus": 1, "word": 1})
    path = tmp_path / "figures.json"
    with pytest.raises(SystemExit) as ended:
        main(
            [
                *(
                    "bench",
                    "neurons",
                    "world",
                    "--config",
                    str(config_of_steps(5)),
                    "--seeds",
                    "3",
                ),
                *("--dir", str(tmp_path), "--json", str(path)),
            ]
        )
    assert not ended.value.code
    figures = json.loads(path.read_text())
    assert [row["words"] for row in figures["models"]] == [True, False]
    assert not figures["passed"]
    assert (tmp_path / "words-3" / "results.json").exists()


@pytest.fixture
def config_of_steps(tmp_path):
    from clipjax.cli.configs import load_config
    from clipjax.config import to_json_dict

    def write(steps):
        narrow = "--config.model.image.widths=(8,8,8,8,16)"
        config = load_config("configs/emoji_neurons.py", [f"--config.num_steps={steps}", narrow])
        path = tmp_path / "config.json"
        path.write_text(json.dumps(to_json_dict(config)))
        return path

    return write


def test_seeds_that_are_none(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["bench", "neurons", "world", "--seeds", "a"])
    assert ended.value.code == 2
    assert "--seeds a: wanted whole numbers" in capsys.readouterr().err
