"""Trains a dual encoder, or goes on where the run in --workdir stopped.

clipjax train --config configs/quickstart.py --workdir runs/quickstart
clipjax train --config configs/quickstart.py --workdir runs/b --config.optim.weight_decay=0.2
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from clipjax.cli.configs import add_cluster_flags, add_config_flag, load_config
from clipjax.cli.parser import Parser
from clipjax.config import UserError


def configure(parser: Parser) -> None:
    """Adds the flags."""
    add_config_flag(parser, required=True)
    parser.add_argument(
        "--workdir", required=True, metavar="DIR", help="checkpoints, metrics and results go here"
    )
    add_cluster_flags(parser)


def run(args: argparse.Namespace) -> dict[str, Any] | None:
    """Trains; returns the figures of the run in process 0."""
    config = load_config(args.config, args.overrides)
    from clipjax.core.distributed import Cluster, joined

    cluster = Cluster(
        coordinator=args.coordinator,
        num_processes=args.num_processes,
        process_id=args.process_id,
    )
    import jax

    from clipjax.train.loop import PreemptedError
    from clipjax.train.run import run as train

    with joined(cluster) as lifeline:
        try:
            figures = train(config, Path(args.workdir), lifeline)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error) and "ut of memory" not in str(error):
                raise
            raise UserError(
                f"out of memory ({str(error).splitlines()[0]}). Lower data.global_batch_size, set "
                "model.compute.remat, or split the model with mesh.fsdp."
            ) from error
        except PreemptedError as preempted:
            print(preempted, file=sys.stderr)
            args.exit_status = preempted.exit_status
            return None
        return figures if jax.process_index() == 0 else None


if __name__ == "__main__":
    from clipjax.cli.main import main

    main(["train", *sys.argv[1:]])
