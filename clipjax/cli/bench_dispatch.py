"""What the host does around the compiled step."""

import os
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from clipjax.cli.bench_table import table
from clipjax.config import TrainConfig
from clipjax.config.presets import preset
from clipjax.core.mesh import make_mesh
from clipjax.losses import make_loss
from clipjax.train.setup import batch_spec
from clipjax.train.state import TrainState, abstract_state, optimizer_of
from clipjax.train.step import Batch, Metrics, compile_step, make_train_step

_WARMUP_CALLS = 10


def dispatch_figures(preset_name: str, *, steps: int) -> dict[str, Any]:
    """Times the calls of `EmptyStep`, prints and returns the figures.

    Each call is timed alone, from before it until it returns with the new state bound to the old
    name, as in the training loop. What it started is waited for between two timings: in training
    the device works then, and the host must not.
    """
    config = TrainConfig(model=preset(preset_name))
    step = EmptyStep(config, num_devices=1)
    wall, cpu = step.time_calls(steps)
    figures = {
        "median_ms": statistics.median(wall),
        "p90_ms": float(np.percentile(wall, 90)),
        "min_ms": min(wall),
        "thread_cpu_median_ms": statistics.median(cpu),
        "leaves": step.leaves,
        "aliased_leaves": step.aliased_leaves,
        "jit_cache_entries": step.cache_size(),
        "steps": steps,
        "preset": preset_name,
        "version": f"jax {jax.__version__}",
        "platform": jax.default_backend(),
        "load_average": os.getloadavg()[0],
    }
    print(
        table(
            [
                {
                    "device": f"1 x {jax.devices()[0].device_kind}",
                    "dtype": config.model.compute.dtype,
                    "leaves": step.leaves,
                    "ms": figures["median_ms"],
                    "p90_ms": figures["p90_ms"],
                }
            ]
        )
    )
    print(
        f"{preset_name}, layers unrolled: {figures['leaves']} arrays in and out, "
        f"{figures['aliased_leaves']} of them passed on in place\n"
        f"host time a step {figures['median_ms']:.2f} ms median, {figures['p90_ms']:.2f} ms p90, "
        f"{figures['min_ms']:.2f} ms least of {steps} (CPU time of the calling thread "
        f"{figures['thread_cpu_median_ms']:.2f} ms median); {figures['version']}, load average of "
        f"the machine {figures['load_average']:.1f}"
    )
    return figures


class EmptyStep:
    """A compiled step with the real one's arguments and results, which computes nothing.

    The state (parameters, moments, counters), the batch and the metrics are the real step's
    pytrees, taken from its abstract evaluation; the state is donated and its shardings are pinned
    by the trainer's own `compile_step`. Every array is shrunk to one number and the state is
    handed on in place, so that what is left of a call is the host's work, which depends on the
    number of arrays and not on their sizes: flattening, checking, donating, binding buffers and
    making the results.
    """

    def __init__(self, config: TrainConfig, num_devices: int):
        self._mesh = make_mesh(config.mesh, num_devices)
        optimizer = optimizer_of(config)
        state = abstract_state(config, optimizer, self._mesh)
        batch = batch_spec(config, self._mesh)
        loss = make_loss(config.loss, self._mesh)
        with jax.set_mesh(self._mesh):
            _, metrics = jax.eval_shape(make_train_step(config, optimizer, loss), state, batch)
        self._like, tiny_batch = jax.tree.map(_shrunk, (state, batch))
        self._batch = _zeros(tiny_batch)
        self.leaves = len(jax.tree.leaves(state))

        def pass_on(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
            # Without the barrier JAX might hand arguments back itself and not run the program, or
            # drop the batch from it.
            state, _ = jax.lax.optimization_barrier((state, batch))
            return state, jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), metrics)

        self._step = compile_step(pass_on, self._like, tiny_batch)
        with jax.set_mesh(self._mesh):
            compiled = self._step.lower(self._like, tiny_batch).compile()
        header, *_ = (compiled.as_text() or "").partition("\n")
        self.aliased_leaves = header.count("-alias)")

    def time_calls(self, steps: int) -> tuple[list[float], list[float]]:
        """Returns milliseconds of each call: by the clock, and the calling thread's on a CPU."""
        state = _zeros(self._like)
        wall, cpu = [], []
        with jax.set_mesh(self._mesh):
            for _ in range(_WARMUP_CALLS + steps):
                cpu_start, start = time.thread_time(), time.perf_counter()
                state, metrics = self._step(state, self._batch)
                end, cpu_end = time.perf_counter(), time.thread_time()
                jax.block_until_ready((state, metrics))
                wall.append(1e3 * (end - start))
                cpu.append(1e3 * (cpu_end - cpu_start))
        return wall[_WARMUP_CALLS:], cpu[_WARMUP_CALLS:]

    def cache_size(self) -> int:
        """Returns how many programs the calls have compiled."""
        return self._step._cache_size()  # type: ignore[attr-defined]


def _shrunk(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    """Returns one number with the rank, dtype and sharding of `leaf`."""
    shape = leaf.sharding.mesh.size if leaf.ndim else 1
    return jax.ShapeDtypeStruct((shape,) * leaf.ndim, leaf.dtype, sharding=leaf.sharding)


def _zeros(tree: Any) -> Any:
    return jax.tree.map(
        lambda leaf: jax.device_put(jnp.zeros(leaf.shape, leaf.dtype), leaf.sharding), tree
    )
