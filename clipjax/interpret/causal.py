"""What units do to the logits of concepts, found by holding each of them still or moving it."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from clipjax.config import UserError
from clipjax.core.mesh import replicated
from clipjax.core.progress import Progress
from clipjax.inference.load import Model
from clipjax.interpret.facet_batches import FacetBatch, facet_batches
from clipjax.interpret.facets import Facet, Tower
from clipjax.interpret.model_units import check_units, running
from clipjax.interpret.statistics.effects import among_others, concept_drops
from clipjax.models import with_params
from clipjax.models.taps import Write, tapped

BATCH_SIZE = 64
UNITS_AT_ONCE = 8
_NO_UNIT = -1
_QUIET_SECONDS = 2.0

Facets = Mapping[str, Facet]
Change = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]  # activations, unit, value


@dataclasses.dataclass(frozen=True, kw_only=True)
class CausalDrops:
    """What holding each unit at its mean does to the logits of one facet's stimuli.

    Attributes:
        facet: name.
        path: of the units.
        units: their numbers.
        drop: by how much more a concept's logit falls on its own stimuli than on the others.
        z: the same in standard deviations of the other units that were looked at.
    """

    facet: str
    path: str
    units: tuple[int, ...]
    drop: Float[np.ndarray, "units concepts"]
    z: Float[np.ndarray, "units concepts"]


def causal_drop(
    model: Model,
    path: str,
    units: Sequence[int],
    facets: Facets,
    names: Sequence[str],
    *,
    batch_size: int = BATCH_SIZE,
) -> dict[str, CausalDrops]:
    """Holds units at their means one by one, and says what that does to each concept in each facet.

    l_c(x) is the zero-shot logit: the similarity of a stimulus, picture or text, with the name of
    the concept, times the temperature. C = mean over stimuli of c of l_c(x) - l_c(x; a_u := mean),
    less the same over the other stimuli. The mean is over places and stimuli of the facet. The
    names are embedded by the model as it is: only the stimulus runs without the unit.

    One compiled program serves all units of a tower: which unit is held is an argument, and what
    stands before the unit is computed once for several of them.

    Args:
        model: as loaded.
        path: of the units.
        units: their numbers; effects are compared among them, so take others along.
        facets: of one or both towers; those of a tower that does not run the path are left out.
        names: of the concepts, in the order of the labels; the prompts.
        batch_size: samples of a call.

    Raises:
        UserError: if the model has no such path or unit, or no facet runs it.
    """
    check_units(model.config, path, units)
    run_by = running(path, facets)
    towers: set[Tower] = {facet.rows.tower for facet in run_by.values()}
    # One program serves all facets of a tower.
    means = {tower: _Means(model, path, tower) for tower in towers}
    runs = {tower: _Runs(model, path, tower, names, _hold) for tower in towers}
    out = {}
    total = len(units) * sum(len(facet.owner) for facet in run_by.values())
    told = Progress(f"ablating {path}", total, "runs", quiet_seconds=_QUIET_SECONDS)
    with told:
        for name, facet in run_by.items():
            tower = facet.rows.tower
            held = means[tower].of(facet, batch_size)[list(units)]
            labels = facet.rows.labels.astype(np.float64)
            on, everywhere = runs[tower].sums_of_drops(facet, units, held, batch_size, told)
            drop = concept_drops(on, everywhere, labels.sum(axis=0), float(len(labels)))
            out[name] = CausalDrops(
                facet=name, path=path, units=tuple(units), drop=drop, z=among_others(drop)
            )
    return out


@dataclasses.dataclass(frozen=True, kw_only=True)
class SteeringCurve:
    """Logits and predictions of one facet against what is added to a unit.

    Attributes:
        facet: name.
        amounts: that were added, in the unit's own scale.
        on: mean logit of each concept over its own stimuli.
        off: mean logit of each concept over the other stimuli.
        predicted: share of all stimuli whose largest logit is that concept's.
    """

    facet: str
    amounts: tuple[float, ...]
    on: Float[np.ndarray, "amounts concepts"]
    off: Float[np.ndarray, "amounts concepts"]
    predicted: Float[np.ndarray, "amounts concepts"]


def steering_curve(
    model: Model,
    path: str,
    unit: int,
    facet: Facet,
    names: Sequence[str],
    amounts: Sequence[float],
    *,
    batch_size: int = BATCH_SIZE,
) -> SteeringCurve:
    """Adds each amount to one unit at every place, and returns the logits.

    Args:
        model: as loaded.
        path: of the unit.
        unit: its number.
        facet: whose stimuli are run.
        names: of the concepts, in the order of the labels; the prompts.
        amounts: in the unit's own scale.
        batch_size: samples of a call.

    Raises:
        UserError: if the model has no such path or unit, or the facet does not run it.
    """
    check_units(model.config, path, [unit])
    running(path, {facet.rows.name: facet})
    labels = facet.rows.labels.astype(np.float64)
    run = _Runs(model, path, facet.rows.tower, names, _move)
    values = np.asarray(amounts, np.float32)
    logits = run.logits(facet, [unit] * len(amounts), values, batch_size)
    positives = labels.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        on = np.einsum("arc,rc->ac", logits, labels) / positives
        off = np.einsum("arc,rc->ac", logits, 1 - labels) / (len(labels) - positives)
    largest = logits.argmax(axis=2)
    predicted = (largest[..., None] == np.arange(len(names))).mean(axis=1)
    return SteeringCurve(
        facet=facet.rows.name,
        amounts=tuple(map(float, amounts)),
        on=on,
        off=off,
        predicted=predicted,
    )


def place_means(
    model: Model, path: str, facet: Facet, *, batch_size: int = BATCH_SIZE
) -> Float[np.ndarray, " units"]:
    """Returns the mean of every unit of a path over places and stimuli of a facet, float32.

    Views of a stimulus count together as much as one stimulus, and so do the places of each view.
    """
    return _Means(model, path, facet.rows.tower).of(facet, batch_size)


class _Means:
    """Means over the places of a path's units, by one program for all facets of a tower."""

    def __init__(self, model: Model, path: str, tower: Tower):
        self._model = model

        def read(params: Any, x: jax.Array, weight: jax.Array) -> jax.Array:
            encode = _encode(with_params(model.config, params), tower)
            run = tapped(encode, read={path: "mean"}, write=model.encoder.write.get(tower))
            return weight @ run(x)[1][path]

        self._program: Any = jax.jit(read, out_shardings=replicated(model.encoder.mesh))

    def of(self, facet: Facet, batch_size: int) -> Float[np.ndarray, " units"]:
        """Returns the mean of every unit; see `place_means`."""
        total = 0.0
        with jax.set_mesh(self._model.encoder.mesh):
            for batch in _batches(self._model, facet, batch_size):
                weight = batch.weight.astype(np.float32)
                sums = self._program(self._model.params, batch.x, weight)
                total = total + np.asarray(sums.addressable_data(0), np.float64)
        return np.asarray(total / len(facet.rows.stimuli), np.float32)


