"""The parts of a run, each made from its own section of the config."""

import contextlib
import dataclasses
import functools
import json
import sys
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from clipjax.config import Stage, TextConfig, TrainConfig, UserError, from_config_dict, to_json_dict
from clipjax.core.checkpoint import CheckpointReader
from clipjax.core.distributed import broadcast_bytes, broadcast_int
from clipjax.core.mesh import batch_sharding, check_batch_size, local_rows, put_rows
from clipjax.data.batch_schedule import BatchSchedule
from clipjax.data.buckets import BucketedOrder, bucketed, cut_tokens
from clipjax.data.caption_lengths import caption_lengths, check_local
from clipjax.data.captions import caption_members
from clipjax.data.opening import Sources, make_order, open_sources, order_record
from clipjax.data.order import Order
from clipjax.data.pairs import TrainingPairs, caption_owners
from clipjax.data.pipeline import Batches, DeviceBatches
from clipjax.data.sources.tar_shards import TarShards
from clipjax.data.tokenizers import Tokenizer, make_tokenizer, tokenizer_from_json
from clipjax.data.training_images import row_spec
from clipjax.train.starting_point import starting_tokenizer, starting_weights
from clipjax.train.state import TrainState, abstract_state, as_dict, init_state, sharding_warnings

Skips = Sequence[tuple[int, int]]
HostBatch = Mapping[str, np.ndarray]

_DAMAGED_SHOWN = 3
_WHAT_HAS_MOMENTS = ("lock_image", "lock_text", "freeze", "lora", "kind", "moments_dtype")


@dataclasses.dataclass(frozen=True)
class TrainingData:
    """The samples of a run and the function that says which batch is made of which."""

    source: Sources
    order: Order
    tokenizer: Tokenizer
    pairs: TrainingPairs


def open_source(config: TrainConfig) -> Sources:
    """Returns the sources of a run; what is wrong with them is said on standard error."""
    sources = open_sources(config.data)
    if jax.process_index() != 0:
        return sources
    for source in sources.parts.values():
        if isinstance(source, TarShards):
            _tell(source, caption_members(config.data.caption))
    return sources


def _tell(source: TarShards, needs: tuple[str, ...]) -> None:
    if source.num_incomplete:
        first = f"; the first is {source.example_incomplete}" if source.example_incomplete else ""
        print(
            f"{source.num_incomplete:,} samples lack an image or .{', .'.join(needs)} and are left "
            f"out{first}.",
            file=sys.stderr,
        )
    damaged = list(source.damage.items())
    for path, damage in damaged[:_DAMAGED_SHOWN]:
        print(f"warning: {path}: {damage}", file=sys.stderr)
    if len(damaged) > _DAMAGED_SHOWN:
        print(
            f"warning: {len(damaged) - _DAMAGED_SHOWN:,} more shards are damaged; `clipjax data "
            "check` lists them.",
            file=sys.stderr,
        )


def open_data(
    config: TrainConfig, source: Sources, saved_tokenizer: bytes | None, skips: Skips = ()
) -> TrainingData:
    """Returns the data of a run.

    Args:
        config: of the run.
        source: its samples.
        saved_tokenizer: of the checkpoint that is resumed; None makes a new one, in process 0.
        skips: batches that the run leaves out, see `BatchSchedule`.
    """
    order = make_order(config.data, source, batch_schedule(config, skips))
    if saved_tokenizer is None and jax.process_index() == 0:
        tokenizer = starting_tokenizer(config) or _new_tokenizer(config, source, order)
        saved_tokenizer = json.dumps(tokenizer.to_json()).encode()
    tokenizer = tokenizer_from_json(json.loads(broadcast_bytes(saved_tokenizer)))
    if config.data.text_buckets:
        order = _bucketed(config, source, order, tokenizer)
    first = config.parts[0].config
    pairs = TrainingPairs(
        source, order, _of_stage(tokenizer, first), first.data, image=first.model.image
    )
    return TrainingData(source, order, tokenizer, pairs)


def batch_schedule(config: TrainConfig, skips: Skips = ()) -> BatchSchedule:
    """Returns which samples make up which step of a run."""
    sizes: list[tuple[int, int]] = []
    for part in config.parts:
        size = part.config.data.global_batch_size
        if not sizes or sizes[-1][1] != size:
            sizes.append((part.first_step, size))
    return BatchSchedule(sizes=tuple(sizes), skips=tuple(sorted(skips)))


def _of_stage(tokenizer: Tokenizer, config: TrainConfig) -> Tokenizer:
    """Returns the tokenizer for texts of the length of a stage."""
    length = config.model.text.context_length
    if tokenizer.context_length == length:
        return tokenizer
    return tokenizer_from_json({**tokenizer.to_json(), "context_length": length})


