"""Trains a dual encoder, or goes on where the run in --workdir stopped.

clipjax train --config configs/quickstart.py --workdir runs/quickstart
clipjax train --config configs/quickstart.py --workdir runs/b --config.optim.weight_decay=0.2
clipjax train --config configs/clip.py --workdir /disk/run --check 64    (before a queue does)
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from clipjax.cli.configs import add_cluster_flags, add_config_flag, cluster_from, load_config
from clipjax.cli.parser import Parser, simulate_devices
from clipjax.config import TrainConfig, UsageError, UserError


def configure(parser: Parser) -> None:
    """Adds the flags."""
    add_config_flag(parser, required=True)
    parser.add_argument(
        "--workdir", required=True, metavar="DIR", help="checkpoints, metrics and results go here"
    )
    parser.add_argument(
        "--check",
        type=int,
        metavar="N",
        help="only say whether this command could run on N devices, as far as that is known here; "
        "0 looks at the config only",
    )
    add_cluster_flags(parser)


def run(args: argparse.Namespace) -> dict[str, Any] | None:
    """Trains; returns the figures of the run in process 0."""
    config, cluster = load_config(args.config, args.overrides), cluster_from(args)
    if args.check is not None:
        return _check(config, args.check)
    import jax

    from clipjax.core.distributed import joined
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


def _check(config: TrainConfig, num_devices: int) -> dict[str, Any]:
    """Makes the mesh and splits the batch on simulated devices; raises as the run would."""
    if num_devices < 0:
        raise UsageError(f"--check={num_devices}: expected a number of devices.")
    if num_devices == 0:
        print("the config can be used")
        return {}
    simulate_devices(num_devices)
    from clipjax.core.mesh import make_mesh
    from clipjax.train.setup import batch_spec

    mesh = make_mesh(config.mesh, num_devices)
    batch_spec(config, mesh)
    axes = ", ".join(f"{name} {size}" for name, size in mesh.shape.items())
    size = config.data.global_batch_size
    print(f"{config.num_steps:,} steps of {size:,} pairs on {num_devices} devices ({axes}): good")
    return {"devices": num_devices, "mesh": dict(mesh.shape)}


if __name__ == "__main__":
    from clipjax.cli.main import main

    main(["train", *sys.argv[1:]])
