"""The command: its figures, its page, its mistakes; the real compilers where they are installed."""

import importlib.util
import json
import re

import pytest

from clipjax.cli.main import main
from clipjax.cli.plan_report import plan_page, plan_text

MEMORY = {
    *("parameters", "optimizer", "ema", "batch", "activations", "loss", "other"),
    *("estimates", "temporaries", "needed", "usable", "device", "fits"),
}
COLLECTIVE = {
    *("kind", "axes", "place", "loops", "over_network", "operations", "times"),
    *("result_bytes", "sent_bytes", "seconds", "exact"),
}
ROOFLINE = {
    *("compute_seconds", "memory_seconds", "network_seconds", "bound", "step_seconds"),
    *("samples_per_second", "samples", "hours", "accelerator_hours"),
}
FIGURES = {
    *("config", "overrides", "topology", "mesh", "global_batch_size", "micro_batches", "remat"),
    *("memory", "flops", "collectives", "roofline", "warnings", "quick", "seconds"),
    *("assumptions", "versions", "remedies", "largest_batch"),
}


def check_schema(figures):
    assert set(figures) == FIGURES
    assert set(figures["memory"]) == MEMORY
    assert set(figures["topology"]) == {
        *("name", "platform", "devices", "slices", "chip", "link_bandwidth")
    }
    assert set(figures["flops"]) == {"model_per_pair", "executed_per_pair", "loss", "per_device"}
    for row in figures["collectives"] or ():
        assert set(row) == COLLECTIVE
    if figures["roofline"] is not None:
        assert set(figures["roofline"]) == ROOFLINE


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
    needed = f"{figures['memory']['needed'] / 2**30:,.3f}"
    assert needed in printed
    assert needed in page
    assert not re.search(r"https?:|\bsrc\b|\bhref\b|@import|url\(|<script|<link", page)


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


def too_large():
    """Figures of a run that does not fit, with a name that would be a tag."""
    gib = 1 << 30
    return {
        "config": "<b>.py",
        "overrides": [],
        "topology": {"name": "v5e:2x2", "devices": 4},
        "mesh": {"data": 4, "fsdp": 1},
        "global_batch_size": 64,
        "micro_batches": 1,
        "remat": "none",
        "memory": {
            **dict.fromkeys(("parameters", "optimizer", "ema", "batch"), gib),
            **{"activations": 12 * gib, "loss": 0, "other": 2 * gib},
            "estimates": ["activations", "loss", "other"],
            "needed": 18 * gib,
            "usable": 16 * gib,
            "device": 17 * gib,
            "fits": False,
        },
        "flops": {"model_per_pair": 4, "executed_per_pair": 5.0, "loss": 1, "per_device": 10},
        "collectives": None,
        "roofline": None,
        "warnings": ["a <warning>"],
        "quick": True,
        "seconds": {"lower": 1.0, "compile": 2.0},
        "assumptions": ["none"],
        "remedies": [
            {"overrides": ["--config.model.compute.remat=full"], "needed": 9 * gib, "fits": True}
        ],
        "largest_batch": {
            "global_batch_size": 32,
            "needed": 15 * gib,
            "usable": 16 * gib,
            "tried": [1, 2],
        },
    }


def test_a_run_that_does_not_fit_is_told_what_to_change():
    text, page = plan_text(too_large()), plan_page(too_large())
    for told in (text, page):
        assert "a device needs 18.000 GiB, 2.000 GiB more than it has" in told
        assert "--config.model.compute.remat=full" in told
        assert "largest global batch that fits is 32" in told
    assert "<b>" not in page
    assert "&lt;warning&gt;" in page
    assert "bar over" in page


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
        pytest.param("a100:8", marks=installed("jax_cuda13_plugin")),
        pytest.param("h100:2x4", marks=installed("jax_cuda13_plugin")),
        pytest.param("b200:8", marks=installed("jax_cuda13_plugin")),
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
    assert found["memory"]["fits"]
    assert found["roofline"]["bound"] in ("compute", "memory", "network")
    kinds = {row["kind"] for row in found["collectives"]}
    assert {"all-reduce", "collective-permute"} <= kinds
    several = topology in ("v5e:2x2*2", "h100:2x4")
    assert any(row["over_network"] for row in found["collectives"]) == several


@pytest.mark.slow
@installed("libtpu")
def test_a_step_that_is_too_large_for_a_tpu_is_searched_until_it_fits(
    config_file, tmp_path, clipjax_command
):
    figures = tmp_path / "plan.json"
    done = clipjax_command(
        *("plan", "--config", config_file, "--topology", "v5e:1x1", "--json", figures),
        *("--config.data.global_batch_size=4194304", "--quick"),
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(figures.read_text())
    assert not found["memory"]["fits"]
    assert found["memory"]["needed"] > found["memory"]["usable"]
    assert found["remedies"][-1]["fits"]
    assert "It does not fit" in done.stdout
