"""`clipjax neurons vis` as people run it."""

import json

import numpy as np
import pytest
from PIL import Image

from clipjax.cli.main import main


def run(*args):
    with pytest.raises(SystemExit) as ended:
        main(["neurons", "vis", *map(str, args)])
    return ended.value.code


def test_a_picture_a_sheet_and_a_record(trained, tmp_path):
    units = ["image/blocks/0/mlp_act:3", "shared/embed:5+", "shared/embed:5-"]
    assert run(*units, "--model", trained[0], "--out", tmp_path, "--steps", 30) == 0
    record = json.loads((tmp_path / "vis.json").read_text())
    assert [one["unit"] for one in record["units"]] == units
    pictures = [np.asarray(Image.open(tmp_path / one["file"])) for one in record["units"]]
    assert all(picture.shape == (128, 128, 3) for picture in pictures)
    assert len({picture.tobytes() for picture in pictures}) == 3
    # A coordinate is driven up by one picture and down by the other.
    up, down = (one["reached"] for one in record["units"][1:])
    assert up > down
    assert (tmp_path / "sheet.png").is_file()


@pytest.mark.parametrize(
    ("args", "status", "told"),
    [
        ([], 2, "name units, or give the --scan"),
        (["shared/embed:5+", "--judge", "x"], 2, "--judge: needs --scan"),
        (["shared/embed:5+", "--steps", "0"], 2, "steps=0"),
        (["shared/embed:5+", "--learning_rate", "nan"], 2, "learning_rate=nan"),
        (["shared/embed:5+", "--learning_rate", "inf"], 2, "learning_rate=inf"),
        (["shared/embed:5+", "--seed", "-1"], 2, "--seed=-1"),
        (["--scan", "nowhere", "--most", "0"], 2, "--most=0"),
        (["--scan", "nowhere", "--most", "-1"], 2, "--most=-1"),
        (["shared/embed"], 1, "names no unit"),
        (["--scan", "nowhere"], 1, "nowhere"),
    ],
)
def test_mistakes_are_one_line(args, status, told, tmp_path, capsys):
    assert run(*args, "--model", "nowhere", "--out", tmp_path / "out") == status
    assert told in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_made_is_told_before_the_work(tmp_path, capsys):
    (tmp_path / "out").touch()
    assert run("shared/embed:5+", "--model", "nowhere", "--out", tmp_path / "out") == 1
    assert f"{tmp_path / 'out'}: cannot be made or written" in capsys.readouterr().err
