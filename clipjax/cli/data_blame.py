"""Says at which steps of a run a sample was or will be seen.

clipjax data blame --config runs/a/config.json --key 000010007
clipjax data blame --config runs/a/config.json --key "00001.tar: 000010007"

By the order alone: a sample may also stand in for another one that could not be used, and one that
cannot be used is not seen at all. Steps are counted as in the log of the run, from 1.
"""

import argparse
import itertools
from typing import Any

from clipjax.cli.configs import add_config_flag, load_config
from clipjax.cli.data_show import add_workdir_flag, check_steps, order_of
from clipjax.cli.parser import Parser
from clipjax.config import UsageError, UserError

_PRINTED = 20


def configure(parser: Parser) -> None:
    """Adds the flags."""
    add_config_flag(parser, required=True)
    add_workdir_flag(parser)
    parser.add_argument(
        "--key",
        required=True,
        metavar="KEY",
        help="of the sample, or 'SHARD: KEY' as `clipjax data show` prints it; of the path of the "
        "shard the end is enough",
    )
    parser.add_argument(
        "--steps", type=int, metavar="N", help="look at steps up to N (default: of the config)"
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Prints and returns where the samples with a key come.

    Raises:
        UserError: if no sample has this key.
        UsageError: if there are no such steps.
    """
    from clipjax.data.opening import open_sources

    config = load_config(args.config, args.overrides)
    steps = config.num_steps if args.steps is None else args.steps
    if steps < 1:
        raise UsageError(f"--steps={steps}: counts from 1.")
    check_steps("steps", steps, config)
    sources = open_sources(config.data)
    order = order_of(config, sources, args.workdir)
    found = sources.find(args.key)
    if not found:
        raise UserError(
            f"--key={args.key!r}: none of {len(sources):,} samples has this key. Copy one that "
            "`clipjax data show` prints."
        )
    out = []
    for example in found:
        seen = sorted(
            (step, order.row_of(sample))
            for sample in order.seen(example, steps)
            if (step := order.step_of(sample)) is not None
        )
        places = [{"step": step + 1, "row": row} for step, row in seen]
        out.append({"key": sources.key(example), "example": example, "seen": places})
        print(f"{sources.key(example)}: {len(places):,} times in {steps:,} steps")
        for place in itertools.islice(places, _PRINTED):
            print(f"  step {place['step']:,} row {place['row']:,}")
        if len(places) > _PRINTED:
            print(f"  and {len(places) - _PRINTED:,} more (all in --json)")
    return {"steps": steps, "samples": out}
