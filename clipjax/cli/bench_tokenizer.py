"""CLIP's tokenizer against a rival's: interleaved, and every id compared."""

import importlib.util
import os
import statistics
from pathlib import Path
from typing import Any

from clipjax.cli.bench_captions import KINDS
from clipjax.cli.bench_turns import Worker
from clipjax.config import UserError

OURS = "clipjax"
_CONTEXT_LENGTH = 77
_SHOWN_DIFFERENCES = 5

# name: (packages that it needs, script, vocabulary file within the last package)
RIVALS = {
    "open_clip": (
        ("torch", "open_clip"),
        "open_clip_tokenizer.py",
        "bpe_simple_vocab_16e6.txt.gz",
    )
}


def tokenizer_figures(*, rival: str, rounds: int, count: int) -> dict[str, Any]:
    """Times both, compares their ids, prints and returns the figures.

    Args:
        rival: a key of `RIVALS`.
        rounds: timed turns of each, after one that fills the caches of both and is compared.
        count: captions of each kind in a turn; every round has new ones.

    Raises:
        UserError: if a package is missing or a process fails.
    """
    script, vocabulary = _find(rival)
    if not hasattr(os, "sched_getaffinity"):
        raise UserError(
            "clipjax bench tokenizer: pins processes to a CPU, for which it needs Linux."
        )
    options = {
        "count": count,
        "context_length": _CONTEXT_LENGTH,
        "vocabulary": str(vocabulary),
    }
    with (
        Worker(OURS, ["-m", "clipjax.cli.bench_captions"], options, 1) as ours,
        Worker(rival, [str(script)], options, 1) as theirs,
    ):
        differences: list[dict[str, Any]] = []
        for kind, make in KINDS.items():
            rows = zip(make(count, 0), ours.ask(kind)["ids"], theirs.ask(kind)["ids"], strict=True)
            differences += [
                {"caption": ascii(caption), OURS: mine, rival: other}
                for caption, mine, other in rows
                if mine != other
            ]
        rows = take_turns((ours, theirs), rounds)
        versions = [worker.ask("report")["version"] for worker in (ours, theirs)]
    figures = {
        "ratio": _ratio(rows, "natural", rival),
        "ratio_hard": _ratio(rows, "hard", rival),
        "microseconds_per_caption": {
            kind: {
                name: 1e6 / count * statistics.median(row[f"{name}_{kind}_cpu"] for row in rows)
                for name in (OURS, rival)
            }
            for kind in KINDS
        },
        "differences": len(differences),
        "first_differences": differences[:_SHOWN_DIFFERENCES],
        "compared": count * len(KINDS),
        "rows": rows,
        "captions": count,
        "rounds": rounds,
        "versions": versions,
    }
    _print(figures, rival)
    return figures


def take_turns(workers: tuple[Worker, Worker], rounds: int) -> list[dict[str, Any]]:
    """Returns what each answered in each round, its name before every key; who begins changes."""
    rows = []
    for number in range(rounds):
        order = workers if number % 2 == 0 else workers[::-1]
        row: dict[str, Any] = {"round": number + 1, "first": order[0].name}
        for worker in order:
            row |= {f"{worker.name}_{key}": value for key, value in worker.ask("round").items()}
        rows.append(row)
    return rows


def _find(rival: str) -> tuple[Path, Path]:
    """Returns the script of a rival and its vocabulary file."""
    packages, script, vocabulary = RIVALS[rival]
    folder = Path()
    for package in packages:
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            raise UserError(
                f"clipjax bench tokenizer --vs {rival}: the package {package} is not installed. "
                "It needs pip install 'clipjax[parity]'."
            )
        folder = Path(spec.origin).parent
    return Path(__file__).parent / "rivals" / script, folder / vocabulary


def _ratio(rows: list[dict[str, Any]], kind: str, rival: str) -> float:
    return statistics.median(row[f"{rival}_{kind}_cpu"] / row[f"{OURS}_{kind}_cpu"] for row in rows)


def _print(figures: dict[str, Any], rival: str) -> None:
    for kind, each in figures["microseconds_per_caption"].items():
        ratio = figures["ratio" if kind == "natural" else "ratio_hard"]
        print(
            f"{kind} captions: {OURS} {each[OURS]:.1f} us, {rival} {each[rival]:.1f} us of CPU "
            f"time a caption; {rival} / {OURS} {ratio:.1f}"
        )
    print(
        f"median of {figures['rounds']} rounds of {figures['captions']:,} captions of each kind; "
        f"{'; '.join(figures['versions'])}\n"
        f"captions with other ids: {figures['differences']} of {figures['compared']:,}"
    )
    for row in figures["first_differences"]:
        print(f"  {row['caption']}\n    {OURS} {row[OURS]}\n    {rival} {row[rival]}")
