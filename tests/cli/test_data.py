"""`clipjax data`: show and blame against the tars themselves; every command's help; mistakes."""

import io
import itertools
import json
import math
import signal
import subprocess
import sys
import tarfile
import time

import numpy as np
import pytest
from PIL import Image

from clipjax.cli import data_blame, data_index, data_show
from clipjax.cli.data import COMMANDS
from clipjax.cli.main import main
from clipjax.cli.parser import Parser
from clipjax.config import UsageError, UserError, to_json_dict
from clipjax.data.permutation import permute

STEPS, BATCH = 20, 8
BAD = {"k013": {"png": b"no image"}, "k021": {"txt": b" "}}


def picture(i):
    out = io.BytesIO()
    Image.new("RGB", (24, 18 + i % 7), (5 * i % 256, 3 * i % 256, 90)).save(out, "PNG")
    return out.getvalue()


def samples(numbers):
    return {
        f"k{i:03d}": {
            "png": picture(i),
            "txt": f"caption {i}".encode(),
            "json": json.dumps({"captions": [f"a{i}", f"b{i}"]}).encode(),
            **BAD.get(f"k{i:03d}", {}),
        }
        for i in numbers
    }


@pytest.fixture(scope="module")
def root(tmp_path_factory, make_tar):
    """good/: 49 samples in 3 shards; bad/: those and 2 damaged ones; other/: k003 again and 20."""
    root = tmp_path_factory.mktemp("data")
    for name in ("good", "bad", "other"):
        (root / name).mkdir()
    for shard in range(3):
        numbers = [i for i in range(17 * shard, 17 * shard + 17) if f"k{i:03d}" not in BAD]
        make_tar(root / "good" / f"{shard}.tar", samples(numbers))
        make_tar(root / "bad" / f"{shard}.tar", samples(range(17 * shard, 17 * shard + 17)))
    make_tar(root / "other" / "0.tar", {**samples([3]), **samples(range(100, 120))})
    return root


@pytest.fixture
def config(root, tmp_path, tiny_config, replace_in):
    """Writes a config with fields replaced; returns its path."""

    def write(**fields):
        changed = replace_in(tiny_config, "num_steps", STEPS)
        fields = {"root": str(root), "shards": "good/*.tar", "global_batch_size": BATCH, **fields}
        saved = to_json_dict(changed)
        saved["data"] |= fields
        path = tmp_path / "config.json"
        path.write_text(json.dumps(saved))
        return path

    return write


def run(module, *argv, overrides=()):
    parser = Parser(prog="clipjax data x")
    module.configure(parser)
    args = parser.parse_args(list(map(str, argv)))
    args.overrides = list(overrides)
    return module.run(args)


def show(path, step, *argv):
    return run(data_show, "--config", path, "--step", step, *argv)


def blame(path, key, *argv):
    return run(data_blame, "--config", path, "--key", key, *argv)


def members(*paths):
    """(shard: key, caption) of each sample, as the tars hold them."""
    out = []
    for path in paths:
        with tarfile.open(path) as tar:
            for member in tar:
                if member.name.endswith(".txt"):
                    text = tar.extractfile(member).read().decode()
                    out.append((f"{path}: {member.name[:-4]}", text))
    return out


def test_a_step_shows_the_keys_and_captions_of_its_batch(root, config, capsys):
    everything = members(*(root / "good" / f"{s}.tar" for s in range(3)))
    path = config(shuffle_seed=3)
    for step in (1, 2, 6, 7, 1000):  # 6 and 7: from the first epoch into the second
        figures = show(path, step, "--rows", BATCH)
        numbers = np.arange((step - 1) * BATCH, step * BATCH)
        epochs, places = np.divmod(numbers, len(everything))
        expected = [
            everything[int(permute(np.array([place]), len(everything), 3, int(epoch))[0])]
            for epoch, place in zip(epochs, places, strict=True)
        ]
        assert [(row["key"], row["caption"]) for row in figures["batch"]] == expected
        assert [row["row"] for row in figures["batch"]] == list(range(BATCH))
        said = capsys.readouterr().out
        for key, caption in expected:
            assert f"{key}  {caption!r}\n" in said


def test_rows_and_the_forecast(config, capsys):
    path = config()
    assert len(show(path, 2, "--rows", 3)["batch"]) == 3
    assert len(show(path, 2)["batch"]) == BATCH  # not more than there are
    figures = show(path, 2)
    assert figures["epochs"] == {"data": pytest.approx(STEPS * BATCH / 49)}
    assert "49 samples, 3.27 epochs in 20 steps\n" in capsys.readouterr().out


