"""Models with some of their units held still or moved; otherwise they are used as any other."""

import hashlib
import json
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from clipjax.config import UserError
from clipjax.inference.load import Model
from clipjax.interpret.causal import place_means
from clipjax.interpret.facets import Facet
from clipjax.interpret.model_units import check_units, towers_of
from clipjax.models.taps import Write


def ablate(
    model: Model,
    path: str,
    units: Sequence[int],
    *,
    value: str | float = "mean",
    facets: Mapping[str, Facet] | None = None,
) -> Model:
    """Returns the model with some units held at one value at every place.

    Args:
        model: as loaded; it stays as it is.
        path: of the units, such as "image/blocks/11/mlp_act".
        units: their numbers.
        value: "mean" for each unit's mean over places and stimuli, of the facets of its own tower;
            "zero"; or a number.
        facets: that the mean is taken over.

    Raises:
        UserError: if the model has no such path or unit, or there is nothing to take a mean of.
    """
    check_units(model.config, path, units)
    towers = towers_of(path)
    if value == "mean":
        held = _means_by_tower(model, path, facets, towers)
        values = {tower: jnp.asarray(held[tower][list(units)]) for tower in towers}
    elif isinstance(value, str) and value != "zero":
        raise UserError(f"value={value!r}: wanted 'mean', 'zero' or a number.")
    else:
        number = 0.0 if value == "zero" else float(value)
        values = {tower: jnp.full(len(units), number) for tower in towers}
    return _written(model, path, units, "replace", values)


def steer(model: Model, path: str, units: Sequence[int], amount: float | Sequence[float]) -> Model:
    """Returns the model with a number added to some units at every place.

    Args:
        model: as loaded; it stays as it is.
        path: of the units.
        units: their numbers.
        amount: of all units, or of each, in the unit's own scale: multiply by its standard
            deviation (`UnitSummary.deviation`) for what is comparable between units.

    Raises:
        UserError: if the model has no such path or unit.
    """
    check_units(model.config, path, units)
    added = jnp.broadcast_to(jnp.asarray(amount, jnp.float32), (len(units),))
    return _written(model, path, units, "add", dict.fromkeys(towers_of(path), added))


def _means_by_tower(
    model: Model, path: str, facets: Mapping[str, Facet] | None, towers: Sequence[str]
) -> dict[str, np.ndarray]:
    """Returns the means of all units, every facet of a tower counting the same."""
    out = {}
    for tower in towers:
        of_tower = [one for one in (facets or {}).values() if one.rows.tower == tower]
        if not of_tower:
            raise UserError(
                f"{path}: value='mean' needs stimuli of the {tower} tower to take the mean of. "
                "Give facets=, or value='zero' or a number."
            )
        out[tower] = np.mean([place_means(model, path, one) for one in of_tower], axis=0)
    return out


def _written(
    model: Model,
    path: str,
    units: Sequence[int],
    mode: str,
    values: Mapping[str, jax.Array],
) -> Model:
    """Returns the model with values for the units, by tower, on top of what is written already."""
    write: dict[str, dict[str, Write]] = {k: dict(v) for k, v in model.encoder.write.items()}
    for tower, value in values.items():
        of_tower = write.setdefault(tower, {})
        if path in of_tower:
            raise UserError(f"{path} of this model is written already: give its units at once.")
        of_tower[path] = (mode, value, tuple(units))
    told = [path, list(units), mode, {k: np.asarray(v).tolist() for k, v in values.items()}]
    identity = hashlib.sha256(json.dumps([model.identity, told]).encode()).hexdigest()
    encoder = model.encoder.writing(write)
    return Model(model.config, model.params, model.tokenizer, encoder, model.step, identity)
