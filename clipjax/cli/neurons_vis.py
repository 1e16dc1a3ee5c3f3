"""Draws pictures that drive units of the image tower, and lets another model judge them.

clipjax neurons vis image/blocks/1/mlp_act:17 shared/embed:5+ --model runs/a --out pictures
clipjax neurons vis --scan scans/a --model runs/a --judge runs/b --out pictures

Units are those that are named, or the ones with a concept in all facets that `clipjax neurons test`
found in a scan. OUT gets one PNG a unit, a sheet of all, and vis.json. A judge is a model that was
trained by itself: it says what it takes the pictures for, and what it takes noise for; the command
ends with exit status 3 if noise does as well as chance times 1.5.
"""

import argparse
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipjax.cli.parser import Parser, check_seed
from clipjax.config import UsageError, UserError

if TYPE_CHECKING:
    import numpy as np

    from clipjax.inference.load import Model
    from clipjax.interpret.judge import Judgement

RECORD, SHEET = "vis.json", "sheet.png"
NOISE_BAR = 1.5
_MOST = 60
_SHOWN_SIDE = 128


def configure(parser: Parser) -> None:
    """Adds the flags."""
    parser.add_argument("units", nargs="*", metavar="UNIT", help="such as shared/embed:5+")
    parser.add_argument("--model", required=True, metavar="MODEL", help="whose units they are")
    parser.add_argument(
        "--scan", metavar="DIR", help="take the units that were found in this scan, by concept"
    )
    parser.add_argument(
        "--most",
        type=int,
        default=_MOST,
        metavar="N",
        help="of the found units, the strongest (default: %(default)s)",
    )
    parser.add_argument("--judge", metavar="MODEL", help="trained by itself; needs --scan")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to write")
    parser.add_argument("--steps", type=int, default=160, metavar="N", help="(default: 160)")
    parser.add_argument(
        "--learning_rate", type=float, default=0.2, metavar="X", help="of Adam (default: 0.2)"
    )
    parser.add_argument(
        "--parametrisation",
        choices=["fourier", "maco"],
        default="fourier",
        help="all of a spectrum, or its phases alone (default: %(default)s)",
    )
    parser.add_argument("--pool", choices=["max", "mean"], default="max", help="(default: max)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="(default: 0)")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Draws and judges; returns what vis.json holds."""
    if bool(args.units) == bool(args.scan):
        raise UsageError("clipjax neurons vis: name units, or give the --scan that found them.")
    if args.judge and not args.scan:
        raise UsageError("--judge: needs --scan, which says what each picture ought to show.")
    if args.most < 1:
        raise UsageError(f"--most={args.most} is not positive.")
    check_seed(args.seed)
    from clipjax.core.metrics import write_json
    from clipjax.data.writers import make_folder
    from clipjax.inference.load import load
    from clipjax.interpret.feature_pictures import VisualiseConfig, visualise
    from clipjax.interpret.spaces import UnitName

    try:
        how = VisualiseConfig(
            steps=args.steps,
            learning_rate=args.learning_rate,
            parametrisation=args.parametrisation,
            pool=args.pool,
            seed=args.seed,
        )
    except ValueError as error:
        raise UsageError(f"clipjax neurons vis: {error}") from error
    found = _found(args.scan, args.most) if args.scan else {}
    units = [UnitName.parse(text) for text in found or args.units]
    out = Path(args.out)
    make_folder(out)
    model = load(args.model)
    drawn: dict[str, tuple[np.ndarray, float]] = {}
    for path in dict.fromkeys(unit.path for unit in units):
        own = [unit for unit in units if unit.path == path]
        signs = [-1 if unit.sign == "-" else 1 for unit in own]
        pictures, reached = visualise(model, path, [unit.index for unit in own], how, signs=signs)
        drawn |= {
            str(unit): (picture, value)
            for unit, picture, value in zip(own, pictures, reached.tolist(), strict=True)
        }
    files = _write_pictures(out, drawn, found)
    figures: dict[str, Any] = {
        "schema": 1,
        "model": args.model,
        "settings": dataclasses.asdict(how),
        "units": [
            {"unit": name, "file": files[name], "reached": value, "concept": found.get(name)}
            for name, (_, value) in drawn.items()
        ],
    }
    if args.judge:
        figures["judge"] = _judged(args, load(args.judge), drawn, found)
    write_json(out / RECORD, figures)
    print(f"{out}: {len(drawn):,} pictures, {SHEET} shows all")
    return figures


def _found(scan: str, most: int) -> dict[str, str]:
    """Returns the name of the concept of each unit that sees pictures, the strongest first."""
    from clipjax.interpret.findings import Findings

    findings = Findings.read(scan)
    units = [
        unit
        for unit in findings.units("multimodal")
        if not unit["path"].startswith("text/") and unit["concepts"]
    ]
    if not units:
        raise UserError(f"{scan}: no unit that sees pictures has a concept in all facets.")
    return {unit["unit"]: unit["concepts"][0]["name"] for unit in units[:most]}


def _write_pictures(
    out: Path, drawn: Mapping[str, tuple["np.ndarray", float]], found: Mapping[str, str]
) -> dict[str, str]:
    """Returns the name of each unit's file."""
    from PIL import Image

    from clipjax.data.contact_sheet import contact_sheet

    try:
        files: dict[str, str] = {}
        shown = []
        for name, (picture, _) in drawn.items():
            files[name] = f"{name.replace('/', '-').replace(':', '-')}.png"
            times = max(1, _SHOWN_SIDE // len(picture))
            large = picture.repeat(times, axis=0).repeat(times, axis=1)
            Image.fromarray(large).save(out / files[name])
            shown.append(large)
        texts = [f"{name} {found.get(name, '')}".strip() for name in drawn]
        contact_sheet(shown, texts).save(out / SHEET)
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror}).") from error
    return files


def _judged(
    args: argparse.Namespace,
    judge_model: "Model",
    drawn: Mapping[str, tuple["np.ndarray", float]],
    found: Mapping[str, str],
) -> dict[str, Any]:
    import numpy as np

    from clipjax.interpret.feature_pictures import noise_pictures
    from clipjax.interpret.judge import judge
    from clipjax.interpret.scan_files import Scan

    names = [concept.name for concept in Scan(args.scan).concepts]
    pictures = np.stack([picture for picture, _ in drawn.values()])
    said = [names.index(found[name]) for name in drawn]
    noise = noise_pictures(max(len(pictures), 256), pictures.shape[1], seed=args.seed)
    result = judge(judge_model, pictures, said, names, noise)
    _tell(result, len(pictures))
    if result.noise_share >= NOISE_BAR * result.chance:
        print(f"the control fails: noise is taken for the concepts {NOISE_BAR} times as by chance")
        args.exit_status = 3
    return {
        "model": args.judge,
        "share": result.share,
        "chance": result.chance,
        "noise_share": result.noise_share,
        "others_share": result.others_share,
        "predicted": dict(zip(drawn, [names[i] for i in result.predicted.tolist()], strict=True)),
    }


def _tell(result: "Judgement", count: int) -> None:
    times = {
        name: f"{value:.3f}  {value / result.chance:5.1f} x chance"
        for name, value in (
            ("pictures", result.share),
            ("noise", result.noise_share),
            ("other concepts", result.others_share),
        )
    }
    print(f"taken by the judge for their unit's concept ({count} pictures):")
    for name, line in times.items():
        print(f"  {name:15} {line}")
