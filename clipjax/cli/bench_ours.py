"""The worker of `clipjax bench step` that runs our train step."""

from typing import Any

import jax
import numpy as np

from clipjax.cli.bench_turns import Orders, random_batch, serve, timed
from clipjax.config import DataConfig, OptimConfig, TrainConfig
from clipjax.config.presets import preset
from clipjax.core.mesh import make_mesh, put_rows
from clipjax.losses import make_loss
from clipjax.models import num_params
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
        with jax.set_mesh(self._mesh):
            self._state, metrics = self._step(self._state, self._batch)
        jax.block_until_ready((self._state, metrics))
        return float(metrics["train/loss"])

    def cache_size(self) -> int:
        """Returns how many programs have been compiled for the step."""
        return self._step._cache_size()  # type: ignore[attr-defined]


def prepare(options: dict[str, Any]) -> Orders:
    """Compiles nothing yet: the first step does."""
    size = options["batch_size"]
    config = TrainConfig(
        model=preset(options["preset"]),
        data=DataConfig(global_batch_size=size),
        optim=OptimConfig(
            peak_learning_rate=options["learning_rate"], schedule="constant", warmup_steps=0
        ),
    )
    image, text = config.model.image, config.model.text
    step = OurStep(config, random_batch(size, image.image_size, text.context_length))

    def report() -> dict[str, Any]:
        return {
            "parameters": num_params(config.model),
            "cache_size": step.cache_size(),
            "version": f"jax {jax.__version__}",
        }

    return {"step": lambda: timed(step), "report": report}


if __name__ == "__main__":
    serve(prepare)
