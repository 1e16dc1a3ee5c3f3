import json

import numpy as np
import pytest

from clipjax.cli.main import main
from clipjax.data.resize import EvaluationTransform
from clipjax.evals.embedded import QUICK, open_embedded
from clipjax.evals.outcomes import Outcome, metrics_of
from clipjax.evals.records import FORMAT, write_results, write_task
from clipjax.evals.suite_task import SuiteTask


def keep(folder, **hits_of_tasks):
    """Writes an evaluation whose tasks have these hits and misses; returns the folder."""
    (folder / "tasks").mkdir(parents=True)
    records = {}
    for task, hits in hits_of_tasks.items():
        label = np.arange(len(hits)) % 3
        arrays = {
            "label": label,
            "predicted": np.where(hits, label, (label + 1) % 3),
            "in_top5": np.asarray(hits, bool),
        }
        options = {"num_classes": 3}
        outcome = Outcome(kind="classification", arrays=arrays, options=options)
        keys = np.array([f"{i:05}" for i in range(len(hits))])
        np.savez(folder / "tasks" / f"{task}.npz", keys=keys, **arrays)
        records[task] = {
            "task": task,
            "kind": "classification",
            "main_metric": "acc1",
            "data_sha256": f"data of {task}",
            "metrics": {name: {"value": m.value} for name, m in metrics_of(outcome).items()},
            "options": options,
        }
    results = {"format": FORMAT, "model": {"name": folder.name}, "tasks": records}
    (folder / "results.json").write_text(json.dumps(results))
    return folder


@pytest.fixture
def folders(tmp_path):
    """Two models of two tasks: of 200 images B wins 40 and loses 10, and the same 100 of 150."""
    same = np.arange(150) < 100
    a = keep(tmp_path / "a", birds=np.arange(200) < 110, cars=same)
    b = keep(tmp_path / "b", birds=(np.arange(200) >= 10) & (np.arange(200) < 150), cars=same)
    return a, b


@pytest.fixture
def compare(tmp_path, capsys):
    """Runs `clipjax compare` in this process; returns (exit status, figures, out, err)."""

    def run(*flags):
        path = tmp_path / "figures.json"
        with pytest.raises(SystemExit) as ended:
            main(["compare", f"--json={path}", *map(str, flags)])
        figures = json.loads(path.read_text()) if ended.value.code == 0 else None
        return ended.value.code, figures, *capsys.readouterr()

    return run


def test_table_and_figures(compare, folders):
    status, figures, out, err = compare(*folders, "--resamples=500")
    assert (status, err) == (0, "comparing birds ...\ncomparing cars ...\n")
    birds, cars = figures["tasks"]
    assert (birds["task"], birds["metric"], birds["test"]) == ("birds", "acc1", "binomial")
    assert (birds["a"], birds["b"]) == (0.55, 0.7)
    assert birds["difference"] == pytest.approx(0.15)
    assert birds["p_value"] == pytest.approx(2.386e-5, rel=1e-3)  # binom(50, 10) and less, twice
    assert birds["adjusted_p"] == pytest.approx(2 * birds["p_value"])
    assert (cars["p_value"], cars["adjusted_p"], cars["difference"]) == (1, 1, 0)
    assert [row["verdict"] for row in figures["tasks"]] == ["B better", "not shown"]
    assert [row["task"] for row in figures["aggregates"]] == ["mean of 2 tasks"]
    assert figures["a"] == {"path": str(folders[0]), "model": {"name": "a"}}
    assert (figures["alpha"], figures["correction"], figures["metric"]) == (0.05, "holm", "main")
    assert (figures["left_out"], figures["warnings"]) == ({}, [])
    lines = out.splitlines()
    assert lines[:2] == [f"A  {folders[0]}", f"B  {folders[1]}"]
    assert lines[3].split() == [
        "task", "metric", "A", "B", "B", "-", "A", "95", "%", "interval", "p", "adjusted", "verdict"
    ]  # fmt: skip
    assert "birds            acc1    0.5500  0.7000  +0.1500" in lines[4]
    assert lines[4].endswith("<0.0001   <0.0001  B better")
    assert lines[5].endswith("+0.0000 to +0.0000   1.0000    1.0000  not shown")
    assert len({line.index("  B better") for line in lines[4:7] if "B better" in line}) == 1
    assert "p of 2 adjusted by Holm, alpha 0.05" in lines[-1]


