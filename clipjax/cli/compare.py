"""Tells whether one of two evaluated models is better, and how sure that is.

clipjax compare evals/a evals/b
clipjax compare evals/a evals/b --metric all --correction bh --json differences.json
clipjax compare evals/a evals/b --seeds evals/a-seed1 evals/a-seed2

A and B are folders that `clipjax evaluate --out` wrote. Both models are compared on the same
images, task by task; the p values are corrected for the number of tasks. Intervals are of each row
alone. With --seeds a difference must also be larger than two runs of A's recipe differ by.
"""

import argparse
import dataclasses
import sys
from typing import Any

from clipjax.cli.parser import Parser
from clipjax.config import UsageError

_LEAST_RESAMPLES = 200


def configure(parser: Parser) -> None:
    """Adds the flags."""
    parser.add_argument("a", metavar="A", help="folder of the first evaluation")
    parser.add_argument("b", metavar="B", help="folder of the second; differences are B - A")
    parser.add_argument(
        "--metric",
        default="main",
        metavar="main|all|NAME",
        help="the main metric of each task (default), all of them, or one by name",
    )
    parser.add_argument(
        "--alpha",
        type=float,
        default=0.05,
        metavar="P",
        help="call it a difference up to this adjusted p value (0.05)",
    )
    parser.add_argument(
        "--correction",
        choices=["holm", "bh"],
        default="holm",
        help="for many tasks: of one false finding among all (Holm, the default), or of the share "
        "of findings that are false (Benjamini-Hochberg)",
    )
    parser.add_argument(
        "--seeds",
        nargs="+",
        default=[],
        metavar="DIR",
        help="evaluations of runs that differ from A in nothing but the seed",
    )
    parser.add_argument(
        "--resamples", type=int, default=10_000, metavar="N", help="bootstrap draws (10,000)"
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Prints the differences and returns them."""
    if not 0 < args.alpha < 1:
        raise UsageError(f"--alpha={args.alpha}: expected a probability between 0 and 1.")
    if args.resamples < _LEAST_RESAMPLES:
        raise UsageError(f"--resamples={args.resamples}: expected {_LEAST_RESAMPLES} or more.")
    from clipjax.evals.compare import Settings, compare
    from clipjax.evals.evaluation_folder import read_evaluation

    a, b = read_evaluation(args.a), read_evaluation(args.b)
    settings = Settings(
        metric=args.metric,
        alpha=args.alpha,
        correction=args.correction,
        resamples=args.resamples,
    )
    seeds = [read_evaluation(path) for path in args.seeds]
    found = compare(a, b, settings, seeds, say=lambda text: print(text, file=sys.stderr))
    print(f"A  {args.a}\nB  {args.b}\n")
    print(_table([*found.rows, *found.aggregates], with_noise=bool(args.seeds)))
    names = {"holm": "Holm", "bh": "Benjamini-Hochberg"}
    print(
        f"\np of {len(found.rows)} adjusted by {names[args.correction]}, alpha {args.alpha:g}; "
        "intervals are of each row alone; means over tasks are not adjusted."
    )
    for task, reason in found.left_out.items():
        print(f"left out: {task}: {reason}", file=sys.stderr)
    for warning in found.warnings:
        print(f"warning: {warning}.", file=sys.stderr)
    return {
        "a": {"path": args.a, "model": a.model},
        "b": {"path": args.b, "model": b.model},
        **dataclasses.asdict(settings),
        "seeds": list(args.seeds),
        "tasks": [dataclasses.asdict(row) for row in found.rows],
        "aggregates": [dataclasses.asdict(row) for row in found.aggregates],
        "left_out": dict(found.left_out),
        "warnings": list(found.warnings),
    }


def _table(rows: Any, *, with_noise: bool) -> str:
    head = ["task", "metric", "A", "B", "B - A", "95 % interval", "p", "adjusted"]
    lines = [[*head, *(["noise"] if with_noise else []), "verdict"]]
    for row in rows:
        noise = f"{row.noise.smallest_difference:.4f}" if row.noise else "-"
        lines.append(
            [
                row.task,
                row.metric,
                f"{row.a:.4f}",
                f"{row.b:.4f}",
                f"{row.difference:+.4f}",
                f"{row.low:+.4f} to {row.high:+.4f}",
                _p(row.p_value),
                "-" if row.adjusted_p is None else _p(row.adjusted_p),
                *([noise] if with_noise else []),
                row.verdict,
            ]
        )
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    texts = (0, 1, len(widths) - 1)
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i in texts else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def _p(value: float) -> str:
    return f"{value:.4f}" if value >= 0.0001 else "<0.0001"


if __name__ == "__main__":
    from clipjax.cli.main import main

    main(["compare", *sys.argv[1:]])
