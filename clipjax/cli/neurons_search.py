"""Finds the units that answer to something: by concepts, by words, by what exemplars say.

clipjax neurons search dog --scan OUT

AUROC, q and whether it is replicated are those of the concept that the text names; where it names
none of a unit's, those of its first one.
"""

import argparse
from typing import Any

from clipjax.cli.parser import Parser
from clipjax.cli.text_table import MISSING, text_table, written
from clipjax.config.errors import UsageError

_ANSWERS = {True: "yes", False: "no", None: MISSING}


def configure(parser: Parser) -> None:
    """Adds the arguments."""
    parser.add_argument("text", metavar="TEXT", help='what is looked for, e.g. "dog"')
    parser.add_argument("--scan", required=True, metavar="DIR", help="what neurons scan wrote")
    parser.add_argument("--most", type=int, default=20, metavar="N", help="units to show (20)")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Prints the units that fit, the best first, and returns them.

    Raises:
        UserError: if the scan was not tested, or nothing fits.
    """
    if args.most < 1:
        raise UsageError(f"--most {args.most}: expected 1 or more.")
    from clipjax.interpret.findings import Findings

    findings = Findings.read(args.scan)
    units = findings.search(args.text)
    rows = []
    for unit in units[: args.most]:
        meant = findings.concept_meant(unit, args.text) or {}
        rows.append(
            [
                unit["unit"],
                unit["kind"],
                ", ".join(concept["name"] for concept in unit["concepts"][:3]),
                unit["label"],
                written(meant.get("effect"), ".3f"),
                written(meant.get("q"), ".2g"),
                _ANSWERS[meant.get("replicated")],
            ]
        )
    head = ["unit", "kind", "concepts", "label", "AUROC", "q", "replicated"]
    print(text_table(head, rows, texts=4))
    if len(units) > args.most:
        print(f"{len(units) - args.most:,} more: --most {len(units)} shows them")
    return {"text": args.text, "units": units[: args.most], "fitting": len(units)}
