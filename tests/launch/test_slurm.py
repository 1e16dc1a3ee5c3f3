"""A real Slurm on this machine: two nodes train, lose a process, are preempted, and end the same.

The daemons live in a temporary directory, with a munged, a socket and a key of their own. The nodes
are named 127.0.0.1 and 127.0.0.2, so that their names need no entry in /etc/hosts.
"""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from clipjax.config import MeshConfig
from clipjax.core.checkpoint import CheckpointReader
from clipjax.core.mesh import make_mesh
from clipjax.optim import make_optimizer
from clipjax.train.state import abstract_state, as_dict

pytestmark = [pytest.mark.slow, pytest.mark.serial]

ROOT = Path(__file__).parents[2]
TOOLS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol", "squeue")
NODES = ("127.0.0.1", "127.0.0.2")
STEPS = 120
# A trainer whose steps take at least 80 ms, so that there is time to disturb it on any machine.
SLOW = """\
import os, sys, time
import clipjax.data.pairs as pairs
fill = pairs.TrainingPairs._fill

def slow(*arguments):
    time.sleep(float(os.environ.get("PAUSE_SECONDS", 0.01)))
    return fill(*arguments)

pairs.TrainingPairs._fill = slow
from clipjax.cli.main import main
main(["train", *sys.argv[1:]])
"""
PYTHON = """\
#!/bin/sh
[ "$1" = -m ] || exec {python} "$@"
shift 2
exec {python} {slow} "$@"
"""
# A job that needs every core of both nodes.
URGENT = ("--partition=high", "--nodes=2", "--ntasks-per-node=2", "--output=/dev/null")
URGENT = (*URGENT, "--wrap=sleep 1")
# On a machine that does other things too.
PATIENCE_SECONDS = 120

CONFIG = """\
ClusterName=clipjax
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
MailProg=/bin/true
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_min_interval=0,bf_interval=1
ReturnToService=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
NodeName=127.0.0.1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2 RealMemory=1000
NodeName=127.0.0.2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2 RealMemory=1000
PartitionName=main Nodes=ALL Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime=60
PartitionName=high Nodes=ALL PriorityTier=10 PreemptMode=OFF
"""


