"""Shows what a run is, without running it: config, parameters, cost, data, first batch.

clipjax inspect --config configs/quickstart.py
clipjax inspect --config configs/clip.py:ViT-B-32 --devices 8 --config.mesh.fsdp=4
"""

import argparse
import dataclasses
import json
import sys
from typing import Any

from clipjax.cli.configs import add_config_flag, load_config
from clipjax.cli.parser import Parser, simulate_devices
from clipjax.config import TrainConfig, UserError, to_json_dict

_SHOWN_ROWS = 8


def configure(parser: Parser) -> None:
    """Adds the flags."""
    add_config_flag(parser, required=True)
    parser.add_argument(
        "--devices", type=int, metavar="N", help="show the shardings on N simulated devices"
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Prints and returns what a run is."""
    config = load_config(args.config, args.overrides)
    if args.devices:
        simulate_devices(args.devices)
    figures = {"config": to_json_dict(config), **_parameters(config), **_cost(config)}
    print(json.dumps(figures["config"], indent=1))
    _print_parameters(figures)
    print(
        f"\n{figures['forward_flops_per_sample'] / 1e9:.3f} GFLOP a pair forward, "
        f"{figures['train_flops_per_sample'] / 1e9:.3f} in training; "
        f"{figures['samples_seen']:,} samples seen in {config.num_steps:,} steps, "
        f"{figures['train_flops']:.3g} FLOP in all"
    )
    try:
        figures |= _data(config)
    except UserError as error:
        figures["data_error"] = str(error)
        print(f"\nthe rest is the data, which is not there yet: {error}", file=sys.stderr)
    else:
        _print_data(figures)
    return figures


def _parameters(config: TrainConfig) -> dict[str, Any]:
    from clipjax.core.mesh import make_mesh
    from clipjax.core.sharding_report import state_leaves
    from clipjax.train.setup import batch_spec
    from clipjax.train.state import abstract_state, optimizer_of, sharding_warnings

    mesh = make_mesh(config.mesh)
    for part in config.parts:
        batch_spec(part.config, mesh)
    state = abstract_state(config, optimizer_of(config), mesh)

    leaves = state_leaves(state)
    return {
        "mesh": dict(mesh.shape),
        "state": [dataclasses.asdict(leaf) for leaf in leaves],
        "num_parameters": sum(leaf.size for leaf in state.params.values()),
        "state_bytes": sum(leaf.bytes for leaf in leaves),
        "state_bytes_per_device": sum(leaf.device_bytes for leaf in leaves),
        "warnings": sharding_warnings(config, state, mesh),
    }


def _cost(config: TrainConfig) -> dict[str, Any]:
    from clipjax.models.cost import trained_pair_forward_flops
    from clipjax.train.flops import run_flops, training_flops

    training = training_flops(config)
    samples = config.samples_seen(config.num_steps)
    return {
        "forward_flops_per_sample": trained_pair_forward_flops(config),
        "train_flops_per_sample": training,
        "samples_seen": samples,
        "train_flops": run_flops(config),
    }


def _data(config: TrainConfig) -> dict[str, Any]:
    import hashlib

    import numpy as np

    from clipjax.data.pipeline import Batches
    from clipjax.train.setup import open_data, open_source

    source = open_source(config)
    data = open_data(config, source, None)
    batches = Batches(
        data.order.samples, data.pairs.plan, data.pairs.row_spec, threads=config.data.threads
    )
    try:
        batch = next(batches)
        hasher = hashlib.sha256()
        for name in sorted(batch):
            hasher.update(np.ascontiguousarray(batch[name]).tobytes())
        samples = data.order.samples(0)[:_SHOWN_ROWS]
        examples = data.order.examples(samples)
        first = [
            {
                "key": source.key(int(example)),
                "caption": data.pairs.caption(int(sample), int(example)),
                "tokens": batch["tokens"][row].tolist(),
            }
            for row, (sample, example) in enumerate(zip(samples, examples, strict=True))
        ]
    finally:
        batches.close()
    return {
        "pairs": len(source),
        "epochs": config.samples_seen(config.num_steps) / len(source),
        "manifest": source.digest(),
        "tokenizer": {"kind": config.tokenizer.kind, "sha256": data.tokenizer.digest()},
        "first_batch": first,
        "first_batch_sha256": hasher.hexdigest(),
    }


def _print_parameters(figures: dict[str, Any]) -> None:
    rows = figures["state"]
    width = max(len(row["name"]) for row in rows)
    print(f"\nmesh {figures['mesh']}\n{'state':{width}}  dtype, shape, sharding, MB a device")
    for row in rows:
        print(
            f"{row['name']:{width}}  {row['dtype']:8} {row['shape']!s:22} {row['spec']:36} "
            f"{row['device_bytes'] / 1e6:9.3f}"
        )
    for line in figures["warnings"]:
        print(f"warning: {line}", file=sys.stderr)
    print(
        f"{figures['num_parameters']:,} parameters; the state with moments takes "
        f"{figures['state_bytes'] / 1e6:,.1f} MB, "
        f"{figures['state_bytes_per_device'] / 1e6:,.1f} MB a device"
    )


def _print_data(figures: dict[str, Any]) -> None:
    print(
        f"\n{figures['pairs']:,} pairs, {figures['epochs']:.2f} epochs, manifest "
        f"{figures['manifest'][:16]}\n{figures['tokenizer']['kind']} tokenizer, sha256 "
        f"{figures['tokenizer']['sha256'][:16]}\n"
        f"first batch, sha256 {figures['first_batch_sha256'][:16]}:"
    )
    for row in figures["first_batch"]:
        print(f"  {row['key']}  {row['caption']!r}\n    {row['tokens']}")


if __name__ == "__main__":
    from clipjax.cli.main import main

    main(["inspect", *sys.argv[1:]])
