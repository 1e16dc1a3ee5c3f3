"""Units that are planted into a model's weights, so that it is known which answer to what.

The last linear map of each tower gets new columns: a ridge solution makes them fire for a concept
in all facets of the tower, out of whatever the rest of the network computes. Nothing else changes.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from clipjax.config import DualEncoderConfig, UserError
from clipjax.core.mesh import replicated
from clipjax.core.progress import Progress
from clipjax.inference.load import Model
from clipjax.interpret.detect_settings import DetectSettings
from clipjax.interpret.evidence import facet_strata
from clipjax.interpret.facet_batches import facet_batches
from clipjax.interpret.facets import Facet, FacetRows, Tower
from clipjax.interpret.model_units import TOWERS
from clipjax.interpret.statistics.ranks import count_positives, testable
from clipjax.interpret.statistics.strata import controlled_scores
from clipjax.models import param_shapes, with_params

PENALTY_SHARE = 0.01  # of the mean variance of a feature
_STEP = 3.0  # of a concept, in standard deviations of a coordinate
BATCH_SIZE = 64
_QUIET_SECONDS = 2.0

# Below a tower, what its output is linear in; the first that it has.
_LAST_MAPS = {
    "resnet": ("pool/out",),
    "convnext": ("head/fc2",),
    "vit": ("project", "pool/mlp/fc2"),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plant:
    """What was planted.

    Attributes:
        params: of the model with the planted units.
        units: coordinates of the shared space that fire for a concept in all facets.
        concepts: of each unit, its concept.
        decoys: coordinates that fire for one concept in pictures and for another in texts.
        decoy_concepts: of each decoy, that of pictures and that of texts.
        fitted: which stimuli the weights were fitted on, by facet.
    """

    params: Mapping[str, jax.Array]
    units: Int[np.ndarray, " planted"]
    concepts: Int[np.ndarray, " planted"]
    decoys: Int[np.ndarray, " decoys"]
    decoy_concepts: Int[np.ndarray, "decoys 2"]
    fitted: Mapping[str, Bool[np.ndarray, " rows"]]


def last_map(config: DualEncoderConfig, tower: str) -> str:
    """Returns the name of the kernel that a tower's output is linear in.

    Args:
        config: of the model.
        tower: "image" or "text".

    Raises:
        UserError: if the tower ends in something else, such as a norm.
    """
    kind = config.image.kind if tower == "image" else config.text.kind
    shapes = param_shapes(config)
    for part in _LAST_MAPS.get(kind, ("project",)):
        name = f"{tower}/{part}/kernel"
        if name in shapes and shapes[name][-1] == config.embed_dim:
            return name
    raise UserError(
        f"the {tower} tower ({kind}) ends in no linear map of its own, so nothing can be planted "
        f"in it. Choose a model whose towers have a projection (model.{tower}.projection)."
    )


class TowerFeatures:
    """What the last linear map of a tower sees, read through that map with kernels of 0 and 1.

    Args:
        model: whose tower it is.
        tower: "image" or "text".

    Attributes:
        kernel: name of the map.
        inputs: how many numbers it sees.

    Raises:
        UserError: if the tower ends in no linear map.
    """

    def __init__(self, model: Model, tower: Tower):
        self._model = model
        self.kernel = last_map(model.config, tower)
        shape = param_shapes(model.config)[self.kernel]
        self.inputs = int(np.prod(shape[:-1]))
        dim, blocks = shape[-1], -(-self.inputs // shape[-1])
        picks = np.zeros((blocks + 1, blocks * dim, dim), np.float32)  # the last picks nothing
        for block in range(blocks):
            picks[block, block * dim : (block + 1) * dim] = np.eye(dim)
        self._picks = jnp.asarray(picks[:, : self.inputs].reshape(blocks + 1, *shape))

        def read(params: Any, picks: jax.Array, x: jax.Array) -> jax.Array:
            def one(pick: jax.Array) -> jax.Array:
                network = with_params(model.config, {**params, self.kernel: pick})
                return network.tower_output(tower, x)

            return jax.vmap(one)(picks)

        self._program: Any = jax.jit(read, out_shardings=replicated(model.encoder.mesh))

    def of(
        self, facet: Facet, told: Progress, *, batch_size: int = BATCH_SIZE
    ) -> tuple[Float[np.ndarray, "rows inputs"], Float[np.ndarray, "rows embed"]]:
        """Returns what the map sees of each stimulus, and what is added behind it.

        Float64, means over views. What is added is the bias, or what goes around the map.
        """
        rows = len(facet.rows.stimuli)
        seen = np.zeros((rows, self.inputs))
        added = np.zeros((rows, self._model.config.embed_dim))
        mesh = self._model.encoder.mesh
        batches = facet_batches(
            facet, self._model.config, self._model.tokenizer, mesh, batch_size=batch_size
        )
        for batch in batches:
            with jax.set_mesh(mesh):
                out = self._program(self._model.params, self._picks, batch.x)
            read = np.asarray(out.addressable_data(0), np.float64)
            rest, parts = read[-1], read[:-1] - read[-1]
            flat = np.concatenate(list(parts), axis=1)[:, : self.inputs]
            np.add.at(seen, batch.rows, batch.weight[:, None] * flat)
            np.add.at(added, batch.rows, batch.weight[:, None] * rest)
            told.advance(int((batch.weight > 0).sum()))
        return seen, added


@dataclasses.dataclass(frozen=True)
class _Read:
    """What is known of one facet: inputs of the last map, what is added, rows, which to fit."""

    seen: Float[np.ndarray, "rows inputs"]
    added: Float[np.ndarray, "rows embed"]
    rows: FacetRows
    fitted: Bool[np.ndarray, " rows"]

    @property
    def labels(self) -> Bool[np.ndarray, "fitted concepts"]:
        """Of the rows that are fitted on."""
        return self.rows.labels[self.fitted]


def plant(
    model: Model,
    facets: Mapping[str, Facet],
    *,
    units: int,
    decoys: int,
    seed: int,
    held_out: float = 0.2,
    settings: DetectSettings | None = None,
) -> Plant:
    """Plants units into the last linear maps of both towers of a model.

    A column of the image tower's map fires for a concept in all facets of pictures, and the same
    column of the text tower's for the same concept in texts: a ridge solution, positives as heavy
    as negatives and all facets of a tower alike, over the stimuli that are not held out. Columns
    are as large as the others are, so that unit length does not carry them into the others. The
    concepts are those that such columns tell most surely on the stimuli fitted on, with confounds
    held still, in the facet where they do so worst: what a network knows of a concept may be
    nothing but how bright its pictures are, and such a unit is none. Decoys fire for one concept
    in pictures and for another one in texts, which share no stimulus: they are no multimodal units.

    Args:
        model: random or trained; it stays as it is.
        facets: of both towers; rows with one id are one thing.
        units: to plant, each for another concept.
        decoys: to plant.
        seed: which coordinates, decoys and held-out stimuli.
        held_out: share of the stimuli, by id, and at most of each concept's in a facet, that is
            not fitted on.
        settings: of the tests by which concepts are chosen; the usual ones by default.

    Raises:
        UserError: if there are too few coordinates or concepts, a tower ends in no linear map, or
            no facet shows a tower anything.

    Source: Hoerl and Kennard 1970, "Ridge Regression: Biased Estimation for Nonorthogonal
    Problems", Technometrics 12.
    """
    rng = np.random.default_rng(seed)
    reads = _read(model, facets, rng, held_out)
    names = {tower: [n for n, f in facets.items() if f.rows.tower == tower] for tower in TOWERS}
    labels = np.concatenate([facet.rows.labels for facet in facets.values()])
    _check_room(model.config.embed_dim, units, decoys, labels)
    order = rng.permutation(model.config.embed_dim)[: units + decoys]
    settings = settings or DetectSettings()
    strength = np.min(
        [_strength([reads[n] for n in of_tower], settings) for of_tower in names.values()], axis=0
    )
    chosen = rng.permutation(np.argsort(-strength, kind="stable")[:units])
    pairs = _apart(strength, labels, decoys, rng)
    wanted = {
        "image": np.concatenate([chosen, pairs[:, 0]]),
        "text": np.concatenate([chosen, pairs[:, 1]]),
    }
    params = dict(model.params)
    for tower, of_tower in names.items():
        kernel = last_map(model.config, tower)
        params |= _with_columns(params, kernel, [reads[n] for n in of_tower], order, wanted[tower])
    return Plant(
        params=params,
        units=order[:units],
        concepts=chosen,
        decoys=order[units:],
        decoy_concepts=pairs,
        fitted={name: read.fitted for name, read in reads.items()},
    )


def _read(
    model: Model, facets: Mapping[str, Facet], rng: np.random.Generator, held_out: float
) -> dict[str, _Read]:
    kept = _kept(facets, rng, held_out)
    reads = {}
    total = sum(len(facet.owner) for facet in facets.values())
    with Progress("reading features", total, quiet_seconds=_QUIET_SECONDS) as told:
        for tower in TOWERS:
            features = TowerFeatures(model, tower)
            of_tower = {n: f for n, f in facets.items() if f.rows.tower == tower}
            if not of_tower:
                raise UserError(f"no facet shows the {tower} tower anything: nothing to plant.")
            for name, facet in of_tower.items():
                fitted = np.array([one in kept for one in facet.rows.stimuli])
                reads[name] = _Read(*features.of(facet, told), facet.rows, fitted)
    return reads


def _kept(facets: Mapping[str, Facet], rng: np.random.Generator, held_out: float) -> set[str]:
    """Draws the stimuli that are fitted on.

    In no facet does a concept lose more than its share to the others: where one stimulus shows it,
    that one is fitted on.
    """
    concepts = next(iter(facets.values())).rows.labels.shape[1]
    labels: dict[str, np.ndarray] = {}
    for place, facet in enumerate(facets.values()):
        for one, row in zip(facet.rows.stimuli, facet.rows.labels, strict=True):
            labels.setdefault(one, np.zeros((len(facets), concepts), bool))[place] = row
    things = sorted(labels)
    table = np.array([labels[one] for one in things])
    room = held_out * table.sum(axis=0)
    kept, lost = set(things), np.zeros(room.shape)
    for thing in rng.permutation(len(things)).tolist():
        fits = (lost + table[thing] <= room) | ~table[thing]
        if fits.all() and len(things) - len(kept) < held_out * len(things):
            kept.remove(things[thing])
            lost += table[thing]
    return kept


def _check_room(embed_dim: int, units: int, decoys: int, labels: np.ndarray) -> None:
    concepts = int(labels.any(axis=0).sum())
    if units > concepts:
        raise UserError(f"{units} units are to be planted, but there are {concepts} concepts.")
    if 2 * (units + decoys) > embed_dim:
        raise UserError(
            f"{units} units and {decoys} decoys are more than half of the {embed_dim} coordinates "
            "of the shared space, so that too few are left as they are. Plant fewer."
        )


def _column(
    reads: Sequence[_Read], concept: int, around: Float[np.ndarray, " fitted"] | float = 0.0
) -> Float[np.ndarray, " inputs"]:
    """Returns a ridge solution that is 1 on the stimuli of a concept and 0 on the others.

    Args:
        reads: of the facets of one tower.
        concept: its number.
        around: what is added to the result, of the rows fitted on.
    """
    x = np.concatenate([read.seen[read.fitted] for read in reads])
    shown = [read.labels[:, concept] for read in reads]
    on = np.concatenate(shown).astype(np.float64)
    weight = np.sqrt(np.concatenate([_weights(here) for here in shown]) / len(reads))
    penalty = PENALTY_SHARE * np.mean([read.seen[read.fitted].var(axis=0).mean() for read in reads])
    x, y = weight[:, None] * x, weight * (on - around)
    if len(x) < x.shape[1]:  # the smaller of two systems with one solution
        return x.T @ np.linalg.solve(x @ x.T + penalty * np.eye(len(x)), y)
    return np.linalg.solve(x.T @ x + penalty * np.eye(x.shape[1]), x.T @ y)


def _weights(on: Bool[np.ndarray, " rows"]) -> Float[np.ndarray, " rows"]:
    """Returns weights with sum 1, half of it that of the positives."""
    share = np.clip(on.mean(), 1e-9, 1 - 1e-9)
    return np.where(on, 0.5 / share, 0.5 / (1 - share)) / len(on)


def _strength(reads: Sequence[_Read], settings: DetectSettings) -> Float[np.ndarray, " concepts"]:
    """Returns how sure it is that a column tells each concept, in the facet where it does so worst.

    That is -log p, with confounds held still, on the stimuli that the column was fitted on. Facets
    that are too small for a test have no say.
    """
    concepts = reads[0].labels.shape[1]
    columns = np.stack([_column(reads, concept) for concept in range(concepts)], axis=1)
    worst = np.full(concepts, np.finfo(np.float64).tiny)
    for read in reads:
        every = read.rows.labels
        if testable(count_positives(every), len(every), settings.least).any():
            strata = facet_strata(read.rows.confounds[read.fitted], settings)
            here = read.seen[read.fitted] @ columns
            scores = controlled_scores(here, read.labels, strata, min_positives=1)
            worst = np.maximum(worst, np.nan_to_num(np.diagonal(scores.p_value), nan=1.0))
    return -np.log(worst)


def _apart(
    strength: np.ndarray, labels: np.ndarray, count: int, rng: np.random.Generator
) -> Int[np.ndarray, "decoys 2"]:
    """Draws pairs of concepts that share no stimulus, among those that can be planted best."""
    best = np.argsort(-strength, kind="stable")
    together = labels.astype(np.int64).T @ labels
    pairs = [(a, b) for a in best for b in best if a != b and not together[a, b]]
    half = pairs[: max(count, len(pairs) // 2)]
    if len(half) < count:
        raise UserError(
            f"{count} decoys need as many pairs of concepts without a stimulus in common, and "
            f"there are {len(half)}. Plant fewer decoys."
        )
    drawn = [half[i] for i in rng.permutation(len(half))[:count]]
    return np.array(drawn, np.int64).reshape(count, 2)


def _with_columns(
    params: Mapping[str, jax.Array],
    kernel: str,
    reads: Sequence[_Read],
    units: np.ndarray,
    concepts: np.ndarray,
) -> dict[str, jax.Array]:
    """Returns the kernel with columns for the concepts, and the map's bias without theirs."""
    old = params[kernel]
    flat = np.array(old, np.float64).reshape(-1, old.shape[-1])
    bias = kernel.removesuffix("kernel") + "bias"
    shift = np.array(params[bias], np.float64) if bias in params else np.zeros(old.shape[-1])
    around = np.concatenate([read.added[read.fitted] for read in reads]) - shift
    size = np.median([(read.seen @ flat + read.added).std(axis=0).mean() for read in reads])
    for unit, concept in zip(units.tolist(), concepts.tolist(), strict=True):
        goes_around = bool(around[:, unit].any())
        # What goes around the map cannot be scaled afterwards.
        scale = _STEP * size if goes_around else 1.0
        column = scale * _column(reads, concept, around[:, unit] / scale)
        if not goes_around:
            column *= size / np.mean([(read.seen @ column).std() for read in reads])
        flat[:, unit], shift[unit] = column, 0
    placed = {kernel: flat.reshape(old.shape)} | ({bias: shift} if bias in params else {})
    return {
        name: jax.device_put(jnp.asarray(array, params[name].dtype), params[name].sharding)
        for name, array in placed.items()
    }