@pytest.mark.parametrize("mode", ["fast", "exact", "device", "naflex"])
def test_the_picture_holds_every_row(config, tmp_path, mode):
    out = tmp_path / "batch.png"
    path = config(image_mode=mode, canvas_size=64, max_patches=6)
    show(path, 3, "--rows", 5, "--out", out)
    with Image.open(out) as sheet:
        pixels = np.asarray(sheet.convert("RGB"))
    cell = 120 + 2 * 6  # five small pictures are three columns and two rows of 120 pixels
    assert pixels.shape == (2 * (cell + 45), 3 * cell, 3)
    for i in range(6):
        top, left = i // 3 * (cell + 45) + 6, i % 3 * cell + 6
        tile = pixels[top : top + 120, left : left + 120]
        text = pixels[top + 122 : top + 160, left : left + 120]
        assert (tile.mean(2).min() < 200) == (i < 5)
        assert (text.min() < 100) == (i < 5)


def test_what_cannot_be_used_shows_what_stands_in_for_it(root, config, capsys):
    path = config(shards="bad/*.tar", max_bad_share=0.0)
    captions = dict(members(*(root / "bad" / f"{s}.tar" for s in range(3))))
    found = {}
    for step in range(1, STEPS + 1):
        for row in show(path, step)["batch"]:
            key = row["key"].rpartition(": ")[2]
            assert key not in BAD
            assert row["caption"] == captions[row["key"]]
            if "instead_of" in row:
                bad = row["instead_of"].rpartition(": ")[2]
                found.setdefault(bad, []).append(row)
    assert set(found) == set(BAD)
    said = capsys.readouterr().out
    for row in itertools.chain(*found.values()):
        assert f"{row['key']}  {row['caption']!r}  (instead of {row['instead_of']})\n" in said


def test_a_shard_that_is_gone_is_named_and_the_rest_is_shown(config, tmp_path, make_tar, capsys):
    (tmp_path / "gone").mkdir()
    for shard in range(2):
        numbers = range(30 + 4 * shard, 34 + 4 * shard)
        make_tar(tmp_path / "gone" / f"{shard}.tar", samples(numbers))
    out = tmp_path / "manifest"
    run(data_index, tmp_path / "gone", "--out", out)
    (tmp_path / "gone" / "1.tar").unlink()
    batch = show(config(shards=str(out)), 1, "--out", tmp_path / "batch.png")["batch"]
    lost = [row for row in batch if "problem" in row]
    assert len(lost) == 4
    assert all("1.tar: No such file" in row["problem"] for row in lost)
    assert all(row["key"].startswith(f"{tmp_path}/gone/1.tar: sample ") for row in lost)
    assert sorted(row["caption"] for row in batch if row not in lost) == [
        f"caption {i}" for i in range(30, 34)
    ]
    assert "1.tar: No such file" in capsys.readouterr().out


def test_the_order_is_measured_beside_the_full_shuffle(config, capsys):
    order = show(config(), 1, "--order")["order"]
    said = capsys.readouterr().out
    for name in ("rank_correlation", "rank_correlation_of_full_shuffle"):
        assert f"{name}: {order[name]:.4f}\n" in said
        assert abs(order[name]) < 5 / math.sqrt(49)
    windowed = show(config(window_shards=1, lanes=1), 1, "--order")["order"]
    assert windowed["neighbour_distance"] < windowed["neighbour_distance_of_full_shuffle"]


def test_blame_agrees_with_show_at_every_step(config):
    path = config(shuffle_seed=5)
    seen = {}
    for step in range(1, STEPS + 1):
        for row in show(path, step)["batch"]:
            seen.setdefault(row["key"], []).append({"step": step, "row": row["row"]})
    assert len(seen) == 49
    for key, places in itertools.islice(seen.items(), 0, None, 6):
        (found,) = blame(path, key)["samples"]
        assert (found["key"], found["seen"]) == (key, places)
        (found,) = blame(path, key.rpartition(": ")[2], "--steps", 7)["samples"]
        assert found["seen"] == [place for place in places if place["step"] <= 7]


def test_a_key_in_two_shards_is_found_in_both_or_in_the_one_that_is_named(root, config, capsys):
    path = config(shards="good/*.tar other/*.tar")
    both = blame(path, "k003")["samples"]
    assert [found["key"] for found in both] == [
        f"{root}/good/0.tar: k003",
        f"{root}/other/0.tar: k003",
    ]
    assert capsys.readouterr().out.count(": k003: ") == 2
    for shard in (f"{root}/other/0.tar", "other/0.tar", "./other/0.tar"):
        (one,) = blame(path, f"{shard}: k003")["samples"]
        assert one == both[1]
    assert len(blame(path, "0.tar: k003")["samples"]) == 2
    for key in ("k999", "", "er/0.tar: k003", "good/1.tar: k003"):
        with pytest.raises(UserError, match="none of 70 samples has this key"):
            blame(path, key)


def test_blame_prints_twenty_places_and_returns_all(config, capsys):
    found = blame(config(), "k003", "--steps", 400)["samples"][0]["seen"]
    assert len(found) > 60
    out = capsys.readouterr().out
    assert len(out.splitlines()) == 22
    assert f"and {len(found) - 20:,} more (all in --json)" in out


