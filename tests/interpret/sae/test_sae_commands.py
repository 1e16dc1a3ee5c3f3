import json

import numpy as np
import pytest

from clipjax.cli.bench_neurons_sae import tf_idf
from clipjax.cli.main import main
from clipjax.interpret.sae.files import ARRAYS, RECORD


@pytest.fixture(scope="module")
def folder(tmp_path_factory, make_pairs):
    """Embeddings of 200 pairs in `features`, as `clipjax embed` writes them."""
    root = tmp_path_factory.mktemp("commands")
    image, text, _ = make_pairs(pairs=200)
    image[5] = 0  # a picture that did not decode
    (root / "features").mkdir()
    np.save(root / "features" / "image_features.npy", image)
    np.save(root / "features" / "text_features.npy", text)
    (root / "features" / "embed.json").write_text('{"model": "runs/a", "step": 3}')
    return root


def _run(*args):
    with pytest.raises(SystemExit) as ended:
        main([str(arg) for arg in args])
    return ended.value.code


def test_train_and_eval(folder, capsys):
    out = folder / "sae"
    train = ["sae", "train", "--features", folder / "features", "--out", out]
    small = ["--latents", 40, "--k", 3, "--steps", 6, "--batch_size", 32]
    assert _run(*train, *small, "--json", folder / "train.json") == 0
    assert "199 pairs" in capsys.readouterr().err or (out / ARRAYS).is_file()
    record = json.loads((out / RECORD).read_text())
    assert record["features"]["model"] == "runs/a"
    assert record["features"]["pairs"] == 199
    assert record["options"]["objective"] == "group"
    assert json.loads((folder / "train.json").read_text())["steps"] == 6
    before = (out / ARRAYS).stat().st_mtime_ns
    assert _run(*train, *small) == 0
    assert "done already" in capsys.readouterr().err
    assert (out / ARRAYS).stat().st_mtime_ns == before
    assert _run(*train, *small, "--seed", 1) == 1
    assert "--force" in capsys.readouterr().err
    # One judge is as long as the files, with the row that is left out; the other one is too short.
    np.save(folder / "meanings.npy", np.abs(np.random.default_rng(0).normal(size=(200, 4))))
    np.save(folder / "short.npy", np.ones((150, 4)))
    evaluate = ["sae", "eval", "--sae", out, "--features", folder / "features"]
    assert _run(*evaluate, "--judge", folder / "meanings.npy", "--json", folder / "eval.json") == 0
    shown = capsys.readouterr().out
    figures = json.loads((folder / "eval.json").read_text())["autoencoders"][str(out)]
    assert f"{figures['bimodal_share']:.2f}" in shown
    assert figures["pairs"] == 199
    assert "flatters" not in shown
    assert _run(*evaluate, "--judge", folder / "short.npy") == 1
    assert "200" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "status", "told"),
    [
        (["train", "--features", "FEATURES", "--out", "o", "--k", "0"], 2, "k=0"),
        (["train", "--features", "nowhere", "--out", "o"], 1, "no such folder"),
        (["train", "--features", "ROOT", "--out", "o"], 1, "no image_features.npy"),
        (["train", "--features", "FEATURES", "--out", "o", "--objectve", "topk"], 2, "--objective"),
        (["eval", "--features", "FEATURES", "--sae", "ROOT"], 1, "no sae.json"),
        (["label", "--sae", "ROOT", "--scan", "ROOT", "--out", "o"], 1, "no sae.json"),
        (["label", "--sae", "x", "--scan", "x", "--out", "o", "--seed", "-1"], 2, "--seed=-1"),
        (["trian"], 2, "train"),
    ],
)
def test_mistakes_are_told_in_a_line(folder, capsys, args, status, told):
    named = {"FEATURES": folder / "features", "ROOT": folder}
    assert _run("sae", *(named.get(arg, arg) for arg in args)) == status
    error = capsys.readouterr().err
    assert told in error
    assert "Traceback" not in error


def test_words_of_one_text_share_a_column():
    rows = tf_idf(["sun moon", "sun", "moon star", "comet"])
    assert rows.shape == (4, 3)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-6)
    assert rows[0] @ rows[3] == 0
    assert 0 < rows[0] @ rows[1] < 1
