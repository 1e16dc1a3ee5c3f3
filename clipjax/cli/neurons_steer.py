"""Adds to one unit and tells what that makes a model say, facet by facet.

clipjax neurons steer image/blocks/1/mlp_act:17 --scan OUT
clipjax neurons steer shared/embed:5- --scan OUT --concept cat --amounts -8,-4,0,4,8 --json -

Amounts are in standard deviations of the unit over the stimuli of a facet (those of the scan, with
its pool), at every place; of a unit with a sign they go in its direction. Printed are the logit of
the concept on its own stimuli and on others, and which share of all stimuli is taken for it.
"""

import argparse
import math
from typing import Any

from clipjax.cli.neurons_reopen import add_reopen_flags, reopened
from clipjax.cli.parser import Parser
from clipjax.cli.text_table import text_table, written
from clipjax.config import UsageError


def configure(parser: Parser) -> None:
    """Adds the flags."""
    parser.add_argument("unit", metavar="UNIT", help="PATH:INDEX")
    add_reopen_flags(parser)
    parser.add_argument(
        "--concept", default="", metavar="ID", help="(default: the one that was found)"
    )
    parser.add_argument(
        "--amounts",
        default="-4,-2,0,2,4",
        metavar="LIST",
        help="in standard deviations (default: %(default)s); write --amounts=-4,0,4",
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Prints the curve of each facet and returns them.

    Raises:
        UserError: if the unit or concept is unknown, or what was scanned has changed.
    """
    from clipjax.interpret.ablation import check_named, named_pairs
    from clipjax.interpret.causal import steering_curve
    from clipjax.interpret.findings import JSON, Findings
    from clipjax.interpret.model_units import running
    from clipjax.interpret.scan_files import Scan
    from clipjax.interpret.spaces import UnitName

    amounts = _numbers(args.amounts)
    scan = Scan(args.scan)
    check_named(scan, UnitName.parse(args.unit))
    findings = Findings.read(args.scan) if (scan.path / JSON).exists() else None
    text = f"{args.unit}={args.concept}" if args.concept else args.unit
    ids = [concept.id for concept in scan.concepts]
    ((unit, concept),) = named_pairs([text], ids, findings)
    model, facets = reopened(args, scan)
    curves: dict[str, Any] = {}
    for name, facet in running(unit.path, facets).items():
        deviation = float(scan.summary(name, unit.path).deviation[unit.index])
        step = -deviation if unit.sign == "-" else deviation
        curve = steering_curve(
            model,
            unit.path,
            unit.index,
            facet,
            [one.name for one in scan.concepts],
            [step * amount for amount in amounts],
        )
        curves[name] = {
            "deviation": deviation,
            "on": curve.on[:, concept].tolist(),
            "off": curve.off[:, concept].tolist(),
            "predicted": curve.predicted[:, concept].tolist(),
        }
        rows = [
            (f"{amount:+g}", *(written(x, ".3f") for x in numbers))
            for amount, *numbers in zip(
                amounts, *(curves[name][key] for key in ("on", "off", "predicted")), strict=True
            )
        ]
        print(f"{name}: {unit} for {ids[concept]}, 1 sd = {deviation:.3g}")
        print(text_table(("amount", "logit", "of others", "said"), rows, texts=0))
    return {"unit": str(unit), "concept": ids[concept], "amounts": amounts, "facets": curves}


def _numbers(text: str) -> list[float]:
    try:
        amounts = [float(part) for part in text.split(",")]
    except ValueError:
        amounts = [math.nan]
    if not all(map(math.isfinite, amounts)):
        raise UsageError(f"--amounts {text}: wanted numbers, as in -4,-2,0,2,4.")
    return amounts


if __name__ == "__main__":
    import sys

    from clipjax.cli.main import main

    main(["neurons", "steer", *sys.argv[1:]])
