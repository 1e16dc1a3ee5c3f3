"""Evaluation against the programs that scores are usually made with: CPU time, taking turns.

Against CLIP_benchmark: pictures to batches, with nothing behind, and pictures to logits. Against
open_clip: prompts to class embeddings. The weights are the rival's, so that what both compute can
be compared too.
"""

import contextlib
import importlib.util
import os
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clipjax.cli.bench_data_turns import Loader, take_turns
from clipjax.cli.bench_evaluate_data import CLASS_NAMES, write_benchmark
from clipjax.cli.bench_step import median_interval
from clipjax.cli.bench_table import table
from clipjax.cli.bench_turns import Worker
from clipjax.config import UsageError, UserError

OURS = "clipjax"
# name: (packages that it needs, script, what is measured: (order, unit, for people))
RIVALS: dict[str, tuple[tuple[str, ...], str, tuple[tuple[str, str, str], ...]]] = {
    "clip_benchmark": (
        ("torch", "torchvision", "open_clip", "clip_benchmark", "webdataset", "safetensors"),
        "clip_benchmark_images.py",
        (
            ("images", "image", "pictures to batches"),
            ("model", "image", "pictures to logits"),
        ),
    ),
    "open_clip": (
        ("torch", "torchvision", "open_clip", "safetensors"),
        "open_clip_classes.py",
        (("classes", "class", "prompts to class embeddings"),),
    ),
}
_BATCH_SIZE = 64
_MODEL_BATCHES = 2


def evaluate_figures(
    *,
    rival: str,
    preset: str,
    kind: str,
    samples: int,
    rounds: int,
    threads: int,
    classes: int = 50,
) -> dict[str, Any]:
    """Measures both, compares what they compute, prints and returns the figures.

    Args:
        rival: a key of `RIVALS`.
        preset: of the model, open_clip's name.
        kind: of the photographs, a key of `photos.SETS`.
        samples: photographs.
        rounds: timed turns of each.
        threads: CPUs that each may use.
        classes: of 80 prompts each.

    Raises:
        UsageError: for more classes than there are names.
        UserError: if a package or the photographs are missing, or a process ends early.
    """
    if classes > len(CLASS_NAMES):
        raise UsageError(f"--classes={classes}: there are names for {len(CLASS_NAMES)}.")
    packages, script, measured = RIVALS[rival]
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise UserError(
                f"clipjax bench evaluate --vs {rival}: the package {package} is not installed. It "
                "needs pip install 'clipjax[parity]'."
            )
    if not Path("/proc/self/stat").exists():
        raise UserError(
            "clipjax bench evaluate: reads CPU times from /proc, for which it needs Linux."
        )
    load_before = os.getloadavg()[0]
    rows: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        if rival == "clip_benchmark":
            write_benchmark(Path(folder), kind=kind, samples=samples)
        options = {
            "folder": folder,
            "preset": preset,
            "rival": rival,
            "classes": classes,
            "batch_size": _BATCH_SIZE,
            "model_images": min(_MODEL_BATCHES * _BATCH_SIZE, samples),
            "vocabulary": _vocabulary(),
        }
        path = Path(__file__).parent / "rivals" / script
        theirs = stack.enter_context(Worker(rival, [str(path)], options, threads))
        versions = [theirs.ask("report")["version"]]  # once it is there, the weights are
        command = ["-m", "clipjax.cli.bench_evaluate_ours"]
        ours = stack.enter_context(Worker(OURS, command, options, threads))
        versions.insert(0, ours.ask("report")["version"])
        compared = _compared(ours, theirs, rival)
        for order, unit, said in measured:
            print(f"{said}:", flush=True)
            rows[order] = take_turns((ours, theirs), rounds, order, unit)
    figures = {
        **compared,
        "measured": {order: _ratio(rows[order], rival) for order, _, _ in measured},
        "rows": rows,
        "preset": preset,
        "photographs": kind,
        "samples": samples,
        "classes": classes,
        "rounds": rounds,
        "threads": threads,
        "versions": versions,
        "load_average": [load_before, os.getloadavg()[0]],
    }
    _print(figures, rival)
    return figures


def _compared(ours: Loader, theirs: Loader, rival: str) -> dict[str, Any]:
    """Returns how many pictures have other bytes, and how far embeddings are apart.

    After it all that is measured has run once.
    """
    found: dict[str, Any] = {}
    if rival == "clip_benchmark":
        pixels = [worker.ask("pixels")["pixels"] for worker in (ours, theirs)]
        found["pictures"] = len(pixels[1])
        found["other_pixels"] = sum(a != b for a, b in zip(*pixels, strict=True))
    mine, other = (worker.ask("embeds") for worker in (ours, theirs))
    which = "classes" if rival == "open_clip" else "images"
    both = [np.array(answer[which]) for answer in (mine, other)]
    found["largest_difference"] = float(np.abs(both[0] - both[1]).max())
    return found


def _ratio(rows: Sequence[Mapping[str, Any]], rival: str) -> dict[str, Any]:
    ratios = [row[f"{rival}_us"] / row[f"{OURS}_us"] for row in rows]
    return {
        "ratio": statistics.median(ratios),
        "ratio_interval": list(median_interval(ratios)),
        "cpu_us": {n: statistics.median(row[f"{n}_us"] for row in rows) for n in (OURS, rival)},
        "per_second": {
            name: statistics.median(row[f"{name}_images_per_second"] for row in rows)
            for name in (OURS, rival)
        },
    }


def _vocabulary() -> str:
    spec = importlib.util.find_spec("open_clip")
    assert spec is not None
    assert spec.origin is not None
    return str(Path(spec.origin).parent / "bpe_simple_vocab_16e6.txt.gz")


def _print(figures: Mapping[str, Any], rival: str) -> None:
    lines = []
    said = {order: what for order, _, what in RIVALS[rival][2]}
    for order, found in figures["measured"].items():
        for name in (OURS, rival):
            lines.append(
                {
                    "measured": said[order],
                    "program": name,
                    "cpu_us": found["cpu_us"][name],
                    "samples_per_second": found["per_second"][name],
                    "ratio": found["ratio"] if name == OURS else None,
                }
            )
    print(table(lines))
    for order, found in figures["measured"].items():
        low, high = found["ratio_interval"]
        print(
            f"{said[order]}: ratio {rival} / {OURS} {found['ratio']:.2f} (95 % interval {low:.2f} "
            f"to {high:.2f}, {figures['rounds']} rounds)"
        )
    if "pictures" in figures:
        print(f"pictures with other pixels: {figures['other_pixels']} of {figures['pictures']}")
    print(f"{figures['preset']}: embeddings differ by {figures['largest_difference']:.1e} at most")
    before, after = figures["load_average"]
    print(
        f"{'; '.join(figures['versions'])}; {figures['threads']} CPUs each; load average "
        f"{before:.1f} before, {after:.1f} after"
    )
