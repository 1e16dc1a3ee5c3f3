"""The same model over the same shards: ours against CLIP_benchmark's own evaluation in torch."""

import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipjax.config import (
    CheckpointConfig,
    DataConfig,
    DualEncoderConfig,
    LogConfig,
    OptimConfig,
    TextConfig,
    TokenizerConfig,
    TrainConfig,
    ViTConfig,
    to_json_dict,
)

pytestmark = pytest.mark.parity

NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
TEMPLATES = ["a handwritten {c}", "the digit {c}"]
SIDE = 16


def png(pixels, side=24):
    """A picture that is larger than what the model sees, so that resizing counts."""
    image = Image.fromarray((pixels * 255 / 16).round().astype(np.uint8))
    buffer = io.BytesIO()
    image.resize((side, side + 3), Image.Resampling.BICUBIC).convert("RGB").save(buffer, "PNG")
    return buffer.getvalue()


def shard(path, samples):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for number, files in enumerate(samples):
            for suffix, content in files.items():
                info = tarfile.TarInfo(f"s{number:07d}.{suffix}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))


def command(*arguments, cwd):
    done = subprocess.run(
        [sys.executable, "-m", "clipjax.cli.main", *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A trained run, shards in CLIP_benchmark's layout, and the model as open_clip has it."""
    datasets = pytest.importorskip("sklearn.datasets")
    digits = datasets.load_digits()
    root = tmp_path_factory.mktemp("suite")
    train = [
        {"png": png(image), "txt": f"a handwritten {NAMES[label]}".encode()}
        for image, label in zip(digits.images[:1000], digits.target[:1000], strict=True)
    ]
    shard(root / "train" / "0.tar", train)
    test = list(zip(digits.images[1000:], digits.target[1000:], strict=True))
    data = root / "bench" / "wds_numbers"
    halves = (test[:400], test[400:])
    for number, half in enumerate(halves):
        shard(
            data / "test" / f"{number}.tar",
            [{"png": png(image), "cls": str(label).encode()} for image, label in half],
        )
    (data / "test" / "nshards.txt").write_text("2\n")
    (data / "classnames.txt").write_text("\n".join(NAMES) + "\n")
    (data / "zeroshot_classification_templates.txt").write_text("\n".join(TEMPLATES) + "\n")
    pairs = root / "bench" / "wds_pairs"
    # No two texts are equal: the order of equals is an accident in torch.
    captions = [
        f"a handwritten {NAMES[label]} {number}\n{number} {NAMES[label]}"
        for number, (_, label) in enumerate(test[:60])
    ]
    shard(
        pairs / "test" / "0.tar",
        [
            {"png": png(image), "txt": caption.encode()}
            for (image, _), caption in zip(test[:60], captions, strict=True)
        ],
    )
    (pairs / "test" / "nshards.txt").write_text("1\n")
    (pairs / "dataset_type.txt").write_text("retrieval\n")
    config = TrainConfig(
        num_steps=120,
        model=DualEncoderConfig(
            image=ViTConfig(
                image_size=SIDE, patch_size=4, width=64, depth=2, num_heads=1, mlp_dim=128
            ),
            text=TextConfig(
                vocab_size=300, context_length=12, width=64, depth=1, num_heads=1, mlp_dim=128
            ),
            embed_dim=32,
        ),
        tokenizer=TokenizerConfig(kind="bpe"),
        data=DataConfig(root=str(root), shards="train/*.tar", global_batch_size=64),
        optim=OptimConfig(peak_learning_rate=1e-3, warmup_steps=10),
        checkpoint=CheckpointConfig(every_steps=120),
        log=LogConfig(every_steps=60),
    )
    (root / "run.json").write_text(json.dumps(to_json_dict(config)))
    command("train", "--config", "run.json", "--workdir", "run", cwd=root)
    command("convert", "run", "torch", "--to", "open_clip", cwd=root)
    return root


@pytest.fixture(scope="module")
def ours(folder):
    names = "folder:numbers,folder:pairs"
    for model in ("run", "torch"):
        out = f"out-{model}"
        flags = ("--suite", names, "--data", "bench", "--out", out, "--batch_size", 64)
        command("evaluate", "--model", model, *flags, "--keep_features", cwd=folder)
    return folder


@pytest.fixture(scope="module")
def theirs(folder, open_clip):
    """In a process of its own: its readers leave files open, which warnings here would tell."""
    pytest.importorskip("clip_benchmark")
    script = Path(__file__).with_name("clip_benchmark_scores.py")
    done = subprocess.run(
        [sys.executable, script, folder], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    with np.load(folder / "theirs.npz", allow_pickle=False) as arrays:
        logits, target = arrays["logits"], arrays["target"]
    return logits, target, *json.loads((folder / "theirs.json").read_text())


@pytest.mark.parametrize("model", ["run", "torch"])
def test_predictions_and_scores_are_those_of_clip_benchmark(ours, theirs, model):
    logits, target, scores, retrieval = theirs
    tasks = ours / f"out-{model}" / "tasks"
    with np.load(tasks / "numbers.npz") as arrays:
        np.testing.assert_array_equal(arrays["label"], target)
        agree = (arrays["predicted"] == logits.argmax(axis=1)).mean()
    assert agree >= 0.999
    record = json.loads((tasks / "numbers.json").read_text())
    assert 0.2 < scores["acc1"] < 0.9, "a model that says something and not everything"
    for name, value in scores.items():
        assert abs(record["metrics"][name]["value"] - value) <= 1e-3, name
    pairs = json.loads((tasks / "pairs.json").read_text())
    for name, value in retrieval.items():
        assert abs(pairs["metrics"][name]["value"] - value) <= 1e-3, name
