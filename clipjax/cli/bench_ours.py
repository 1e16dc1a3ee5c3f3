"""The worker of `clipjax bench step` that runs our train step."""

import dataclasses
from typing import Any

import jax
import numpy as np

from clipjax.cli.bench_turns import LEARNING_RATE, Orders, random_batch, serve, timed
from clipjax.config import ComputeConfig, DataConfig, LossConfig, OptimConfig, TrainConfig
from clipjax.config.presets import preset
from clipjax.core.chips import peak_flops
from clipjax.core.mesh import make_mesh, put_rows
from clipjax.losses import make_loss
from clipjax.models import num_params
from clipjax.train.flops import training_flops
from clipjax.train.setup import batch_spec
from clipjax.train.state import abstract_state, init_state, optimizer_of
from clipjax.train.step import compile_step, make_train_step


class OurStep:
    """Steps of a config on one fixed batch, compiled as the trainer compiles them."""

    def __init__(self, config: TrainConfig, batch: dict[str, np.ndarray], num_devices: int = 1):
        mesh = make_mesh(config.mesh, num_devices)
        optimizer = optimizer_of(config)
        like = abstract_state(config, optimizer, mesh)
        places = jax.tree.map(lambda leaf: leaf.sharding, like)
        size = config.data.global_batch_size
        self._mesh = mesh
        self._state = jax.jit(lambda: init_state(config, optimizer), out_shardings=places)()
        self._batch = {k: put_rows(v, np.arange(size), size, mesh) for k, v in batch.items()}
        self._step = compile_step(
            make_train_step(config, optimizer, make_loss(config.loss, mesh)),
            like,
            batch_spec(config, mesh),
        )

    def __call__(self) -> float:
        """Runs one step to its end and returns the loss."""
        return self.run(1)

    def run(self, steps: int) -> float:
        """Runs steps one behind the other, waits for the last and returns its loss."""
        metrics: Any = None
        with jax.set_mesh(self._mesh):
            for _ in range(steps):
                self._state, metrics = self._step(self._state, self._batch)
        jax.block_until_ready((self._state, metrics))
        return float(metrics["train/loss"])

    def cache_size(self) -> int:
        """Returns how many programs have been compiled for the step."""
        return self._step._cache_size()  # type: ignore[attr-defined]


def step_config(options: dict[str, Any]) -> TrainConfig:
    """Returns the config of a run that a benchmark takes its step from.

    Args:
        options: preset, batch_size, and compute: the fields of `ComputeConfig`.
    """
    model = preset(options["preset"])
    model = dataclasses.replace(model, compute=ComputeConfig(**options["compute"]))
    return TrainConfig(
        model=model,
        data=DataConfig(global_batch_size=options["batch_size"]),
        loss=LossConfig(kind="softmax" if model.init_logit_bias is None else "sigmoid"),
        optim=OptimConfig(peak_learning_rate=LEARNING_RATE, schedule="constant", warmup_steps=0),
    )


def prepare(options: dict[str, Any]) -> Orders:
    """Compiles nothing yet: the first step does."""
    config = step_config(options)
    image, text = config.model.image, config.model.text
    batch = random_batch(options["batch_size"], image.image_size, text.context_length)
    step = OurStep(config, batch)

    def report() -> dict[str, Any]:
        return {
            "parameters": num_params(config.model),
            "cache_size": step.cache_size(),
            "device": jax.devices()[0].device_kind,
            "peak_flops": peak_flops(jax.devices()[0].device_kind),
            "pair_flops": training_flops(config),
            "version": f"jax {jax.__version__}",
        }

    return {"step": lambda: timed(step), "report": report}


if __name__ == "__main__":
    serve(prepare)
