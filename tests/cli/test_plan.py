"""The command: its figures, its page, its mistakes; the real compilers where they are installed."""

import importlib.util
import json
import math
import re
import subprocess
import sys

import pytest

from clipjax.cli.main import main
from clipjax.cli.plan_report import plan_page, plan_text
from clipjax.core.chips import chip_of
from clipjax.core.topologies import parse_topology

MEMORY = {
    *("parameters", "optimizer", "ema", "teacher", "batch", "activations", "loss", "other"),
    *("estimates", "temporaries", "needed", "usable", "device", "fits"),
}
COLLECTIVE = {
    *("kind", "axes", "place", "loops", "over_network", "operations", "times"),
    *("result_bytes", "sent_bytes", "seconds", "exact"),
}
RUN = {"samples", "samples_per_second", "hours", "accelerator_hours"}
ROOFLINE = RUN | {
    *("compute_seconds", "memory_seconds", "network_seconds", "bound", "step_seconds"),
}
STAGE = {
    *("name", "first_step", "stop_step", "global_batch_size"),
    *("memory", "flops", "collectives", "roofline", "seconds"),
}
FIGURES = {
    *("config", "overrides", "topology", "mesh", "micro_batches", "remat", "fits", "tightest"),
    *("stages", "total", "warnings", "quick", "assumptions", "versions", "remedies"),
    "largest_batch",
}
FLOPS = {"model_per_pair", "teacher_per_pair", "executed_per_pair", "loss", "per_device"}


def check_schema(figures):
    assert set(figures) == FIGURES
    assert set(figures["topology"]) == {
        *("name", "platform", "devices", "slices", "chip", "link_bandwidth")
    }
    for stage in figures["stages"]:
        assert set(stage) == STAGE
        assert set(stage["memory"]) == MEMORY
        assert set(stage["flops"]) == FLOPS
        for row in stage["collectives"] or ():
            assert set(row) == COLLECTIVE
        if stage["roofline"] is not None:
            assert set(stage["roofline"]) == ROOFLINE
    if figures["total"] is not None:
        assert set(figures["total"]) == RUN


@pytest.fixture
def command(config_file, tmp_path, monkeypatch):
    """Runs `clipjax plan` in this process; returns its figures and its page."""

    def run(*flags):
        monkeypatch.setenv("XLA_FLAGS", "")  # what the command adds is taken back
        figures, page = tmp_path / "plan.json", tmp_path / "plan.html"
        argv = ["plan", f"--config={config_file}", f"--json={figures}", f"--html={page}", *flags]
        with pytest.raises(SystemExit) as ended:
            main(argv)
        assert ended.value.code == 0
        return json.loads(figures.read_text()), page.read_text()

    return run


def test_the_figures_are_printed_saved_and_drawn(command, capsys):
    figures, page = command("--topology=cpu:8", "--config.mesh.fsdp=2")
    check_schema(figures)
    assert figures["mesh"] == {"replica": 1, "data": 4, "fsdp": 2, "tensor": 1}
    assert figures["overrides"] == ["--config.mesh.fsdp=2"]
    printed = capsys.readouterr().out
    needed = f"{figures['stages'][0]['memory']['needed'] / 2**30:,.3f}"
    assert needed in printed
    assert needed in page
    assert not re.search(r"https?:|(?<!-)\bsrc\b|\bhref\b|@import|url\(|<script|<link", page)


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--topology=v5x:4x4"], "no machine 'v5x'"),
        (["--topology=v5e:3x3"], "Nearest: v5e:4x4"),
        (["--topology=cpu:8", "--config.mesh.data=3"], "does not fill 8 devices"),
        (["--topology=cpu:8", "--config.data.global_batch_size=12"], "can: 8 and 16"),
        (["--topology=cpu:8", "--batch_serch"], "Did you mean '--batch_search'"),
        (["--topology=cpu:8", "--html=/nowhere/x.html"], "no folder /nowhere"),
        ([], "--topology"),
        (["--table", "/nowhere/x.json"], "leave out --config"),
    ],
)
def test_a_mistake_is_one_line(flags, told, config_file, capsys, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "")
    with pytest.raises(SystemExit) as ended:
        main(["plan", f"--config={config_file}", *flags])
    assert ended.value.code in (1, 2)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert told in lines[0]


GIB = 1 << 30


