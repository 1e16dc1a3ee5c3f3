"""Measures loading: CPU time an image, against a rival's loader on the same shards.

clipjax data bench --shards data/photos/train --vs open_clip --json -

The CPU time is that of the whole process tree, of exactly the batches that were taken: before and
after, a loader is left alone until its queues are full and it rests. Two loaders take turns, and
who begins changes from round to round; the ratio is the median over the rounds, with a 95 %
bootstrap interval. Needs Linux; --vs open_clip needs pip install 'clipjax[parity]'.
"""

import argparse
import contextlib
import importlib.util
import os
import platform
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clipjax.cli.bench_data_turns import take_turns, warm_up
from clipjax.cli.bench_step import median_interval
from clipjax.cli.bench_turns import Worker
from clipjax.config import UsageError, UserError
from clipjax.data.stages import shares

OURS = "clipjax"
# name: (packages that it needs, script)
RIVALS = {
    "open_clip": (
        ("torch", "torchvision", "open_clip", "open_clip_train", "pandas", "webdataset"),
        "open_clip_data.py",
    )
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the flags."""
    parser.add_argument(
        "--shards", required=True, metavar="WHERE", help="a folder of tar shards, or a pattern"
    )
    parser.add_argument(
        "--vs", choices=[*RIVALS, "none"], default="none", help="the rival (default: %(default)s)"
    )
    parser.add_argument(
        "--scaling",
        action="store_true",
        help="instead of a rival: ours with one thread, with two, and with two processes",
    )
    parser.add_argument(
        "--mode",
        choices=["fast", "device", "exact"],
        default="fast",
        help="our data.image_mode (default: %(default)s)",
    )
    parser.add_argument(
        "--tokenizer",
        choices=["clip", "byte"],
        default="clip",
        help="our tokenizer.kind (default: %(default)s, as the rival's)",
    )
    for flag, default, meaning in (
        ("--workers", 1, "our threads, and the rival's worker processes"),
        ("--rounds", 5, "turns of each"),
        ("--batches", 4, "batches of a turn"),
        ("--batch_size", 256, "pairs of a batch"),
        ("--image_size", 224, "side of an image in pixels"),
    ):
        parser.add_argument(
            flag,
            type=int,
            default=default,
            metavar="N",
            help=f"{meaning} (default: %(default)s)",
        )


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measures, prints and returns the figures.

    Raises:
        UsageError: for a number that is not positive, or a rival beside --scaling.
        UserError: if there are no shards, a package is missing or a process ends early.
    """
    for name in ("workers", "rounds", "batches", "batch_size", "image_size"):
        if getattr(args, name) < 1:
            raise UsageError(f"--{name}={getattr(args, name)} is not positive")
    if args.scaling and args.vs != "none":
        raise UsageError(f"--scaling: measures ours alone; leave out --vs {args.vs}.")
    if not Path("/proc/self/stat").exists():
        raise UserError("clipjax data bench: reads CPU times from /proc, for which it needs Linux.")
    _check_rival(args.vs)
    options = {
        "where": args.shards,
        **_place(args.shards),
        "batch_size": args.batch_size,
        "image_size": args.image_size,
        "batches": args.batches,
        "workers": args.workers,
        "mode": args.mode,
        "tokenizer": args.tokenizer,
        "vocabulary": _vocabulary() if args.tokenizer == "clip" else "",
    }
    if args.tokenizer == "clip" and not _has_vocabulary(options["vocabulary"]):
        print("no vocabulary of CLIP here: texts are split into bytes", file=sys.stderr)
        options["tokenizer"] = "byte"
    if args.scaling:
        return _scaling(options, args.rounds)
    return _comparison(options, args.vs, args.rounds)


def _comparison(options: dict[str, Any], rival: str, rounds: int) -> dict[str, Any]:
    load_before = os.getloadavg()[0]
    with contextlib.ExitStack() as stack:
        ours = stack.enter_context(_ours(OURS, options))
        loaders = [ours]
        if rival != "none":
            script = Path(__file__).parent / "rivals" / RIVALS[rival][1]
            loaders.append(stack.enter_context(Worker(rival, [str(script)], options, _cpus())))
        warm_up(loaders)
        stages = ours.ask("take")["stages"]
        rows = take_turns(loaders, rounds)
        stage_shares = shares(stages, ours.ask("take")["stages"])
        compared = ours.ask("fidelity")
        reports = [loader.ask("report") for loader in loaders]
    figures = {
        "ratio": None,
        "ratio_interval": None,
        "rows": rows,
        "median_us": {w.name: _median(rows, f"{w.name}_us") for w in loaders},
        "images_per_second": {
            w.name: _median(rows, f"{w.name}_images_per_second") for w in loaders
        },
        "stage_shares": stage_shares,
        "psnr_median": compared["psnr_median"],
        "psnr_p5": compared["psnr_p5"],
        "psnr_images": compared["psnr_images"],
        "bad_samples": reports[0]["bad_samples"],
        **_circumstances(options, rounds, [r["version"] for r in reports], load_before),
    }
    if rival != "none":
        ratios = [row[f"{rival}_us"] / row[f"{OURS}_us"] for row in rows]
        for row, ratio in zip(rows, ratios, strict=True):
            row["ratio"] = ratio
        figures["ratio"] = statistics.median(ratios)
        figures["ratio_interval"] = list(median_interval(ratios))
    _print(figures, rival)
    return figures


def _scaling(options: dict[str, Any], rounds: int) -> dict[str, Any]:
    if _cpus() < 2:
        raise UserError("--scaling: this process may use 1 CPU, wanted 2 or more.")
    load_before = os.getloadavg()[0]
    with (
        _ours("one_thread", {**options, "workers": 1}) as one,
        _ours("two_threads", {**options, "workers": 2}) as two,
        _processes("two_processes", {**options, "workers": 2}) as processes,
    ):
        loaders = (one, two, processes)
        warm_up(loaders)
        rows = take_turns(loaders, rounds)
        version = one.ask("report")["version"]
        processes.ask("close")
    names = [loader.name for loader in loaders]
    against = statistics.median(
        row["two_threads_images_per_second"] / row["two_processes_images_per_second"]
        for row in rows
    )
    rates = [f"{worker.name}_images_per_second" for worker in (one, two)]
    ratios = [row[rates[1]] / row[rates[0]] for row in rows]
    low, high = median_interval(ratios)
    figures = {
        "ratio": statistics.median(ratios),
        "ratio_interval": [low, high],
        "threads_over_processes": against,
        "rows": rows,
        "images_per_second": _rates(rows, names),
        **_circumstances(options, rounds, [version], load_before),
    }
    print(
        f"images/s with one thread {_median(rows, rates[0]):.0f}, with two "
        f"{_median(rows, rates[1]):.0f}: ratio {figures['ratio']:.2f} (95 % interval {low:.2f} to "
        f"{high:.2f}, {rounds} rounds); two processes with shared memory "
        f"{_median(rows, 'two_processes_images_per_second'):.0f}, two threads are {against:.2f} of "
        "that"
    )
    _print_load(figures)
    return figures


def _place(shards: str) -> dict[str, Any]:
    from clipjax.data.storage.listing import expand_shards

    is_folder = os.path.isdir(shards)
    root, pattern = (os.path.abspath(shards), "*.tar") if is_folder else (os.getcwd(), shards)
    paths = expand_shards(root, pattern, field="--shards")
    if missing := [path for path in paths if not os.path.isfile(path)]:
        raise UserError(f"--shards={shards}: there is no file {missing[0]}.")
    return {"root": root, "shards": pattern, "paths": paths}


def _check_rival(rival: str) -> None:
    for package in RIVALS.get(rival, ((), ""))[0]:
        if importlib.util.find_spec(package) is None:
            raise UserError(
                f"clipjax data bench --vs {rival}: the package {package} is not installed. "
                "It needs pip install 'clipjax[parity]'."
            )


def _has_vocabulary(path: str) -> bool:
    return bool(path) or importlib.util.find_spec("instant_clip_tokenizer") is not None


def _vocabulary() -> str:
    """Returns the file of CLIP's vocabulary that open_clip reads; "" where there is none."""
    spec = importlib.util.find_spec("open_clip")
    folders = (spec and spec.submodule_search_locations) or []
    paths = [Path(folder) / "bpe_simple_vocab_16e6.txt.gz" for folder in folders]
    return next((str(path) for path in paths if path.is_file()), "")


def _ours(name: str, options: dict[str, Any]) -> Worker:
    return Worker(name, ["-m", "clipjax.cli.bench_data_ours"], options, _cpus())


def _processes(name: str, options: dict[str, Any]) -> Worker:
    return Worker(name, ["-m", "clipjax.cli.bench_data_processes"], options, _cpus())


def _cpus() -> int:
    return len(os.sched_getaffinity(0))


def _median(rows: Sequence[Mapping[str, Any]], name: str) -> float:
    return statistics.median(row[name] for row in rows)


def _rates(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[str, float]:
    return {name: _median(rows, f"{name}_images_per_second") for name in names}


def _circumstances(
    options: Mapping[str, Any], rounds: int, versions: list[str], load_before: float
) -> dict[str, Any]:
    given = ("where", "batch_size", "image_size", "batches", "workers", "mode", "tokenizer")
    return {
        **{name: options[name] for name in given},
        "rounds": rounds,
        "versions": versions,
        "cpu": _cpu_name(),
        "cpus": _cpus(),
        "load_average": [load_before, os.getloadavg()[0]],
    }


def _cpu_name() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def _print(figures: Mapping[str, Any], rival: str) -> None:
    medians, rates = figures["median_us"], figures["images_per_second"]
    print("median " + ", ".join(f"{n} {us:.0f} us CPU an image" for n, us in medians.items()))
    print("by wall clock " + ", ".join(f"{n} {rate:.0f} images/s" for n, rate in rates.items()))
    if rival != "none":
        low, high = figures["ratio_interval"]
        print(
            f"ratio {rival} / {OURS} {figures['ratio']:.2f} (95 % interval {low:.2f} to "
            f"{high:.2f}, {figures['rounds']} rounds)"
        )
    stages = ", ".join(f"{n} {100 * share:.0f} %" for n, share in figures["stage_shares"].items())
    print(f"stages of {OURS} (wall clock of its threads): {stages}")
    print(
        f"mode {figures['mode']} against Pillow's bicubic filter: median PSNR "
        f"{figures['psnr_median']:.1f} dB, 5th percentile {figures['psnr_p5']:.1f} dB, "
        f"{figures['psnr_images']} images"
    )
    _print_load(figures)


def _print_load(figures: Mapping[str, Any]) -> None:
    before, after = figures["load_average"]
    print(
        f"{'; '.join(figures['versions'])}; {figures['cpus']} CPUs, {figures['cpu']}; "
        f"load average {before:.1f} before, {after:.1f} after"
    )
