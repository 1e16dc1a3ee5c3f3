"""Describes the units of a scan as neuroscience describes cells and populations of them.

clipjax neurons rsa --scan OUT --path shared/embed
clipjax neurons rsa --scan OUT --path image/hidden/mlp_act --given judged.csv --metric cosine

Representational similarity analysis: how unlike each two stimuli are to the units of a path, in
each facet, correlated with --given, a table whose first row and column are the ids of stimuli, such
as judgements of people; and facets with each other over the stimuli that they share. p is Mantel's,
with stimuli renamed at random. Of units that `neurons test` found: Quian Quiroga's selectivity
index in each facet, and the share of the concept's stimuli above five standard deviations of the
others. Writes OUT/rsa.json.
"""

import argparse
import dataclasses
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipjax.cli.parser import Parser, check_seed, check_writable, listed
from clipjax.cli.text_table import text_table, written
from clipjax.config.errors import UsageError, UserError

if TYPE_CHECKING:
    from clipjax.interpret.population import Cell, Dissimilarities
    from clipjax.interpret.scan_files import Scan
    from clipjax.interpret.spaces import Space

_SHOWN_CELLS = 20


def configure(parser: Parser) -> None:
    """Adds the flags."""
    parser.add_argument("--scan", required=True, metavar="DIR", help="what neurons scan wrote")
    parser.add_argument("--path", required=True, metavar="PATH", help="of the units")
    parser.add_argument("--given", metavar="FILE", help="dissimilarities, .csv or .tsv")
    parser.add_argument(
        "--facets", default="", metavar="LIST", help="that run the path (default: no controls)"
    )
    parser.add_argument(
        "--metric",
        choices=["correlation", "cosine", "euclidean"],
        default="correlation",
        help="between the activations of two stimuli (default: %(default)s)",
    )
    parser.add_argument(
        "--method",
        choices=["spearman", "pearson"],
        default="spearman",
        help="between dissimilarities (default: %(default)s)",
    )
    parser.add_argument(
        "--permutations", type=int, default=999, metavar="N", help="of the stimuli, for p (999)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the permutations (0)")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Writes the figures, prints them, and returns them.

    Raises:
        UserError: if there is no scan, a name is misspelt, or the stimuli are others.
    """
    from clipjax.core.metrics import write_json
    from clipjax.interpret.population import compare, facet_dissimilarities, read_dissimilarities
    from clipjax.interpret.scan_files import Scan

    if args.permutations < 1:
        raise UsageError(f"--permutations={args.permutations} is not positive.")
    check_seed(args.seed)
    scan = Scan(args.scan)
    space = _space(scan, args)
    path = Path(args.scan) / "rsa.json"
    check_writable("--scan", str(path))
    given = [read_dissimilarities(args.given)] if args.given else []
    if not given and len(space.facets) < 2:
        one = ", ".join(space.facets) or "no facet"
        raise UsageError(f"{args.path}: {one} is nothing to compare: name a table with --given.")
    sides = [
        facet_dissimilarities(space, name, metric=args.metric, seed=args.seed)
        for name in space.facets
    ]
    asked = {"method": args.method, "permutations": args.permutations, "seed": args.seed}
    pairs = _pairs(sides, given)
    cells = _cells(scan, space)
    content: dict[str, Any] = {
        "scan": str(args.scan),
        "path": args.path,
        "given": args.given,
        "metric": args.metric,
        **asked,
        "compared": [dataclasses.asdict(compare(a, b, **asked)) for a, b in pairs],
        "cells": None
        if cells is None
        else [{**dataclasses.asdict(cell), "unit": str(cell.unit)} for cell in cells],
    }
    write_json(path, content)
    _print(content, space, path)
    return content


def _space(scan: "Scan", args: argparse.Namespace) -> "Space":
    from clipjax.interpret.spaces import EMBED, Space

    there = scan.facets_of(args.path)
    wanted = list(dict.fromkeys(listed(args.facets)))
    for name in wanted:
        scan.rows(name)  # raises with the nearest name
        if name not in there:
            raise UsageError(f"--facets: {name} does not run {args.path}; {', '.join(there)} do.")
    facets = wanted or [name for name in there if not scan.rows(name).is_control]
    # Both directions of an axis are there to be asked for; the population is the axes.
    return Space(scan=scan, path=args.path, facets=tuple(facets), signed=args.path == EMBED)


def _pairs(
    sides: "Sequence[Dissimilarities]", given: "Sequence[Dissimilarities]"
) -> "list[tuple[Dissimilarities, Dissimilarities]]":
    """Returns what can be compared: words of concepts are other things than the emoji of a photo.

    Raises:
        UserError: if that is nothing.
    """
    from clipjax.interpret.population import LEAST_STIMULI, shared

    asked = [*itertools.product(sides, given), *itertools.combinations(sides, 2)]
    pairs = [(a, b) for a, b in asked if len(shared(a, b)) >= LEAST_STIMULI]
    if not pairs:
        told = "; ".join(f"{a.name} and {b.name}: {len(shared(a, b))}" for a, b in asked)
        examples = ", ".join(f"{one.name} {one.stimuli[0]!r}" for one in (*sides, *given))
        raise UserError(
            f"three stimuli must be known to both sides, and none share them ({told}). Ids are "
            f"such as {examples}."
        )
    for one in given:
        without = [side.name for side in sides if (side, one) not in pairs]
        if without:
            print(f"{one.name} has no stimuli of {', '.join(without)}", file=sys.stderr)
    return pairs


def _cells(scan: "Scan", space: "Space") -> "list[Cell] | None":
    from clipjax.interpret.findings import JSON, Findings
    from clipjax.interpret.population import cells

    if not (scan.path / JSON).is_file():
        return None
    return cells(space, Findings.read(scan.path), [one.id for one in scan.concepts])


def _print(content: dict[str, Any], space: "Space", path: Path) -> None:
    rows = [
        [
            one["first"],
            one["second"],
            f"{one['stimuli']:,}",
            f"{one['similarity']['correlation']:.3f}",
            f"{one['similarity']['p_value']:.2g}",
        ]
        for one in content["compared"]
    ]
    print(f"{content['path']}: {content['method']} correlation of dissimilarities")
    print(text_table(["first", "second", "stimuli", "r", "p"], rows, texts=2))
    if content["cells"] is None:
        print("\nno units were tested yet: clipjax neurons test tells which to describe as cells")
    else:
        head = ["unit", "concept", *(f"selective in {name}" for name in space.facets)]
        cells = [
            [
                cell["unit"],
                cell["concept"],
                *(written(cell["selectivity"][name], ".2f") for name in space.facets),
                f"{cell['invariance']:.2f} of {cell['views']}",
            ]
            for cell in content["cells"][:_SHOWN_CELLS]
        ]
        print(f"\n{len(content['cells']):,} units that were found, as cells")
        if cells:
            print(text_table([*head, "answers to"], cells, texts=2))
    print(path)
