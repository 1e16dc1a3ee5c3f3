import argparse
import json

import pytest

from clipjax.cli import data_check
from clipjax.cli.main import COMMANDS, main
from clipjax.config.errors import UserError


@pytest.fixture
def shards(make_tar, tmp_path):
    from io import BytesIO

    from PIL import Image

    out = BytesIO()
    Image.new("RGB", (8, 8)).save(out, "PNG")
    for s in range(2):
        samples = {f"{s}{i}": {"png": out.getvalue(), "txt": b"x"} for i in range(3)}
        make_tar(tmp_path / f"{s}.tar", samples)
    make_tar(tmp_path / "b [1].tar", {"k": {"png": out.getvalue(), "txt": b""}, "l": {"txt": b"x"}})
    return tmp_path


@pytest.fixture
def command(monkeypatch):
    """Runs the command through `clipjax`; returns (exit status, figures)."""
    monkeypatch.setitem(COMMANDS, "check", ("clipjax.cli.data_check", "", False))

    def run(*flags, report):
        with pytest.raises(SystemExit) as ended:
            main(["check", f"--json={report}", *map(str, flags)])
        return ended.value.code, json.loads(report.read_text()) if report.exists() else None

    return run


def test_clean_shards_give_status_0(shards, command, capsys):
    status, report = command("--root", shards, "{0..1}.tar", report=shards / "report.json")
    assert status == 0
    assert (report["shards"], report["complete"], report["problems"]) == (2, 6, {})
    out, err = capsys.readouterr()
    assert out == "2 shards, 6 samples, 6 with image and caption\nnothing is wrong\n"
    assert "checking: 2/2 shards" in err


def test_problems_give_status_1_and_a_table(shards, command, capsys):
    bad = shards / "b [1].tar"
    (shards / "page.tar").write_bytes(b"<html>")
    status, report = command(
        shards / "0.tar", bad, shards / "page.tar", report=shards / "report.json"
    )
    assert status == 1
    assert report["problems"] == {
        "empty caption": 1,
        "caption without image": 1,
        "unreadable shard": 1,
    }
    out = capsys.readouterr().out
    assert f"empty caption                   1  {bad}: k\n" in out
    assert f"caption without image           1  {bad}: l\n" in out
    assert "2 of 3 shards have problems" in out
    assert f"{bad}: empty caption 1, caption without image 1\n" in out
    assert "page.tar: cannot be read as a tar shard (it is a web page" in out


def test_a_shard_named_twice_is_checked_once(shards, command):
    flags = ("--root", shards, "--no-decode", "0.tar", "*.tar", shards / "0.tar")
    _, report = command(*flags, report=shards / "report.json")
    assert report["shards"] == 3


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--caption=png", "--caption='png' must be 'txt', 'json.FIELD'"),
        ("--threads=-1", "--threads=-1: must not be negative"),
        ("--max-image-pixels=0", "--max-image-pixels=0: must be positive"),
        ("--decod", "no flag --decod. Did you mean '--decode'"),
    ],
)
def test_wrong_flags_are_told_in_one_line(shards, command, capsys, flag, message):
    status, _ = command(flag, shards / "0.tar", report=shards / "report.json")
    assert status == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_no_such_shard_is_an_error(shards):
    parser = argparse.ArgumentParser()
    data_check.configure(parser)
    with pytest.raises(UserError, match=r"none\*\.tar.*matches no file"):
        data_check.run(parser.parse_args(["--root", str(shards), "none*.tar"]))
