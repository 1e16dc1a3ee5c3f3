"""Trains an autoencoder on paired embeddings, over all devices; a killed training goes on."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from clipjax.config.errors import UsageError, UserError
from clipjax.core.mesh import batch_devices, local_rows, put_rows, replicated
from clipjax.core.progress import Progress
from clipjax.data.keyed import uniforms
from clipjax.data.order import Order, shuffled
from clipjax.interpret.sae.features import FeaturePairs
from clipjax.interpret.sae.files import load_state, remove_state, save_sae, save_state
from clipjax.interpret.sae.model import Sae, centres, exact_threshold
from clipjax.interpret.sae.options import SaeOptions
from clipjax.interpret.sae.step import SaeState, init_state, make_step

_MASKING = 47  # stream of random numbers
_SHOWN_EVERY = 25


class SaeTraining:
    """A training, step by step; pairs are in an order that follows from (seed, step).

    Args:
        features: what it is trained on.
        options: of the autoencoder.
        mesh: its batch axes split the pairs of a step; every device holds all weights.

    Attributes:
        state: of the training.
        metrics: of the last step: "loss", "r2" and "dead", the share of dead latents.

    Raises:
        UsageError: if the devices cannot share a batch equally, or there are several processes.
        UserError: if there are not enough features.
    """

    def __init__(self, features: FeaturePairs, options: SaeOptions, mesh: Mesh):
        if jax.process_count() > 1:
            raise UsageError(
                "an autoencoder is trained by one process, which may have many devices."
            )
        if options.batch_size % batch_devices(mesh):
            raise UsageError(
                f"batch_size={options.batch_size}: cannot be split over {batch_devices(mesh)} "
                "devices. Choose a multiple of their number."
            )
        self._features, self._options, self._mesh = features, options, mesh
        moments = features.moments
        image, text, scale = centres(options, moments)
        self._base = Sae(
            options=options,
            weights={},
            image_mean=image,
            text_mean=text,
            scale=scale,
            features={"identity": features.identity, "pairs": len(features)},
        )
        energies = (scale**2 * moments.image_variance, scale**2 * moments.text_variance)
        whole = replicated(mesh)
        self._step = jax.jit(
            make_step(options, energies), donate_argnums=0, out_shardings=(whole, whole)
        )
        self.state: SaeState = jax.device_put(init_state(options, features.dim), whole)
        self.metrics: Mapping[str, Any] = {}
        self._order: Order = shuffled(
            num_examples=len(features), global_batch_size=options.batch_size, seed=options.seed
        )
        self._mine = local_rows(mesh, options.batch_size)

    @property
    def done(self) -> int:
        """Steps that are done."""
        return int(self.state.step)

    def restore(self, state: SaeState) -> None:
        """Goes on from a state."""
        self.state = jax.device_put(state, replicated(self._mesh))

    def advance(self, step: int) -> None:
        """Does step number `step`, counted from 0."""
        with jax.set_mesh(self._mesh):
            self.state, self.metrics = self._step(self.state, self._batch(step))

    def result(self) -> Sae:
        """Returns the autoencoder as it is now."""
        state = jax.device_get(self.state)
        weights = {name: np.asarray(value) for name, value in state.params.items()}
        sae = dataclasses.replace(self._base, weights=weights, steps=int(state.step))
        if self._options.objective != "batchtopk":
            return sae
        return dataclasses.replace(sae, threshold=exact_threshold(sae, self._features))

    def _batch(self, step: int) -> dict[str, jax.Array]:
        samples = self._order.samples(step)
        image, text = self._features.take(self._order.examples(samples))
        host = {
            "image": self._base.inputs(image, "image"),
            "text": self._base.inputs(text, "text"),
            "seen": _seen(self._options, samples),
        }
        size = self._options.batch_size
        return {name: put_rows(x, self._mine, size, self._mesh) for name, x in host.items()}


def train_sae(
    features: FeaturePairs,
    options: SaeOptions,
    mesh: Mesh,
    *,
    folder: Path | None = None,
    about: Mapping[str, Any] | None = None,
    save_every: int = 500,
    force: bool = False,
) -> Sae:
    """Trains an autoencoder and returns it.

    With a folder it is written there, and every `save_every` steps the state of the training: the
    same call goes on from it and ends with the same weights as if it had not stopped. The state is
    a file of some MB, written whole.

    Args:
        features: what it is trained on.
        options: of the autoencoder.
        mesh: that shares the work.
        folder: to write; nothing is written without.
        about: what else is to be remembered of the features.
        save_every: steps between two saves.
        force: whether to replace what the folder holds of other options or features.

    Raises:
        UsageError: if the devices cannot share a batch equally.
        UserError: if the folder holds something else, or a weight is not finite any more.
    """
    training = SaeTraining(features, options, mesh)
    identity = {"features": features.identity, "options": dataclasses.asdict(options)}
    if folder is not None:
        state = load_state(folder, training.state, identity, force=force)
        if state is not None:
            training.restore(state)
    first, detail = training.done, ""
    with Progress(f"training {options.objective}", options.steps - first, "steps") as progress:
        for step in range(first, options.steps):
            training.advance(step)
            if step % _SHOWN_EVERY == 0 or step + 1 == options.steps:
                detail = _told(training.metrics, step)
            progress.advance(1, detail)
            if folder is not None and (step + 1) % save_every == 0 and step + 1 < options.steps:
                save_state(folder, training.state, identity)
    sae = training.result()
    sae = dataclasses.replace(sae, features={**sae.features, **(about or {})})
    if folder is not None:
        save_sae(folder, sae)
        remove_state(folder)
    return sae


def _seen(options: SaeOptions, samples: np.ndarray) -> np.ndarray:
    """Returns what the encoder sees of each pair, [rows, 2], a function of (seed, sample)."""
    draws = uniforms(options.seed, samples, _MASKING, 2)
    hides, which = draws[:, 0] < options.mask, draws[:, 1] < 0.5
    return ~np.stack([hides & which, hides & ~which], axis=1)


def _told(metrics: Mapping[str, Any], step: int) -> str:
    loss, r2, dead = (float(metrics[name]) for name in ("loss", "r2", "dead"))
    if not np.isfinite(loss):
        raise UserError(
            f"step {step + 1}: the loss is {loss}. Lower --learning_rate, or look at the features."
        )
    return f"loss {loss:.4f}  R2 {r2:.3f}  dead {dead:.1%}"
