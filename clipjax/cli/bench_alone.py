"""The speed of our train step by itself, on all devices that JAX finds."""

import statistics
import time
from collections.abc import Sequence
from typing import Any

import jax

from clipjax.cli.bench_ours import OurStep, step_config
from clipjax.cli.bench_table import speed, table
from clipjax.cli.bench_turns import random_batch
from clipjax.config import TrainConfig
from clipjax.core.chips import peak_flops
from clipjax.train.flops import training_flops

_WARMUP_CALLS = 2
# On an accelerator steps are queued, as in training: waiting for each would count the host's work.
_STEPS_A_ROUND = {"cpu": 1}
_QUEUED = 10


def alone_figures(
    preset_name: str, *, batch_sizes: Sequence[int], rounds: int, compute: dict[str, Any]
) -> dict[str, Any]:
    """Times steps of each batch size, prints a table and returns the figures.

    A batch that does not fit into memory has a row without numbers.

    Args:
        preset_name: of the model.
        batch_sizes: pairs of a step, over all devices.
        rounds: timed rounds of each, of one step on CPU and ten elsewhere.
        compute: fields of `ComputeConfig`.

    Raises:
        UsageError: if a batch cannot be split over the devices, or `compute` cannot be.
    """
    device, count = jax.devices()[0], jax.device_count()
    queued = _STEPS_A_ROUND.get(device.platform, _QUEUED)
    rows = []
    for size in batch_sizes:
        config = step_config({"preset": preset_name, "batch_size": size, "compute": compute})
        seconds = _round_seconds(config, rounds, queued)
        row: dict[str, Any] = {
            "device": f"{count} x {device.device_kind}",
            "dtype": config.model.compute.dtype,
            "batch_size": size,
        }
        if seconds is not None:
            row |= speed(
                statistics.median(seconds),
                batch_size=size,
                pair_flops=training_flops(config),
                devices=count,
                peak=peak_flops(device.device_kind),
            )
            row["seconds"] = seconds
        else:
            row |= {"ms": None, "problem": "does not fit into memory"}
        rows.append(row)
    told = ", ".join(f"{name} {value}" for name, value in compute.items() if name != "dtype")
    print(f"{preset_name}, {told}, jax {jax.__version__}; {rounds} rounds of {queued} steps")
    print(table(rows), flush=True)
    for row in rows:
        if "problem" in row:
            print(f"batch {row['batch_size']:,} {row['problem']}")
    return {
        "rows": rows,
        "preset": preset_name,
        "compute": compute,
        "rounds": rounds,
        "steps_a_round": queued,
        "version": f"jax {jax.__version__}",
    }


def _round_seconds(config: TrainConfig, rounds: int, queued: int) -> list[float] | None:
    """Returns the seconds of a step in each round, or None if memory does not suffice."""
    image, text = config.model.image, config.model.text
    batch = random_batch(
        config.data.global_batch_size, image.image_size, text.context_length, text.vocab_size
    )
    try:
        step = OurStep(config, batch, jax.device_count())
        step.run(_WARMUP_CALLS)
        found = []
        for _ in range(rounds):
            start = time.perf_counter()
            step.run(queued)
            found.append((time.perf_counter() - start) / queued)
        return found
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return None