def _bucketed(
    config: TrainConfig, source: Sources, order: Order, tokenizer: Tokenizer
) -> BucketedOrder:
    check_local(source)
    measured = None
    if jax.process_index() == 0:
        measured = caption_lengths(source, tokenizer, config.data).tobytes()
    lengths = np.frombuffer(broadcast_bytes(measured), np.uint16)
    if config.data.shuffled_captions:
        lengths = lengths[caption_owners(np.arange(len(source)), len(source))]
    return bucketed(order, lengths, config.data.text_buckets, config.data.bucket_group)


def _new_tokenizer(config: TrainConfig, source: Sources, order: Order) -> Tokenizer:
    from clipjax.data.captions import choose_caption
    from clipjax.data.decode import BadSampleError

    def captions():
        count = min(len(source), config.tokenizer.training_captions)
        for example in order.examples(np.arange(count)):
            try:
                yield choose_caption(source.texts(int(example)), config.data.caption)
            except BadSampleError:
                continue  # counted where the sample is used

    return make_tokenizer(config.tokenizer, config.model.text, captions)


def batch_spec(config: TrainConfig, mesh: Mesh) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns shapes, dtypes and shardings of a batch.

    Raises:
        UsageError: if the batch cannot be split over the mesh.
    """
    size = config.data.global_batch_size
    check_batch_size("data.global_batch_size", size, mesh, config.micro_batches)
    place = batch_sharding(mesh)
    rows = row_spec(config.data, config.model.image, config.model.text.context_length)
    return {
        name: jax.ShapeDtypeStruct((size, *shape), dtype, sharding=place)
        for name, (shape, dtype) in rows.items()
    }


def device_batches(
    config: TrainConfig, data: TrainingData, mesh: Mesh, *, first_step: int
) -> DeviceBatches:
    """Returns the batches first_step, first_step + 1, ... on the devices of the mesh."""

    def host_batches() -> Generator[tuple[int, Stage, np.ndarray, HostBatch], None, None]:
        for stage in config.parts:
            start = max(first_step, stage.first_step)
            if start >= stage.stop_step:
                continue
            model, rows = stage.config.model, local_rows(mesh, stage.config.data.global_batch_size)
            pairs = data.pairs.resized(
                stage.config.data, model.image, _of_stage(data.tokenizer, stage.config)
            )
            batches = Batches(
                functools.partial(data.order.samples, rows=rows),
                pairs.plan,
                pairs.row_spec,
                first_step=start,
                stop_step=stage.stop_step,
                threads=config.data.threads,
            )
            with contextlib.closing(batches):
                for step in range(start, stage.stop_step):
                    yield step, stage, rows, next(batches)

    def put(item: tuple[int, Stage, np.ndarray, HostBatch]) -> dict[str, jax.Array]:
        step, stage, rows, batch = item
        size, text = stage.config.data.global_batch_size, stage.config.model.text
        if isinstance(data.order, BucketedOrder):
            assert isinstance(text, TextConfig)  # the config refuses buckets for others
            tokens = cut_tokens(batch["tokens"], data.order.bucket(step), text.eot_id)
            batch = {**batch, "tokens": tokens}
        return {name: put_rows(array, rows, size, mesh) for name, array in batch.items()}

    return DeviceBatches(host_batches(), put)


def run_record(config: TrainConfig, source: Sources) -> dict[str, Any]:
    """Returns what must not change under a run: which samples there are, in which order."""
    record = {
        "manifest": source.digest(),
        "samples": len(source),
        "global_batch_size": config.data.global_batch_size,
        "shuffle_seed": config.data.shuffle_seed,
    }
    batches = batch_schedule(config)
    if len(batches.sizes) > 1:
        record["batch_sizes"] = [list(size) for size in batches.sizes]
    order = order_record(config.data, make_order(config.data, source, batches), source)
    return record | ({"order": order} if order else {})


def checkpoint_files(
    config: TrainConfig, tokenizer: Tokenizer, record: Mapping[str, Any], skips: Skips = ()
) -> dict[str, bytes]:
    """Returns the small files that make a checkpoint complete without its run."""
    # For those who read; a run that resumes takes tokenizer.json itself.
    record = {**record, "tokenizer": tokenizer.digest()}
    if skips:
        record["skipped"] = [list(skip) for skip in skips]
    return {
        "config.json": json.dumps(to_json_dict(config), indent=1).encode(),
        "tokenizer.json": json.dumps(tokenizer.to_json()).encode(),
        "run.json": json.dumps(record, indent=1).encode(),
    }


def recorded_skips(workdir: Path, step: int) -> Skips:
    """Returns the batches that the run of a checkpoint leaves out, see `BatchSchedule`."""
    if not step:
        return ()
    reader = CheckpointReader(workdir / "checkpoints")
    saved = json.loads(reader.read(step, "run.json")).get("skipped", [])
    return tuple((at, batches) for at, batches in saved)


def newest_skips(workdir: Path) -> Skips:
    """Returns what the newest checkpoint of a run says, of which only this is read.

    Raises:
        UserError: if there is no checkpoint.
    """
    reader = CheckpointReader(workdir / "checkpoints")
    if not reader.steps():
        raise UserError(f"--workdir={workdir}: has no checkpoints/ of a run.")
    return recorded_skips(workdir, reader.steps()[-1])


def resume_step(workdir: Path, record: Mapping[str, Any], config: TrainConfig) -> int:
    """Returns the step to resume from, the same in every process; 0 for a new run.

    Raises:
        UserError: if the checkpoint belongs to other data, so that the order of samples would not
            go on where it stopped, or if every checkpoint is damaged.
    """
    reader = CheckpointReader(workdir / "checkpoints")
    # Process 0 alone reads every byte; what it finds, good or bad, is told to all, so that none
    # waits for another that has stopped.
    step, problem = 0, ""
    if jax.process_index() == 0:
        found = reader.newest_verified()
        if found is None and reader.steps():
            problem = (
                f"{reader.directory}: every checkpoint is damaged. Bring one back from a copy, or "
                "move the directory away to start anew."
            )
        elif found is not None:
            step = found
            problem = _other_model(json.loads(reader.read(step, "config.json")), config, step)
            problem = problem or _other_data(
                json.loads(reader.read(step, "run.json")), record, config, step
            )
    step = broadcast_int(step)
    problem = broadcast_bytes(problem.encode()).decode()
    if problem:
        raise UserError(problem)
    return step


def _other_model(saved: Mapping[str, Any], config: TrainConfig, step: int) -> str:
    before = from_config_dict(TrainConfig, saved)
    scan = config.model.compute.scan_layers
    same = (
        dataclasses.replace(before.model, compute=config.model.compute) == config.model
        and before.model.compute.scan_layers == scan
        and bool(before.optim.ema_decay) == bool(config.optim.ema_decay)
        and bool(before.optim.beta1) == bool(config.optim.beta1)  # some keep no momentum without
        and all(getattr(before.optim, n) == getattr(config.optim, n) for n in _WHAT_HAS_MOMENTS)
    )
    if same:
        return ""
    return (
        f"the checkpoint of step {step} holds another model or optimizer state than this config "
        "describes. Resume with the config of the run (WORKDIR/config.json), or give another "
        "--workdir."
    )


def _other_data(
    saved: Mapping[str, Any], record: Mapping[str, Any], config: TrainConfig, step: int
) -> str:
    changed = [
        f"{k} was {saved.get(k)!r}, is {record.get(k)!r}"
        # What is not recorded is the plain order of batches of one size.
        for k in dict.fromkeys((*record, "order", "batch_sizes"))
        if saved.get(k) != record.get(k)
    ]
    if not changed or config.checkpoint.allow_other_data:
        return ""
    return (
        f"the checkpoint of step {step} saw other data: {'; '.join(changed)}. Its order of samples "
        "cannot go on. Give another --workdir, or --config.checkpoint.allow_other_data=True to go "
        "on with the new order."
    )


def create_or_restore(
    config: TrainConfig,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    reader: CheckpointReader,
    step: int,
) -> TrainState:
    """Returns the state of a step, built or restored directly in its place on the mesh.

    Raises:
        UsageError: if an axis of the mesh can split nothing.
    """
    like = abstract_state(config, optimizer, mesh)
    for line in sharding_warnings(config, like, mesh):  # before anything is compiled
        if jax.process_index() == 0:
            print(f"warning: {line}", file=sys.stderr)
    if not step:
        places = jax.tree.map(lambda leaf: leaf.sharding, like)
        # The state is donated in the first step: it holds copies of what was read.
        make = jax.jit(lambda weights: init_state(config, optimizer, weights), out_shardings=places)
        return make(starting_weights(config, mesh))
    fields = as_dict(like)
    # What is empty need not be there: the checkpoint may be older than the field.
    kept = {name: field for name, field in fields.items() if jax.tree.leaves(field)}
    return TrainState(**{**fields, **reader.restore(step, kept)})
