"""`clipjax data index`: flags become filters, and every mistake is one line."""

import json
import os

import numpy as np
import pytest

from clipjax.cli import data_index
from clipjax.cli.parser import Parser
from clipjax.config.errors import UsageError, UserError
from clipjax.core.metrics import strict_json
from clipjax.data import filters
from clipjax.data.manifest import Manifest
from clipjax.data.sources.opening import open_source


def index(*argv):
    return data_index.run(parsed(*argv))


def parsed(*argv):
    parser = Parser(prog="clipjax data index")
    data_index.configure(parser)
    return parser.parse_args(list(map(str, argv)))


@pytest.fixture
def pool(tmp_path, make_tar, monkeypatch):
    """Ten samples in two shards: similarity 0.0 to 0.9, sizes 10 x 10 to 10 x 100."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pool").mkdir()
    for shard in range(2):
        samples = {}
        for row in range(shard * 5, shard * 5 + 5):
            fields = {"width": 10, "height": 10 * (row + 1), "similarity": row / 10, "L": "en"}
            samples[f"k{row}"] = {
                "jpg": b"image %d" % (row // 2),
                "txt": b"a dog " * (row + 1),
                "json": json.dumps(fields).encode(),
            }
        make_tar(tmp_path / "pool" / f"{shard}.tar", samples)
    (tmp_path / "keys.txt").write_text("k1\nk3\nk8\n")
    (tmp_path / "entries.txt").write_text("dog\n")
    (tmp_path / "scores.jsonl").write_text(
        "".join(json.dumps({"key": f"k{row}", "score": -row}) + "\n" for row in range(10))
    )
    return tmp_path / "pool"


def kept(out="out"):
    manifest = Manifest.load(out)
    return [5 * shard + int(row) for shard in range(2) for row in manifest.rows(shard)]


ALL = list(range(10))


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ((), ALL),
        (("--min-caption-chars", 11, "--max-caption-chars", 29), [1, 2, 3, 4]),
        (("--min-caption-words", 17), [8, 9]),
        (("--max-caption-words", 2), [0]),
        (("--max-aspect", 3), [0, 1, 2]),
        (("--min-side", 10), ALL),
        (("--at-least", "similarity=0.7"), [7, 8, 9]),
        (("--at-least", "similarity=0.7", "--at-most", "similarity=8e-1"), [7, 8]),
        (("--equals", "L=de,en"), ALL),
        (("--equals", "height=10,30"), [0, 2]),
        (("--keep-keys", "keys.txt"), [1, 3, 8]),
        (("--drop-keys", "keys.txt"), [0, 2, 4, 5, 6, 7, 9]),
        (("--top-share", "similarity=0.3"), [7, 8, 9]),
        (("--top-share", "score=0.3", "--scores", "scores.jsonl"), [0, 1, 2]),
        (("--top-share", "similarity=0.5", "--top-share", "height=0.1"), [9]),
        (("--duplicates", "image"), [0, 2, 4, 6, 8]),
        (("--duplicates", "L"), [0]),
        (("--duplicates", "image", "--at-least", "similarity=0.1"), [1, 2, 4, 6, 8]),
        (("--balance", "entries.txt"), ALL),
    ],
)
def test_each_flag(pool, flags, expected):
    figures = index("pool/*.tar", "--out", "out", *flags)
    assert kept() == expected
    assert figures["samples"] == len(expected)
    json.loads(strict_json(figures))


def test_balance_has_a_cap_and_a_seed(pool):
    draws = [
        (index("pool/*.tar", "--out", "out", "--balance", "entries.txt", "--balance-cap", 4,
               "--balance-seed", seed)["samples"], kept())
        for seed in (0, 1, 2, 0)
    ]  # fmt: skip
    assert draws[0] == draws[3]
    assert len({str(draw) for draw in draws}) > 1
    assert all(0 < count < 10 for count, _ in draws)


def test_two_runs_agree_and_the_manifest_is_read_from_anywhere(pool, tmp_path, monkeypatch):
    flags = ("--max-aspect", 8, "--duplicates", "image", "--top-share", "similarity=0.5")
    first = index("*.tar", "--root", "pool", "--out", "out", *flags)
    again = index("1.tar", "0.tar", "--root", "pool", "--out", "again", "--threads", 1, *flags)
    assert first["digest"] == again["digest"]
    about = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert about["made_by"]["max_aspect"] == 8
    assert about["made_by"]["top_share"] == ["similarity=0.5"]
    monkeypatch.chdir("/")
    source = open_source("out", str(tmp_path), ("txt",))
    assert len(source) == first["samples"] > 0
    assert source[0]["txt"].startswith(b"a dog")


def test_without_out_the_indexes_are_made(pool, capsys):
    figures = index("pool/{0..1}.tar", "--checksums")
    assert sorted(os.listdir(pool)) == [
        "0.tar", "0.tar.clipjax-index.npz", "1.tar", "1.tar.clipjax-index.npz"]  # fmt: skip
    assert figures["samples"] == 10
    assert "digest" not in figures
    out = capsys.readouterr().out
    assert "complete" in out
    assert "kept" not in out


def test_the_table_names_what_was_dropped_the_most_first(pool, capsys):
    index("pool/*.tar", "--out", "out", "--max-aspect", 5, "--at-least", "similarity=0.2",
          "--top-share", "similarity=1")  # fmt: skip
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines[:6]] == [
        ["shards", "2"],
        ["bytes", f"{sum(path.stat().st_size for path in pool.glob('*.tar')):,}"],
        ["samples", "10"],
        ["kept", "3"],
        ["aspect", "ratio", "-5"],
        ["similarity", "below", "0.2", "-2"],
    ]
    assert "similarity top 1: from 0" in lines
    assert any(line.startswith("out: digest ") for line in lines)


def test_damage_is_said(pool, capsys):
    with open(pool / "0.tar", "r+b") as file:
        file.truncate(3000)
    figures = index("pool/*.tar", "--out", "out")
    assert figures["damage"]["shards"] == 1
    assert f"1 shards are damaged, e.g. {pool / '0.tar'}: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("--max-aspect", "0.5"), "--max-aspect 0.5: wanted 1 or more"),
        (("--max-aspect", "nan"), "--max-aspect nan: wanted"),
        (("--min-side", "-1"), "--min-side -1: wanted"),
        (("--min-caption-chars", "-1"), "no caption fits"),
        (("--min-caption-words", "3", "--max-caption-words", "2"), "no caption fits"),
        (("--at-least", "similarity"), "--at-least similarity: wanted COLUMN=VALUE"),
        (("--at-most", "similarity=high"), "'high' is no number"),
        (("--at-most", "similarity=nan"), "'nan' is no number"),
        (("--equals", "=en"), "--equals =en: wanted COLUMN=VALUE"),
        (("--top-share", "similarity=30"), "wanted a share above 0, at most 1"),
        (("--top-share", "similarity=0"), "wanted a share above 0, at most 1"),
        (("--key-column", "uid"), "--key-column: needs --keep-keys or --drop-keys"),
        (("--balance-cap", "3"), "--balance-cap: needs --balance"),
        (("--match-case",), "--match-case: needs --balance"),
        (("--balance", "entries.txt", "--balance-cap", "0"), "--balance-cap 0: wanted 1"),
        (("--balance", "entries.txt", "--balance-seed", "-1"), "--balance-seed -1: wanted 0"),
        (("--caption", "text"), "--caption='text' must be 'txt'"),
        (("--threads", "0"), "--threads 0: wanted 1"),
        (("--endpoint", "ftp://x"), "--endpoint='ftp://x' must begin"),
        (("--min-side", "ten"), "argument --min-side: invalid float value"),
        (("--max-aspct", "3"), "--max-aspct"),
    ],
)
def test_a_wrong_flag_is_a_usage_error(pool, argv, message):
    with pytest.raises(UsageError) as caught:
        index("pool/*.tar", "--out", "out", *argv)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not os.path.exists("out")


def test_filters_need_a_manifest(pool):
    with pytest.raises(UsageError, match=r"--max-aspect: what is filtered.*--out"):
        index("pool/*.tar", "--max-aspect", 3)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("other/*.tar",), "matches no file"),
        (("pipe:cat pool/0.tar",), "pipe:"),
        (("pool/*.tar", "--keep-keys", "none.txt"), r"none\.txt: cannot be read \(No such file"),
        (("pool/*.tar", "--scores", "none.npy"), r"none\.npy: cannot be read \(No such file"),
        (("pool/*.tar", "--scores", "keys.txt"), r"keys\.txt: scores are read from"),
        (("pool/*.tar", "--balance", "none.txt"), r"none\.txt: cannot be read \(No such file"),
        (("pool/*.tar", "--equals", "LANG=en"), r"no column 'LANG'.*Found: 'width', 'height'"),
        (("keys.txt",), "cannot be read as a tar shard"),
        (("pool/0.tar", "pool/../pool/0.tar"), "is named twice"),
        (("pool/*.tar", "--needs", "cls"), r"no sample is left of 10 .*dropped 10 incomplete"),
    ],
)
def test_what_cannot_be_used_is_one_line(pool, argv, message):
    with pytest.raises(UserError, match=message) as caught:
        index(*argv, "--out", "out")
    assert "\n" not in str(caught.value)
    assert not os.path.exists("out/manifest.json")


def test_flags_become_the_filters_that_they_name(pool):
    args = parsed("x", "--at-most", "b=1", "--at-least", "a=0.5", "--equals", "c=x,y",
                  "--min-caption-words", 2, "--max-aspect", 3)  # fmt: skip
    curation = data_index.make_curation(args)
    assert set(curation.filters) == {
        filters.AtMost("b", 1.0),
        filters.AtLeast("a", 0.5),
        filters.OneOf("c", ("x", "y")),
        filters.CaptionWords(2, None),
        filters.MaxAspect(3.0),
    }
    assert curation.columns == ("width", "height", "a", "b", "c")


def test_key_lists_of_another_column(pool):
    np.save("heights.npy", np.array(["20", "100"]))
    index("pool/*.tar", "--out", "out", "--keep-keys", "heights.npy", "--key-column", "height")
    assert kept() == [1, 9]


def test_a_sample_needs_the_member_that_holds_its_caption(pool, make_tar):
    make_tar(pool / "0.tar", {"a": {"jpg": b"x", "txt": b"only"}})
    assert index("pool/*.tar", "--out", "out")["samples"] == 6
    figures = index("pool/*.tar", "--out", "out", "--caption", "json.L")
    assert (figures["samples"], figures["dropped"]) == (5, {"incomplete": 1})
    assert Manifest.load("out").needs == ("json",)
    assert index("pool/*.tar", "--out", "out", "--needs", "txt,json")["samples"] == 5
