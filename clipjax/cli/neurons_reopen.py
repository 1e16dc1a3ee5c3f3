"""Flags of the commands that run the model of a scan once more."""

import argparse
from typing import TYPE_CHECKING, Any

from clipjax.cli.parser import Parser, listed

if TYPE_CHECKING:
    from clipjax.interpret.reopened import Whereabouts
    from clipjax.interpret.scan_files import Scan

_WHEREABOUTS = ("stimuli", "root", "caption", "concept_column")


def add_reopen_flags(parser: Parser) -> None:
    """Adds --scan and those that say where its model and stimuli are now."""
    parser.add_argument("--scan", required=True, metavar="DIR", help="what neurons scan wrote")
    parser.add_argument(
        "--model", default="", metavar="MODEL", help="to be run (default: the one that was scanned)"
    )
    add_whereabouts_flags(parser)
    parser.add_argument(
        "--facets", default="", metavar="LIST", help="to run (default: all but controls)"
    )


def add_whereabouts_flags(parser: Parser) -> None:
    """Adds --stimuli, --root, --caption and --concept_column, by default as in the scan."""
    for flag, metavar, meaning in (
        ("--stimuli", "WHERE", "where the stimuli are now"),
        ("--root", "DIR", "that WHERE is relative to"),
        ("--caption", "WHERE", "of a sample of shards"),
        ("--concept_column", "WHERE", "of a sample of shards"),
    ):
        parser.add_argument(flag, metavar=metavar, help=f"{meaning} (default: as in the scan)")


def first_whereabouts(args: argparse.Namespace) -> str | None:
    """Returns the first flag of `add_whereabouts_flags` that was given."""
    return next((f"--{name}" for name in _WHEREABOUTS if getattr(args, name) is not None), None)


def whereabouts(args: argparse.Namespace) -> "Whereabouts":
    """Returns what the flags of `add_whereabouts_flags` say."""
    from clipjax.interpret.reopened import Whereabouts

    return Whereabouts(**{name: getattr(args, name) for name in _WHEREABOUTS})


def reopened(args: argparse.Namespace, scan: "Scan") -> tuple[Any, dict[str, Any]]:
    """Returns the model, and the facets that were asked for.

    Raises:
        UserError: if one is misspelt, or what was scanned has changed.
    """
    from clipjax.interpret.reopened import reopen

    wanted = listed(args.facets)
    for name in wanted:
        scan.rows(name)  # raises with the nearest name
    model, facets = reopen(scan, model=args.model, whereabouts=whereabouts(args))
    kept = wanted or [name for name in facets if not facets[name].rows.is_control]
    return model, {name: facets[name] for name in facets if name in kept}
