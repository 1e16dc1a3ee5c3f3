"""`clipjax neurons scan` as people run it."""

import json

import pytest

from clipjax.cli.main import main
from clipjax.interpret.scan_files import Scan


def run(*args):
    with pytest.raises(SystemExit) as ended:
        main(["neurons", "scan", *map(str, args)])
    return ended.value.code


@pytest.fixture(scope="module")
def scanned(trained, tmp_path_factory):
    """A run of ours and its untrained control, scanned; the figures."""
    folder = tmp_path_factory.mktemp("neurons")
    args = ["--model", trained[0], "--stimuli", "emoji-world", "--facets", "photo, word,caption,"]
    args += ["--out", folder / "scan", "--batch_size", 8, "--bins", 16, "--k", 3]
    status = run(*args, "--control", "untrained", "--json", folder / "figures.json")
    assert status == 0
    return args, folder, json.loads((folder / "figures.json").read_text())


def test_writes_a_scan_and_its_control(scanned, trained):
    _, folder, figures = scanned
    found, control = Scan(folder / "scan"), Scan(folder / "scan" / "controls" / "untrained")
    assert found.facets == control.facets == ("photo", "word", "caption")
    assert figures["paths"] == dict(found.record.paths)
    assert figures["controls"]["untrained"]["model"] == f"{trained[0]} (untrained)"
    assert "8 x" in found.record.devices
    mine = found.activations("photo", "shared/embed")
    assert mine.shape == control.activations("photo", "shared/embed").shape
    assert (mine != control.activations("photo", "shared/embed")).any()


def test_again_is_done_at_once(scanned, capsys):
    args, folder, _ = scanned
    before = (folder / "scan" / "scan.json").stat().st_mtime_ns
    assert run(*args) == 0
    assert (folder / "scan" / "scan.json").stat().st_mtime_ns == before
    assert "units of" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "status", "told"),
    [
        (["--pool", "mean"], 1, "--force"),
        (["--units", "shared/embd", "--force"], 1, "shared/embed"),
        (["--facets", "photos"], 1, "photo"),
        (["--control", "shuffled"], 2, "shuffled=MODEL"),
        (["--control", "a=x", "--control", "a=y"], 2, "already"),
        (["--control", "../a=x"], 2, "NAME=MODEL"),
        (["--control", "rotated=x"], 2, "my_rotated=MODEL"),
        (["--control", "model=x"], 2, "another name"),
        (["--units", "nosuch", "--force"], 1, "image/blocks/*/"),
        (["--seed", "-1", "--force"], 2, "seed=-1"),
        (["--bins", "1000"], 2, "bins=1000"),
        (["--concepts", "nowhere.json"], 1, "nowhere.json"),
    ],
)
def test_mistakes_are_told_and_change_nothing(scanned, capsys, more, status, told):
    args, folder, _ = scanned
    assert run(*args, *more) == status
    assert told in capsys.readouterr().err
    assert Scan(folder / "scan").record.pool == "max"
