"""Time and memory of the contrastive losses: ours in blocks, one matrix, and open_clip's way."""

import functools
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from clipjax.cli.bench_step import median_interval
from clipjax.config import MeshConfig
from clipjax.core.mesh import BATCH_AXES, batch_sharding, check_batch_size, make_mesh
from clipjax.losses import LOSSES, Loss, Walk

PLAIN = "plain"
_MIB = 2**20


def loss_figures(
    *, batch_size: int, dim: int, block: int, rounds: int, memory_only: bool
) -> dict[str, Any]:
    """Compiles value and gradient of every loss in every form, runs them in turns and prints.

    Who begins changes from round to round; a ratio is the median over the rounds of the time over
    that of the plain form, one matrix of logits as XLA splits it.

    Args:
        batch_size: pairs, over all devices.
        dim: of the embeddings.
        block: columns of logits at a time.
        rounds: timed calls of each.
        memory_only: compile and do not run.

    Raises:
        UsageError: if the batch cannot be split over the devices.
    """
    mesh = make_mesh(MeshConfig(fsdp=1))
    check_batch_size("batch_size", batch_size, mesh)
    rows = []
    print(
        f"{batch_size:,} pairs of {dim} channels, blocks of {block}, {mesh.size} x "
        f"{jax.devices()[0].device_kind}, jax {jax.__version__}\n"
        "loss     form     temporaries a device  time over plain (95 % interval)"
    )
    for kind in LOSSES:
        programs = {
            form: _compiled(loss, mesh, batch_size, dim)
            for form, loss in _forms(kind, mesh, block).items()
        }
        ratios = {} if memory_only else _ratios(programs, mesh, batch_size, dim, rounds)
        for form, program in programs.items():
            size = program.memory_analysis().temp_size_in_bytes
            row: dict[str, Any] = {"loss": kind, "form": form, "temporary_bytes": size}
            told = ""
            if ratios:
                row["ratio"] = statistics.median(ratios[form])
                row["ratio_interval"] = median_interval(ratios[form])
                low, high = row["ratio_interval"]
                told = f"  {row['ratio']:.2f} ({low:.2f} to {high:.2f})"
            rows.append(row)
            print(f"{kind:8} {form:8} {size / _MIB:12,.1f} MiB    {told}", flush=True)
    return {
        "rows": rows,
        "batch_size": batch_size,
        "dim": dim,
        "block": block,
        "devices": mesh.size,
        "device_kind": jax.devices()[0].device_kind,
        "version": f"jax {jax.__version__}",
    }


def _forms(kind: str, mesh: Mesh, block: int) -> dict[str, Loss]:
    reference, streaming = LOSSES[kind]
    forms: dict[str, Loss] = {PLAIN: reference}
    if kind == "softmax":
        forms["local"] = functools.partial(gathered_local_loss, mesh=mesh)
    for form in ("chunked", "ring"):
        forms[form] = functools.partial(streaming, walk=Walk(form, mesh, block))
    return forms


def gathered_local_loss(
    images: jax.Array, texts: jax.Array, scale: jax.Array, bias: jax.Array, *, mesh: Mesh
) -> jax.Array:
    """Softmax loss as open_clip computes it with `--local-loss --gather-with-grad`.

    Both embeddings are gathered; a device has two matrices of logits, its images against all texts
    and its texts against all images.

    Args:
        images: unit length.
        texts: unit length.
        scale: multiplies the cosines.
        bias: cancels.
        mesh: whose batch axes the batch is split over.
    """
    split, whole = jax.P(BATCH_AXES), jax.P()

    def local(images: jax.Array, texts: jax.Array, scale: jax.Array) -> jax.Array:
        own = jax.lax.axis_index(BATCH_AXES) * len(images) + jnp.arange(len(images))
        total = jnp.zeros(())
        for one, other in ((images, texts), (texts, images)):
            others = jax.lax.all_gather(other, BATCH_AXES, tiled=True)
            logs = jax.nn.log_softmax(scale * one @ others.T, axis=1)
            total -= jnp.take_along_axis(logs, own[:, None], axis=1).mean() / 2
        return jax.lax.pmean(total, BATCH_AXES)

    sharded = jax.shard_map(local, mesh=mesh, in_specs=(split, split, whole), out_specs=whole)
    return sharded(images, texts, scale) + 0.0 * bias


def _compiled(loss: Loss, mesh: Mesh, batch_size: int, dim: int) -> Any:
    rows, scalar = batch_sharding(mesh), jax.ShapeDtypeStruct((), jnp.float32)
    embeds = jax.ShapeDtypeStruct((batch_size, dim), jnp.float32, sharding=rows)
    whole = jax.NamedSharding(mesh, jax.P())
    step = jax.jit(
        jax.value_and_grad(loss, argnums=(0, 1, 2)),
        in_shardings=(rows, rows, whole, whole),
        out_shardings=(whole, (rows, rows, whole)),
    )
    return step.lower(embeds, embeds, scalar, scalar).compile()


def _ratios(
    programs: dict[str, Callable[..., Any]], mesh: Mesh, batch_size: int, dim: int, rounds: int
) -> dict[str, list[float]]:
    rng, rows = np.random.default_rng(0), batch_sharding(mesh)
    embeds = rng.normal(size=(2, batch_size, dim))
    embeds /= np.linalg.norm(embeds, axis=2, keepdims=True)
    images, texts = (jax.device_put(np.float32(x), rows) for x in embeds)
    whole = jax.NamedSharding(mesh, jax.P())
    scale, bias = (jax.device_put(np.float32(x), whole) for x in (10.0, -10.0))
    names = list(programs)
    times: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds + 1):
        start = number % len(names)
        for name in names[start:] + names[:start]:
            began = time.perf_counter()
            jax.block_until_ready(programs[name](images, texts, scale, bias))
            if number:  # the first call warms up
                times[name].append(time.perf_counter() - began)
    return {
        name: [mine / plain for mine, plain in zip(times[name], times[PLAIN], strict=True)]
        for name in names
    }
