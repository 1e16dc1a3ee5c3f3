"""Runs of several real processes on this machine."""

import json
import signal
import socket
import subprocess
import sys
import time

import pytest

ROOT = __import__("pathlib").Path(__file__).parents[2]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Processes:
    """The processes of one run, each with its own output file."""

    def __init__(self, commands, envs, folder):
        self.outputs = [folder / f"process-{i}.log" for i in range(len(commands))]
        self.processes = []
        for command, env, path in zip(commands, envs, self.outputs, strict=True):
            with open(path, "w") as output:
                self.processes.append(
                    subprocess.Popen(
                        command, env=env, stdout=output, stderr=subprocess.STDOUT, cwd=ROOT
                    )
                )

    def wait(self, timeout=240):
        """Returns the exit statuses of all."""
        end = time.monotonic() + timeout
        return [p.wait(max(0.1, end - time.monotonic())) for p in self.processes]

    def name(self, process):
        """How the others call a process."""
        return f"process {process} (pid {self.processes[process].pid} on {socket.gethostname()})"

    def text(self, process):
        return self.outputs[process].read_text()

    def wait_for(self, process, what, timeout=120):
        """Waits until a process has printed `what`."""
        end = time.monotonic() + timeout
        while what not in self.text(process):
            if time.monotonic() > end or self.processes[process].poll() is not None:
                raise AssertionError(f"never printed {what!r}:\n{self.text(process)}")
            time.sleep(0.02)

    def signal(self, process, number=signal.SIGKILL):
        self.processes[process].send_signal(number)

    def end(self):
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
                process.wait()


@pytest.fixture
def launch(launcher):
    """Starts `clipjax train` in several processes; all are ended after the test."""
    started = []

    def start(*args, **options):
        started.append(launcher(*args, **options))
        return started[-1]

    yield start
    for processes in started:
        processes.end()


@pytest.fixture(scope="session")
def launcher(tmp_path_factory, make_child_env, config_file):
    """Starts `clipjax train` in several processes, which the caller ends."""

    def start(workdir, *flags, num_processes=1, devices=4, script=None, process_flags=None):
        folder = tmp_path_factory.mktemp("launch")
        port = free_port()
        commands, envs = [], []
        for i in range(num_processes):
            cluster = [
                f"--coordinator=127.0.0.1:{port}",
                f"--num_processes={num_processes}",
                f"--process_id={i}",
            ]
            program = [script] if script else ["-m", "clipjax.cli.train"]
            commands.append(
                [
                    sys.executable,
                    *map(str, program),
                    f"--config={config_file}",
                    f"--workdir={workdir}",
                    *flags,
                    *((process_flags or {}).get(i, [])),
                    *(cluster if num_processes > 1 else []),
                ]
            )
            envs.append(make_child_env(devices // num_processes))
        return Processes(commands, envs, folder)

    return start


@pytest.fixture
def losses_of():
    """Reads {step: loss} of a working directory."""

    def read(workdir):
        rows = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
        return {row["step"]: row["train/loss"] for row in rows if "train/loss" in row}

    return read
