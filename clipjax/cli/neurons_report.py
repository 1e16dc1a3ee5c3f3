"""Draws what `clipjax neurons test` found as one page: OUT/neurons.html, which needs no network.

clipjax neurons report --scan OUT
clipjax neurons report --scan OUT --stimuli DIR --most 500 --metrics runs/a/metrics.jsonl
clipjax neurons report --scan OUT --no_pictures

Pictures come from the stimuli that were scanned, which must still be there. The page has at most
20 MB: pictures get coarser, then fewer, then units fewer. OUT/typographic.json of `clipjax neurons
typographic` is drawn where it is there, and curves over training from a run's metrics.
"""

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipjax.cli.neurons_reopen import add_whereabouts_flags, first_whereabouts, whereabouts
from clipjax.cli.parser import Parser, check_writable
from clipjax.config import DualEncoderConfig, UsageError, UserError
from clipjax.config.convert import from_config_dict

if TYPE_CHECKING:
    from clipjax.interpret.report_pictures import PictureOf
    from clipjax.interpret.scan_files import Scan

PAGE, TYPOGRAPHIC = "neurons.html", "typographic.json"
_QUIET_SECONDS = 2.0


def configure(parser: Parser) -> None:
    """Adds the flags."""
    parser.add_argument("--scan", required=True, metavar="DIR", help="what neurons scan wrote")
    parser.add_argument(
        "--out", metavar="FILE", help=f"where to write the page ({PAGE} in the folder of --scan)"
    )
    add_whereabouts_flags(parser)
    parser.add_argument(
        "--no_pictures", action="store_true", help="words and numbers only; no stimuli are needed"
    )
    parser.add_argument(
        "--most", type=int, default=200, metavar="N", help="units to draw, the strongest (200)"
    )
    parser.add_argument(
        "--metrics", metavar="FILE", help="metrics.jsonl of the run, for curves over its training"
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Writes the page and returns what it holds.

    Raises:
        UserError: if there is no scan, nothing was tested yet, or the stimuli are not those.
        UsageError: for flags that contradict each other.
    """
    if args.most < 1:
        raise UsageError(f"--most={args.most}: expected 1 or more.")
    if (where := first_whereabouts(args)) and args.no_pictures:
        raise UsageError(f"--no_pictures leaves out what {where} is for: give one of them.")
    from clipjax.core.progress import Progress
    from clipjax.interpret.findings import Findings
    from clipjax.interpret.report import write_report
    from clipjax.interpret.scan_files import Scan

    scan = Scan(args.scan)
    findings = Findings.read(args.scan).content
    out = Path(args.out or scan.path / PAGE)
    check_writable("--scan" if args.out is None else "--out", str(out))
    pictures = _no_picture if args.no_pictures else _pictures(scan, args)
    typographic = Path(args.scan) / TYPOGRAPHIC
    metrics = [] if args.metrics is None else _lines(Path(args.metrics))
    units = min(args.most, len(findings["units"]))
    with Progress("drawing", units, "units", quiet_seconds=_QUIET_SECONDS) as progress:
        written = write_report(
            findings,
            pictures,
            out,
            most_units=args.most,
            typographic=_object(typographic) if typographic.is_file() else None,
            emergence=metrics,
            advance=progress.advance,
        )
    if written.left_out:
        print(f"{written.left_out:,} pictures had no room.", file=sys.stderr)
    print(
        f"{written.path}: {written.units:,} units, {written.pictures:,} pictures, "
        f"{written.bytes / 1e6:.1f} MB"
    )
    return {**dataclasses.asdict(written), "path": str(written.path)}


def _no_picture(facet: str, row: int) -> None:
    del facet, row


def _pictures(scan: "Scan", args: argparse.Namespace) -> "PictureOf":
    """Returns the pictures of the rows of a scan.

    Raises:
        UserError: if the stimuli are not there, or are others.
    """
    from clipjax.interpret.reopened import reopen_facets

    config = from_config_dict(DualEncoderConfig, scan.record.config)
    try:
        facets = reopen_facets(scan, config, whereabouts(args))
    except UserError as error:
        raise UserError(f"{error} Or draw without pictures: --no_pictures.") from error
    return lambda facet, row: facets[facet].picture(row)


def _lines(path: Path) -> list[dict[str, Any]]:
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]
    except (OSError, ValueError) as error:
        raise UserError(f"--metrics={path}: cannot be read ({error}).") from error
    return [row for row in rows if isinstance(row, dict)]


def _object(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}).") from error
    if not isinstance(found, dict):
        raise UserError(f"{path}: expected an object of JSON, found {type(found).__name__}.")
    return found
