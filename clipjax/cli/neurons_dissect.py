"""Names the units of a scan after concepts, and leaves those unnamed that noise could be.

clipjax neurons dissect --scan OUT
clipjax neurons dissect --scan OUT --facet photo --units 'image/*' --judge hf:org/name
clipjax neurons dissect --scan OUT --judge runs/other --concepts words.txt

Without a judge, by the labels of the scan: intersection over union with the stimuli that a unit is
most active for (Network Dissection). With one, another model tells how near each stimulus is to
each text, and the exemplars of a unit decide (CLIP-Dissect's soft WPMI). q is the false discovery
rate over the units of a path; above --q a unit is unlabelled. Writes OUT/dissect.json.
"""

import argparse
import fnmatch
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipjax.cli.neurons_pictures import read_lines
from clipjax.cli.neurons_reopen import add_whereabouts_flags, first_whereabouts, whereabouts
from clipjax.cli.parser import Parser, check_seed, check_writable
from clipjax.cli.text_table import text_table
from clipjax.config.errors import UsageError, UserError, did_you_mean

if TYPE_CHECKING:
    from clipjax.interpret.dissect import Names
    from clipjax.interpret.scan_files import Scan

_SHOWN_UNITS = 10


def configure(parser: Parser) -> None:
    """Adds the flags."""
    parser.add_argument("--scan", required=True, metavar="DIR", help="what neurons scan wrote")
    parser.add_argument("--facet", metavar="NAME", help="whose exemplars count (the first)")
    parser.add_argument(
        "--units", default="*", metavar="LIST", help="paths, with * (all of the facet)"
    )
    parser.add_argument(
        "--judge", metavar="MODEL", help="another model than that of the scan; as --model"
    )
    parser.add_argument(
        "--concepts",
        metavar="FILE",
        help="with --judge, texts, one a line, or a file of concepts (those of the scan)",
    )
    parser.add_argument("--q", type=float, default=0.05, metavar="RATE", help="of names (0.05)")
    parser.add_argument(
        "--draws", type=int, default=9_999, metavar="N", help="with --judge, of the null (9,999)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the draws (0)")
    add_whereabouts_flags(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Writes the names, prints the surest, and returns them.

    Raises:
        UserError: if there is no scan, a name is misspelt, or the judge sees other stimuli.
    """
    from clipjax.core.metrics import write_json

    if not 0 < args.q < 1:
        raise UsageError(f"--q={args.q}: expected a rate between 0 and 1.")
    if args.draws < 1:
        raise UsageError(f"--draws={args.draws} is not positive.")
    check_seed(args.seed)
    if args.concepts and not args.judge:
        raise UsageError("--concepts needs --judge: the labels of a scan are of its own concepts.")
    if (where := first_whereabouts(args)) and not args.judge:
        raise UsageError(f"{where} needs --judge: without one no stimuli are opened.")
    from clipjax.interpret.scan_files import Scan

    scan = Scan(args.scan)
    facet = args.facet or scan.facets[0]
    scan.rows(facet)  # a misspelt facet is told before any work
    paths = _paths(scan, facet, args.units)
    path = Path(args.scan) / "dissect.json"
    check_writable("--scan", str(path))
    named, name_units = _namer(args, scan, facet)
    units: list[dict[str, Any]] = []
    for layer in paths:
        units += _as_fields(layer, name_units(layer), named, args.q)
    content = {
        "scan": str(args.scan),
        "model": scan.record.model,
        "facet": facet,
        "measure": "soft_wpmi" if args.judge else "iou",
        "judge": args.judge,
        "q": args.q,
        "concepts": len(named),
        "labelled": sum(unit["concept"] is not None for unit in units),
        "units": units,
    }
    write_json(path, content)
    _print(content, path)
    return content


def _paths(scan: "Scan", facet: str, patterns: str) -> list[str]:
    there, wanted = scan.record.facets[facet], []
    for pattern in patterns.split(","):
        found = fnmatch.filter(there, pattern)
        if not found:
            raise UserError(
                f"--units={pattern}: nothing that the facet {facet} ran."
                f"{did_you_mean(pattern, there)} There are {', '.join(there)}."
            )
        wanted += [path for path in found if path not in wanted]
    return wanted


def _namer(args: argparse.Namespace, scan: "Scan", facet: str) -> tuple[Sequence[str], Any]:
    """Returns the names of the concepts, and what gives the best of them for units of a path."""
    from clipjax.interpret.dissect import active_stimuli, iou_names, wpmi_names

    names = [concept.name for concept in scan.concepts]
    if not args.judge:
        rows = scan.rows(facet)

        def by_labels(path: str) -> "Names":
            kept = scan.summary(facet, path)
            return iou_names(
                active_stimuli(kept.top_rows, kept.top_values, len(rows.stimuli)), rows.labels
            )

        return names, by_labels
    names = _texts(args.concepts) if args.concepts else names
    given = _judged(args, scan, facet, names)

    def by_judge(path: str) -> "Names":
        return wpmi_names(
            scan.summary(facet, path).top_rows, given, draws=args.draws, seed=args.seed
        )

    return names, by_judge


def _texts(path: str) -> list[str]:
    """Returns the names of a file of concepts, or the lines of a text."""
    from clipjax.data.concepts import ENDINGS, load_concepts

    if Path(path).suffix in ENDINGS:
        return [concept.name for concept in load_concepts(path)]
    return read_lines(path, "--concepts")


def _judged(args: argparse.Namespace, scan: "Scan", facet: str, names: Sequence[str]) -> Any:
    """Returns how near each stimulus is to each text, for another model."""
    from clipjax.evals.neighbours import unit_rows
    from clipjax.inference.load import load
    from clipjax.interpret.dissect import given_similarity
    from clipjax.interpret.facet_samples import facet_embeds
    from clipjax.interpret.reopened import reopen_facets

    model = load(args.judge)
    if model.identity and model.identity == scan.record.identity:
        raise UserError(
            f"--judge={args.judge}: is the model of the scan, which would agree with itself. Name "
            "another one."
        )
    found = reopen_facets(scan, model.config, whereabouts(args), model.tokenizer)[facet]
    embeds = unit_rows(facet_embeds(model, found))
    return given_similarity(embeds, model.encode_text(list(names)))


def _as_fields(path: str, names: "Names", named: Sequence[str], level: float) -> Any:
    labelled = names.labelled(level)
    return [
        {
            "unit": f"{path}:{unit}",
            "concept": named[names.concept[unit]] if labelled[unit] else None,
            "nearest": named[names.concept[unit]],
            "score": float(names.score[unit]),
            "p": float(names.p_value[unit]),
            "q": float(names.q_value[unit]),
        }
        for unit in range(len(names.concept))
    ]


def _print(content: dict[str, Any], path: Path) -> None:
    units = content["units"]
    surest = sorted(units, key=lambda unit: (unit["q"], -unit["score"]))[:_SHOWN_UNITS]
    rows = [
        [
            unit["unit"],
            unit["concept"] or f"unlabelled (nearest: {unit['nearest']})",
            f"{unit['score']:.3f}",
            f"{unit['q']:.2g}",
        ]
        for unit in surest
    ]
    print(text_table(["unit", "concept", content["measure"], "q"], rows, texts=2))
    print(
        f"\n{content['labelled']:,} of {len(units):,} units have a name at a false discovery rate "
        f"of {content['q']:g} a path; the others are unlabelled\n{path}"
    )
