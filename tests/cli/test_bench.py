import dataclasses
import json
import subprocess
import sys
import time

import numpy as np
import pytest

from clipjax.cli.bench_ours import OurStep
from clipjax.cli.bench_step import median_interval, take_turns
from clipjax.cli.bench_turns import Worker, random_batch
from clipjax.config import UserError


@pytest.fixture(scope="module")
def batch(tiny_config):
    """16 pairs for `tiny_config`, whose vocabulary is smaller than CLIP's."""
    image, text = tiny_config.model.image, tiny_config.model.text
    made = random_batch(16, image.image_size, text.context_length)
    return {"images": made["images"], "tokens": made["tokens"] % text.vocab_size}


@pytest.fixture
def bench(capsys):
    """Runs `clipjax bench ARGS` in this process; returns what was printed and the figures."""
    from clipjax.cli.main import main

    def run(*args):
        with pytest.raises(SystemExit) as ended:
            main(["bench", *args, "--json", "-"])
        out = capsys.readouterr()
        return ended.value.code, out.err, json.loads(out.out) if out.out else None

    return run


@pytest.mark.parametrize(
    ("mesh_sizes", "loss"),
    [((1, 1, 1), "sigmoid"), ((2, 2, 2), "softmax")],
    ids=["1 device", "8 devices"],
)
def test_twenty_real_steps_compile_one_program(tiny_config, batch, replace_in, mesh_sizes, loss):
    config = tiny_config
    for axis, size in zip(("data", "fsdp", "tensor"), mesh_sizes, strict=True):
        config = replace_in(config, f"mesh.{axis}", size)
    if loss == "sigmoid":
        config = replace_in(config, "model.init_logit_bias", -10.0)
        config = replace_in(config, "loss.kind", "sigmoid")
    step = OurStep(config, batch, int(np.prod(mesh_sizes)))
    losses = [step() for _ in range(20)]
    assert step.cache_size() == 1
    assert losses[-1] < losses[0]


def test_the_empty_step_passes_every_array_of_the_real_one_on_in_place(tiny_config):
    import jax

    from clipjax.cli.bench_dispatch import EmptyStep
    from clipjax.core.mesh import make_mesh
    from clipjax.optim import make_optimizer
    from clipjax.train.state import abstract_state

    step = EmptyStep(tiny_config, num_devices=1)
    optimizer = make_optimizer(tiny_config.optim, tiny_config.num_steps)
    real = abstract_state(tiny_config, optimizer, make_mesh(tiny_config.mesh, 1))
    assert step.leaves == len(jax.tree.leaves(real))
    # Parameters, two moments and the moving average, and a few counters.
    assert step.leaves > 4 * len(real.params)
    assert step.aliased_leaves == step.leaves
    wall, cpu = step.time_calls(5)
    assert len(wall) == len(cpu) == 5
    assert step.cache_size() == 1


def test_dispatch_reports_leaves_median_and_p90(bench):
    """The preset has twelve layers a tower: 302 parameters, thrice, and counters."""
    code, printed, figures = bench("dispatch", "--preset", "ViT-S-32", "--steps", "5")
    assert code == 0
    assert figures["leaves"] == figures["aliased_leaves"] > 3 * 300
    assert 0 < figures["min_ms"] <= figures["median_ms"] <= figures["p90_ms"]
    assert figures["jit_cache_entries"] == 1
    assert f"{figures['median_ms']:.2f} ms median" in printed
    assert printed.splitlines()[0].split() == ["device", "dtype", "arrays", "ms", "p90", "ms"]


def test_a_step_alone_is_one_row_for_each_batch_size(capsys, monkeypatch, tiny_config):
    """The figures follow from one another; the table says the same."""
    import jax

    from clipjax.cli import bench_alone
    from clipjax.train.flops import training_flops

    def config(options):
        sized = dataclasses.replace(tiny_config.data, global_batch_size=options["batch_size"])
        return dataclasses.replace(tiny_config, data=sized)

    monkeypatch.setattr(bench_alone, "step_config", config)
    figures = bench_alone.alone_figures(
        "tiny", batch_sizes=[8, 16], rounds=2, compute={"dtype": "float32"}
    )
    assert [row["batch_size"] for row in figures["rows"]] == [8, 16]
    for row in figures["rows"]:
        assert row["device"] == f"{jax.device_count()} x cpu"
        assert len(row["seconds"]) == 2
        assert row["samples_per_second"] == pytest.approx(row["batch_size"] * 1e3 / row["ms"])
        flops = training_flops(tiny_config) * row["samples_per_second"]
        assert row["tflops"] * jax.device_count() == pytest.approx(flops / 1e12)
        assert row["mfu"] is None  # no data sheet tells the peak of a CPU
    _, header, *lines = capsys.readouterr().out.splitlines()
    assert header.split() == ["device", "dtype", "batch", "ms", "samples/s", "TFLOP/s", "MFU"]
    assert len(lines) == 2


