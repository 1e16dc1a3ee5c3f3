"""Shows what a run is, without running it: config, parameters, cost, data, first batch.

clipjax inspect --config configs/quickstart.py
clipjax inspect --config configs/clip.py:ViT-B-32 --devices 8 --config.mesh.fsdp=4
"""

import argparse
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
    import jax

    from clipjax.core.checkpoint import state_bytes
    from clipjax.core.mesh import make_mesh
    from clipjax.train.setup import batch_spec
    from clipjax.train.state import abstract_state, optimizer_of

    mesh = make_mesh(config.mesh)
    batch_spec(config, mesh)
    state = abstract_state(config, optimizer_of(config), mesh)

    rows = [
        {
            "name": name,
            "shape": list(leaf.shape),
            "dtype": str(leaf.dtype),
            "sharding": str(leaf.sharding.spec),
            "bytes": leaf.size * leaf.dtype.itemsize,
            "bytes_per_device": _shard_bytes(leaf),
        }
        for name, leaf in state.params.items()
    ]
    return {
        "mesh": dict(mesh.shape),
        "parameters": rows,
        "num_parameters": sum(leaf.size for leaf in state.params.values()),
        "state_bytes": state_bytes(state),
        "state_bytes_per_device": sum(_shard_bytes(leaf) for leaf in jax.tree.leaves(state)),
    }


def _shard_bytes(leaf: Any) -> int:
    count = 1
    for size in leaf.sharding.shard_shape(leaf.shape):
        count *= size
    return count * leaf.dtype.itemsize


def _cost(config: TrainConfig) -> dict[str, Any]:
    from clipjax.models.cost import trained_pair_forward_flops
    from clipjax.train.flops import training_flops

    training = training_flops(config)
    samples = config.num_steps * config.data.global_batch_size
    return {
        "forward_flops_per_sample": trained_pair_forward_flops(config),
        "train_flops_per_sample": training,
        "samples_seen": samples,
        "train_flops": training * samples,
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
        "epochs": config.num_steps * config.data.global_batch_size / len(source),
        "manifest": source.digest(),
        "tokenizer": {"kind": config.tokenizer.kind, "sha256": data.tokenizer.digest()},
        "first_batch": first,
        "first_batch_sha256": hasher.hexdigest(),
    }


def _print_parameters(figures: dict[str, Any]) -> None:
    rows = figures["parameters"]
    width = max(len(row["name"]) for row in rows)
    print(f"\nmesh {figures['mesh']}\n{'parameter':{width}}  shape, sharding, MB a device")
    for row in rows:
        print(
            f"{row['name']:{width}}  {tuple(row['shape'])!s:22} {row['sharding']:36} "
            f"{row['bytes_per_device'] / 1e6:9.3f}"
        )
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