def test_a_mixture_says_how_often_each_source_is_seen(root, config, capsys):
    mixture = {
        "photos": {"shards": "good/*.tar", "weight": 3.0, "replacement": False},
        "drawings": {"shards": "other/*.tar", "weight": 1.0, "replacement": True},
    }
    path = config(shards="", mixture=mixture)
    figures = show(path, 2, "--rows", 4)
    seen = STEPS * BATCH
    assert figures["epochs"] == {
        "photos": pytest.approx(0.75 * seen / 49),
        "drawings": pytest.approx(0.25 * seen / 21),
    }
    out = capsys.readouterr().out
    assert "photos    49 samples, 75.0 % of a batch, 2.45 epochs in 20 steps\n" in out
    assert "drawings  21 samples, 25.0 % of a batch, each drawn 1.90 times on average" in out
    rows = [row for step in range(1, 21) for row in show(path, step)["batch"]]
    assert {row["key"].split("/")[-2] for row in rows} == {"good", "other"}


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("--step", "0"), "--step=0: counts from 1"),
        (("--step", "1", "--rows", "0"), "--rows=0: counts from 1"),
        (("--step", str(10**20)), "wanted at most"),
    ],
)
def test_steps_that_there_are_not(config, argv, message):
    with pytest.raises(UsageError, match=message):
        run(data_show, "--config", config(), *argv)


def test_steps_that_cannot_be_blamed(config):
    for steps in (0, -4, 10**20):
        with pytest.raises(UsageError, match=f"--steps={steps}: "):
            blame(config(), "k003", "--steps", steps)


def test_mistakes_are_said_before_anything_is_printed(config, tmp_path, capsys):
    with pytest.raises(UserError, match="there is no folder"):
        show(config(), 1, "--out", tmp_path / "none" / "a.png")
    with pytest.raises(UsageError, match=r"data\.shards is empty"):
        show(config(shards=""), 1)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["data", "--json", "-"], "the command comes before --json"),
        (["data", "emoji", "--out", "x", "more"], "clipjax data emoji: unrecognized arguments"),
        (
            ["data", "show", "--stepp=1"],
            "clipjax data show: no flag --stepp. Did you mean '--step'",
        ),
        (["data", "bench", "--shards=x", "--vs=opn"], "There are: open_clip, none."),
        (["data", "stats", "x.tar", "--config.a=1"], "clipjax data stats: takes no config"),
        (["data", "photos", "--out=x", "--seed=-1"], "--seed -1: wanted 0"),
    ],
)
def test_mistakes_name_the_command_and_only_what_fits(capsys, argv, message):
    with pytest.raises(SystemExit) as ended:
        main(argv)
    err = capsys.readouterr().err
    assert ended.value.code == 2
    assert message in err
    assert err.count("\n") == 1


# From the shell.

_HELP = """
import sys, time
start = time.perf_counter()
from clipjax.cli.main import main
try:
    main(["data", *sys.argv[1:], "--help"])
finally:
    heavy = {"jax", "tensorflow_datasets", "matplotlib", "torch", "flax", "cv2"} & set(sys.modules)
    print(sorted(heavy), time.perf_counter() - start, file=sys.stderr)
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", [*COMMANDS, ""])
def test_help_is_instant_and_says_how_to_begin(make_child_env, name):
    argv = [sys.executable, "-c", _HELP, *([name] if name else [])]
    done = subprocess.run(argv, env=make_child_env(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    heavy, seconds = done.stderr.rsplit(" ", 1)
    assert heavy == "[]"
    assert float(seconds) < 1.5
    if name:
        assert done.stdout.startswith(f"usage: clipjax data {name} ")
        assert f"\nclipjax data {name} " in done.stdout  # an example
    else:
        assert set(COMMANDS) <= set(done.stdout.split())


@pytest.mark.slow
def test_a_reader_that_goes_away_is_no_traceback(config, make_child_env):
    env = make_child_env() | {"PYTHONUNBUFFERED": ""}
    argv = [sys.executable, "-m", "clipjax.cli.main", "data", "show", "--config", str(config())]
    with subprocess.Popen(
        [*argv, "--step", "1"], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        process.stdout.close()
        err = process.stderr.read()
        assert process.wait(60) == 1
    assert err == ""


@pytest.mark.slow
def test_an_interrupt_ends_a_long_check_in_one_line(root, make_child_env, tmp_path):
    name = str(root / "good" / "0.tar")
    listed = tmp_path / "many.txt"
    for i in range(3000):
        (tmp_path / f"{i}.tar").symlink_to(name)
    listed.write_text("".join(f"{tmp_path}/{i}.tar\n" for i in range(3000)))
    argv = [sys.executable, "-m", "clipjax.cli.main", "data", "check", f"@{listed}", "--threads=1"]
    argv += ["--index-dir", str(tmp_path / "index")]
    with subprocess.Popen(
        argv, env=make_child_env(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        deadline = time.monotonic() + 60
        while not (tmp_path / "index").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "", "interrupted\n")
