r"""Shows a model stimuli in several facets and keeps how each of its units answers.

clipjax neurons scan --model runs/emoji --stimuli emoji-world --out scans/emoji
clipjax neurons scan --model runs/emoji --stimuli data/stimuli --out scans/emoji --units 'image/*'
clipjax neurons scan --model hf:org/name --stimuli 'data/train/*.tar' --concept_column json.tags \
    --out scans/web --store codes --control untrained --control shuffled=runs/shuffled

Stimuli are `emoji-world`, which comes with the package; a folder of `clipjax data emoji --facets`;
or shards, a list or a folder of pictures with captions. DIR gets scan.json, concepts.json and, for
each facet, its stimuli, the exemplars and histograms of all units, and their activations. The same
command goes on where it stopped. --control scans another model with the same stimuli into
DIR/controls/NAME: what is found there too was not learnt.
"""

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipjax.cli.configs import add_cluster_flags, cluster_from
from clipjax.cli.parser import Parser, add_model_flags, listed
from clipjax.config import UsageError

if TYPE_CHECKING:
    from clipjax.inference.load import Model
    from clipjax.interpret.scan_files import Scan
    from clipjax.interpret.stimuli import Stimuli

UNTRAINED = "untrained"
CONTROLS = "controls"
_TAKEN = ("model", "rotated")  # what stands beside the controls in the findings
_NO_LIMIT_SECONDS = 3e9  # how long it takes is up to the number of samples


def configure(parser: Parser) -> None:
    """Adds the flags."""
    add_model_flags(parser)
    parser.add_argument("--stimuli", required=True, metavar="WHERE", help="what is shown")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to write")
    parser.add_argument(
        "--root", default=".", metavar="DIR", help="that WHERE is relative to (default: here)"
    )
    parser.add_argument(
        "--facets", metavar="NAME[,NAME...]", help="those that are shown (default: all)"
    )
    parser.add_argument(
        "--concepts",
        metavar="FILE",
        help="JSON or YAML (default: those of the stimuli, or frequent words of captions)",
    )
    parser.add_argument(
        "--concept_column",
        default="",
        metavar="WHERE",
        help="json.FIELD or cls: what says the concepts of a sample of shards",
    )
    parser.add_argument(
        "--caption",
        default="txt",
        metavar="WHERE",
        help="of a sample of shards, as config.data.caption (default: %(default)s)",
    )
    parser.add_argument(
        "--units",
        default="",
        metavar="PATTERN[,PATTERN...]",
        help="paths of units, with * (default: image/*/mlp_act and shared/embed)",
    )
    parser.add_argument(
        "--pool",
        choices=["max", "mean", "cls", "eot"],
        default="max",
        help="how the places of a unit become one number (default: %(default)s)",
    )
    parser.add_argument(
        "--store",
        choices=["auto", "exact", "codes", "none"],
        default="auto",
        help="activations: float32, a byte each, or none (default: exact up to 4 GiB, else codes)",
    )
    for flag, default, meaning in (
        ("--k", 25, "exemplars of each unit, the largest and the least"),
        ("--bins", 256, "of histograms and codes"),
        ("--pilot", 2048, "stimuli that the bins follow from"),
        ("--batch_size", 64, "samples of one call on each device"),
        ("--seed", 0, "of the order of the stimuli"),
    ):
        parser.add_argument(
            flag, type=int, default=default, metavar="N", help=f"{meaning} (default: %(default)s)"
        )
    parser.add_argument(
        "--control",
        action="append",
        default=[],
        metavar="NAME=MODEL",
        help="another model to scan; untrained: this one with fresh parameters. May be repeated",
    )
    parser.add_argument(
        "--force", action="store_true", help="replace what DIR holds of another scan"
    )
    add_cluster_flags(parser)


def run(args: argparse.Namespace) -> dict[str, Any] | None:
    """Scans the model and its controls; returns what scan.json holds, in process 0."""
    controls = _controls(args.control)
    from clipjax.core.distributed import joined

    with joined(cluster_from(args)) as lifeline:
        lifeline.phase("scan", _NO_LIMIT_SECONDS)
        return _Scanning(args).run(controls)