def saved_stage(name="", *, fits=True, **fields):
    """Figures of a stage, by hand."""
    bounds = {f"{part}_seconds": 0.5 for part in ("compute", "memory", "network")}
    return {
        "name": name,
        "first_step": 0,
        "stop_step": 100,
        "global_batch_size": 64,
        "memory": {
            **dict.fromkeys(("parameters", "optimizer", "ema", "batch"), GIB),
            **{"teacher": 0, "activations": 12 * GIB, "loss": 0, "other": 2 * GIB},
            "estimates": ["activations", "loss", "other"],
            "needed": (8 if fits else 18) * GIB,
            "usable": 16 * GIB,
            "device": 17 * GIB,
            "fits": fits,
        },
        "flops": {
            "model_per_pair": 4,
            "teacher_per_pair": 0,
            "executed_per_pair": 5.0,
            "loss": 1,
            "per_device": 10,
        },
        "collectives": None,
        "roofline": {**bounds, "bound": "compute", "step_seconds": [0.5, 1.5], **RUN_BOUNDS}
        if fits
        else None,
        "seconds": {"lower": 1.0, "compile": 2.0},
        **fields,
    }


RUN_BOUNDS = {
    "samples": 6400,
    "samples_per_second": [128.0, 42.7],
    "hours": [50 / 3600, 150 / 3600],
    "accelerator_hours": [1000.0, 3000.0],
}


def saved_plan(*stages, **fields):
    return {
        "config": "configs/clip.py:ViT-B-32",
        "overrides": [],
        "topology": {"name": "v5e:2x2", "devices": 4},
        "mesh": {"data": 4, "fsdp": 1},
        "micro_batches": 1,
        "remat": "none",
        "fits": all(stage["memory"]["fits"] for stage in stages),
        "tightest": stages[0]["name"],
        "stages": list(stages),
        "total": RUN_BOUNDS,
        "warnings": [],
        "quick": True,
        "assumptions": ["none"],
        "remedies": None,
        "largest_batch": None,
        **fields,
    }


def too_large():
    """Figures of a run that does not fit, with a name that would be a tag."""
    return saved_plan(
        saved_stage(fits=False),
        config="<b>.py",
        total=None,
        warnings=["a <warning>"],
        remedies=[
            {"overrides": ["--config.model.compute.remat=full"], "needed": 9 * GIB, "fits": True}
        ],
        largest_batch=[
            {
                "stage": "",
                "global_batch_size": 32,
                "needed": 15 * GIB,
                "usable": 16 * GIB,
                "tried": [1, 2],
            }
        ],
    )


def test_a_run_that_does_not_fit_is_told_what_to_change():
    text, page = plan_text(too_large()), plan_page(too_large())
    for told in (text, page):
        assert "a device needs 18.000 GiB, 2.000 GiB more than it has" in told
        assert "--config.model.compute.remat=full" in told
        assert "largest global batch that fits is 32" in told
    assert "<b>" not in page
    assert "&lt;warning&gt;" in page
    assert "bar over" in page


def test_stages_are_told_one_by_one_and_together():
    figures = saved_plan(saved_stage("small"), saved_stage("large", first_step=100, stop_step=200))
    for told in (plan_text(figures), plan_page(figures)):
        assert "Stage small, steps 0 to 100, batch 64" in told
        assert "Stage large, steps 100 to 200, batch 64" in told
        assert "over its 2 stages fits; the most memory is needed by stage small" in told
    assert plan_text(figures).count("accelerator-hours") == 3


def test_saved_plans_are_a_table(tmp_path, capsys):
    stages = saved_plan(saved_stage("small"), saved_stage("large", fits=False))
    plans = {"a": saved_plan(saved_stage()), "b": stages, "c": too_large()}
    paths = [tmp_path / f"{name}.json" for name in plans]
    for path, figures in zip(paths, plans.values(), strict=True):
        path.write_text(json.dumps(figures))
    with pytest.raises(SystemExit) as ended:
        main(["plan", "--table", *map(str, paths)])
    assert ended.value.code == 0
    rows = capsys.readouterr().out.splitlines()
    assert [row.count("|") for row in rows] == [8] * len(rows)
    ran = "64 | 8.0 of 16.0 | 500.0 to 1,500.0 | 43 to 128 | 1,000.0 to 3,000.0 |"
    assert rows[2:] == [
        f"| clip:ViT-B-32 | v5e:2x2 | {ran}",
        f"| clip:ViT-B-32, small | v5e:2x2 | {ran}",
        "| clip:ViT-B-32, large | v5e:2x2 | 64 | **18.0 of 16.0: does not fit** |  |  |  |",
        "| clip:ViT-B-32, all | v5e:2x2 |  | does not fit |  | 43 to 128 | 1,000.0 to 3,000.0 |",
        "| <b> | v5e:2x2 | 64 | **18.0 of 16.0: does not fit** |  |  |  |",
        "| <b> `--config.model.compute.remat=full` | v5e:2x2 |  | 9.0 |  |  |  |",
    ]