def test_flags_reach_the_comparison(compare, folders, tmp_path):
    a, b = folders
    seed = keep(tmp_path / "s1", birds=np.arange(200) < 90, cars=np.arange(150) < 101)
    _, figures, out, err = compare(
        a, b, "--metric=all", "--correction=bh", "--alpha=0.01", "--resamples=400", "--seeds", seed
    )
    assert (figures["correction"], figures["alpha"], figures["metric"]) == ("bh", 0.01, "all")
    assert figures["seeds"] == [str(seed)]
    metrics = {row["metric"] for row in figures["tasks"]}
    assert {"acc1", "mean_per_class_recall", "F1-macro_all"} <= metrics
    birds = figures["tasks"][0]
    assert birds["noise"]["runs"] == 2
    assert birds["verdict"] == "within noise"
    assert "within noise" in out
    assert "noise" in out.splitlines()[3].split()
    assert "Benjamini-Hochberg" in out
    assert "warning: with 400 resamples no adjusted p value of" in err


def test_what_is_left_out_is_said(compare, folders, tmp_path):
    c = keep(tmp_path / "c", birds=np.arange(200) < 120, planes=np.arange(9) < 3)
    status, figures, _, err = compare(folders[0], c, "--resamples=200")
    assert status == 0
    assert err.splitlines()[1:] == ["left out: cars: not in B", "left out: planes: not in A"]
    assert figures["left_out"] == {"cars": "not in B", "planes": "not in A"}
    assert figures["aggregates"] == []


def test_a_model_is_as_good_as_itself(compare, folders):
    _, figures, _, _ = compare(folders[0], folders[0], "--metric=all", "--resamples=2000")
    assert {row["adjusted_p"] for row in figures["tasks"]} == {1}
    assert {row["verdict"] for row in figures["tasks"]} == {"not shown"}
    assert figures["aggregates"][0]["p_value"] == 1


@pytest.mark.parametrize(
    ("flags", "status", "message"),
    [
        (["{a}"], 2, "clipjax compare: the following arguments are required: B."),
        (["{a}", "{b}", "--alpha=1"], 2, "--alpha=1.0: expected a probability between 0 and 1."),
        (["{a}", "{b}", "--alpha=nan"], 2, "--alpha=nan: expected a probability"),
        (["{a}", "{b}", "--resamples=10"], 2, "--resamples=10: expected 200 or more."),
        (["{a}", "{b}", "--correction=hom"], 2, "Did you mean 'holm'?"),
        (["{a}", "{b}", "--sedes=x"], 2, "Did you mean '--seeds'?"),
        (["{a}", "{b}/tasks"], 1, "b/tasks: no evaluation: results.json cannot be read"),
        (["{a}", "{b}", "--seeds", "nowhere"], 1, "nowhere: no evaluation"),
        (["{a}", "{b}", "--metric=acc2"], 1, "--metric=acc2: no task has it. Did you mean 'acc1'?"),
    ],
)
def test_a_mistake_is_one_line(compare, folders, flags, status, message):
    a, b = folders
    found, _, out, err = compare(*[flag.format(a=a, b=b) for flag in flags])
    assert (found, out) == (status, "")
    lines = [line for line in err.splitlines() if not line.startswith("comparing ")]
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert message in lines[0]


class Colours:
    """Pictures by their colours, texts by chance."""

    def __init__(self, seed):
        self._seed = seed

    def images(self, images, rows=None):
        pixels = np.zeros((8, 8, 3), np.uint8)
        out = np.zeros((len(images), 192), np.float32)
        for index in range(len(images)):
            images.fill(index, pixels)
            out[index] = pixels.reshape(-1) + 1.0
        return out / np.linalg.norm(out, axis=1, keepdims=True)

    def texts(self, texts):
        x = np.random.default_rng(self._seed).normal(size=(len(texts), 192)).astype(np.float32)
        return x / np.linalg.norm(x, axis=1, keepdims=True)


def test_what_evaluate_keeps_can_be_compared(compare, tmp_path):
    folders = []
    for seed in (0, 1):
        folder, records = tmp_path / f"model{seed}", {}
        for name, benchmark in QUICK.items():
            data = open_embedded(benchmark, EvaluationTransform())
            task = SuiteTask(benchmark=benchmark, dataset=data, resamples=20)
            done = task.evaluate(Colours(seed))
            records[name] = done.record
            write_task(folder, done.record, done.outcome, data.keys, {})
        write_results(folder, {}, "quick", "clip-benchmark", list(QUICK.values()), records, {})
        folders.append(folder)
    status, figures, *_ = compare(*folders, "--resamples=200", "--metric=all")
    assert status == 0
    assert figures["left_out"] == {}
    assert [warning for warning in figures["warnings"] if "resamples" not in warning] == []
    results = [json.loads((folder / "results.json").read_text())["tasks"] for folder in folders]
    rows = {(row["task"], row["metric"]): row for row in figures["tasks"]}
    assert rows.keys() == {(t, m) for t, record in results[0].items() for m in record["metrics"]}
    for (task, metric), row in rows.items():
        for side, tasks in zip("ab", results, strict=True):
            assert row[side] == pytest.approx(tasks[task]["metrics"][metric]["value"], abs=1e-9)
