"""What a scan of neurons costs beside the forward pass of the model: the two take turns."""

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from clipjax.cli.bench_step import median_interval
from clipjax.config import MeshConfig, preset
from clipjax.core.mesh import batch_sharding, make_mesh, put_rows
from clipjax.interchange.pretrained import open_pretrained
from clipjax.interpret.accumulators import Accumulators, State
from clipjax.interpret.activation_file import ActivationFile
from clipjax.interpret.scan_order import ScanOrder
from clipjax.interpret.scan_tower import ScanTower, tower_paths
from clipjax.interpret.summaries import BINS, EXEMPLARS
from clipjax.models import with_params

UNITS = ("image/*/mlp_act",)
_POSITIVE = 0.05  # of the stimuli, in each concept


def scan_figures(
    preset_name: str, *, batch_size: int, batches: int, rounds: int, concepts: int, pilot: int
) -> dict[str, Any]:
    """Times both, prints the rounds and returns the figures.

    Both get the same pictures of noise, decoded already, and the same untrained model, on one
    device. Plain is `encode_image`; the scan taps the hidden units of all MLPs, keeps sums,
    exemplars, histograms and rank sums of all concepts, and writes codes into a file.

    Args:
        preset_name: of the model.
        batch_size: pictures of a call.
        batches: calls of each in a round.
        rounds: timed.
        concepts: how many rank sums each unit has.
        pilot: pictures that the bins follow from and that are added up first; not timed, as they do
            not grow with the data.
    """
    config = preset(preset_name)
    mesh = make_mesh(MeshConfig(fsdp=1), num_devices=1)
    params = open_pretrained(preset_name).params(mesh=mesh)
    rng = np.random.default_rng(0)
    side, total = config.image.image_size, batches * batch_size
    pictures = rng.integers(0, 256, (total, side, side, 3), np.uint8)
    labels = rng.random((total, concepts)) < _POSITIVE
    encode = jax.jit(
        lambda params, x: with_params(config, params).encode_image(x),
        in_shardings=(None, batch_sharding(mesh)),
    )
    every = np.arange(batch_size)
    paths = tower_paths(config, "image", UNITS)
    tower = ScanTower(
        config, "image", paths, pool="max", mesh=mesh, batch_size=batch_size, joins=False
    )
    sums = Accumulators(mesh, tower.units, concepts=concepts, bins=BINS, exemplars=EXEMPLARS)
    order = ScanOrder(np.arange(total), batch_size, seed=0)

    def plain() -> None:
        result = None
        with jax.set_mesh(mesh):
            for number in range(batches):
                x = pictures[order[number].samples]
                result = encode(params, put_rows(x, every, batch_size, mesh))
        jax.block_until_ready(result)

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "codes.npy"
        file = ActivationFile(path, total, tower.units, np.dtype("u1"), anew=True)
        carried = tower.start()
        state = [_after_pilot(tower, sums, params, pictures, labels, order, pilot)]

        def scan() -> None:
            waiting = None
            for number in range(batches):
                batch = order[number]
                units, _, bad = tower(params, pictures[batch.samples], batch, carried)
                state[0], codes = sums.add(state[0], units, batch.rows, labels[batch.rows])
                before, waiting = waiting, (batch, codes, bad)
                _write(file, before)
            _write(file, waiting)
            jax.block_until_ready(state[0])

        rows = _turns({"plain": plain, "scan": scan}, rounds, total)
        file.close()
    ratios = [row["scan"] / row["plain"] for row in rows]
    cpu = [row["scan_cpu"] / row["plain_cpu"] for row in rows]
    low, high = median_interval(cpu)
    print(
        f"{preset_name}: {tower.units:,} units, {concepts:,} concepts, batch {batch_size}: a scan "
        f"takes {statistics.median(cpu):.3f} of a forward pass's CPU time (95 % interval {low:.3f} "
        f"to {high:.3f}, {rounds} rounds), {statistics.median(ratios):.3f} of its time; load "
        f"average {os.getloadavg()[0]:.1f}"
    )
    return {
        "preset": preset_name,
        "units": tower.units,
        "concepts": concepts,
        "batch_size": batch_size,
        "ratio": statistics.median(ratios),
        "cpu_ratio": statistics.median(cpu),
        "cpu_ratio_interval": [low, high],
        "rows": rows,
        "load_average": os.getloadavg()[0],
        "device": mesh.devices.flat[0].device_kind,
    }


def _after_pilot(
    tower: ScanTower,
    sums: Accumulators,
    params: Any,
    pictures: np.ndarray,
    labels: np.ndarray,
    order: ScanOrder,
    pilot: int,
) -> State:
    """Returns the state as a scan has it once it knows its bins: with the pilot added up."""
    batches = [order[number] for number in range(order.batches)]
    seen = [tower(params, pictures[batch.samples], batch, tower.start())[0] for batch in batches]
    told = [np.asarray(units)[:, : tower.units] for units in seen]
    places = [number % len(batches) for number in range(-(-pilot // tower.batch_size))]
    state = sums.begin(np.concatenate([told[place] for place in places])[:pilot])
    for place in places:
        rows = batches[place].rows
        state, _ = sums.add(state, seen[place], rows, labels[rows])
    return state


def _write(file: ActivationFile, waiting: Any) -> None:
    if waiting is not None:
        batch, codes, bad = waiting
        assert int(bad) >= 0
        file.write(batch.rows, np.asarray(codes))


def _turns(
    programs: dict[str, Callable[[], None]], rounds: int, samples: int
) -> list[dict[str, float]]:
    for program in programs.values():
        program()
    rows = []
    for number in range(rounds):
        row: dict[str, float] = {}
        names = list(programs) if number % 2 == 0 else list(programs)[::-1]
        for name in names:
            cpu_start, start = time.process_time(), time.perf_counter()
            programs[name]()
            row[name] = time.perf_counter() - start
            row[f"{name}_cpu"] = time.process_time() - cpu_start
        rows.append(row)
        told = ", ".join(f"{name} {1e3 * row[name] / samples:.1f} ms a picture" for name in names)
        print(f"round {number + 1}: {told}", flush=True)
    return rows