def test_a_batch_that_does_not_fit_has_a_row_without_numbers(capsys, monkeypatch, tiny_config):
    import jax

    from clipjax.cli import bench_alone

    def full(*_):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")

    monkeypatch.setattr(bench_alone, "step_config", lambda options: tiny_config)
    monkeypatch.setattr(bench_alone, "OurStep", full)
    figures = bench_alone.alone_figures("tiny", batch_sizes=[16], rounds=1, compute={})
    assert figures["rows"][0]["ms"] is None
    assert "batch 16 does not fit into memory" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--attention", "cudnn"], "attention='cudnn' with dtype='float32'"),
        (["--reduce_dtype", "bfloat16"], "reduce_dtype='bfloat16' with dtype='float32'"),
        (["--batch_size", "8,0"], "0 is not positive"),
        (["--vs", "open_clip", "--batch_size", "8,16"], "one batch size at a time"),
        (["--threads", "2"], "belongs to --vs"),
        (["--remat", "ful"], "Did you mean"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_flags_of_a_step_that_cannot_be_are_usage_errors(flags, said, bench):
    code, printed, _ = bench("step", *flags)
    assert code == 2
    assert said in printed


def test_a_step_needs_no_package_of_data_sets():
    """A borrowed GPU may lack them: nothing that a step imports may ask for one."""
    code = (
        "import sys\n"
        "for name in ('webdataset', 'tensorflow_datasets', 'torch', 'transformers'):\n"
        "    sys.modules[name] = None\n"
        "import clipjax.cli.bench_alone, clipjax.cli.bench_dispatch, clipjax.cli.bench_step\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_count_that_is_not_positive_is_a_usage_error(bench, capsys):
    code, printed, _ = bench("step", "--rounds", "0")
    assert code == 2
    assert "--rounds" in printed
    assert "0 is not positive" in printed


def test_a_missing_rival_names_the_extra(bench, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    code, printed, _ = bench("step", "--vs", "open_clip")
    assert code == 1
    assert "pip install 'clipjax[parity]'" in printed


def test_the_interval_of_the_median_holds_it_and_narrows_with_more_rounds():
    rng = np.random.default_rng(0)
    few, many = (median_interval(rng.normal(1.1, 0.05, n).tolist()) for n in (9, 900))
    assert few[0] < 1.1 < few[1]
    assert many[0] < 1.1 < many[1]
    assert many[1] - many[0] < (few[1] - few[0]) / 3


def test_a_batch_ends_each_text_once_within_its_context():
    tokens = random_batch(64, 8, 16)["tokens"]
    ends = tokens == 49407
    assert (ends.sum(axis=1) == 1).all()
    for row, end in zip(tokens, ends.argmax(axis=1), strict=True):
        assert end > 0
        assert (row[:end] > 0).all()
        assert (row[end + 1 :] == 0).all()


class FakeWorker(Worker):
    def __init__(self, name, seconds, log):
        self.name, self.seconds, self.log = name, seconds, log

    def ask(self, order):
        self.log.append(self.name)
        return {"seconds": self.seconds, "cpu_seconds": 2 * self.seconds, "loss": 1.0}

    def cpu_seconds(self):
        return 0.5


def test_who_begins_changes_from_round_to_round():
    log = []
    rows, idle = take_turns((FakeWorker("a", 3.0, log), FakeWorker("b", 2.0, log)), 3)
    assert log == ["a", "b", "b", "a", "a", "b"]
    assert [(row["a"], row["b"], row["first"]) for row in rows] == [
        (3.0, 2.0, "a"),
        (3.0, 2.0, "b"),
        (3.0, 2.0, "a"),
    ]
    assert idle == 0.0


WORKER = """
import os, sys
from clipjax.cli.bench_turns import serve

def prepare(options):
    print("noise on standard output")
    def fail():
        raise ValueError("this worker is broken")
    return {"cpus": lambda: {"cpus": len(os.sched_getaffinity(0)), **options}, "fail": fail}

serve(prepare)
"""


@pytest.mark.slow
@pytest.mark.serial
def test_a_worker_answers_on_its_own_cpus_waits_idle_and_its_failure_is_one_line():
    with Worker("lazy", ["-c", WORKER], {"answer": 42}, threads=1) as worker:
        assert worker.ask("cpus") == {
            "cpus": 1,
            "answer": 42,
            "threads": 1,
            "device": "cpu",
        }
        before, start = worker.cpu_seconds(), time.perf_counter()
        while time.perf_counter() - start < 0.5:
            np.linalg.svd(np.ones((60, 60)))
        # Read to ticks of 0.01 s; one that waits in a loop would use most of the half second.
        assert worker.cpu_seconds() - before < 0.1
        with pytest.raises(UserError, match=r"process of lazy .* 1: .*this worker is broken"):
            worker.ask("fail")


@pytest.mark.parity
@pytest.mark.slow
@pytest.mark.serial
def test_a_step_is_compared_with_open_clip(bench):
    code, printed, figures = bench(
        "step",
        "--vs",
        "open_clip",
        "--preset",
        "ViT-S-32",
        "--batch_size",
        "2",
        "--rounds",
        "2",
        "--threads",
        "1",
    )
    assert code == 0, printed
    assert figures["jit_cache_entries"] == 1
    # Of ViT-S-32; the workers' own counts agree, or the command fails.
    assert figures["parameters"] == 63_085_825
    assert figures["cpu_ratio"] > 0
    low, high = figures["ratio_interval"]
    assert 0 < low <= figures["ratio"] <= high
    assert [row["first"] for row in figures["rows"]] == ["clipjax", "open_clip"]
    for row in figures["rows"]:
        for name in ("clipjax", "open_clip"):
            assert row[name] > 0
            assert row[f"{name}_cpu"] > 0
            # Untrained, or nearly: about log(2) for two pairs.
            assert 0 < row[f"{name}_loss"] < 3
    assert "ratio clipjax / open_clip" in printed
