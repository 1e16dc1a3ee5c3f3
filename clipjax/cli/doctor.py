"""Checks this machine before a run, and that a model can learn 64 pairs by heart.

  clipjax doctor
  clipjax doctor --config configs/quickstart.py --workdir runs/quickstart
  clipjax doctor --coordinator auto        (in every process of a cluster job)

A loss that stays at log(batch) is the commonest report of newcomers: mixed-up pairs, no gradient.
"""

import argparse
import dataclasses
import importlib.metadata
import os
import re
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from clipjax.cli.configs import add_cluster_flags, add_config_flag, cluster_from, load_config
from clipjax.cli.parser import Parser
from clipjax.config import UserError

_SHOWN = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "ml_collections")
_LEAST_FREE_BYTES = 1 << 30
_LEAST_FILES = 1024
_MOST_SKEW_SECONDS = 2.0
_LEARNT_SHARE = 0.1

Verdict = Literal["ok", "warning", "failed"]


@dataclasses.dataclass(frozen=True)
class Check:
    """One finding."""

    name: str
    verdict: Verdict
    found: str


def configure(parser: Parser) -> None:
    """Adds the flags."""
    add_config_flag(parser, required=False)
    parser.add_argument("--workdir", default=".", metavar="DIR", help="where a run would write")
    parser.add_argument(
        "--overfit_steps", type=int, default=200, metavar="N", help="0 leaves this check out"
    )
    add_cluster_flags(parser)


def run(args: argparse.Namespace) -> dict[str, Any] | None:
    """Prints the findings; exit status 1 if one of them is a failure."""
    config = load_config(args.config, args.overrides) if args.config else None
    from clipjax.core.distributed import joined

    findings: list[Check] = []

    def add(name: str, check: Callable[[], tuple[Verdict, str]]) -> None:
        try:
            verdict, found = check()
        except UserError as error:
            verdict, found = "failed", str(error)
        except Exception as error:  # a check that breaks is a finding, not the end of the others
            verdict, found = "failed", f"{type(error).__name__}: {error}".splitlines()[0]
        findings.append(Check(name, verdict, found))
        mark = {"ok": "ok     ", "warning": "WARNING", "failed": "FAILED "}[verdict]
        print(f"{mark}  {name}: {found}", flush=True)

    add("versions", _versions)
    with joined(cluster_from(args)) as lifeline:
        import jax

        lifeline.phase("doctor", 600.0)
        add("devices", _devices)
        if jax.process_count() > 1:
            add("processes", _cluster)
        else:
            add("processes", _two_processes)
        add("clock", lambda: _clock(Path(args.workdir)))
        add("disk", lambda: _disk(Path(args.workdir), config))
        add("file limit", _file_limit)
        if args.overfit_steps and jax.process_index() == 0:
            add("overfit", lambda: _overfit(config, args.overfit_steps))
        primary = jax.process_index() == 0
    args.exit_status = int(any(check.verdict == "failed" for check in findings))
    figures = {"checks": [dataclasses.asdict(check) for check in findings]}
    return figures if primary else None


def _versions() -> tuple[Verdict, str]:
    problems = []
    try:
        requirements = importlib.metadata.requires("clipjax") or []
    except importlib.metadata.PackageNotFoundError:
        return "warning", "clipjax is on the path but not installed; versions are not checked."
    for requirement in requirements:
        match = re.match(r"([A-Za-z0-9_.-]+)[^;]*?>=([0-9.]+)[^;]*$", requirement)
        if match is None:
            continue
        name, least = match.groups()
        try:
            found = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            problems.append(f"{name} is missing")
            continue
        if _numbers(found) < _numbers(least):
            problems.append(f"{name} {found} is older than {least}")
    if problems:
        return "failed", f"{'; '.join(problems)}. Install clipjax again in a fresh environment."
    shown = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in _SHOWN)
    return "ok", f"Python {sys.version.split()[0]}, {shown}"


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


def _devices() -> tuple[Verdict, str]:
    import jax

    devices = jax.devices()
    found = f"{len(devices)} x {devices[0].device_kind} ({devices[0].platform})"
    if devices[0].platform == "cpu" and shutil.which("nvidia-smi"):
        return "failed", (
            f"{found}, but this machine has an NVIDIA driver: JAX without CUDA is installed. "
            "pip install 'clipjax[cuda13]' (or cuda12)."
        )
    return "ok", f"{found}, {len(os.sched_getaffinity(0))} cores for this process"


_CHILD = """
import sys, jax
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(sys.argv[1], 2, int(sys.argv[2]), initialization_timeout=60)
from jax.experimental import multihost_utils
import numpy as np
total = multihost_utils.process_allgather(np.array([jax.process_index() + 1])).sum()
sys.exit(0 if total == 3 else 1)
"""


