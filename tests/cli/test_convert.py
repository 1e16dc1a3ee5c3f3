"""`clipjax convert` and `clipjax push` as they are typed."""

import json

import numpy as np
import pytest

import clipjax
from clipjax.cli.main import main
from clipjax.config import PRESETS, ConvNetConfig


@pytest.fixture
def command(capsys):
    """Runs the command line in this process; returns exit status, output and errors."""

    def run(*args):
        with pytest.raises(SystemExit) as ended:
            main([str(arg) for arg in args])
        return (ended.value.code, *capsys.readouterr())

    return run


def test_a_run_is_copied_with_a_certificate(command, trained, tmp_path):
    status, out, _ = command("convert", trained[0], tmp_path / "copy", "--to", "clipjax")
    assert status == 0
    assert f"{tmp_path / 'copy'}: clipjax, from clipjax" in out
    assert "embeddings differ by 0 at most, logits by 0" in out
    one, two = clipjax.load(trained[0]), clipjax.load(tmp_path / "copy")
    np.testing.assert_array_equal(one.encode_text("a cat"), two.encode_text("a cat"))
    said = json.loads((tmp_path / "copy" / "certificate.json").read_text())
    assert said["source"]["step"] == 12


def test_the_certificate_is_the_figure(command, trained, tmp_path):
    args = ("convert", trained[0], tmp_path / "copy", "--to", "clipjax", "--json", "-")
    status, out, err = command(*args, "--step", "8")
    assert status == 0
    assert json.loads(out)["source"]["step"] == 8
    assert "clipjax, from clipjax" in err


@pytest.mark.parametrize(
    ("args", "status", "why"),
    [
        (("nowhere", "x", "--to", "clipjax"), 1, "nowhere: no such file or folder"),
        (("nowhere", "no/such/x", "--to", "clipjax"), 1, "there is no folder"),
        (("nowhere", "x"), 2, "--to"),
        (("nowhere", "x", "--to", "clipjacks"), 2, "Did you mean 'clipjax'"),
        (("nowhere", "x", "--too", "clipjax"), 2, "no flag --too. Did you mean '--to'"),
    ],
)
def test_mistakes_are_one_line(command, args, status, why, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found, out, err = command("convert", *args)
    assert (found, out) == (status, "")
    assert why in err
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_what_is_there_stays_without_force(command, trained, tmp_path):
    (tmp_path / "copy").mkdir()
    args = ("convert", trained[0], tmp_path / "copy", "--to", "clipjax")
    status, _, err = command(*args)
    assert status == 1
    assert "is there already" in err
    assert command(*args, "--force")[0] == 0


def test_a_tower_that_the_format_does_not_have_is_one_line(
    command, tiny_config, replace_in, tmp_path, monkeypatch
):
    tower = ConvNetConfig(image_size=16, widths=(8, 8), depths=(0, 0))
    monkeypatch.setitem(PRESETS, "Tiny", replace_in(tiny_config.model, "image", tower))
    status, _, err = command("convert", "Tiny", tmp_path / "x", "--to", "open_clip")
    assert status == 1
    assert "open_clip's config has no model with model.image.kind='convnet'" in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_push_needs_a_folder_and_a_repository(command, tmp_path):
    for args, why in (
        (("push", tmp_path / "nothing", "hf:a/b"), "no such folder"),
        (("push", tmp_path, "a/b"), "expected hf:ORG/NAME"),
    ):
        status, _, err = command(*args)
        assert status == 1
        assert why in err
