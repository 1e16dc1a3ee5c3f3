import json
import subprocess
import sys

import cv2
import numpy as np
import pytest

from clipjax.cli.bench_data_turns import measure, take_turns, warm_up
from clipjax.cli.bench_turns import Worker
from clipjax.config import UserError
from clipjax.data.writers import Sample, write_shards


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """40 pairs of 40 x 32 pixels in two shards, blurred as photographs are."""
    folder = tmp_path_factory.mktemp("shards")
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (40, 8, 10, 3), np.uint8)
    images = (cv2.resize(image, (40, 32), interpolation=cv2.INTER_CUBIC) for image in coarse)
    pairs = (Sample(image, f"number {i}") for i, image in enumerate(images))
    write_shards(folder, pairs, shard_size=20, image_format="jpg")
    return folder


@pytest.fixture
def bench(capsys):
    """Runs `clipjax data bench ARGS` in this process; returns the status and what was printed."""
    from clipjax.cli.main import main

    def run(*args):
        with pytest.raises(SystemExit) as ended:
            main(["data", "bench", *map(str, args)])
        return ended.value.code, capsys.readouterr().err

    return run


# Answers at once, and only then works for what it gave: 0.3 s a batch, half of it in a child.
PREFETCHING = """
import os, threading, time
from clipjax.cli.bench_turns import serve

def burn(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass

def refill():
    time.sleep(0.1)
    child = os.posix_spawn(
        "/proc/self/exe",
        ["python", "-S", "-c", "import time\\nwhile time.process_time() < 0.15: pass"],
        os.environ,
    )
    os.waitpid(child, 0)
    burn(0.15)

def take():
    threading.Thread(target=refill).start()
    return {"images": 1000}

serve(lambda options: {"take": take})
"""


@pytest.mark.slow
@pytest.mark.serial
def test_what_is_done_after_the_answer_is_charged_to_the_turn():
    with Worker("eager", ["-c", PREFETCHING], {}, threads=1) as worker:
        warm_up([worker])
        for _ in range(2):
            found = measure(worker)
            assert found["images"] == 1000
            assert 270 <= found["cpu_us"] <= 400
            # 0.3 s of work and 0.1 s of sleep, not the answer's microseconds; others run too.
            assert 100 < found["images_per_second"] < 1000 / 0.35


@pytest.mark.slow
def test_a_loader_that_fails_is_named():
    message = "process of broken ended with status 1: no shards"
    code = "raise SystemExit('no shards')"
    with (
        Worker("broken", ["-c", code], {}, threads=1) as worker,
        pytest.raises(UserError, match=message),
    ):
        warm_up([worker])


class FakeLoader:
    def __init__(self, name, log):
        self.name, self.log = name, log
        self.process = subprocess.Popen([sys.executable, "-S", "-c", "input()"],
                                        stdin=subprocess.PIPE)  # fmt: skip

    @property
    def process_id(self):
        return self.process.pid

    def ask(self, order):
        self.log.append((self.name, order))
        return {"images": 256}


def test_who_begins_changes_from_round_to_round():
    log = []
    loaders = [FakeLoader("a", log), FakeLoader("b", log)]
    try:
        rows = take_turns(loaders, 3)
    finally:
        for loader in loaders:
            loader.process.communicate(b"\n")
    assert [name for name, _ in log] == ["a", "b", "b", "a", "a", "b"]
    assert [row["first"] for row in rows] == ["a", "b", "a"]
    for row in rows:
        assert 0 <= row["a_us"] < 100  # it does nothing
        assert row["b_images_per_second"] > 0


def run_bench(*args):
    found = subprocess.run(
        [sys.executable, "-m", "clipjax.cli.main", "data", "bench", *map(str, args), "--json", "-"],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    return json.loads(found.stdout), found.stderr


SMALL = ("--batches", 2, "--batch_size", 16, "--image_size", 24, "--tokenizer", "byte")


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["fast", "device", "exact"])
def test_ours_alone(shards, mode):
    figures, printed = run_bench("--shards", shards, "--mode", mode, "--rounds", 2, *SMALL)
    assert figures["ratio"] is None
    assert [row["round"] for row in figures["rows"]] == [1, 2]
    assert figures["median_us"]["clipjax"] >= 0
    assert figures["images_per_second"]["clipjax"] > 0
    assert figures["psnr_images"] == 40
    assert figures["psnr_p5"] <= figures["psnr_median"]
    assert figures["psnr_median"] > (25 if mode == "fast" else 45)
    assert sum(figures["stage_shares"].values()) == pytest.approx(1)
    assert figures["bad_samples"] == 0
    assert (figures["mode"], figures["batch_size"], figures["cpus"] > 0) == (mode, 16, True)
    assert "us CPU an image" in printed


@pytest.mark.slow
def test_scaling_compares_two_threads_with_one_and_with_two_processes(shards):
    figures, printed = run_bench("--shards", shards, "--scaling", "--rounds", 2, *SMALL)
    assert set(figures["images_per_second"]) == {"one_thread", "two_threads", "two_processes"}
    for row in figures["rows"]:
        assert row["one_thread_images_per_second"] > 0
        assert row["two_processes_images_per_second"] > 0
    assert figures["ratio"] > 0
    assert figures["threads_over_processes"] > 0
    assert "with one thread" in printed


def test_the_shards_may_be_a_folder_or_a_pattern(shards, monkeypatch):
    from clipjax.cli.bench_data import _place

    both = [str(shards / f"0000{i}.tar") for i in range(2)]
    assert _place(str(shards))["paths"] == both
    monkeypatch.chdir(shards.parent)
    assert _place(f"{shards.name}/{{00000..00001}}.tar")["paths"] == both


@pytest.mark.parametrize(
    ("args", "status", "message"),
    [
        (("--rounds", 0), 2, "--rounds=0 is not positive"),
        (("--scaling", "--vs", "open_clip"), 2, "leave out --vs open_clip"),
        (("--vs", "nobody"), 2, "nobody"),
        (("--mode", "fats"), 2, "Did you mean"),
    ],
)
def test_mistakes_are_one_line(bench, shards, args, status, message):
    code, printed = bench("--shards", shards, *args)
    assert code == status
    assert message in printed
    assert printed.count("\n") == 1


def test_shards_that_are_not_there(bench, tmp_path):
    code, printed = bench("--shards", tmp_path)
    assert code == 1
    assert str(tmp_path) in printed


def test_a_missing_rival_names_the_extra(bench, shards, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    code, printed = bench("--shards", shards, "--vs", "open_clip")
    assert code == 1
    assert "pip install 'clipjax[parity]'" in printed


@pytest.mark.parity
@pytest.mark.slow
@pytest.mark.serial
def test_loading_is_compared_with_open_clip(tmp_path):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (48, 64, 3), np.uint8)
    encoded = cv2.imencode(".jpg", image)[1].tobytes()
    write_shards(tmp_path, (Sample(encoded, f"number {i}") for i in range(700)), image_format="jpg")
    figures, printed = run_bench(
        "--shards", tmp_path, "--vs", "open_clip", "--rounds", 2, "--batches", 4,
        "--batch_size", 64, "--image_size", 64, "--tokenizer", "clip",
    )  # fmt: skip
    low, high = figures["ratio_interval"]
    assert 0 < low <= figures["ratio"] <= high
    assert [row["first"] for row in figures["rows"]] == ["clipjax", "open_clip"]
    for row in figures["rows"]:
        assert row["ratio"] == pytest.approx(row["open_clip_us"] / row["clipjax_us"])
    assert "webdataset 0.2.86" in figures["versions"][1]
    assert "ratio open_clip / clipjax" in printed
