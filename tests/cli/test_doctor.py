"""Every check of `clipjax doctor` finds what it is there for, and a sound machine passes."""

import collections
import importlib.metadata
import json
import subprocess
import sys

import numpy as np
import pytest

from clipjax.cli import doctor as module
from clipjax.cli.main import main

CHECKS = ["versions", "devices", "processes", "clock", "disk", "file limit"]


@pytest.fixture
def doctor(tmp_path, capsys, monkeypatch):
    """Runs `clipjax doctor` here; returns (exit status, {check: (verdict, found)}, stdout).

    The two child processes are left out: they have tests of their own.
    """
    monkeypatch.setattr(module, "_two_processes", lambda: ("ok", "left out"))

    def run(*flags):
        path = tmp_path / "figures.json"
        with pytest.raises(SystemExit) as ended:
            main(["doctor", f"--workdir={tmp_path}", f"--json={path}", *flags])
        checks = json.loads(path.read_text())["checks"]
        found = {check["name"]: (check["verdict"], check["found"]) for check in checks}
        return ended.value.code, found, capsys.readouterr().out

    return run


@pytest.fixture
def quick(doctor):
    """The same without the overfit."""
    return lambda *flags: doctor("--overfit_steps=0", *flags)


def test_a_sound_machine_passes_every_check(quick):
    status, found, out = quick()
    assert list(found) == CHECKS
    assert {verdict for verdict, _ in found.values()} == {"ok"}, found
    assert status == 0
    assert [line.split(":")[0].split(maxsplit=1) for line in out.splitlines()] == [
        ["ok", name] for name in CHECKS
    ]
    assert f"jax {importlib.metadata.version('jax')}" in found["versions"][1]


def test_an_old_library_is_named_with_what_is_wanted(quick, monkeypatch):
    version = importlib.metadata.version
    monkeypatch.setattr(
        module.importlib.metadata, "version", lambda n: "0.4.30" if n == "jax" else version(n)
    )
    status, found, _ = quick()
    assert status == 1
    assert found["versions"][0] == "failed"
    assert "jax 0.4.30 is older than 0.10.2" in found["versions"][1]


def test_a_missing_library_is_named(quick, monkeypatch):
    version = importlib.metadata.version

    def without_optax(name):
        if name == "optax":
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(module.importlib.metadata, "version", without_optax)
    status, found, _ = quick()
    assert status == 1
    assert "optax is missing" in found["versions"][1]


def test_a_gpu_that_jax_does_not_use_is_a_failure(quick, monkeypatch):
    monkeypatch.setattr(module.shutil, "which", lambda name: f"/usr/bin/{name}")
    status, found, _ = quick()
    assert status == 1
    assert "JAX without CUDA is installed" in found["devices"][1]


@pytest.mark.parametrize("flags", [(), ("--config=configs/clip.py:ViT-B-32",)])
def test_a_disk_without_room_for_the_checkpoints_is_a_failure(quick, monkeypatch, flags):
    # Four checkpoints of ViT-B-32 take 7.3 GB: parameters and two moments of 151 M floats each.
    free = 7_000_000_000 if flags else 900_000_000
    usage = collections.namedtuple("usage", "total used free")
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: usage(1e12, 0, free))
    status, found, _ = quick(*flags)
    assert status == 1
    assert found["disk"][0] == "failed"
    assert f"{free / 1e9:.1f} GB free" in found["disk"][1]
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: usage(1e12, 0, 8_000_000_000))
    assert quick(*flags)[0] == 0


def test_few_open_files_are_a_warning_and_no_failure(quick, monkeypatch):
    monkeypatch.setattr(module.resource, "getrlimit", lambda _: (256, 4096))
    status, found, out = quick()
    assert status == 0
    assert found["file limit"][0] == "warning"
    assert "ulimit -n" in found["file limit"][1]
    assert "WARNING  file limit: 256 open files" in out


def test_a_file_system_with_another_clock_is_a_warning(quick, monkeypatch):
    now = module.time.time
    monkeypatch.setattr(module.time, "time", lambda: now() + 3600)
    status, found, _ = quick()
    assert status == 0
    assert found["clock"][0] == "warning"
    assert "stamped 3600." in found["clock"][1]


def test_a_check_that_breaks_is_a_finding_and_the_others_go_on(quick, monkeypatch):
    def broken():
        raise ZeroDivisionError("no such device")

    monkeypatch.setattr(module, "_devices", broken)
    status, found, _ = quick()
    assert status == 1
    assert found["devices"] == ("failed", "ZeroDivisionError: no such device")
    assert list(found) == CHECKS


@pytest.mark.slow
def test_two_processes_of_this_machine_exchange_a_number():
    verdict, found = module._two_processes()
    assert verdict == "ok", found


@pytest.mark.slow
def test_processes_that_cannot_meet_are_a_failure_with_the_reason(monkeypatch):
    monkeypatch.setattr(module, "_CHILD", "import sys; sys.exit('no route to host')")
    assert module._two_processes()[0] == "failed"
    assert module._two_processes()[1].endswith("no route to host")


@pytest.mark.slow
def test_pairs_are_learnt_by_heart(doctor):
    status, found, _ = doctor()
    assert status == 0
    verdict, text = found["overfit"]
    assert verdict == "ok"
    assert "4.16 at chance" in text


@pytest.mark.slow
def test_a_model_that_learns_nothing_is_a_failure(doctor, monkeypatch):
    from clipjax.train import overfit

    def one_picture(config):
        batch = two_colours(config)
        return {**batch, "images": np.zeros_like(batch["images"])}

    two_colours = overfit.two_colours
    monkeypatch.setattr(overfit, "two_colours", one_picture)
    status, found, _ = doctor("--overfit_steps=30")
    assert status == 1
    verdict, text = found["overfit"]
    assert verdict == "failed"
    assert "4.16 at chance: nothing was learnt" in text


@pytest.mark.slow
def test_the_pairs_of_a_run_are_learnt_by_heart(doctor, config_file):
    status, found, _ = doctor(f"--config={config_file}", "--overfit_steps=300")
    assert found["overfit"][0] == "ok", found["overfit"]
    assert "the run's own pairs and model" in found["overfit"][1]
    assert status == 0


def test_data_that_cannot_be_read_is_a_finding(doctor, config_file):
    status, found, _ = doctor(f"--config={config_file}", "--config.data.shards=missing/*.tar")
    assert status == 1
    assert found["overfit"][0] == "failed"
    assert "matches no file" in found["overfit"][1]


@pytest.mark.slow
def test_several_processes_of_a_job_check_each_other(make_child_env, tmp_path):
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "clipjax.cli.main", "doctor", "--overfit_steps=0"]
    command += [f"--workdir={tmp_path}", f"--coordinator=127.0.0.1:{port}", "--num_processes=2"]
    processes = [
        subprocess.Popen(
            [*command, f"--process_id={i}"],
            env=make_child_env(1),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for i in range(2)
    ]
    texts = [process.communicate(timeout=200)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], texts
    assert "ok       processes: 2 processes reached, same versions, clocks within" in texts[0]
