"""Says what the latents of a sparse autoencoder stand for, and which of them can be believed.

clipjax neurons scan --model runs/quickstart --stimuli emoji-world --units shared/embed --out scan
clipjax sae label --sae sae --scan scan --out labels

Two answers that do not know of each other. Latents are tested as all units are (clipjax neurons
test): does one answer to a concept in every facet, beyond chance and confounds, and again on the
other half of the stimuli? And each atom is compared with names, embedded by the model's text tower:
the nearest one counts if it is nearer than the nearest of a random direction; else the latent is
unlabelled. The folder is a scan with neurons.json, which clipjax neurons search, show and report
read, and labels.json. The exit status is 3 if a control model shows a tenth of the model's pairs,
or more (of the replicated ones, where there are any).
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipjax.cli.parser import Parser, check_seed, listed
from clipjax.config.errors import UsageError, UserError

if TYPE_CHECKING:
    from clipjax.interpret.findings import Findings
    from clipjax.interpret.sae.model import Sae
    from clipjax.interpret.sae.naming import AtomNames
    from clipjax.interpret.scan_files import Scan

LABELS = "labels.json"
_SHOWN = 20


def configure(parser: Parser) -> None:
    """Adds the flags."""
    parser.add_argument("--sae", required=True, metavar="DIR", help="folder of `clipjax sae train`")
    parser.add_argument(
        "--scan",
        required=True,
        metavar="DIR",
        help="what `clipjax neurons scan` wrote of the same model, with shared/embed",
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to write")
    parser.add_argument(
        "--model", metavar="MODEL", help="that embeds the names (default: that of the scan)"
    )
    parser.add_argument(
        "--names", metavar="FILE", help="names, one a line (default: the concepts of the scan)"
    )
    parser.add_argument(
        "--no-names", action="store_true", help="test the latents only, and load no model"
    )
    parser.add_argument("--facets", default="", metavar="LIST", help="to test (default: all)")
    parser.add_argument(
        "--q", type=float, default=0.05, metavar="RATE", help="of false finds (default: 0.05)"
    )
    parser.add_argument(
        "--rotations", type=int, default=3, metavar="N", help="random bases to compare with (3)"
    )
    parser.add_argument(
        "--permutations", type=int, default=1000, metavar="N", help="of a facet's units (1000)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of all draws (0)")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Writes the folder, prints a table and returns counts.

    Raises:
        UserError: if the scan does not fit the autoencoder, or nothing can be tested.
    """
    from clipjax.data.writers import make_folder
    from clipjax.interpret.detect_settings import DetectSettings
    from clipjax.interpret.detection import detect
    from clipjax.interpret.findings import ARRAYS, JSON, written_arrays
    from clipjax.interpret.sae.files import load_sae
    from clipjax.interpret.sae.scan_codes import scan_codes
    from clipjax.interpret.scan_files import Scan
    from clipjax.interpret.scan_folder import refuse_other_than_latents

    if args.no_names and (args.names or args.model):
        raise UsageError("--no-names: leaves --names and --model without a use. Leave them out.")
    check_seed(args.seed)
    settings = DetectSettings(
        facets=listed(args.facets),
        rate=args.q,
        rotations=args.rotations,
        permutations=args.permutations,
        seed=args.seed,
        most=1_000_000,
    )
    sae, scan, out = load_sae(args.sae), Scan(args.scan), Path(args.out)
    if out.resolve() == scan.path.resolve():
        raise UsageError(f"--out={out}: is the scan itself. Name another folder.")
    refuse_other_than_latents(out)  # before a model is loaded
    names = None if args.no_names else _names(args, scan)
    make_folder(out)
    named = None if names is None else _named(args, scan, sae, names)
    codes = scan_codes(scan, sae, Path(args.sae).resolve().name, out)
    with written_arrays(out / ARRAYS) as keep:
        findings = detect(codes, settings, keep=keep)
    findings.to_json(out / JSON)
    latents = _latents(sae, findings, named, names, args.q)
    _write(out / LABELS, {"sae": str(args.sae), "q": args.q, "names": names, "latents": latents})
    figures = _print(findings, latents, named is not None)
    if findings.content["failed_controls"]:
        print("\n".join(findings.content["failed_controls"]))
        args.exit_status = 3
    print(f"{out}: written; clipjax neurons search WORD --scan {out}")
    return figures


