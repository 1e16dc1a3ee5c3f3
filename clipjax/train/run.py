"""The whole wiring of a run, readable top to bottom, callable from a test or a notebook."""

import contextlib
import dataclasses
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from clipjax.config import TrainConfig, UserError, to_json_dict
from clipjax.core.checkpoint import CheckpointReader, CheckpointWriter, write_atomically
from clipjax.core.chips import peak_flops
from clipjax.core.distributed import broadcast_bytes, broadcast_int
from clipjax.core.folder_lock import locked_folder
from clipjax.core.lifeline import Lifeline
from clipjax.core.mesh import make_mesh
from clipjax.core.metrics import make_sinks, strict_json
from clipjax.data.opening import Sources, forecast, read_ahead_warnings
from clipjax.evals.open_suite import suite_tasks
from clipjax.evals.report import Results, table, to_json
from clipjax.evals.tasks import Task, flat_metrics, make_tasks
from clipjax.inference.encoder import Encoder
from clipjax.interpret.emergence import open_for_run
from clipjax.interpret.stimuli import Stimuli
from clipjax.models import num_params
from clipjax.models.attention_notes import attention_notes
from clipjax.models.cost import trained_pair_forward_flops
from clipjax.train.emerging import emergence_actions
from clipjax.train.loop import Actions, Loop, Meter, SpoiltError
from clipjax.train.programs import Programs
from clipjax.train.setup import (
    Skips,
    TrainingData,
    batch_schedule,
    batch_spec,
    checkpoint_files,
    create_or_restore,
    device_batches,
    open_data,
    open_source,
    recorded_skips,
    resume_step,
    run_record,
)
from clipjax.train.state import TrainState, evaluated_params, optimizer_of
from clipjax.train.teacher import open_teacher


def run(config: TrainConfig, workdir: Path, lifeline: Lifeline) -> dict[str, Any]:
    """Trains, resuming where the newest whole checkpoint is; returns the figures of the run.

    Args:
        config: resolved.
        workdir: everything that the run writes goes here.
        lifeline: of this process.

    Raises:
        UserError: on a mistake in the config or the data, or when the run cannot go on.
        PreemptedError: when it was asked to stop.
    """
    lifeline.phase("start", config.watchdog.compile_seconds)
    mesh = make_mesh(config.mesh)
    for part in config.parts:
        batch_spec(part.config, mesh)
    source = open_source(config)
    tasks: dict[str, Task] = {
        **make_tasks(config.evals, config.data, config.model, say=_say),
        **suite_tasks(config.evals, config.model, config.data.remote),
    }
    stimuli = open_for_run(config.neurons, config.model, config.data.root)
    with _locked(workdir):
        record = run_record(config, source)
        _same_everywhere(config, record)
        prepared = _Prepared(config, workdir, lifeline, mesh, source, tasks, record, stimuli)
        skips: Skips | None = None
        while True:
            first_step = resume_step(workdir, record, config)
            if first_step >= config.num_steps and _results(workdir, first_step):
                _say(f"{workdir}: done at step {first_step:,}; nothing to do.")
                return _results(workdir, first_step)
            skips = recorded_skips(workdir, first_step) if skips is None else skips
            try:
                return _go_on(prepared, first_step, skips)
            except SpoiltError as error:
                skips = sorted((*skips, _rolled_back(config, workdir, error, skips)))
                # What has read from a server cannot once it is closed.
                prepared = dataclasses.replace(prepared, source=open_source(config))


@dataclasses.dataclass(frozen=True)
class _Prepared:
    """What of a run is the same wherever it goes on."""

    config: TrainConfig
    workdir: Path
    lifeline: Lifeline
    mesh: Mesh
    source: Sources
    tasks: Mapping[str, Task]
    record: Mapping[str, Any]
    stimuli: Stimuli | None