class _Runs:
    """One tower of a model with one unit changed, for many units by one program."""

    def __init__(self, model: Model, path: str, tower: Tower, names: Sequence[str], change: Change):
        self._model = model
        mesh = model.encoder.mesh
        self._prompts = jnp.asarray(model.encode_text(list(names)) * model.logit_scale)
        earlier = model.encoder.write.get(tower, {})
        if path in earlier:
            raise UserError(f"{path} of this model is written already: take the model as loaded.")

        def one(params: Any, x: jax.Array, prompts: jax.Array, unit: Any, value: Any) -> jax.Array:
            write: dict[str, Write] = {
                **earlier,
                path: ("replace", lambda x: change(x, unit, value)),
            }
            encode = _encode(with_params(model.config, params), tower)
            return tapped(encode, write=write)(x)[0] @ prompts.T

        several = jax.vmap(one, in_axes=(None, None, None, 0, 0))
        self._program: Any = jax.jit(several, out_shardings=replicated(mesh))

    def _blocks(self, batch: FacetBatch, units: Sequence[int], values: np.ndarray) -> Any:
        """Yields which units, and logits [units, samples, concepts] with each of them changed."""
        numbers = np.asarray(units, np.int32)
        for first in range(0, len(units), UNITS_AT_ONCE):
            places = np.arange(first, first + UNITS_AT_ONCE) % len(units)
            with jax.set_mesh(self._model.encoder.mesh):
                logits = self._program(
                    self._model.params, batch.x, self._prompts, numbers[places], values[places]
                )
            count = min(UNITS_AT_ONCE, len(units) - first)
            yield slice(first, first + count), np.asarray(logits.addressable_data(0))[:count]

    def logits(
        self, facet: Facet, units: Sequence[int], values: np.ndarray, batch_size: int
    ) -> Float[np.ndarray, "units rows concepts"]:
        """Returns mean logits over the views of each stimulus."""
        rows = len(facet.rows.stimuli)
        out = np.zeros((len(units), rows, len(self._prompts)))
        for batch in _batches(self._model, facet, batch_size):
            hot = (np.arange(rows)[:, None] == batch.rows) * batch.weight
            for part, logits in self._blocks(batch, units, values):
                out[part] += hot @ logits
        return out

    def sums_of_drops(
        self,
        facet: Facet,
        units: Sequence[int],
        values: np.ndarray,
        batch_size: int,
        told: Progress,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns sums of drops over the stimuli of each concept, and over all; [units, concepts].

        Memory does not depend on the number of stimuli.
        """
        labels = facet.rows.labels.astype(np.float64)
        shape = (len(units), labels.shape[1])
        on, everywhere = np.zeros(shape), np.zeros(shape)
        for batch in _batches(self._model, facet, batch_size):
            _, plain = next(self._blocks(batch, [_NO_UNIT], np.zeros(1, np.float32)))
            of_all = np.repeat(batch.weight[:, None], labels.shape[1], axis=1)
            of_concept = of_all * labels[batch.rows]
            for part, logits in self._blocks(batch, units, values):
                drops = plain.astype(np.float64) - logits
                on[part] += np.einsum("urc,rc->uc", drops, of_concept)
                everywhere[part] += np.einsum("urc,rc->uc", drops, of_all)
                told.advance(int((batch.weight > 0).sum()) * len(logits))
        return on, everywhere


def _hold(x: jax.Array, unit: jax.Array, value: jax.Array) -> jax.Array:
    return jnp.where(jnp.arange(x.shape[-1]) == unit, value.astype(x.dtype), x)


def _move(x: jax.Array, unit: jax.Array, value: jax.Array) -> jax.Array:
    return x + jnp.where(jnp.arange(x.shape[-1]) == unit, value.astype(x.dtype), 0)


def _encode(network: Any, tower: str) -> Callable[[jax.Array], jax.Array]:
    return network.encode_image if tower == "image" else network.encode_text


def _batches(model: Model, facet: Facet, batch_size: int) -> Any:
    mesh = model.encoder.mesh
    return facet_batches(facet, model.config, model.tokenizer, mesh, batch_size=batch_size)
