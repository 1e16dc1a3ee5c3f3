"""Our train step against a rival's: interleaved, so that both see the same load."""

import importlib.util
import os
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clipjax.cli.bench_table import speed, table
from clipjax.cli.bench_turns import LEARNING_RATE, Worker
from clipjax.config import UsageError, UserError
from clipjax.config.presets import preset

OURS = "clipjax"
_WARMUP_STEPS = 2
_RESAMPLES = 10_000

# name: (packages that it needs, script)
RIVALS = {"open_clip": (("torch", "open_clip"), "open_clip_step.py")}


def step_figures(
    preset_name: str,
    *,
    rival: str,
    batch_size: int,
    rounds: int,
    threads: int | None,
    compute: Mapping[str, Any],
    device: str | None = None,
) -> dict[str, Any]:
    """Times both, prints the rounds and returns the figures.

    Args:
        preset_name: of a model that both have.
        rival: a key of `RIVALS`.
        batch_size: pairs of a step.
        rounds: timed steps of each, after two that are not timed.
        threads: CPUs of each; the same ones, as only one of the two runs at a time. None for two
            on CPU and all beside a GPU.
        compute: fields of `ComputeConfig`; the rival takes the dtype.
        device: cpu or gpu; None for a GPU where there is one of NVIDIA's.

    Raises:
        UserError: if a package is missing or a process fails.
    """
    packages, script = RIVALS[rival]
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise UserError(
                f"clipjax bench step --vs {rival}: the package {package} is not installed. "
                "It needs pip install 'clipjax[parity]'."
            )
    if preset(preset_name).init_logit_bias is not None:
        raise UsageError(f"--preset={preset_name}: has a bias; the softmax loss of both has none.")
    if not hasattr(os, "sched_getaffinity"):
        raise UserError("clipjax bench step: pins processes to CPUs, for which it needs Linux.")
    available = len(os.sched_getaffinity(0))
    device = device or ("gpu" if Path("/dev/nvidiactl").exists() else "cpu")
    if threads is None:
        threads = available if device == "gpu" else min(2, available)
    if threads > available:
        raise UsageError(f"--threads={threads}: this process may use {available} CPUs.")

    options = {
        "preset": preset_name,
        "batch_size": batch_size,
        "learning_rate": LEARNING_RATE,
        "compute": dict(compute),
    }
    load_before = os.getloadavg()[0]
    with (
        Worker(OURS, ["-m", "clipjax.cli.bench_ours"], options, threads, device) as ours,
        Worker(
            rival, [str(Path(__file__).parent / "rivals" / script)], options, threads, device
        ) as theirs,
    ):
        print(
            f"{preset_name}, batch {batch_size}, on the {device}, "
            f"{', '.join(f'{name} {value}' for name, value in compute.items())}; each is pinned "
            f"to the same {threads} CPUs (sched_setaffinity), which sets XLA's threads; torch has "
            f"set_num_threads({threads})"
        )
        for _ in range(_WARMUP_STEPS):
            for worker in (ours, theirs):
                worker.ask("step")
        rows, idle = take_turns((ours, theirs), rounds)
        reports = {worker.name: worker.ask("report") for worker in (ours, theirs)}
    if reports[OURS]["parameters"] != reports[rival]["parameters"]:
        raise UserError(f"the models differ: {reports}")
    ratios = [row[OURS] / row[rival] for row in rows]
    cpu_ratios = [row[f"{OURS}_cpu"] / row[f"{rival}_cpu"] for row in rows]
    low, high = median_interval(ratios)
    medians = {n: statistics.median(row[n] for row in rows) for n in reports}
    flops = {"batch_size": batch_size, "pair_flops": reports[OURS]["pair_flops"], "devices": 1}
    speeds = [
        {
            "program": name,
            "device": f"1 x {reports[OURS]['device']}",
            "dtype": compute["dtype"],
            "batch_size": batch_size,
            **speed(seconds, **flops, peak=reports[OURS]["peak_flops"]),
        }
        for name, seconds in medians.items()
    ]
    figures = {
        "speeds": speeds,
        "ratio": statistics.median(ratios),
        "ratio_interval": [low, high],
        "cpu_ratio": statistics.median(cpu_ratios),
        "median_seconds": medians,
        "rows": rows,
        "idle_cpu_share": idle,
        "jit_cache_entries": reports[OURS]["cache_size"],
        "parameters": reports[OURS]["parameters"],
        "preset": preset_name,
        "batch_size": batch_size,
        "compute": dict(compute),
        "rounds": rounds,
        "threads": threads,
        "versions": [report["version"] for report in reports.values()],
        "load_average": [load_before, os.getloadavg()[0]],
    }
    _print(figures, rival)
    return figures


def take_turns(
    workers: tuple[Worker, Worker], rounds: int
) -> tuple[list[dict[str, Any]], float | None]:
    """Returns the seconds of each in each round, and the most CPUs that a waiting one used."""
    rows, idle = [], []
    for number in range(rounds):
        row: dict[str, Any] = {"round": number + 1}
        order = workers if number % 2 == 0 else workers[::-1]
        for runs, waits in (order, order[::-1]):
            before = waits.cpu_seconds()
            answer = runs.ask("step")
            after = waits.cpu_seconds()
            row[runs.name] = answer["seconds"]
            row[f"{runs.name}_cpu"] = answer["cpu_seconds"]
            row[f"{runs.name}_loss"] = answer["loss"]
            if before is not None and after is not None:
                idle.append((after - before) / answer["seconds"])
        row["first"] = order[0].name
        rows.append(row)
        print(
            "round {}: {}".format(
                row["round"], ", ".join(f"{w.name} {1e3 * row[w.name]:.0f} ms" for w in order)
            ),
            flush=True,
        )
    return rows, max(idle, default=None)


def median_interval(values: Sequence[float], seed: int = 0) -> tuple[float, float]:
    """Returns the 95 % percentile bootstrap interval of the median.

    Source: Efron and Tibshirani 1993, "An Introduction to the Bootstrap", section 13.3.

    >>> median_interval([2.0, 2.0, 2.0])
    (2.0, 2.0)
    """
    draws = np.random.default_rng(seed).choice(np.asarray(values), (_RESAMPLES, len(values)))
    low, high = np.percentile(np.median(draws, axis=1), [2.5, 97.5])
    return float(low), float(high)


def _print(figures: dict[str, Any], rival: str) -> None:
    low, high = figures["ratio_interval"]
    print(table(figures["speeds"]))
    print(
        f"ratio {OURS} / {rival} {figures['ratio']:.3f} (95 % interval {low:.3f} to {high:.3f}, "
        f"{figures['rounds']} rounds), of CPU time {figures['cpu_ratio']:.3f}\n"
        f"entries in the jit cache {figures['jit_cache_entries']}; "
        f"{figures['parameters']:,} parameters each; {'; '.join(figures['versions'])}"
    )
    if figures["idle_cpu_share"] is not None:
        print(f"the waiting process used at most {figures['idle_cpu_share']:.2f} CPUs")
    before, after = figures["load_average"]
    print(f"load average of the machine {before:.1f} before, {after:.1f} after")