@pytest.mark.parametrize("text", ["{", "[]", '{"config": "x"}'])
def test_a_file_that_is_no_plan_is_named(text, tmp_path, capsys):
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(SystemExit) as ended:
        main(["plan", "--table", str(path)])
    assert ended.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert str(path) in line


def installed(package):
    return pytest.mark.skipif(
        importlib.util.find_spec(package) is None, reason=f"{package} is not installed"
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "topology",
    [
        pytest.param("v5e:2x2", marks=installed("libtpu")),
        pytest.param("v5e:2x2*2", marks=installed("libtpu")),
        pytest.param("v6e:2x4", marks=installed("libtpu")),
        pytest.param("v5p:2x2x1", marks=installed("libtpu")),
        pytest.param("v5p:2x2x1*2", marks=installed("libtpu")),
        pytest.param("v7x:2x2x1", marks=installed("libtpu")),
        pytest.param("a100:8", marks=installed("jax_cuda13_plugin")),
        pytest.param("h100:2x4", marks=installed("jax_cuda13_plugin")),
        pytest.param("h200:4x2", marks=installed("jax_cuda13_plugin")),
        pytest.param("b200:8", marks=installed("jax_cuda13_plugin")),
        pytest.param("gb200:2x4", marks=installed("jax_cuda13_plugin")),
    ],
)
def test_machines_that_are_not_there(topology, config_file, tmp_path, clipjax_command):
    figures = tmp_path / "plan.json"
    done = clipjax_command(
        *("plan", "--config", config_file, "--topology", topology, "--json", figures),
        *("--config.data.root=/nowhere", "--config.mesh.fsdp=2", "--quick"),
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(figures.read_text())
    check_schema(found)
    assert found["fits"]
    (stage,) = found["stages"]
    assert stage["roofline"]["bound"] in ("compute", "memory", "network")
    kinds = {row["kind"] for row in stage["collectives"]}
    assert {"all-reduce", "collective-permute"} <= kinds
    several = "*" in topology or (topology.endswith(("2x4", "4x2")) and topology[0] != "v")
    assert any(row["over_network"] for row in stage["collectives"]) == several


@pytest.mark.slow
@installed("libtpu")
@pytest.mark.parametrize("name", ["v5e:1x1", "v5p:2x2x1", "v6e:1x1", "v7x:2x2x1"])
def test_the_memory_for_programs_is_what_the_compiler_says(name):
    """That of v5p is held to what is published."""
    script = f"""
from clipjax.core.topologies import devices_of, parse_topology, prepare_environment
topology = parse_topology({name!r})
prepare_environment(topology)
import jax
import jax.numpy as jnp
device = devices_of(topology)[0]
place = jax.sharding.SingleDeviceSharding(device)
x = jax.ShapeDtypeStruct((200_000, 200_000), jnp.float32, sharding=place)
try:
    jax.jit(lambda x: (x @ x) @ (x + 1)).lower(x).compile()
except jax.errors.JaxRuntimeError as error:
    print(device.device_kind, error, sep="; ")
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=300
    )
    kind, _, message = done.stdout.partition("; ")
    chip = parse_topology(name).chip
    assert chip is chip_of(kind)
    says = float(re.search(r"available HBM \(([\d.]+)G\)", message)[1])
    published = chip.memory_bytes / 2**30 - 0.25
    # To 0.01 GiB, in which it is printed and versions of it differ.
    assert math.isclose(min(says, published), chip.usable_bytes / 2**30, abs_tol=0.015)


@pytest.mark.slow
@installed("libtpu")
def test_a_step_that_is_too_large_for_a_tpu_is_searched_until_it_fits(
    config_file, tmp_path, clipjax_command
):
    figures = tmp_path / "plan.json"
    done = clipjax_command(
        *("plan", "--config", config_file, "--topology", "v5e:1x1", "--json", figures),
        *("--config.data.global_batch_size=1048576", "--config.loss.form=chunked", "--quick"),
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(figures.read_text())
    assert not found["fits"]
    memory = found["stages"][0]["memory"]
    assert memory["needed"] > memory["usable"]
    assert found["remedies"][-1]["fits"]
    assert "It does not fit" in done.stdout
