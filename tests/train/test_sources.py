"""Runs from each kind of source, through `clipjax train`, and what a resumed one must give."""

import csv
import io
import json
import math
import shutil
import tarfile

import pytest

from clipjax.cli.main import main
from clipjax.config import EvalsConfig, MixtureConfig, to_json_dict
from clipjax.data.curation import Curation
from clipjax.data.make_manifest import write_manifest
from clipjax.data.storage.local import LocalStorage

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def root(shards_root, tmp_path_factory):
    """The 64 pairs as shards, a folder, a list, a TFDS data set and a manifest."""
    root = tmp_path_factory.mktemp("sources")
    shutil.copytree(shards_root / "train", root / "train")
    (root / "folder").mkdir()
    pairs = []
    for path in sorted((root / "train").glob("*.tar")):
        with tarfile.open(path) as tar:
            files = {member.name: tar.extractfile(member).read() for member in tar}
        for name, data in files.items():
            key, _, suffix = name.partition(".")
            if suffix in ("png", "txt"):
                (root / "folder" / name).write_bytes(data)
            if suffix == "png":
                pairs.append((key, data, files[f"{key}.txt"].decode()))
    with open(root / "list.csv", "w", newline="") as file:
        rows = [("filepath", "caption"), *((f"folder/{k}.png", text) for k, _, text in pairs)]
        csv.writer(file).writerows(rows)
    urls = [str(path) for path in sorted((root / "train").glob("*.tar"))]
    write_manifest(urls, root / "manifest", ["txt"], Curation(), storage=LocalStorage(), made_by={})
    _prepare_tfds(root / "tfds", pairs)
    return root


def _prepare_tfds(folder, pairs):
    import tensorflow_datasets as tfds

    features = tfds.features

    class Squares(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")
        code_path = None  # else importlib_resources would be needed

        def _info(self):
            image = features.Image(encoding_format="png")
            spec = features.FeaturesDict({"image": image, "caption": features.Text()})
            return tfds.core.DatasetInfo(builder=self, features=spec)

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for key, data, text in pairs:
                yield key, {"image": io.BytesIO(data), "caption": text}

    Squares(data_dir=folder, file_format="array_record").download_and_prepare()


@pytest.fixture(scope="module")
def train(root, tiny_config, replace_in, tmp_path_factory):
    """train(workdir, *flags) runs the command in this process; returns its losses by step.

    With `weight` the run is on a mixture of both shards, the first of that weight.
    """
    config = replace_in(tiny_config, "data.root", str(root))
    config = replace_in(config, "data.shards", "")
    config = replace_in(config, "evals", EvalsConfig())
    config = replace_in(config, "log.every_steps", 1)
    folder = tmp_path_factory.mktemp("config")

    def run(workdir, *flags, weight=None):
        of_run = config
        if weight:
            mixture = {
                "a": MixtureConfig(shards="train/00000.tar", weight=weight),
                "b": MixtureConfig(shards="train/00001.tar", weight=1.0),
            }
            of_run = replace_in(config, "data.mixture", mixture)
            of_run = replace_in(of_run, "data.window_shards", 1)
            of_run = replace_in(of_run, "data.lanes", 2)
        path = folder / "config.json"
        path.write_text(json.dumps(to_json_dict(of_run)))
        with pytest.raises(SystemExit) as ended:
            main(["train", f"--config={path}", f"--workdir={workdir}", *flags])
        assert ended.value.code in (0, None)
        rows = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
        return {row["step"]: row["train/loss"] for row in rows if "train/loss" in row}

    return run


_SHARDS = "--config.data.shards=train/*.tar"
SOURCES = {
    "folder, exact": ["--config.data.shards=folder", "--config.data.image_mode=exact"],
    "list, device": [
        "--config.data.shards=list.csv",
        "--config.data.image_mode=device",
        "--config.data.canvas_size=32",
    ],
    "tfds": ["--config.data.shards=tfds:ROOT/tfds/squares/1.0.0:train"],
    "manifest in windows": ["--config.data.shards=manifest", "--config.data.window_shards=1"],
    "two captions": [_SHARDS, "--config.data.caption=txt:1 json.captions:1"],
}


@pytest.mark.parametrize("kind", SOURCES)
def test_a_run_from_each_kind_of_source_ends(kind, train, root, tmp_path):
    flags = [flag.replace("ROOT", str(root)) for flag in SOURCES[kind]]
    losses = train(tmp_path / "run", *flags)
    assert list(losses) == list(range(1, 13))
    assert all(math.isfinite(loss) for loss in losses.values())
    assert losses[12] < losses[1]


def test_a_mixture_resumed_gives_the_bits_of_one_that_was_not(train, tmp_path, capsys):
    """And with other weights it is refused."""
    whole, again = tmp_path / "whole", tmp_path / "again"
    expected = train(whole, weight=3.0)
    assert all(math.isfinite(loss) for loss in expected.values())
    shutil.copytree(whole, again)
    for step in (8, 12):
        shutil.rmtree(again / "checkpoints" / f"{step:08d}")
    (again / "results.json").unlink(missing_ok=True)
    assert train(again, weight=3.0) == expected
    with pytest.raises(AssertionError):
        train(again, "--config.num_steps=13", weight=2.0)
    assert "saw other data" in capsys.readouterr().err
