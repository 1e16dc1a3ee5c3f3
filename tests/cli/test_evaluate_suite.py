"""`clipjax evaluate --model M --suite S`: what is written, gone on with, told and kept."""

import csv
import io
import json
import re
import shutil
import subprocess
import sys
import tarfile

import numpy as np
import pytest

from clipjax.cli.main import main
from clipjax.evals.suites import suites


@pytest.fixture
def evaluate(trained, tmp_path, capsys):
    """Runs the command in this process; returns (exit status, results, out, err)."""
    workdir, _ = trained

    def run(*flags, model=workdir, out=tmp_path / "out"):
        with pytest.raises(SystemExit) as ended:
            main(["evaluate", f"--model={model}", f"--out={out}", *map(str, flags)])
        path = out / "results.json"
        results = json.loads(path.read_text()) if path.is_file() else None
        return ended.value.code, results, *capsys.readouterr()

    return run


@pytest.fixture(scope="module")
def evaluated(trained, benchmark_root, tmp_path_factory):
    """Several tasks, evaluated once on eight devices, features kept."""
    out = tmp_path_factory.mktemp("evaluated")
    names = "folder:colours,folder:tags,folder:pairs,wilds/fmow,winoground,winogavil,quick/digits"
    with pytest.raises(SystemExit) as ended:
        main(
            [
                "evaluate",
                f"--model={trained[0]}",
                f"--out={out}",
                f"--data={benchmark_root}",
                f"--suite={names}",
                "--keep_features",
                "--probe=linear,knn,few_shot",
                "--tasks=folder:colours,folder:tags,folder:pairs,winoground,winogavil",
            ]
        )
    assert ended.value.code == 0
    return out


@pytest.mark.slow
def test_everything_is_written(evaluated):
    results = json.loads((evaluated / "results.json").read_text())
    assert list(results["tasks"]) == ["colours", "tags", "pairs", "winoground", "winogavil"]
    assert results["failed"] == {}
    for name, record in results["tasks"].items():
        assert json.loads((evaluated / "tasks" / f"{name}.json").read_text()) == record
        assert (evaluated / "tasks" / f"{name}.npz").is_file()
    with np.load(evaluated / "tasks" / "colours.npz") as arrays:
        metric = results["tasks"]["colours"]["metrics"]["acc1"]
        assert metric["value"] == (arrays["predicted"] == arrays["label"]).mean()
        assert len(set(arrays["keys"])) == 16
    (row,) = csv.DictReader((evaluated / "results.csv").read_text().splitlines())
    assert row["name"]
    assert float(row["colours"]) == pytest.approx(metric["value"], abs=1e-4)
    page = (evaluated / "report.html").read_text()
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert f"{metric['value']:.4f}" in page


@pytest.mark.slow
def test_probes_stand_beside_zero_shot(evaluated):
    metrics = json.loads((evaluated / "tasks" / "colours.json").read_text())["metrics"]
    # The same pictures to learn from: nearest neighbours find themselves among twenty.
    assert metrics["linear_probe_acc1"]["value"] > metrics["linear_probe_acc1"]["chance"]
    assert {"knn_acc1", "few_shot_1_acc1", "linear_probe_mean_per_class_recall"} <= set(metrics)
    assert (evaluated / "features" / "colours.train.npy").is_file()


