import io
import json

import numpy as np
import pytest
from PIL import Image

from clipjax.cli import data_reshard
from clipjax.cli.parser import Parser
from clipjax.config.errors import UsageError, UserError
from clipjax.data.sources.tar_shards import TarShards


def run(*argv):
    parser = Parser(prog="clipjax data reshard")
    data_reshard.configure(parser)
    return data_reshard.run(parser.parse_args([str(arg) for arg in argv]))


@pytest.fixture
def folder(tmp_path, make_tar):
    for shard in range(3):
        samples = {}
        for i in range(4):
            buffer = io.BytesIO()
            Image.fromarray(np.full((40, 60, 3), 20 * i, np.uint8)).save(buffer, "png")
            number = 4 * shard + i
            samples[f"k{number}"] = {
                "png": buffer.getvalue(),
                "txt": f"text {number}".encode(),
                "json": json.dumps({"number": number}).encode(),
                "cls": b"1",
            }
        samples["lacks"] = {"png": buffer.getvalue(), "txt": b"no json"}
        make_tar(tmp_path / f"{shard}.tar", samples)
    return tmp_path


def read(out, needs=("txt", "json")):
    source = TarShards(sorted(str(path) for path in out.glob("*.tar")), needs=needs)
    samples = [source[i] for i in range(len(source))]
    source.close()
    return samples


def test_shards_are_resized_shuffled_and_cut_anew(folder, capsys):
    out = folder / "out"
    figures = run(
        f"{folder}/*.tar", "--out", out, "--resize", 20, "--resize-mode", "shortest",
        "--shuffle-seed", 3, "--shard-size", 5, "--threads", 2,
    )  # fmt: skip
    assert (figures["samples"], figures["shards"], figures["incomplete"]) == (12, 3, 3)
    said = capsys.readouterr().out
    assert "3 samples lack an image or .txt, .json and were passed over" in said
    assert f"{out}: 12 samples in 3 shards" in said
    samples = read(out)
    numbers = [json.loads(sample["json"])["number"] for sample in samples]
    assert numbers != sorted(numbers)
    assert sorted(numbers) == list(range(12))
    for sample, number in zip(samples, numbers, strict=True):
        assert sample["txt"] == f"text {number}".encode()
        assert Image.open(io.BytesIO(sample["image"])).size == (30, 20)


def test_other_members_may_be_kept(folder):
    figures = run(folder / "0.tar", "--out", folder / "out", "--keep", "cls,txt")
    assert figures["samples"] == 4
    assert read(folder / "out", ("cls", "txt"))[2]["cls"] == b"1"
    with pytest.raises(UserError, match="no complete sample"):
        run(folder / "0.tar", "--out", folder / "other", "--keep", "npy")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("--resize", "0"), "--resize 0"),
        (("--quality", "0"), "--quality 0"),
        (("--shuffle-seed", "-1"), "--shuffle-seed -1: wanted 0 or more"),
        (("--resize-mode", "short"), "no --resize-mode 'short'. Did you mean 'shortest'"),
    ],
)
def test_what_cannot_be_is_refused_before_the_work(folder, argv, message):
    with pytest.raises(UsageError, match=message):
        run(folder / "0.tar", "--out", folder / "out", *argv)
    assert not (folder / "out").exists()
