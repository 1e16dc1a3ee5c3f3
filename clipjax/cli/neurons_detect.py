"""Tests which units of a scan answer to which concepts, and compares the counts with controls.

clipjax neurons test --scan OUT
clipjax neurons test --scan OUT --facets photo,drawing,word --units 'image/*' --conj maxp-bh

Writes OUT/neurons.json (the findings) and OUT/neurons.npz (all pairs). Control models are scans in
OUT/controls/NAME (`clipjax neurons scan --control`). The exit status is 3 if a control model
shows a tenth of the model's pairs, or more (of the replicated ones, where there are any): then the
count says nothing of what the model has learned.
"""

import argparse
from pathlib import Path
from typing import Any

from clipjax.cli.parser import Parser, check_writable, listed
from clipjax.cli.text_table import text_table, written

EXIT_CONTROL_FAILED = 3

_METHODS = {"adafilter": "adafilter", "maxp-bh": "bh", "maxp-by": "by"}
_SHOWN_LINES = 5


def configure(parser: Parser) -> None:
    """Adds the flags."""
    parser.add_argument("--scan", required=True, metavar="DIR", help="what neurons scan wrote")
    parser.add_argument(
        "--facets", default="", metavar="LIST", help="in which a unit must answer (all)"
    )
    parser.add_argument(
        "--units", default="*", metavar="LIST", help="paths to test, with * (all that were scanned)"
    )
    parser.add_argument(
        "--q",
        type=float,
        default=0.05,
        metavar="RATE",
        help="of false finds among the finds (0.05)",
    )
    parser.add_argument(
        "--conj",
        choices=list(_METHODS),
        default="adafilter",
        help="how that rate is held over all pairs; maxp-by holds it under any dependence",
    )
    parser.add_argument(
        "--required",
        type=int,
        metavar="R",
        help="facets in which a concept must hold (all of them)",
    )
    parser.add_argument(
        "--strata",
        type=int,
        default=30,
        metavar="K",
        help="bins of each confound, at most: 10 stimuli or more a bin; 0 for none (30)",
    )
    parser.add_argument(
        "--floor", type=float, default=0.75, metavar="AUROC", help="of the weakest facet (0.75)"
    )
    parser.add_argument(
        "--strict", type=float, default=0.8, metavar="AUROC", help="of strict finds (0.8)"
    )
    parser.add_argument(
        "--least", type=int, default=5, metavar="N", help="positives that make a test (5)"
    )
    parser.add_argument(
        "--rotations", type=int, default=3, metavar="N", help="random bases to compare with (3)"
    )
    parser.add_argument(
        "--permutations", type=int, default=1000, metavar="N", help="of a facet's units (1000)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of both (0)")
    parser.add_argument(
        "--most", type=int, default=1000, metavar="N", help="units to list, the strongest (1000)"
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Writes the findings, prints the counts beside those of the controls, and returns them.

    Raises:
        UserError: if there is no scan, a name is misspelt, or nothing can be tested.
    """
    from clipjax.interpret.detect_settings import DetectSettings
    from clipjax.interpret.detection import detect
    from clipjax.interpret.findings import ARRAYS, JSON, written_arrays
    from clipjax.interpret.scan_files import Scan

    settings = DetectSettings(
        facets=listed(args.facets),
        units=listed(args.units),
        rate=args.q,
        method=_METHODS[args.conj],  # pyright: ignore[reportArgumentType]
        required=args.required,
        strata=args.strata,
        floor=args.floor,
        strict=args.strict,
        least=args.least,
        rotations=args.rotations,
        permutations=args.permutations,
        seed=args.seed,
        most=args.most,
    )
    scan = Scan(args.scan)
    out = Path(args.scan)
    check_writable("--scan", str(out / JSON))
    with written_arrays(out / ARRAYS) as keep:
        findings = detect(scan, settings, keep=keep)
    findings.to_json(out / JSON)
    content = findings.content
    _print(content)
    print(f"\n{out / JSON}: written, with {len(content['units']):,} units; {ARRAYS} has all pairs")
    if content["failed_controls"]:
        for line in content["failed_controls"]:
            print(line)
        args.exit_status = EXIT_CONTROL_FAILED
    told = ("model", "settings", "spaces", "summary", "failed_controls", "seconds")
    return {name: content[name] for name in told}


def _print(content: Any) -> None:
    facets = ", ".join(
        f"{one['name']} {one['stimuli']:,}{' (control)' if one['control'] else ''}"
        for one in content["data"]["facets"]
    )
    print(f"{content['model']['spec']}, step {content['model']['step']:,}")
    print(f"stimuli: {content['data']['stimuli']}: {facets}")
    print(f"{len(content['data']['concepts']):,} concepts\n")
    rows = []
    for space in content["spaces"]:
        rows.append([space["path"], "model", *_figures(space)])
        for name, control in space["controls"].items():
            mark = " (!)" if control["failed"] else ""
            rows.append(["", name + mark, *_figures(control)])
    head = ["units of", "", "pairs", "units", "concepts", "strict", "replicated", "xMS", "found"]
    print(text_table([*head, "per unit", "AP"], rows, texts=2))
    print(
        "\npairs of a unit and a concept found in all required facets; units, concepts: that have\n"
        "one; strict: units above the strict AUROC; replicated: pairs found in one half of the\n"
        "stimuli and confirmed in the other; xMS: cross-modal monosemanticity over its baseline,\n"
        "of all units and of the found ones; per unit: concepts of a found unit; AP: average\n"
        "precision in the worst facet; (!): a control that failed: a control model with a tenth\n"
        "of the model's pairs or more (of the replicated ones, where there are any), a rotated\n"
        "basis that is about as monosemantic (xMS), or permuted units that agree as often"
    )
    for space in content["spaces"]:
        _print_checks(space)
    lines = content["data"]["untested"]
    if lines:
        print(f"\nnot tested ({len(lines):,} in neurons.json):")
        print("\n".join(f"  {line}" for line in lines[:_SHOWN_LINES]))
    print()
    for line in content["proves"]:
        print(f"- {line}")


def _figures(figures: Any) -> list[str]:
    ratio = figures["cross_modal_ratio"]
    counts = [
        written(figures[name], ",.4g")
        for name in ("pairs", "multimodal_units", "concepts", "strict_units", "replicated_pairs")
    ]
    return [
        *counts,
        written(ratio and ratio["mean"], ".2f"),
        written(figures["cross_modal_found"], ".2f"),
        written(figures["concepts_per_unit"], ".1f"),
        written(figures["average_precision"], ".2f"),
    ]


def _print_checks(space: Any) -> None:
    counts, held = space["counts"], space["held_out_concepts"]
    print(
        f"\n{space['path']}: {counts['adafilter']:,} pairs by AdaFilter, {counts['bh']:,} by BH, "
        f"{counts['by']:,} by BY; {space['pairs_without_strata']:,} if confounds were ignored; "
        f"{space['pairs_in_control_facets']:,} hold in a control facet too; "
        f"{held['pairs']:,} over {held['concepts']:,} concepts that set no threshold"
    )
    shuffled = space["permutation"]
    if shuffled is not None:
        print(
            f"  units of {shuffled['facet']} permuted: {shuffled['null_mean']:,.3g} pairs for "
            f"{shuffled['observed']:,}, enrichment {written(shuffled['enrichment'], '.3g')}, "
            f"p = {shuffled['p']:.2g}{' (!)' if shuffled['failed'] else ''}"
        )