def _two_processes() -> tuple[Verdict, str]:
    """Two processes of this machine exchange a number over gloo."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    env = {**os.environ, "JAX_PLATFORMS": "cpu"}
    children = [
        subprocess.Popen(
            [sys.executable, "-c", _CHILD, address, str(i)],
            env=env,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]
    start = time.monotonic()
    try:
        errors = [child.communicate(timeout=120)[1] for child in children]
    except subprocess.TimeoutExpired:
        for child in children:
            child.kill()
            child.communicate()
        return "failed", f"two processes could not reach each other at {address} in 120 s."
    if any(child.returncode for child in children):
        last = next((e.strip().splitlines()[-1] for e in errors if e.strip()), "no message")
        return "failed", f"two processes could not exchange a number at {address}: {last}"
    return (
        "ok",
        f"two processes exchanged a number at {address} in {time.monotonic() - start:.0f} s",
    )


def _cluster() -> tuple[Verdict, str]:
    """All processes of the job: reached, the same versions, clocks together."""
    import jax
    import numpy as np
    from jax.experimental import multihost_utils

    multihost_utils.sync_global_devices("doctor")
    stamp = np.array([time.time(), hash_of_versions()], np.float64)
    # float64 is not a JAX default type: travel as bytes.
    gathered = multihost_utils.process_allgather(np.frombuffer(stamp.tobytes(), np.uint8))
    rows = np.frombuffer(np.ascontiguousarray(gathered).tobytes(), np.float64).reshape(-1, 2)
    skew = float(np.ptp(rows[:, 0]))
    if len(np.unique(rows[:, 1])) > 1:
        odd = np.flatnonzero(rows[:, 1] != rows[0, 1]).tolist()
        return "failed", f"processes {odd} run other versions of Python or JAX than process 0."
    if skew > _MOST_SKEW_SECONDS:
        return "warning", f"the clocks of {jax.process_count()} processes differ by {skew:.1f} s."
    return (
        "ok",
        f"{jax.process_count()} processes reached, same versions, clocks within {skew:.2f} s",
    )


def hash_of_versions() -> float:
    """Returns a number that is equal where the versions are equal."""
    import zlib

    names = [sys.version, *(f"{n} {importlib.metadata.version(n)}" for n in _SHOWN)]
    return float(zlib.crc32("\n".join(names).encode()))


def _clock(workdir: Path) -> tuple[Verdict, str]:
    """The clock of the file system against that of this machine: they differ on a bad NFS."""
    folder = _existing(workdir)
    before = time.time()
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        file.write(b"x")
        file.flush()
        written = os.stat(file.name).st_mtime
    after = time.time()
    skew = max(before - written, written - after, 0.0)
    if skew > _MOST_SKEW_SECONDS:
        return "warning", (
            f"files in {folder} are stamped {skew:.1f} s away from this machine's clock: set both "
            "by NTP, or indexes are rebuilt needlessly."
        )
    year = time.gmtime(before).tm_year
    return ("ok" if year >= 2025 else "failed"), time.strftime(
        "%Y-%m-%d %H:%M:%S UTC, file system within 2 s", time.gmtime(before)
    )


def _disk(workdir: Path, config: Any) -> tuple[Verdict, str]:
    folder = _existing(workdir)
    free = shutil.disk_usage(folder).free
    need, why = _LEAST_FREE_BYTES, "1 GB"
    if config is not None:
        from clipjax.core.checkpoint import state_bytes
        from clipjax.core.mesh import make_mesh
        from clipjax.train.state import abstract_state, optimizer_of

        optimizer = optimizer_of(config)
        one = state_bytes(abstract_state(config, optimizer, make_mesh(config.mesh)))
        need = one * (config.checkpoint.keep + 1)
        why = f"{config.checkpoint.keep + 1} checkpoints of {one / 1e6:,.0f} MB"
    text = f"{free / 1e9:,.1f} GB free in {folder}, {why} wanted"
    return ("ok" if free >= need else "failed"), text


def _file_limit() -> tuple[Verdict, str]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    text = f"{soft:,} open files (hard limit {hard:,})"
    if soft < _LEAST_FILES:
        return "warning", f"{text}: every shard is one; raise it with ulimit -n {_LEAST_FILES}."
    return "ok", text


def _overfit(config: Any, steps: int) -> tuple[Verdict, str]:
    from clipjax.core.progress import Progress
    from clipjax.train.overfit import (
        NUM_PAIRS,
        first_pairs,
        overfit,
        starting_loss,
        tiny_config,
        two_colours,
    )

    what = "the run's own pairs and model" if config else "made-up pairs and a tiny model"
    batch = first_pairs(config) if config else two_colours(tiny_config())
    config = config or tiny_config()
    start = starting_loss(config)
    loss, step = start, 0
    with Progress("overfitting", steps, "steps") as progress:
        for done, loss in overfit(config, batch, steps):
            step = done
            progress.advance(detail=f"loss {loss:.3f}")
            if loss < _LEARNT_SHARE * start:
                break
    text = f"{NUM_PAIRS} pairs ({what}): loss {loss:.3f} after {step} steps, {start:.2f} at chance"
    if loss < _LEARNT_SHARE * start:
        return "ok", text
    if loss > 0.9 * start:
        return "failed", (
            f"{text}: nothing was learnt. Are images and captions of one pair together, are the "
            "captions different, does a gradient reach both towers (dtype, init)?"
        )
    return "warning", f"{text}: learning, but slowly. Try --overfit_steps={4 * steps}."


def _existing(path: Path) -> Path:
    path = path.absolute()
    while not path.is_dir():
        path = path.parent
    return path


if __name__ == "__main__":
    from clipjax.cli.main import main

    main(["doctor", *sys.argv[1:]])
