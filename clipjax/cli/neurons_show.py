"""Shows one unit: its concepts facet by facet, the stimuli that drive it, its histograms.

clipjax neurons show image/blocks/1/mlp_act:17 --scan OUT
"""

import argparse
from typing import Any

from clipjax.cli.parser import Parser
from clipjax.cli.text_table import text_table, written
from clipjax.config.errors import UsageError

_BAR = 40
_SHORT = 100


def configure(parser: Parser) -> None:
    """Adds the arguments."""
    parser.add_argument("unit", metavar="UNIT", help="PATH:INDEX, with + or - in shared/embed")
    parser.add_argument("--scan", required=True, metavar="DIR", help="what neurons scan wrote")
    parser.add_argument("--most", type=int, default=5, metavar="N", help="exemplars a facet (5)")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Prints the unit and returns it.

    Raises:
        UserError: if the scan was not tested, or the unit is not listed, with the nearest one.
    """
    if args.most < 1:
        raise UsageError(f"--most {args.most}: expected 1 or more.")
    from clipjax.interpret.findings import Findings

    unit = Findings.read(args.scan).show(args.unit)
    print(f"{unit['unit']}: {unit['kind']}, labelled {unit['label']!r}")
    print(f"words: {', '.join(unit['words']) or '-'}")
    if unit["badges"]:
        print(f"mind: {'; '.join(unit['badges'])}")
    print(
        f"monosemanticity {written(unit['monosemanticity'], '.2f')}, "
        f"cross-modal {written(unit['cross_modal_ratio'], '.2f')} (of the baseline); "
        f"image share {written(unit['modality_score'], '.2f')}"
    )
    for concept in unit["concepts"]:
        _print_concept(concept)
    for facet in unit["top"]:
        print(f"\n{facet}: most active (* shows {_first(unit)})")
        for one in unit["top"][facet][: args.most]:
            mark = "*" if one["positive"] else " "
            print(f"  {mark} {one['value']:10.4g}  {_one_line(one['text'] or one['stimulus'])}")
        if unit["histogram"][facet] is not None:
            _print_histogram(unit["histogram"][facet])
    return unit


def _print_concept(concept: Any) -> None:
    replicated = {True: "replicated", False: "not replicated", None: "replication unknown"}
    print(
        f"\n{concept['name']}: weakest AUROC {written(concept['effect'], '.3f')}, "
        f"q {written(concept['q'], '.2g')}, invariance {written(concept['invariance'], '.2f')}, "
        f"{replicated[concept['replicated']]}"
    )
    rows = []
    for facet, auroc in concept["auroc"].items():
        ends = concept["interval"].get(facet)
        rows.append(
            [
                f"  {facet}",
                written(auroc, ".3f"),
                f"{ends[0]:.3f} to {ends[1]:.3f}" if ends else "-",
                written(concept["p"].get(facet), ".2g"),
                written(concept["p_stratified"].get(facet), ".2g"),
                written(concept["ap"].get(facet), ".2f"),
                str(concept["positives"][facet]),
            ]
        )
    for facet, auroc in concept["control_auroc"].items():
        rows.append([f"  {facet} (control)", written(auroc, ".3f"), *["-"] * 5])
    head = ["  facet", "AUROC", "95 % interval", "p", "p, strata", "AP", "positives"]
    print(text_table(head, rows))


def _print_histogram(histogram: Any) -> None:
    counts, positives = histogram["counts"], histogram["positives"]
    scale = _BAR / max(1, *counts)
    print(f"  from, stimuli (#) and those that show the concept (+), {sum(counts):,} in all")
    for edge, count, shown in zip(histogram["edges"], counts, positives, strict=False):
        if count:
            # At least one mark, so that a lone positive far out is seen.
            long, marked = max(1, round(count * scale)), round(shown * scale)
            marked = max(marked, 1) if shown else 0
            print(f"  {edge:10.4g}  {'+' * marked}{'#' * (long - marked)} {count:,}")


def _first(unit: Any) -> str:
    return unit["concepts"][0]["name"] if unit["concepts"] else "a concept"


def _one_line(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _SHORT else f"{text[: _SHORT - 3]}..."