@pytest.mark.slow
def test_one_device_counts_as_eight_do(
    evaluated, trained, benchmark_root, tmp_path, make_child_env
):
    """In a process of its own: the same hits, whatever the devices and the batch."""
    flags = ("--data", benchmark_root, "--suite", "folder:colours,folder:pairs")
    command = [sys.executable, "-m", "clipjax.cli.main", "evaluate", "--model", trained[0]]
    done = subprocess.run(
        [*command, *flags, "--out", tmp_path / "one", "--batch_size", "5"],
        env=make_child_env(1),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for task, names in (("colours", ("predicted", "in_top5")), ("pairs", ("text_rank",))):
        with (
            np.load(evaluated / "tasks" / f"{task}.npz") as eight,
            np.load(tmp_path / "one" / "tasks" / f"{task}.npz") as one,
        ):
            for name in names:
                np.testing.assert_array_equal(one[name], eight[name])


@pytest.mark.slow
def test_the_embedded_suite_works_and_is_not_done_twice(evaluate):
    status, first, out, err = evaluate("--suite=quick")
    assert status == 0
    assert len(first["tasks"]) == 3
    assert "Average" in first["aggregates"]
    assert "Average" in out
    status, again, _, err = evaluate("--suite=quick")
    assert status == 0
    assert again == first
    assert err.count("done already") == 3
    status, _, _, err = evaluate("--suite=quick/digits", "--again")
    assert "done already" not in err
    # Another protocol is other work.
    _, other, _, err = evaluate("--suite=quick/digits", "--protocol=datacomp-v1")
    assert "done already" not in err
    assert other["tasks"]["quick/digits"]["protocol"] == "datacomp-v1"


@pytest.mark.slow
def test_what_takes_long_tells_its_progress(evaluate, monkeypatch):
    monkeypatch.setattr("clipjax.inference.encoder._QUIET_SECONDS", 0.0)
    _, _, _, err = evaluate("--suite=quick/digits")
    assert "embedding: 300/300 images" in err
    assert "embedding: 30/30 texts" in err


@pytest.mark.slow
def test_prompts_that_tasks_share_are_embedded_once(evaluate, benchmark_root, tmp_path):
    flags = (f"--data={benchmark_root}", "--suite=folder:colours,wilds/fmow,folder:tags")
    status, results, _, _ = evaluate(*flags, "--keep_features")
    assert status == 0
    hashes = {record["prompts_sha256"] for record in results["tasks"].values()}
    assert len(hashes) == 1
    (prompts,) = (tmp_path / "out" / "features").glob("prompts-*.npy")
    assert np.load(prompts).shape[0] == 16  # eight classes, two templates
    texts = np.load(tmp_path / "out" / "features" / "colours.texts.npy")
    means = np.load(prompts).reshape(8, 2, -1).mean(axis=1)
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    np.testing.assert_array_equal(texts, means)


@pytest.mark.slow
def test_prompts_of_the_user_are_other_work(evaluate, tmp_path):
    (tmp_path / "names.txt").write_text("\n".join("abcdefghij"))
    _, first, _, _ = evaluate("--suite=quick/digits")
    _, second, _, err = evaluate("--suite=quick/digits", f"--classnames={tmp_path}/names.txt")
    assert "done already" not in err
    one, two = (found["tasks"]["quick/digits"] for found in (first, second))
    assert one["prompts_sha256"] != two["prompts_sha256"]
    assert two["class_names"] == list("abcdefghij")
    assert "names.txt" in two["prompts_from"]


@pytest.mark.slow
def test_what_is_there_is_run_and_the_rest_is_said(evaluate, benchmark_root):
    status, results, out, err = evaluate(
        "--suite=folder:colours,vtab/dtd", f"--data={benchmark_root}"
    )
    assert status == 0  # nothing is wrong with what there is
    assert list(results["tasks"]) == ["colours"]
    assert list(results["failed"]) == ["vtab/dtd"]
    for text in (out, err):
        assert "wds_vtab-dtd_test" in text
    assert results["aggregates"] == {}


@pytest.mark.slow
def test_without_training_images_the_zero_shot_score_stays(evaluate, benchmark_root):
    status, results, _, err = evaluate(
        "--suite=wilds/fmow", f"--data={benchmark_root}", "--probe=knn"
    )
    assert status == 0
    record = results["tasks"]["wilds/fmow"]
    assert "acc_worst_region" in record["metrics"]
    assert "knn_acc1" not in record["metrics"]
    assert "not probed" in err
    assert "not probed" in record["notes"][-1]


@pytest.mark.slow
def test_the_results_of_another_model_are_not_overwritten(evaluate, trained, tmp_path):
    status, first, _, _ = evaluate("--suite=quick/digits")
    assert status == 0
    status, second, _, err = evaluate("--suite=quick/digits", "--step=8")
    assert status == 2
    assert second == first
    assert "step 12). Name another folder, or replace it with --again" in err
    status, second, _, err = evaluate("--suite=quick/digits", "--step=8", "--again")
    assert status == 0
    assert second["model"]["step"] == 8


@pytest.mark.slow
def test_features_serve_other_settings(evaluate, benchmark_root, tmp_path):
    """Neither probes nor resamples nor templates make the pictures be embedded again."""
    flags = ("--suite=folder:colours", f"--data={benchmark_root}", "--keep_features")
    evaluate(*flags)
    path = tmp_path / "out" / "features" / "colours.npy"
    before = path.stat().st_mtime_ns
    (tmp_path / "templates.txt").write_text("{c}!")
    status, results, _, err = evaluate(
        *flags, "--probe=knn", "--resamples=10", f"--templates={tmp_path}/templates.txt"
    )
    assert status == 0
    assert "done already" not in err
    assert "knn_acc1" in results["tasks"]["colours"]["metrics"]
    assert path.stat().st_mtime_ns == before


@pytest.mark.slow
def test_a_damaged_task_leaves_the_others(evaluate, benchmark_root, tmp_path):
    root = tmp_path / "data"
    for name in ("wds_colours", "wds_tags"):
        shutil.copytree(benchmark_root / name, root / name)
    (root / "wds_colours" / "classnames.txt").write_text("red\n")
    status, results, _, err = evaluate("--suite=folder:colours,folder:tags", f"--data={root}")
    assert status == 1
    assert list(results["tasks"]) == ["tags"]
    assert "label" in results["failed"]["colours"]
    assert "Traceback" not in err


@pytest.mark.slow
def test_a_picture_that_does_not_decode_is_counted_and_said(evaluate, benchmark_root, tmp_path):
    shutil.copytree(benchmark_root / "wds_colours", tmp_path / "data" / "wds_colours")
    shard = tmp_path / "data" / "wds_colours" / "test" / "0.tar"
    with tarfile.open(shard) as tar:
        files = {member.name: tar.extractfile(member).read() for member in tar.getmembers()}
    bad = sorted(name for name in files if name.endswith("png"))[2]
    files[bad] = files[bad][:50]
    with tarfile.open(shard, "w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    status, results, _, err = evaluate("--suite=folder:colours", f"--data={tmp_path / 'data'}")
    record = results["tasks"]["colours"]
    assert status == 0
    assert (record["bad_samples"], record["samples"]) == (1, 16)
    assert record["bad_examples"][0].startswith(bad.removesuffix(".png"))
    assert "1 items do not decode and count as wrong" in err
    page = (tmp_path / "out" / "report.html").read_text()
    assert "1 of 16 samples do not decode" in re.sub("<[^>]+>", "", page)


@pytest.mark.slow
def test_again_does_not_trust_what_was_kept(evaluate, benchmark_root, tmp_path):
    shutil.copytree(benchmark_root / "kinds", tmp_path / "data" / "kinds")
    picture = next((tmp_path / "data" / "kinds").rglob("*.png"))
    content = picture.read_bytes()
    picture.write_bytes(content[:50])
    flags = ["--suite=folder:kinds", f"--data={tmp_path / 'data'}", "--keep_features"]
    _, spoilt, _, _ = evaluate(*flags)
    picture.write_bytes(content)
    _, mended, _, _ = evaluate(*flags, "--again")
    counts = [results["tasks"]["kinds"]["bad_samples"] for results in (spoilt, mended)]
    assert counts == [1, 0]


@pytest.mark.slow
def test_other_classes_to_learn_from_are_no_probe(evaluate, benchmark_root, tmp_path):
    """The places of folders are labels, and mean others where one is missing."""
    folder = tmp_path / "data" / "kinds"
    shutil.copytree(benchmark_root / "kinds", folder)
    shutil.copytree(folder / "test", folder / "train")
    shutil.rmtree(min((folder / "test").iterdir()))
    status, results, _, err = evaluate(
        "--suite=folder:kinds", f"--data={tmp_path / 'data'}", "--probe=knn"
    )
    assert status == 0
    assert "knn_acc1" not in results["tasks"]["kinds"]["metrics"]
    assert "a label means two things" in err


@pytest.mark.slow
def test_a_killed_evaluation_goes_on(trained, tmp_path, make_child_env):
    """Killed between two tasks or within one: what was done is not done again."""
    out = tmp_path / "out"
    command = [sys.executable, "-m", "clipjax.cli.main", "evaluate", "--model", trained[0]]
    flags = ["--suite", "quick", "--out", out, "--batch_size", "16"]
    child = subprocess.Popen(
        [*command, *flags], env=make_child_env(1), stderr=subprocess.PIPE, text=True
    )
    for line in child.stderr:
        if "quick/emoji_captions: 64 items" in line:
            child.kill()
            break
    child.wait()
    child.stderr.close()
    done = subprocess.run(
        [*command, *flags], env=make_child_env(1), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("done already") >= 2
    assert len(json.loads((out / "results.json").read_text())["tasks"]) == 3
    assert not (out / "features").exists()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--suite=quik"], "no suite or task 'quik'. Did you mean 'quick'?"),
        (["--suite=quick", "--protocol=datacomp"], "Did you mean 'datacomp-v1'?"),
        (["--suite=quick", "--probe=liner"], "no probe 'liner'. Did you mean 'linear'?"),
        (["--suite=quick", "--batch_size=0"], "must be positive"),
        (["--suite=quick", "--workdir=x"], "write --model instead"),
        (["--suite=quick", "--config.num_steps=3"], "a suite takes none"),
        (["--suite=quick", "--suit=x"], "--suite"),
        (["--suite=quick", "--tasks=mnist"], "'mnist' is not in the suite 'quick'"),
        ([], "--suite is missing"),
    ],
)
def test_mistakes_of_the_command_line(evaluate, flags, said):
    status, results, _, err = evaluate(*flags)
    assert status == 2
    assert said in err
    assert results is None


def test_neither_model_nor_workdir(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["evaluate"])
    assert ended.value.code == 2
    assert "--model MODEL --suite SUITE" in capsys.readouterr().err


def test_the_list_of_suites(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", "--list"])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    for name in suites():
        assert f"{name} (" in out
    assert "  vtab/dtd" in out
