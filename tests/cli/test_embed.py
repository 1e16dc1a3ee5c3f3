"""Embeddings in files are those of the model, sample by sample, however often it was stopped."""

import json
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

import clipjax
from clipjax.cli.main import main

SAMPLES = 30
BAD = (3, 17)
COLOURS = ("red", "green", "blue")


@pytest.fixture(scope="module")
def photos(tmp_path_factory, make_tar, make_png):
    """Two shards of pictures of all shapes, of which two do not decode."""
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    samples = {}
    for number in range(SAMPLES):
        height, width = rng.integers(10, 60, 2)
        content = make_png(rng.integers(0, 256, (height, width, 3)).astype(np.uint8))
        if number in BAD:
            content = content[: len(content) // 2] if number == BAD[0] else b"<html>"
        samples[f"{number:05d}"] = {
            "png": content,
            "txt": f"a {COLOURS[number % 3]} thing, {'very ' * (number % 7)}odd".encode(),
            "cls": str(number % 3).encode(),
        }
    keys = list(samples)
    for shard in range(2):
        part = {key: samples[key] for key in keys[15 * shard : 15 * shard + 15]}
        make_tar(root / f"{shard:05d}.tar", part)
    return root, samples


@pytest.fixture
def embed(trained, photos, tmp_path, capsys):
    """Runs `clipjax embed` in this process; returns (exit status, record, out, err)."""

    def run(*flags, out="features", model=trained[0], shards=photos[0]):
        path = tmp_path / "figures.json"
        path.unlink(missing_ok=True)
        given = [f"--model={model}", f"--shards={shards}", f"--out={tmp_path / out}"]
        with pytest.raises(SystemExit) as ended:
            main(["embed", *given, "--batch_size=8", f"--json={path}", *flags])
        record = json.loads(path.read_text()) if ended.value.code == 0 else None
        return ended.value.code, record, *capsys.readouterr()

    return run


@pytest.fixture(scope="module")
def expected(trained, photos, tmp_path_factory):
    """(images, texts) by `clipjax.load`, one at a time; None for a bad picture."""
    model, folder = clipjax.load(trained[0]), tmp_path_factory.mktemp("one")
    images = []
    for number, sample in enumerate(photos[1].values()):
        path = folder / "one.png"
        path.write_bytes(sample["png"])
        images.append(None if number in BAD else model.encode_image(path)[0])
    return images, model.encode_text([one["txt"].decode() for one in photos[1].values()])


def check_images(rows, expected):
    assert rows.dtype == np.float32
    for row, right in zip(rows, expected[0], strict=True):
        np.testing.assert_allclose(row, np.zeros(16) if right is None else right, atol=2e-6)


def names(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def test_every_sample_has_the_embeddings_of_the_model(embed, photos, expected, tmp_path):
    status, record, out, err = embed()
    folder = tmp_path / "features"
    assert status == 0
    check_images(np.load(folder / "image_features.npy"), expected)
    np.testing.assert_allclose(np.load(folder / "text_features.npy"), expected[1], atol=1e-5)
    assert (folder / "keys.txt").read_text().splitlines() == list(photos[1])
    labels = np.load(folder / "labels.npy")
    assert labels.dtype == np.int64
    assert labels.tolist() == [number % 3 for number in range(SAMPLES)]
    assert record == json.loads((folder / "embed.json").read_text())
    assert record["samples"] == SAMPLES
    assert record["step"] == 12
    assert record["bad"]["images"]["count"] == 2
    assert record["bad"]["texts"]["count"] == 0
    assert [":".join(text.split(":")[:2])[-6:] for text in record["bad"]["images"]["examples"]] == [
        " 00003",
        " 00017",
    ]
    assert "warning: 2 of 30 images cannot be used" in err
    assert "00000.tar: 00003: damaged" in err
    assert "30 samples x 16 numbers" in out
    assert names(folder) == [
        "embed.json",
        "image_features.npy",
        "keys.txt",
        "labels.npy",
        "text_features.npy",
    ]


def test_a_table_has_them_too(embed, photos, expected, tmp_path):
    embed("--format=parquet")
    folder = tmp_path / "features"
    table = pq.read_table(folder / "features.parquet")
    assert table.column_names == ["key", "image", "text"]
    assert table["key"].to_pylist() == list(photos[1])
    check_images(np.array(table["image"].to_pylist(), np.float32), expected)
    np.testing.assert_allclose(np.array(table["text"].to_pylist()), expected[1], atol=1e-5)
    assert sorted(path.name for path in folder.iterdir()) == [
        "embed.json",
        "features.parquet",
        "labels.npy",
    ]
    embed("--format=npy")
    check_images(np.load(folder / "image_features.npy"), expected)


@pytest.mark.parametrize("only", ["images", "texts"])
def test_one_side_alone(only, embed, expected, tmp_path):
    _, record, _, _ = embed(f"--{only}")
    (features,) = (tmp_path / "features").glob("*_features.npy")
    assert features.name == f"{only[:-1]}_features.npy"
    assert list(record["bad"]) == [only]
    if only == "images":
        check_images(np.load(features), expected)
    else:
        np.testing.assert_allclose(np.load(features), expected[1], atol=1e-5)


def test_pictures_without_captions_need_none(embed, make_tar, make_png, tmp_path):
    picture = make_png(np.zeros((9, 9, 3), np.uint8))
    make_tar(tmp_path / "bare.tar", {"a": {"png": picture}, "b": {"png": picture, "cls": b"1"}})
    status, record, out, _ = embed("--images", shards=tmp_path / "bare.tar")
    assert status == 0
    assert record["samples"] == 2
    assert "labels.npy" not in record["files"]
    assert "1 of 2 samples have a .cls file: no labels" in out
    status, _, _, err = embed(out="both", shards=tmp_path / "bare.tar")
    assert status == 1
    assert "no complete sample" in err


def test_labels_that_are_no_numbers_are_left_out(embed, make_tar, make_png, tmp_path):
    picture = make_png(np.zeros((9, 9, 3), np.uint8))
    make_tar(tmp_path / "x.tar", {"a": {"png": picture, "cls": b"dog"}})
    _, record, out, _ = embed("--images", shards=tmp_path / "x.tar")
    assert "labels.npy" not in record["files"]
    assert "a: label 'dog' is no number: no labels" in out


def test_other_folders_are_embedded_too(embed, tmp_path):
    for name in ("red", "blue"):
        (tmp_path / "classes" / name).mkdir(parents=True)
        Image.new("RGB", (20, 12), name).save(tmp_path / "classes" / name / f"one of {name}.jpg")
    _, record, _, _ = embed(shards=tmp_path / "classes")
    assert record["samples"] == 2
    assert (tmp_path / "features" / "keys.txt").read_text().splitlines() == [
        "blue/one of blue.jpg",
        "red/one of red.jpg",
    ]
    assert np.load(tmp_path / "features" / "labels.npy").tolist() == [0, 1]


def test_what_is_done_is_not_done_again(embed, tmp_path):
    embed("--images")
    before = (tmp_path / "features" / "image_features.npy").stat().st_mtime_ns
    status, record, out, _ = embed("--images")
    assert status == 0
    assert "is done already: 30 samples" in out
    assert record["samples"] == 30
    assert (tmp_path / "features" / "image_features.npy").stat().st_mtime_ns == before


@pytest.mark.parametrize("flags", [["--step=8"], ["--dtype=bfloat16"]])
def test_embeddings_of_another_model_are_not_overwritten_unasked(flags, embed, tmp_path):
    embed("--images")
    first = np.load(tmp_path / "features" / "image_features.npy")
    status, _, _, err = embed("--images", *flags)
    assert status == 1
    assert "features: holds embeddings by" in err
    assert "--force" in err
    np.testing.assert_array_equal(np.load(tmp_path / "features" / "image_features.npy"), first)
    status, _, _, _ = embed("--images", *flags, "--force")
    assert status == 0
    other = np.load(tmp_path / "features" / "image_features.npy")
    assert np.abs(other - first).max() > 1e-5
    np.testing.assert_allclose(np.linalg.norm(other[:3], axis=1), 1, atol=1e-5)


def test_mistakes_are_one_line(embed, tmp_path):
    for flags, status, told in (
        (["--images", "--texts"], 2, "not allowed with"),
        (["--batch_size=0"], 2, "--batch_size=0 is not positive"),
        (["--caption=xml"], 2, "caption='xml' must be 'txt'"),
        (["--formt=npy"], 2, "Did you mean '--format'?"),
    ):
        found, _, _, err = embed(*flags)
        assert found == status, err
        assert told in err
        assert len(err.strip().splitlines()) == 1
    status, _, _, err = embed(shards=tmp_path / "nowhere" / "*.tar")
    assert status == 1
    assert "error: --shards=" in err
    assert "set them with --root= and --shards=." in err


@pytest.mark.slow
def test_a_command_that_is_killed_is_gone_on_with(
    trained, photos, tmp_path, make_child_env, clipjax_command
):
    """Killed when some of the pictures are in the file."""
    big = tmp_path / "big"
    big.mkdir()
    for copy in range(12):
        shutil.copy(photos[0] / "00000.tar", big / f"{copy:05d}.tar")
    flags = [f"--model={trained[0]}", f"--shards={big}", "--images", "--batch_size=2"]
    whole = clipjax_command("embed", *flags, f"--out={tmp_path / 'whole'}")
    assert whole.returncode == 0, whole.stderr
    out = tmp_path / "killed"
    process = subprocess.Popen(
        [sys.executable, "-m", "clipjax.cli.embed", *flags, f"--out={out}"],
        env=make_child_env(1),
        stderr=subprocess.PIPE,
        text=True,
    )
    progress, end = out / ".image_features.npy.progress", time.monotonic() + 100
    while not progress.exists() or len(progress.read_bytes().splitlines()) < 10:
        assert time.monotonic() < end
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (out / "image_features.npy").exists()
    done = clipjax_command("embed", *flags, f"--out={out}")
    assert done.returncode == 0, done.stderr
    behind = int(done.stderr.partition("going on behind ")[2].split(" ", 1)[0])
    assert 16 <= behind < 180
    for name in ("image_features.npy", "keys.txt", "labels.npy"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
