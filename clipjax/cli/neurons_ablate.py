"""Holds found units at their means and tells what a model loses, beside other units.

clipjax neurons ablate --scan OUT
clipjax neurons ablate --scan OUT --units image/blocks/1/mlp_act:17=cat --against 200

For each facet: by how much the logit of a unit's concept falls on stimuli of the concept more than
on others, when the unit is held at its mean; the same of units of the same layer that were not
found, drawn at random; and the ratio, with a 95 % interval over draws of units. Without --units
the units of OUT/neurons.json that were found in all facets are held. Writes OUT/ablation.json.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipjax.cli.neurons_reopen import add_reopen_flags, reopened
from clipjax.cli.parser import Parser, check_seed, check_writable
from clipjax.cli.text_table import text_table, written
from clipjax.config import UsageError

if TYPE_CHECKING:
    from clipjax.interpret.ablation import Ablation, Pair
    from clipjax.interpret.findings import Findings
    from clipjax.interpret.scan_files import Scan

FILE = "ablation.json"


def configure(parser: Parser) -> None:
    """Adds the flags."""
    add_reopen_flags(parser)
    parser.add_argument(
        "--units",
        default="",
        metavar="LIST",
        help="PATH:INDEX=CONCEPT, or PATH:INDEX of a unit that was found (default: all found)",
    )
    for flag, default, meaning in (
        ("--most", 100, "found units that are held, the strongest"),
        ("--against", 50, "other units of the same layer"),
        ("--batch_size", 64, "stimuli of a call"),
        ("--resamples", 2000, "draws of units for the intervals"),
        ("--seed", 0, "of the draws"),
    ):
        parser.add_argument(
            flag, type=int, default=default, metavar="N", help=f"{meaning} (default: %(default)s)"
        )
    parser.add_argument("--out", metavar="FILE", help=f"(default: DIR/{FILE})")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Prints the ratios and returns what the file holds.

    Raises:
        UserError: if there are no findings, a unit or concept is unknown, or what was scanned has
            changed.
    """
    for flag in ("most", "against", "batch_size", "resamples"):
        if getattr(args, flag) < 1:
            raise UsageError(f"--{flag}={getattr(args, flag)} is not positive.")
    check_seed(args.seed)
    from clipjax.core.metrics import write_json
    from clipjax.interpret.ablation import ablation
    from clipjax.interpret.scan_files import Scan

    scan = Scan(args.scan)
    ids = [concept.id for concept in scan.concepts]
    pairs = _pairs(args, scan, ids)
    out = Path(args.out or scan.path / FILE)
    check_writable("--out" if args.out else "--scan", str(out))
    model, facets = reopened(args, scan)
    found = ablation(
        model,
        facets,
        [concept.name for concept in scan.concepts],
        pairs,
        against=args.against,
        seed=args.seed,
        batch_size=args.batch_size,
        resamples=args.resamples,
    )
    figures = {
        "scan": str(scan.path),
        "model": args.model or scan.record.model,
        "seed": args.seed,
        "paths": [one.to_json(ids) for one in found],
    }
    write_json(out, figures)
    print(ablation_table(found))
    print(f"{out}: written")
    return figures


def _pairs(args: argparse.Namespace, scan: "Scan", ids: list[str]) -> "list[Pair]":
    from clipjax.interpret.ablation import check_named, found_pairs, named_pairs
    from clipjax.interpret.spaces import UnitName

    named = [text for text in args.units.split(",") if text]
    for text in named:
        check_named(scan, UnitName.parse(text.partition("=")[0]))
    if named:
        return named_pairs(named, ids, _findings(args.scan, required=False))
    findings = _findings(args.scan, required=True)
    assert findings is not None
    pairs = found_pairs(findings, ids, most=args.most)
    for unit, _ in pairs:
        check_named(scan, unit)
    return pairs


def ablation_table(found: "list[Ablation]") -> str:
    """Returns a line for each path and facet."""
    head = ("units", "facet", "pairs", "drop", "others", "size of others'", "ratio", "95 %", "> 0")
    rows = []
    for one in found:
        for facet, ratio in one.ratios.items():
            if ratio is None:
                rows.append((one.path, facet, "0", *["-"] * 6))
                continue
            interval = f"{written(ratio.low, '.1f')} to {written(ratio.high, '.1f')}"
            numbers = (f"{x:.3f}" for x in (ratio.found, ratio.other, ratio.other_size))
            last = (f"{ratio.ratio:.1f}", interval, f"{ratio.positive:.0%}")
            rows.append((one.path, facet, str(ratio.pairs), *numbers, *last))
    return text_table(head, rows, texts=2)


def _findings(scan: str, *, required: bool) -> "Findings | None":
    from clipjax.interpret.findings import JSON, Findings

    if not required and not (Path(scan) / JSON).exists():
        return None
    return Findings.read(scan)


if __name__ == "__main__":
    import sys

    from clipjax.cli.main import main

    main(["neurons", "ablate", *sys.argv[1:]])
