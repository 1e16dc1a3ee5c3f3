"""Finds units of two scans, or of two facets of one scan, that answer to the same stimuli.

clipjax neurons match --scan A --other B --path image/blocks/3/mlp_act
clipjax neurons match --scan A --path image/out --facet photo --other_path text/out

A pair is mutual: each unit is the nearest of the other by Pearson's correlation over all stimuli.
What chance makes of the same activations is had by shuffling the stimuli of the second. CKA, CKNNA
and mutual neighbours tell how alike the sides are whatever their units. Writes A/match.json.
"""

import argparse
from pathlib import Path
from typing import Any

from clipjax.cli.parser import Parser, check_seed, check_writable
from clipjax.cli.text_table import text_table
from clipjax.config.errors import UsageError

_SHOWN_PAIRS = 20


def configure(parser: Parser) -> None:
    """Adds the flags."""
    parser.add_argument("--scan", required=True, metavar="DIR", help="what neurons scan wrote")
    parser.add_argument("--other", metavar="DIR", help="another scan; the same one by default")
    parser.add_argument("--path", required=True, metavar="PATH", help="of the units")
    parser.add_argument("--other_path", metavar="PATH", help="in the other (the same)")
    parser.add_argument("--facet", metavar="NAME", help="that runs the path (the first)")
    parser.add_argument("--other_facet", metavar="NAME", help="in the other (the same)")
    parser.add_argument(
        "--neighbours", type=int, default=1, metavar="K", help="that count as nearest (1)"
    )
    parser.add_argument(
        "--floor", type=float, default=0.5, metavar="R", help="correlation that counts (0.5)"
    )
    parser.add_argument(
        "--shuffles", type=int, default=99, metavar="N", help="of stimuli, for the null (99)"
    )
    parser.add_argument("--q", type=float, default=0.05, metavar="RATE", help="of pairs (0.05)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the shuffles (0)")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Writes the pairs, prints the strongest, and returns them.

    Raises:
        UserError: if a scan is not there, or they saw other stimuli.
        UsageError: for numbers that cannot be.
    """
    from clipjax.core.metrics import write_json

    _check_flags(args)
    from clipjax.interpret.scan_matches import match_scans

    first = _side(args.scan, args.facet, args.path)
    other = args.other or args.scan
    other_path = args.other_path or args.path
    second = _side(other, args.other_facet, other_path, args.facet or first.facet)
    for side in (first, second):
        units = side.scan.record.paths[side.path]
        if args.neighbours >= units:
            raise UsageError(
                f"--neighbours={args.neighbours}: {side.path} has {units} units, all of which "
                "would be near. Take fewer."
            )
    path = Path(args.scan) / "match.json"
    check_writable("--scan", str(path))
    found = match_scans(
        first,
        second,
        neighbours=args.neighbours,
        shuffles=args.shuffles,
        floor=args.floor,
        seed=args.seed,
    )
    content = {
        "first": {"scan": str(args.scan), "facet": first.facet, "path": first.path},
        "second": {"scan": str(other), "facet": second.facet, "path": second.path},
        **_figures(found, args.q),
        "pairs": [
            {
                "first": f"{first.path}:{a}",
                "second": f"{second.path}:{b}",
                "correlation": float(r),
                "p": float(p),
                "q": float(q),
            }
            for (a, b), r, p, q in zip(
                found.matches.pairs.tolist(),
                found.matches.correlation,
                found.matches.p_value,
                found.matches.q_value,
                strict=True,
            )
        ],
    }
    write_json(path, content)
    _print(content, path)
    return content


def _check_flags(args: argparse.Namespace) -> None:
    for flag in ("neighbours", "shuffles"):
        if getattr(args, flag) < 1:
            raise UsageError(f"--{flag}={getattr(args, flag)} is not positive.")
    if not 0 < args.q < 1:
        raise UsageError(f"--q={args.q}: expected a rate between 0 and 1.")
    if not -1 <= args.floor <= 1:
        raise UsageError(f"--floor={args.floor}: expected a correlation, -1 to 1.")
    check_seed(args.seed)
    if not (args.other or args.other_path or args.other_facet):
        raise UsageError("name --other, --other_path or --other_facet: units match themselves.")


def _side(scan: str, facet: str | None, path: str, preferred: str | None = None) -> Any:
    """Returns units of a scan; in the preferred facet if that runs them, else in the first."""
    from clipjax.interpret.scan_files import Scan
    from clipjax.interpret.scan_matches import Side

    opened = Scan(scan)
    there = opened.facets_of(path)
    facet = facet or (preferred if preferred in there else there[0])
    opened.summary(facet, path)  # a facet that does not run the path is told before any work
    return Side(scan=opened, facet=facet, path=path)


def _figures(found: Any, level: float) -> dict[str, Any]:
    matches = found.matches
    return {
        "stimuli": matches.stimuli,
        "mutual_pairs": len(matches.pairs),
        "floor": matches.floor,
        "above_floor": int((matches.correlation >= matches.floor).sum()),
        "above_floor_shuffled": float(matches.null_pairs.mean()),
        "q": level,
        "significant": int((matches.q_value <= level).sum()),
        "alignment": {
            name: {"value": one.value, "shuffled": one.null_mean, "p": one.p_value}
            for name, one in found.alignment.items()
        },
        "aligned_stimuli": found.aligned_stimuli,
    }


def _print(content: dict[str, Any], path: Path) -> None:
    for side in ("first", "second"):
        print(f"{side}: {' '.join(content[side].values())}")
    rows = [
        [pair["first"], pair["second"], f"{pair['correlation']:.3f}", f"{pair['q']:.2g}"]
        for pair in sorted(content["pairs"], key=lambda pair: -pair["correlation"])[:_SHOWN_PAIRS]
    ]
    print(text_table(["first", "second", "r", "q"], rows, texts=2))
    print(
        f"\n{content['mutual_pairs']:,} mutual pairs over {content['stimuli']:,} stimuli, "
        f"{content['significant']:,} with q <= {content['q']:g}; "
        f"{content['above_floor']:,} with r >= {content['floor']:g}, with shuffled stimuli "
        f"{content['above_floor_shuffled']:.3g}"
    )
    for name, one in content["alignment"].items():
        print(f"{name} {one['value']:.3f}, shuffled {one['shuffled']:.3f}, p = {one['p']:.2g}")
    print(path)
