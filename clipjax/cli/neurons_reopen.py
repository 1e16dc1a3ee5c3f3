"""Flags of the commands that run the model of a scan once more."""

import argparse
from typing import TYPE_CHECKING, Any

from clipjax.cli.parser import Parser

if TYPE_CHECKING:
    from clipjax.interpret.scan_files import Scan


def add_reopen_flags(parser: Parser) -> None:
    """Adds --scan and those that say where its model and stimuli are now."""
    parser.add_argument("--scan", required=True, metavar="DIR", help="what neurons scan wrote")
    parser.add_argument(
        "--model", default="", metavar="MODEL", help="to be run (default: the one that was scanned)"
    )
    parser.add_argument("--stimuli", default="", metavar="WHERE", help="(default: as in the scan)")
    parser.add_argument(
        "--root", default=".", metavar="DIR", help="that WHERE is relative to (default: here)"
    )
    parser.add_argument(
        "--caption", default="txt", metavar="WHERE", help="as in the scan (default: %(default)s)"
    )
    parser.add_argument("--concept_column", default="", metavar="WHERE", help="as in the scan")
    parser.add_argument(
        "--facets", default="", metavar="LIST", help="to run (default: all but controls)"
    )


def reopened(args: argparse.Namespace, scan: "Scan") -> tuple[Any, dict[str, Any]]:
    """Returns the model, and the facets that were asked for.

    Raises:
        UserError: if one is misspelt, or what was scanned has changed.
    """
    from clipjax.interpret.reopened import reopen

    wanted = [name for name in args.facets.split(",") if name]
    for name in wanted:
        scan.rows(name)  # raises with the nearest name
    model, facets = reopen(
        scan,
        model=args.model,
        stimuli=args.stimuli,
        root=args.root,
        caption=args.caption,
        concept_column=args.concept_column,
    )
    kept = wanted or [name for name in facets if not facets[name].rows.is_control]
    return model, {name: facets[name] for name in facets if name in kept}
