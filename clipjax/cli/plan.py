"""Says what a run would need of a machine that is not there: memory, collectives, time.

clipjax plan --config configs/clip.py:ViT-B-16 --topology v5e:16x16
clipjax plan --config configs/siglip.py --topology h100:32x8 --html plan.html --batch_search
clipjax plan --config configs/clip.py --topology v5e:8x16*2 --config.data.global_batch_size=65536

The step that `clipjax train` runs is compiled for the machine on this one, which needs no
accelerator and no data; a run with stages stage by stage. The compilers are packages:
pip install 'clipjax[plan-tpu]' for TPUs, 'clipjax[plan-gpu]' for NVIDIA GPUs.

clipjax plan --table plans/*.json prints plans that were saved with --json as one table.

Topologies: TPUs by the chips along each axis (v5e:16x16, v6e:16x16, v5p:8x8x8, v7x:4x4x4), slices
that a network joins by *N; GPUs by hosts x GPUs of each (a100, h100, h200, b200, gb200); cpu:8
simulates devices.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from clipjax.cli.configs import add_config_flag, load_config
from clipjax.cli.parser import Parser, check_writable
from clipjax.config import UsageError, UserError
from clipjax.core.topologies import parse_topology, prepare_environment


def configure(parser: Parser) -> None:
    """Adds the flags."""
    add_config_flag(parser, required=False)
    parser.add_argument("--topology", metavar="NAME", help="the machine, such as v5e:16x16")
    parser.add_argument(
        "--slices", type=int, default=1, metavar="N", help="TPU slices that a network joins"
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="TPU: compile with the least optimisation, a quarter of the time; memory within a few "
        "per cent",
    )
    parser.add_argument(
        "--batch_search", action="store_true", help="find the largest global batch that fits"
    )
    parser.add_argument("--html", metavar="PATH", help="write the figures as one page")
    parser.add_argument(
        "--table", nargs="+", metavar="JSON", help="print saved plans as a table in Markdown"
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Prints and returns the figures of the plan, or of several that were saved."""
    if args.table is not None:
        return _table(args)
    if args.config is None or args.topology is None:
        raise UsageError("clipjax plan: give --config and --topology, or --table with saved plans.")
    topology = parse_topology(args.topology, args.slices)
    config = load_config(args.config, args.overrides)
    if args.html is not None:
        check_writable("--html", args.html)
    prepare_environment(topology)
    from clipjax.cli.plan_report import plan_page, plan_text
    from clipjax.train.plan import plan
    from clipjax.train.plan_search import largest_batch, remedies

    figures = {"config": args.config, "overrides": args.overrides}
    figures |= plan(config, topology, quick=args.quick)
    figures |= {"remedies": None, "largest_batch": None}
    stages = sorted(figures["stages"], key=lambda stage: -stage["memory"]["needed"])
    if not figures["fits"]:
        too_large = [stage["name"] for stage in stages if not stage["memory"]["fits"]]
        memory = stages[0]["memory"]
        state = sum(memory[name] for name in ("parameters", "optimizer", "ema", "teacher"))
        figures["remedies"] = remedies(config, topology, _say, state, too_large)
    if args.batch_search:
        figures["largest_batch"] = [
            largest_batch(config, topology, _say, stage["name"]) for stage in figures["stages"]
        ]
    print(plan_text(figures))
    if args.html is not None:
        Path(args.html).write_text(plan_page(figures), encoding="utf-8")
    return figures


def _table(args: argparse.Namespace) -> dict[str, Any]:
    from clipjax.cli.plan_table import plan_table

    for flag in ("config", "topology", "html"):
        if getattr(args, flag) is not None:
            raise UsageError(f"clipjax plan: --table compiles nothing: leave out --{flag}.")
    plans = [_saved(path) for path in args.table]
    print(plan_table(plans))
    return {"plans": plans}


def _saved(path: str) -> dict[str, Any]:
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"--table: {path}: cannot be read ({error}).") from error
    if not isinstance(found, dict) or not {"config", "topology", "stages"} <= found.keys():
        raise UserError(f"--table: {path}: is no plan. Write one with clipjax plan --json {path}.")
    return found


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    from clipjax.cli.main import main

    main(["plan", *sys.argv[1:]])