def _names(args: argparse.Namespace, scan: "Scan") -> list[str]:
    if args.names is None:
        return [concept.name for concept in scan.concepts]
    try:
        lines = Path(args.names).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise UserError(f"--names={args.names}: cannot be read ({error}).") from error
    names = list(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if not names:
        raise UserError(f"--names={args.names}: holds no name; expected one a line.")
    return names


def _named(args: argparse.Namespace, scan: "Scan", sae: "Sae", names: Sequence[str]) -> "AtomNames":
    import numpy as np

    from clipjax.inference.load import load
    from clipjax.interpret.sae.naming import name_atoms
    from clipjax.interpret.sae.scan_codes import facet_embeds
    from clipjax.interpret.spaces import EMBED

    facets = scan.facets_of(EMBED)
    embeds = [sae.inputs(facet_embeds(scan, sae, f), scan.rows(f).tower) for f in facets]
    own = args.model is None
    model = load(scan.record.model if own else args.model, step=scan.record.step if own else None)
    if scan.record.identity and model.identity and model.identity != scan.record.identity:
        raise UserError(
            f"--model: is not the one that {scan.path} is of ({scan.record.model}, step "
            f"{scan.record.step}). Name that one, or test without names (--no-names)."
        )
    return name_atoms(sae, model.encode_text(names), np.concatenate(embeds), seed=args.seed)


def _latents(
    sae: "Sae",
    findings: "Findings",
    named: "AtomNames | None",
    names: Sequence[str] | None,
    rate: float,
) -> list[dict[str, Any]]:
    found = {unit["index"]: unit for unit in findings.content["units"]}
    labels = None if named is None or names is None else named.labels(names, rate=rate)
    rows: list[dict[str, Any]] = []
    for latent in range(sae.options.latents):
        unit = found.get(latent)
        row: dict[str, Any] = {"latent": latent, "kind": unit["kind"] if unit else "none"}
        row["concepts"] = [
            {name: one[name] for name in ("name", "q", "effect", "replicated")}
            for one in (unit["concepts"] if unit else ())
            if one["found"]
        ]
        if named is not None and names is not None and labels is not None:
            row |= {
                "label": labels[latent],
                "nearest": names[named.best[latent]],
                "cosine": float(named.cosine[latent]),
                "q": float(named.q_value[latent]),
            }
        rows.append(row)
    return rows


def _print(
    findings: "Findings", latents: Sequence[dict[str, Any]], has_names: bool
) -> dict[str, Any]:
    from clipjax.cli.text_table import text_table, written
    from clipjax.interpret.sae.naming import UNLABELLED

    multimodal = [row for row in latents if row["concepts"]]
    multimodal.sort(key=lambda row: -(row["concepts"][0]["effect"] or 0))
    rows = [
        [
            str(row["latent"]),
            ", ".join(one["name"] for one in row["concepts"][:3]),
            row.get("label", "-"),
            written(row["concepts"][0]["q"], ".2g"),
            written(row["concepts"][0]["effect"], ".2f"),
            "yes" if row["concepts"][0]["replicated"] else "no",
        ]
        for row in multimodal[:_SHOWN]
    ]
    print(text_table(["latent", "answers to", "points at", "q", "AUROC", "again"], rows, texts=3))
    (space,) = findings.content["spaces"]
    figures: dict[str, Any] = {
        "latents": len(latents),
        "multimodal": space["multimodal_units"],
        "concepts": space["concepts"],
        "pairs": space["pairs"],
        "replicated_pairs": space["replicated_pairs"],
        "controls": space["controls"],
        "cross_modal_ratio": space["cross_modal_ratio"],
    }
    print(
        f"{space['multimodal_units']:,} of {len(latents):,} latents answer to a concept in every "
        f"facet, {space['concepts']:,} concepts; {space['replicated_pairs'] or 0:,} of "
        f"{space['pairs']:,} pairs again on the other half of the stimuli"
    )
    for name, control in space["controls"].items():
        print(f"control {name}: {control['pairs']:,.4g} pairs")
    if has_names:
        labelled = [row for row in latents if row["label"] != UNLABELLED]
        agree = [
            row
            for row in labelled
            if row["concepts"] and row["label"] in {one["name"] for one in row["concepts"]}
        ]
        both = [row for row in labelled if row["concepts"]]
        figures |= {"labelled": len(labelled), "both": len(both), "agree": len(agree)}
        print(
            f"{len(labelled):,} atoms point at a name, all others are unlabelled; of {len(both):,} "
            f"that also answer to a concept, {len(agree):,} say the same"
        )
    return figures


def _write(path: Path, content: dict[str, Any]) -> None:
    from clipjax.core.files import replaced

    with replaced(path) as file:
        file.write((json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())


if __name__ == "__main__":
    import sys

    from clipjax.cli.main import main

    main(["sae", "label", *sys.argv[1:]])
