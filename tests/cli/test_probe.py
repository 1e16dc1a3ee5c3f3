"""`clipjax probe`: files in, a table and figures out, and one line for every mistake."""

import json
import subprocess
import sys

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from clipjax.cli.main import main
from clipjax.evals.few_shot import few_shot
from clipjax.evals.labelled_features import LabelledFeatures
from clipjax.evals.linear_probe import linear_probe
from clipjax.evals.neighbours import nearest_neighbours


@pytest.fixture(scope="module", autouse=True)
def one_blas_thread():
    with threadpool_limits(1):
        yield


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """(folder, sets by name): features in folder/NAME, as `clipjax embed` leaves them."""
    root, out = tmp_path_factory.mktemp("features"), {}
    centres = np.random.default_rng(0).normal(size=(3, 8))
    for seed, (name, images) in enumerate({"train": 90, "val": 45, "test": 120}.items()):
        rng = np.random.default_rng(seed)
        labels = np.arange(images) % 3
        features = (centres[labels] + 1.5 * rng.normal(size=(images, 8))).astype(np.float32)
        out[name] = LabelledFeatures(features, labels)
        (root / name).mkdir()
        np.save(root / name / "image_features.npy", features)
        np.save(root / name / "labels.npy", labels)
    return root, out


@pytest.fixture
def probe(sets, tmp_path, capsys):
    """Runs it; returns its status, figures, standard output and error."""

    def run(*args, train="train", test="test"):
        path = tmp_path / "figures.json"
        path.unlink(missing_ok=True)
        folders = ["--train", sets[0] / train, "--test", sets[0] / test]
        with pytest.raises(SystemExit) as end:
            main(["probe", *map(str, [*folders, *args]), "--json", str(path)])
        figures = json.loads(path.read_text()) if path.exists() else None
        return end.value.code, figures, *capsys.readouterr()

    return run


def test_linear(probe, sets):
    root, of = sets
    status, figures, out, err = probe("--val", root / "val", "--resamples", 200)
    found = linear_probe(of["train"], of["val"], of["test"])
    assert status == 0
    assert figures["c"] == found.c
    assert tuple(map(tuple, figures["sweep"])) == found.table
    assert figures["metrics"]["acc1"]["value"] == found.accuracy
    recall = figures["metrics"]["mean_per_class_recall"]
    assert recall["value"] == pytest.approx(found.mean_per_class_recall)
    assert recall["low"] < recall["value"] < recall["high"]
    assert (figures["train_images"], figures["val_images"], figures["test_images"]) == (90, 45, 120)
    assert f"{found.accuracy:.4f}" in out
    assert err.count(" on 45 validation images") == len(found.table)


def test_linear_with_a_fixed_c_and_separate_files(probe, sets, tmp_path):
    _, of = sets
    labels = tmp_path / "other.npy"
    np.save(labels, of["test"].labels.astype(np.uint8))
    status, figures, out, err = probe("--c", 0.5, "--test_labels", labels)
    assert status == 0
    assert figures["c"] == 0.5
    assert figures["sweep"] == []
    assert "linear, C=0.5" in out
    assert not err
    found = linear_probe(of["train"], None, of["test"], c=0.5)
    assert figures["metrics"]["acc1"]["value"] == found.accuracy


def test_linear_on_all_devices(probe, sets):
    _, of = sets
    status, figures, _, _ = probe("--devices", "--c", 2)
    assert status == 0
    found = linear_probe(of["train"], None, of["test"], c=2.0)
    assert figures["metrics"]["acc1"]["value"] == pytest.approx(found.accuracy, abs=1 / 120 + 1e-9)


@pytest.mark.parametrize("temperature", [0.1, 0])
def test_neighbours(probe, sets, temperature):
    _, of = sets
    status, figures, out, _ = probe("--kind", "knn", "--k", 7, "--temperature", temperature)
    found = nearest_neighbours(of["train"], of["test"], k=7, temperature=temperature or None)
    assert status == 0
    assert figures["metrics"]["acc1"]["value"] == (found == of["test"].labels).mean()
    assert figures["temperature"] == (temperature or None)
    assert "7 neighbours" in out