def _controls(given: list[str]) -> dict[str, str]:
    """Returns the model of each control by its name; "" for fresh parameters."""
    found: dict[str, str] = {}
    for text in given:
        name, equals, model = text.partition("=")
        if not name or "/" in name or name.startswith(".") or (bool(equals) and not model):
            raise UsageError(f"--control {text}: wanted NAME=MODEL, or {UNTRAINED}.")
        if not equals and name != UNTRAINED:
            raise UsageError(
                f"--control {text}: which model is that? Say --control {text}=MODEL, or "
                f"--control {UNTRAINED} for this model with fresh parameters."
            )
        if name in _TAKEN:
            raise UsageError(
                f"--control {text}: clipjax neurons test calls something else {name}. Give the "
                f"control another name: --control my_{name}=MODEL."
            )
        if name in found:
            raise UsageError(f"--control {text}: there is a control of this name already.")
        found[name] = model
    return found


class _Scanning:
    """One model and its controls over one set of stimuli."""

    def __init__(self, args: argparse.Namespace):
        import jax

        self._args, self._primary = args, jax.process_index() == 0
        self._stimuli: Stimuli | None = None
        self._seen_by: Any = None

    def run(self, controls: dict[str, str]) -> dict[str, Any] | None:
        """Does what is left to do."""
        args = self._args
        model = _load(args.model, step=args.step, preset=args.preset)
        record = self._scan(args.model, model, Path(args.out))
        others = {}
        for name, spec in controls.items():
            other = _load(spec) if spec else _untrained(model, args.model, args.step)
            folder = Path(args.out) / CONTROLS / name
            others[name] = self._scan(spec or f"{args.model} ({UNTRAINED})", other, folder)
        if not self._primary:
            return None
        return {**record, "controls": others}

    def _scan(self, name: str, model: "Model", out: Path) -> dict[str, Any]:
        from clipjax.interpret.scanning import scan

        args = self._args
        found = scan(
            model,
            self._opened(model),
            out=out,
            units=listed(args.units),
            pool=args.pool,
            k=args.k,
            bins=args.bins,
            pilot=args.pilot,
            store=args.store,
            batch_size=args.batch_size,
            seed=args.seed,
            force=args.force,
            name=name,
        )
        if self._primary:
            _print(found)
        return dataclasses.asdict(found.record)

    def _opened(self, model: "Model") -> "Stimuli":
        """Returns the stimuli as a model sees them; opened once for all that see the same."""
        from clipjax.data.resize import EvaluationTransform
        from clipjax.interpret.stimuli import open_stimuli

        args, config = self._args, model.config
        sees = (
            EvaluationTransform.of(config),
            config.image.image_size,
            config.text.context_length,
            json.dumps(model.tokenizer.to_json(), sort_keys=True),
        )
        if self._stimuli is None or self._seen_by != sees:
            self._seen_by = sees
            self._stimuli = open_stimuli(
                args.stimuli,
                config,
                tokenizer=model.tokenizer,
                facets=listed(args.facets) or None,
                concepts=args.concepts,
                concept_column=args.concept_column,
                caption=args.caption,
                root=args.root,
            )
            for note in self._stimuli.notes if self._primary else ():
                print(f"{args.stimuli}: {note}", file=sys.stderr)
        return self._stimuli


def _load(spec: str, *, step: int | None = None, preset: str | None = None) -> "Model":
    from clipjax.inference.load import load

    return load(spec, step=step, preset=preset, all_devices=True)


def _untrained(model: "Model", spec: str, step: int | None) -> "Model":
    """Returns the same architecture with fresh parameters, of the seed of its run if it has one."""
    from clipjax.interpret.fresh import fresh, seed_of_run

    return fresh(model, seed_of_run(spec, step))


def _print(scan: "Scan") -> None:
    record = scan.record
    for facet in scan.facets:
        rows = scan.rows(facet)
        told = " (control)" if rows.is_control else ""
        print(
            f"{facet}{told}: {len(rows.stimuli):,} stimuli, {rows.samples:,} samples, "
            f"{record.width(facet):,} units"
        )
    samples = sum(scan.rows(facet).samples for facet in scan.facets)
    rate = samples / max(record.seconds, 1e-9)
    print(
        f"{scan.path}: {sum(record.paths.values()):,} units of {len(record.paths)} paths, "
        f"{len(scan.concepts)} concepts, activations {record.store}; {samples:,} samples in "
        f"{record.seconds:.1f} s, {rate:,.0f} a second, on {record.devices}"
    )


if __name__ == "__main__":
    from clipjax.cli.main import main

    main(["neurons", "scan", *sys.argv[1:]])
