"""Where process 0 listens, and what a process says to which nobody comes."""

import contextlib
import socket
import subprocess
import sys

import pytest

from clipjax.config import Cluster
from clipjax.core import distributed

EXPLICIT = {"coordinator": "10.0.0.1:1234", "num_processes": 2, "process_id": 0}


@pytest.fixture
def host(monkeypatch):
    """A host on the network 10.0.0.0/8, whose names resolve as they are told to."""
    names = {"n1": "10.0.0.5", "debian": "127.0.1.1"}
    for name in ("SLURM_JOB_ID", "SLURMD_NODENAME", "OMPI_MCA_orte_hnp_uri"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("JAX_COORDINATOR_PORT", "1")  # so that it is put back
    monkeypatch.delenv("JAX_COORDINATOR_PORT")
    monkeypatch.setattr(distributed, "_default_route", lambda: "10.0.0.7")

    def resolve(name):
        if name not in names:
            raise socket.gaierror(name)
        return names[name]

    monkeypatch.setattr(socket, "gethostbyname", resolve)
    return monkeypatch


def test_process_0_listens_where_the_others_call_it(host):
    assert distributed._listening_address(Cluster(**EXPLICIT)) == "10.0.0.1:1234"
    behind = Cluster(**EXPLICIT, bind="192.168.0.1")
    assert distributed._listening_address(behind) == "192.168.0.1:1234"


def test_under_auto_it_listens_on_the_default_route_at_a_port_that_jax_is_told(host):
    assert distributed._listening_address(Cluster(coordinator="auto")) == "10.0.0.7:8476"
    assert distributed.os.environ["JAX_COORDINATOR_PORT"] == "8476"


def test_under_slurm_it_listens_on_the_address_of_its_node_at_a_port_of_the_job(host):
    host.setenv("SLURM_JOB_ID", "4097")
    host.setenv("SLURMD_NODENAME", "n1")
    assert distributed._listening_address(Cluster(coordinator="auto")) == "10.0.0.5:61441"


@pytest.mark.parametrize("name", ["debian", "nobody"])
def test_it_listens_everywhere_where_its_address_cannot_be_told(host, name):
    host.setenv("SLURMD_NODENAME", name)
    assert distributed._listening_address(Cluster(coordinator="auto")) is None
    told = Cluster(coordinator="auto", bind="10.0.0.9")
    assert distributed._listening_address(told) == "10.0.0.9:8476"


def test_a_port_that_was_chosen_is_kept(host):
    host.setenv("JAX_COORDINATOR_PORT", "99")
    assert distributed._listening_address(Cluster(coordinator="auto")) == "10.0.0.7:99"


_ALONE = """
import sys
from clipjax.cli.main import main
main(["train", *sys.argv[1:]])
"""


@pytest.fixture
def start(config_file, make_child_env, tmp_path):
    """Starts one process of two, which is alone."""
    started = []

    def start(process, port):
        command = [sys.executable, "-c", _ALONE, f"--config={config_file}"]
        command += [f"--workdir={tmp_path}", f"--coordinator=127.0.0.1:{port}"]
        command += ["--num_processes=2", f"--process_id={process}", "--initialization_seconds=2"]
        started.append(
            subprocess.Popen(command, env=make_child_env(), stderr=subprocess.PIPE, text=True)
        )
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def error_of(process):
    """The one error that a process ends with."""
    _, err = process.communicate(timeout=60)
    (error,) = [line for line in err.splitlines() if line.startswith("error:")]
    assert "***" not in err  # no stack of C++
    return error


def free_ports(count):
    """Ports on which nobody listens."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [probe.getsockname()[1] for probe in probes]


@pytest.mark.slow
def test_a_process_to_which_nobody_comes_says_so_in_time(start):
    ports = free_ports(2)
    processes = [start(i, port) for i, port in enumerate(ports)]
    for i, process in enumerate(processes):
        error = error_of(process)
        assert f"--coordinator=127.0.0.1:{ports[i]}: process {i} (pid {process.pid} on " in error
        assert "waited 2 s (--initialization_seconds)" in error
        assert process.returncode == 75


@pytest.mark.slow
def test_a_port_that_is_taken_is_one_line(start):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        process = start(0, taken.getsockname()[1])
        error = error_of(process)
    assert "could not join the others (" in error
    assert "a port that is free there" in error
    assert process.returncode == 1