class Cluster:
    """The daemons, and what a person asks of them."""

    def __init__(self, folder: Path, stack: contextlib.ExitStack):
        self.folder, self._stack = folder, stack
        self.env = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
        self.env["PATH"] = f"{self.env['PATH']}:/usr/sbin:/sbin"
        (folder / "munge.key").write_bytes(os.urandom(1024))
        (folder / "munge.key").chmod(0o600)
        for name in ("state", *(f"spool-{node}" for node in NODES)):
            (folder / name).mkdir()
        with contextlib.ExitStack() as probes:
            ports = [
                probes.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1]
                for _ in range(3)
            ]
        text = CONFIG.format(host=socket.gethostname().split(".")[0], ports=ports, folder=folder)
        (folder / "slurm.conf").write_text(text)
        munge = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log"}
        munge["seed-file"] = "seed"
        self._daemon(
            "munged",
            "--foreground",
            "--force",
            *(f"--{option}={folder}/munge.{name}" for option, name in munge.items()),
        )
        self.wait(lambda: (folder / "munge.socket").exists(), "munged")
        self._daemon("slurmctld", "-D")
        for node in NODES:
            self._daemon("slurmd", "-D", "-N", node)
        self.wait(lambda: self.ask("sinfo", "-h", "-t", "idle", "-o", "%D") == "2", "nodes")

    def ask(self, *command: str) -> str:
        """Returns what a command of Slurm's prints."""
        done = subprocess.run(
            command, env=self.env, capture_output=True, text=True, timeout=30, check=False
        )
        return done.stdout.strip()

    def field(self, job: str, name: str) -> str:
        """Returns a field of what is known about a job."""
        found = re.search(rf"\b{name}=(\S+)", self.ask("scontrol", "show", "job", job))
        return found[1] if found else ""

    def wait(self, true, what: str) -> None:
        """Waits until something is true."""
        end = time.monotonic() + PATIENCE_SECONDS
        while not true():
            if time.monotonic() > end:
                logs = sorted(self.folder.glob("*.log"))
                raise AssertionError(
                    f"never came: {what}\n" + "\n".join(f"{p}\n{p.read_text()}" for p in logs)
                )
            time.sleep(0.05)

    def start_again(self, job: str) -> None:
        """Spares a queued job the two minutes that Slurm makes it wait."""
        self.wait(lambda: self.field(job, "JobState") == "PENDING", f"{job} is queued again")
        self.ask("scontrol", "update", f"JobId={job}", "StartTime=now")

    def cancel_all(self) -> None:
        """Cancels all jobs, so that no process of theirs outlives the daemons."""
        self.ask("scancel", "--user=root")
        end = time.monotonic() + 20
        while self.ask("squeue", "-h") and time.monotonic() < end:
            time.sleep(0.1)

    def _daemon(self, *command: str) -> None:
        # Output into files: a daemon must not hold a pipe of ours open.
        with open(self.folder / "daemons.log", "a") as output:
            daemon = subprocess.Popen(
                command, env=self.env, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )

        def end():
            daemon.terminate()
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()

        self._stack.callback(end)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory, make_child_env):
    tools = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    if missing := [tool for tool in TOOLS if shutil.which(tool, path=tools) is None]:
        pytest.skip(f"no {', '.join(missing)} (Debian: apt-get install slurm-wlm munge)")
    if os.getuid() != 0:
        pytest.skip("nodes of Slurm are started by root only")
    folder = tmp_path_factory.mktemp("slurm")
    with contextlib.ExitStack() as stack:
        # A job that is left over ends before its daemons do.
        stack.callback(end_processes_in, folder)
        cluster = Cluster(folder, stack)
        (folder / "slow.py").write_text(SLOW)
        python = folder / "venv/bin/python"
        python.parent.mkdir(parents=True)
        python.write_text(PYTHON.format(python=sys.executable, slow=folder / "slow.py"))
        python.chmod(0o755)
        cluster.env |= make_child_env(1) | {"CLIPJAX_VENV": str(folder / "venv")}
        stack.callback(cluster.cancel_all)
        yield cluster


def processes_in(folder: Path):
    """Yields (pid, command, environment) of the processes whose command names a folder."""
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            command = (entry / "cmdline").read_bytes()
            if str(folder).encode() in command:
                environment = (entry / "environ").read_bytes().split(b"\0")
                yield int(entry.name), command.split(b"\0"), environment


def end_processes_in(folder: Path) -> None:
    for pid, _, _ in processes_in(folder):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@pytest.fixture
def submit(cluster, config_file):
    """Runs `launch/slurm_gpu.sh` for a working directory; returns what came of it, and the log."""

    def submit(workdir: Path, *flags: str, **env: str):
        log = cluster.folder / f"{workdir.name}.log"
        sbatch = ["--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=1", "--gpus-per-node=0"]
        # Else it would listen everywhere: others do not call a host by a name of loopback.
        flags = (f"--workdir={workdir}", f"--config.num_steps={STEPS}", "--bind=127.0.0.1", *flags)
        done = subprocess.run(
            [
                *("bash", str(ROOT / "launch/slurm_gpu.sh"), *sbatch, f"--output={log}"),
                *(str(config_file), "--config.checkpoint.every_steps=20"),
                *("--config.log.every_steps=5", "--config.data.threads=1", *flags),
            ],
            env={**cluster.env, **env},
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )
        return done, log

    return submit


def job_of(done: subprocess.CompletedProcess[str]) -> str:
    """The number of the job that was submitted."""
    assert done.returncode == 0, done.stderr
    return done.stdout.split()[-1]


