import json
import math
import sys
import types

import pytest

from clipjax.config import LogConfig, UserError
from clipjax.core.metrics import JsonLines, TensorBoard, make_sinks


def write(path, steps, *, resume_step=0):
    sink = JsonLines(path, resume_step=resume_step)
    for step in steps:
        sink.write(step, {"train/loss": 1.0 / step})
    sink.close()


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_write_is_one_line_at_once(tmp_path):
    path = tmp_path / "metrics.jsonl"
    sink = JsonLines(path, resume_step=0)
    sink.write(3, {"train/loss": 0.5, "data/bad_samples": 0.0})
    assert path.read_text() == '{"step": 3, "train/loss": 0.5, "data/bad_samples": 0.0}\n'
    sink.close()


def test_what_is_not_finite_is_written_so_that_every_json_reader_accepts_the_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    sink = JsonLines(path, resume_step=0)
    sink.write(1, {"a": math.nan, "b": math.inf, "c": -math.inf})
    sink.close()

    def reject(constant):
        raise AssertionError(f"{constant} is not JSON")

    row = json.loads(path.read_text(), parse_constant=reject)
    assert row == {"step": 1, "a": "nan", "b": "inf", "c": "-inf"}
    assert math.isnan(float(row["a"]))


def test_a_resumed_run_forgets_the_steps_that_it_repeats(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write(path, [2, 4, 6, 8])
    write(path, [6, 8, 10], resume_step=4)
    assert [row["step"] for row in rows(path)] == [2, 4, 6, 8, 10]


def test_forgotten_steps_are_gone_before_the_next_write(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write(path, [2, 4, 6, 8])
    write(path, [], resume_step=4)
    assert [row["step"] for row in rows(path)] == [2, 4]


def test_resuming_at_the_last_step_keeps_all(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write(path, [2, 4])
    write(path, [], resume_step=4)
    assert [row["step"] for row in rows(path)] == [2, 4]


@pytest.mark.parametrize(
    "torn", ['{"step": 6, "train/l', '{"step": 6}', '{"step": 6', "\0\0\0", "{}\n", "[]\n"]
)
def test_a_torn_last_line_is_dropped_and_the_file_goes_on(tmp_path, torn):
    path = tmp_path / "metrics.jsonl"
    write(path, [2, 4])
    with path.open("a") as file:
        file.write(torn)
    write(path, [6], resume_step=10)
    assert [row["step"] for row in rows(path)] == [2, 4, 6]


def test_tensorboard_events_grow_with_every_write(tmp_path):
    sink = TensorBoard(tmp_path, resume_step=0)
    sizes = []
    for step in (1, 2):
        sink.write(step, {"train/loss": 0.5})
        (file,) = tmp_path.glob("events.out.tfevents.*")
        sizes.append(file.stat().st_size)
    sink.close()
    assert 0 < sizes[0] < sizes[1]
    assert b"train/loss" in file.read_bytes()


# tensorboardX leaves a file open that it could not flush.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("sink_class", [JsonLines, TensorBoard])
def test_on_a_full_disk_a_write_fails_whole_and_with_room_the_next_one_does_not(
    sink_class, small_disk
):
    disk, resize = small_disk
    sink = sink_class(disk / "metrics.jsonl" if sink_class is JsonLines else disk, resume_step=0)
    row = {f"metric_{i:04d}_with_a_long_name": 0.5 for i in range(100)}
    for _ in range(4):
        sink.write(0, row)
    resize(max(4, sum(path.stat().st_size for path in disk.iterdir()) // 1024))
    with pytest.raises(OSError, match="No space left"):
        sink.write(1, row | {f"more_{i}": 0.5 for i in range(1000)})
    resize(1000)
    sink.write(1000, row)
    sink.close()
    if sink_class is JsonLines:
        assert [r["step"] for r in rows(disk / "metrics.jsonl")] == [0] * 4 + [1000]
    else:
        newest = max(disk.iterdir(), key=lambda path: path.stat().st_mtime_ns)
        assert b"metric_0099_with_a_long_name" in newest.read_bytes()


def test_sinks_are_those_of_the_config(tmp_path):
    plain = make_sinks(tmp_path, LogConfig(tensorboard=False), {}, resume_step=0)
    both = make_sinks(tmp_path, LogConfig(tensorboard=True), {}, resume_step=0)
    assert [type(sink) for sink in plain] == [JsonLines]
    assert [type(sink) for sink in both] == [JsonLines, TensorBoard]
    for sink in (*plain, *both):
        sink.close()


def test_wandb_gets_every_row_and_a_resumed_run_goes_on_as_the_same_one(tmp_path, monkeypatch):
    runs = []

    class Run:
        def __init__(self, **options):
            self.options, self.rows, self.finished = options, [], False
            runs.append(self)

        def log(self, metrics, step):
            self.rows.append((step, metrics))

        def finish(self):
            self.finished = True

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=Run))
    log = LogConfig(tensorboard=False, wandb_project="pairs")
    for workdir in (tmp_path / "a/run", tmp_path / "a/run", tmp_path / "b/run"):
        workdir.mkdir(parents=True, exist_ok=True)
        sinks = make_sinks(workdir, log, {"seed": 3}, resume_step=0)
        for sink in sinks:
            sink.write(7, {"train/loss": 0.5})
            sink.close()
    first, again, other = runs
    assert first.options["project"] == "pairs"
    assert first.options["config"] == {"seed": 3}
    assert first.options["resume"] == "allow"
    assert first.rows == [(7, {"train/loss": 0.5})]
    assert first.finished
    assert first.options["id"] == again.options["id"] != other.options["id"]


def test_missing_wandb_is_told_in_one_line_with_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r"wandb_project='x' needs wandb: pip install"):
        make_sinks(tmp_path, LogConfig(tensorboard=False, wandb_project="x"), {}, resume_step=0)
