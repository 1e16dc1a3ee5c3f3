import io
import json

import numpy as np
import pytest
from PIL import Image

from clipjax.cli import data_stats
from clipjax.cli.parser import Parser
from clipjax.config.errors import UsageError, UserError
from clipjax.data.writers import Sample, write_shards


def run(*argv):
    parser = Parser(prog="clipjax data stats")
    data_stats.configure(parser)
    return data_stats.run(parser.parse_args([str(arg) for arg in argv]))


@pytest.fixture
def folder(tmp_path):
    def samples():
        for i in range(40):
            buffer = io.BytesIO()
            pixels = np.full((20 + i, 30, 3), i, np.uint8)
            Image.fromarray(pixels).save(buffer, ("jpeg", "png")[i % 2])
            fields = {"similarity": i / 40, "language": "de", "captions": [f"other {i}"]}
            yield Sample(buffer.getvalue(), f"caption number {i}", fields)

    write_shards(tmp_path / "in", samples(), shard_size=15)
    return tmp_path


def test_figures_and_picture(folder, capsys):
    picture = folder / "stats.png"
    figures = run(f"{folder}/in/*.tar", "--out", picture, "--threads", 2)
    assert (figures["samples"], figures["seen"], figures["shards"]) == (40, 40, 3)
    assert figures["distributions"]["height"]["max"] == 59
    assert figures["distributions"]["json similarity"]["count"] == 40
    assert figures["format"] == {"jpg": 20, "png": 20}
    assert figures["language"] == {"de": 40}
    assert figures["distinct_captions"] == 40
    json.dumps(figures, allow_nan=False)
    said = capsys.readouterr().out
    assert "40 samples in 3 shards, 0 incomplete; of 40 looked at 0 bad" in said
    assert "json similarity" in said
    with Image.open(picture) as image:
        assert image.width == 1600


def test_without_a_picture_and_with_another_caption(folder):
    figures = run(f"{folder}/in/*.tar", "--samples", 7, "--caption", "json.captions")
    assert figures["seen"] == 7
    assert figures["distributions"]["caption words"]["max"] == 2
    assert sorted(path.name for path in folder.iterdir()) == ["in"]


def test_shards_without_json(tmp_path, make_tar, folder):
    image = (folder / "in").parent / "x.png"
    Image.new("RGB", (4, 5)).save(image)
    path = make_tar(tmp_path / "bare.tar", {"a": {"png": image.read_bytes(), "txt": b"hello"}})
    figures = run(path)
    assert figures["distributions"]["width"]["p50"] == 4
    assert "language" not in figures


def test_what_cannot_be_is_refused(folder):
    with pytest.raises(UsageError, match="--samples 0: wanted 1 or more"):
        run(f"{folder}/in/*.tar", "--samples", 0)
    with pytest.raises(UserError, match="there is no folder"):
        run(f"{folder}/in/*.tar", "--out", folder / "none" / "a.png")
    with pytest.raises(UserError, match="matches no file"):
        run(f"{folder}/none/*.tar")