def read(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def final_state(tiny_config, workdir: Path) -> list[np.ndarray]:
    """Everything that training changes, after the last step."""
    optimizer = make_optimizer(tiny_config.optim, STEPS)
    like = as_dict(abstract_state(tiny_config, optimizer, make_mesh(MeshConfig())))
    state = CheckpointReader(workdir / "checkpoints").restore(STEPS, like)
    return [np.asarray(leaf) for leaf in jax.tree.leaves(state)]


def test_a_job_that_loses_a_process_and_is_preempted_ends_with_the_same_bits(
    cluster, submit, tiny_config
):
    undisturbed, disturbed = cluster.folder / "undisturbed", cluster.folder / "disturbed"
    done, log = submit(undisturbed, PAUSE_SECONDS="0")
    job = job_of(done)
    assert f"{STEPS} steps of 16 pairs on 2 devices" in done.stdout
    cluster.wait(lambda: cluster.field(job, "JobState") == "COMPLETED", read(log))
    assert "2 x cpu in 2 processes" in read(log)
    assert cluster.field(job, "Restarts") == "0"

    done, log = submit(disturbed, CHECK="0")
    job = job_of(done)
    cluster.wait(lambda: "step 30/" in read(log), "step 30")
    (victim,) = (
        pid
        for pid, command, environment in processes_in(disturbed)
        if f"{cluster.folder}/slow.py".encode() in command and b"SLURM_PROCID=1" in environment
    )
    os.kill(victim, signal.SIGKILL)
    cluster.start_again(job)
    text = read(log)
    assert f"process 1 (pid {victim} on {socket.gethostname()}) died in phase" in text
    assert "status 137: the run is started again" in text

    cluster.wait(lambda: "resumed at step 20" in read(log), "the job resumes")
    cluster.wait(lambda: "step 45/" in read(log).partition("resumed at")[2], "step 45")
    other = cluster.ask("sbatch", "--parsable", *URGENT)
    cluster.start_again(job)
    assert cluster.field(other, "JobState") in ("PENDING", "RUNNING", "COMPLETED", "COMPLETING")
    asked = re.search(r"asked to stop \(SIGTERM\) at step (\d+) of 120", read(log))
    assert asked, read(log)
    assert "status 75: the run is started again" in read(log)

    cluster.wait(lambda: cluster.field(job, "JobState") == "COMPLETED", "the job ends")
    assert cluster.field(job, "Restarts") == "2"
    assert f"resumed at step {asked[1]}" in read(log)
    expected, ours = final_state(tiny_config, undisturbed), final_state(tiny_config, disturbed)
    assert len(ours) == len(expected) > 0
    for leaf, other_leaf in zip(ours, expected, strict=True):
        np.testing.assert_array_equal(leaf, other_leaf)


# A trainer that is saved as soon as it is asked to stop.
_SAVED = """\
#!/bin/bash
trap 'exit 75' TERM
echo ready
while true; do sleep 0.1; done
"""


def test_a_job_that_is_cancelled_stays_away(cluster, submit):
    python = cluster.folder / "saved/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(_SAVED)
    python.chmod(0o755)
    venv = str(cluster.folder / "saved")
    done, log = submit(cluster.folder / "cancelled", CHECK="0", CLIPJAX_VENV=venv)
    job = job_of(done)
    cluster.wait(lambda: read(log).count("ready") == 2, "both tasks run")
    cluster.ask("scancel", job)
    cluster.wait(lambda: cluster.field(job, "JobState") == "CANCELLED", "the job is cancelled")
    cluster.wait(lambda: not list(processes_in(cluster.folder / "cancelled")), "its end")
    assert cluster.field(job, "JobState") == "CANCELLED"
    assert cluster.field(job, "Restarts") == "0"


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--config.optim.weight_dekay=1", "Did you mean 'weight_decay'"),
        ("--config.data.global_batch_size=15", "cannot be split over 2 devices"),
    ],
)
def test_what_is_wrong_is_said_before_it_is_queued(cluster, submit, flag, message):
    before = cluster.ask("squeue", "-h")
    done, _ = submit(cluster.folder / "refused", flag)
    assert done.returncode == 2
    assert message in done.stderr
    assert cluster.ask("squeue", "-h") == before