@pytest.mark.parametrize("method", ["linear", "mean"])
def test_few_shot(probe, sets, method):
    _, of = sets
    status, figures, out, _ = probe(
        "--kind", "few_shot", "--method", method, "--shots", "2,1", "--seeds", 2
    )
    found = few_shot(of["train"], of["test"], shots=[1, 2], seeds=[0, 1], method=method)
    assert status == 0
    assert [row["shots"] for row in figures["few_shot"]] == [1, 2]
    for row, result in zip(figures["few_shot"], found, strict=True):
        assert tuple(row["accuracies"]) == result.accuracies
        assert row["interval"] == pytest.approx(result.interval)
        assert f"{result.mean:.4f}" in out


def test_a_single_draw_has_no_interval(probe):
    status, figures, out, _ = probe(
        "--kind", "few_shot", "--method", "mean", "--shots", 1, "--seeds", 1
    )
    assert status == 0
    assert figures["few_shot"][0]["interval"] is None
    assert "nan" not in out


def test_pictures_that_did_not_decode_are_told(probe, sets):
    root, of = sets
    features = of["test"].features.copy()
    features[:20] = 0
    (root / "gaps").mkdir()
    np.save(root / "gaps" / "image_features.npy", features)
    np.save(root / "gaps" / "labels.npy", of["test"].labels)
    status, figures, _, err = probe("--c", 1, test="gaps")
    assert status == 0
    assert "20 of 120 images did not decode (test)" in err
    found = linear_probe(of["train"], None, of["test"], c=1.0)
    hits = (found.predicted == of["test"].labels)[20:].sum()
    assert figures["metrics"]["acc1"]["value"] == pytest.approx(hits / 120)


@pytest.mark.parametrize(
    ("args", "status", "message"),
    [
        (["--kind", "kn"], 2, "Did you mean 'knn'?"),
        (["--k", 3], 2, "--k is for --kind=knn, not for --kind=linear. Leave it out."),
        (["--kind", "knn", "--devices"], 2, "--devices is for --kind=linear and --kind=few_shot"),
        (["--kind", "knn", "--k", 91], 1, "90 images decode, and k=91 are to vote"),
        (["--kind", "knn", "--temperature", -1], 2, "--temperature=-1.0: expected a positive"),
        (["--c", 0], 2, "--c=0.0: expected a positive number"),
        (["--c", "nan"], 2, "--c=nan: expected a positive number"),
        (["--seed", -1], 2, "--seed=-1: expected 0 or more"),
        (["--resamples", 1], 2, "--resamples=1: expected 100 or more"),
        (["--kind", "few_shot", "--shots", "1,x"], 2, "--shots=1,x: expected numbers from 1 on"),
        (["--kind", "few_shot", "--shots", "0"], 2, "--shots=0: expected numbers from 1 on"),
        (["--kind", "few_shot", "--shots", "31"], 1, "class 0 has 30 images that decode; 31 a cl"),
        (["--val_labels", "x.npy"], 2, "--val_labels without --val"),
        (["--val", "nowhere.npy"], 2, "--val=nowhere.npy: name its classes with --val_labels"),
        (["--val", "nowhere.npy", "--val_labels", "x.npy"], 1, "nowhere.npy: no such file"),
        (["--val", "."], 1, "--val=.: no image_features.npy there"),
    ],
)
def test_a_mistake_is_one_line(probe, monkeypatch, tmp_path, args, status, message):
    monkeypatch.chdir(tmp_path)
    found, figures, out, err = probe(*args)
    assert (found, figures, out) == (status, None, "")
    assert message in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1


def test_a_folder_without_labels_and_features_of_another_model(probe, sets):
    root, of = sets
    (root / "bare").mkdir()
    np.save(root / "bare" / "image_features.npy", of["test"].features[:, :5])
    status, _, _, err = probe("--c", 1, test="bare")
    assert status == 1
    assert "/bare: no labels.npy; `clipjax embed` writes it" in err
    np.save(root / "bare" / "labels.npy", of["test"].labels)
    status, _, _, err = probe("--c", 1, test="bare")
    assert status == 1
    assert "features of length 5, but those of" in err


def test_it_starts_without_jax(make_child_env, sets):
    root, _ = sets
    code = (
        "import sys; from clipjax.cli.main import main\n"
        "try: main(sys.argv[1:])\n"
        "finally: assert 'jax' not in sys.modules, 'jax is imported'"
    )
    flags = ["--train", root / "train", "--test", root / "test", "--c", "1"]
    done = subprocess.run(
        [sys.executable, "-c", code, "probe", *flags],
        env=make_child_env(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