def _rolled_back(
    config: TrainConfig, workdir: Path, error: SpoiltError, skips: Skips
) -> tuple[int, int]:
    """Returns the batches to be left out from the last checkpoint on.

    Raises:
        SpoiltError: if the run has gone back as often as it may.
    """
    if len(skips) >= config.guard.max_rollbacks:
        raise error
    step = 0
    if jax.process_index() == 0:
        step = CheckpointReader(workdir / "checkpoints").newest_verified() or 0
    step = broadcast_int(step)
    batches = batch_schedule(config, skips)
    samples = batches.first_sample(error.step) - batches.first_sample(step)
    left_out = -(-samples // batches.size(step))
    _say(
        f"warning: {error.args[0].partition(' Their updates')[0]} Going back to step {step:,} and "
        f"leaving out {left_out:,} batches of data (guard.max_rollbacks="
        f"{config.guard.max_rollbacks}, this is number {len(skips) + 1})."
    )
    return step, left_out


def _go_on(prepared: _Prepared, first_step: int, skips: Skips) -> dict[str, Any]:
    """Trains from a step to the end; see `run`."""
    config, workdir, lifeline = prepared.config, prepared.workdir, prepared.lifeline
    mesh, source, tasks = prepared.mesh, prepared.source, prepared.tasks
    saved = workdir / "checkpoints" / f"{first_step:08d}" / "tokenizer.json"
    data = open_data(config, source, saved.read_bytes() if first_step else None, skips)
    checkpoints = CheckpointWriter(
        workdir / "checkpoints",
        config.checkpoint,
        checkpoint_files(config, data.tokenizer, prepared.record, skips),
    )
    batches = device_batches(config, data, mesh, first_step=first_step)
    sinks = []
    try:
        optimizer = optimizer_of(config)
        state = create_or_restore(config, optimizer, mesh, checkpoints, first_step)
        teacher = open_teacher(config, data.tokenizer, mesh)
        programs = Programs(
            config, optimizer, mesh, state, teacher, first_step=first_step, say=_say
        )
        if jax.process_index() == 0:
            write_atomically(
                workdir / "config.json", json.dumps(to_json_dict(config), indent=1).encode()
            )
            sinks = make_sinks(workdir, config.log, to_json_dict(config), resume_step=first_step)
        encoder = Encoder(
            config.model,
            data.tokenizer,
            mesh,
            batch_size=config.evals.batch_size,
            threads=config.data.threads,
        )
        if tasks:
            encoder.compile(evaluated_params(config, state))
        results: dict[str, Any] = {}

        def evaluate(step: int, state: TrainState) -> None:
            encode = encoder.bind(evaluated_params(config, state))
            scores = {name: task.run(encode) for name, task in tasks.items()}
            if scores:
                flat = flat_metrics(scores)
                loop.write(step, flat)
                checkpoints.rate(step, flat)
                _report(step, scores)
            results.update(to_json(scores))

        def write(step: int, metrics: Mapping[str, float]) -> None:
            loop.write(step, metrics)

        looks = emergence_actions(config, data.tokenizer, mesh, prepared.stimuli, state, write)
        _say(_headline(config, source, mesh.size, first_step))
        _say_notes(config, source, data, mesh)
        meter = Meter(
            config,
            _peak_flops(),
            lambda: batches.wait_seconds,
            data.pairs.clock.seconds,
            teacher and teacher.config,
        )
        loop = Loop(
            config,
            programs,
            batches,
            checkpoints,
            sinks=sinks,
            lifeline=lifeline,
            meter=meter,
            bad_samples=data.pairs.bad_samples,
            actions=Actions([(config.evals.every_steps, evaluate), *looks]),
        )
        start = time.perf_counter()
        with jax.set_mesh(mesh):
            # The untrained model, with which curves begin, or one that was cut off at its end.
            begins_or_ended = not 0 < first_step < config.num_steps
            for _, look in looks if begins_or_ended else ():
                lifeline.phase("evaluate", config.watchdog.evaluate_seconds, first_step)
                look(first_step, state)
            state = loop.run(state, first_step)
            if first_step >= config.num_steps:  # saved, but ended before it was evaluated
                evaluate(first_step, state)
        figures = {
            "step": config.num_steps,
            "resumed_from": first_step,
            "seconds": round(time.perf_counter() - start, 3),
            "parameters": num_params(config.model),
            "metrics": loop.last_metrics,
            "tasks": results,
        }
        if jax.process_index() == 0:
            write_atomically(workdir / "results.json", strict_json(figures, indent=1).encode())
        return figures
    finally:
        source.close()  # first: reads that wait for a server end at once
        batches.close()
        checkpoints.close()
        for sink in sinks:
            sink.close()


def _say_notes(config: TrainConfig, source: Sources, data: TrainingData, mesh: Mesh) -> None:
    most = config.data.max_patches if config.data.image_mode == "naflex" else None
    with jax.set_mesh(mesh):
        for line in attention_notes(config.model, most):
            _say(line)
    for line in forecast(data.order, source, config.num_steps) if config.data.mixture else ():
        _say(f"source {line}")
    hosts = jax.process_count()
    for line in read_ahead_warnings(config.data, source, data.order.lanes, hosts):
        _say(f"warning: {line}")
    if config.data.global_batch_size > len(source):
        _say(
            f"warning: data.global_batch_size={config.data.global_batch_size:,} is more "
            f"than the {len(source):,} pairs: a batch holds pairs several times, and their "
            "copies count as wrong answers."
        )


def _headline(config: TrainConfig, source: Any, devices: int, first_step: int) -> str:
    kind = jax.devices()[0].device_kind
    resumed = f", resumed at step {first_step:,}" if first_step else ""
    return (
        f"{num_params(config.model) / 1e6:.2f} M parameters, "
        f"{trained_pair_forward_flops(config) / 1e9:.3f} GFLOP a pair forward, "
        f"{len(source):,} pairs, batch {config.data.global_batch_size:,}, "
        f"{config.num_steps:,} steps, {devices} x {kind} in {jax.process_count()} processes"
        f"{resumed}"
    )


def _peak_flops() -> float:
    """Returns the peak of one device; one that is not in the table is measured."""
    device = jax.local_devices()[0]
    known = peak_flops(device.device_kind)
    if known is not None:
        return known
    side = 1024
    multiply = jax.jit(lambda x: x @ x)
    x = jnp.ones((side, side))
    best = float("inf")
    for _ in range(20):  # the best: other programs only slow it down
        start = time.perf_counter()
        jax.block_until_ready(multiply(x))
        best = min(best, time.perf_counter() - start)
    # The devices of a CPU that are simulated by XLA share its cores.
    shared = jax.local_device_count() if device.platform == "cpu" else 1
    flops = 2 * side**3 / best / shared
    _say(
        f"MFU is relative to {flops / 1e9:.0f} GFLOP/s, measured on a {side} x {side} float32 "
        f"product: {device.device_kind!r} is not in the table of data sheets."
    )
    return flops


def _report(step: int, scores: Results) -> None:
    _say(f"evaluation at step {step:,}\n{table(scores)}")


def _say(text: str) -> None:
    if jax.process_index() == 0:
        print(text, file=sys.stderr, flush=True)


def _results(workdir: Path, step: int) -> dict[str, Any]:
    """Returns the figures of a finished run, or an empty dict if there are none for this step."""
    try:
        figures = json.loads((workdir / "results.json").read_text())
    except (OSError, ValueError):
        figures = {}
    found = figures if figures.get("step") == step else {}
    return json.loads(
        broadcast_bytes(json.dumps(found).encode() if jax.process_index() == 0 else None)
    )


def _same_everywhere(config: TrainConfig, record: Mapping[str, Any]) -> None:
    """Raises unless all processes have the same config and data."""
    mine = json.dumps([to_json_dict(config), dict(record)]).encode()
    first = broadcast_bytes(mine if jax.process_index() == 0 else None)
    if mine != first:
        raise UserError(
            f"process {jax.process_index()} has another config or other shards than process 0. "
            "Start all processes with the same command, on the same files."
        )


def _locked(workdir: Path) -> contextlib.AbstractContextManager[None]:
    """Holds the working directory for one run at a time (process 0)."""
    if jax.process_index() != 0:
        return contextlib.nullcontext()
    return locked_folder(workdir, "--workdir", "run")
