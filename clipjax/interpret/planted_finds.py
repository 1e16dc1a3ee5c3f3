"""Whether the lab finds what is known to be there, in a network of the user's own kind.

Units are planted into the weights of a random network (`clipjax.interpret.planting`); the network
goes through the scan and the tests as any other, and so does the same network without them. What
is found is then right or wrong, which of a trained network nobody knows.
"""

import dataclasses
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from clipjax.config import DualEncoderConfig, MeshConfig, UserError
from clipjax.core.mesh import make_mesh, replicated
from clipjax.data.tokenizers import Tokenizer
from clipjax.inference.encoder import Encoder
from clipjax.inference.load import Model
from clipjax.interpret.detect_settings import DetectSettings
from clipjax.interpret.detection import detect
from clipjax.interpret.planting import Plant, plant
from clipjax.interpret.scan_files import Scan
from clipjax.interpret.scanning import scan
from clipjax.interpret.statistics.ranks import facet_scores
from clipjax.interpret.stimuli import Stimuli
from clipjax.models import init_model_state, init_params

PATH = "shared/embed"
UNITS, DECOYS = 20, 5
RECALL, PRECISION = 0.95, 0.95
_UNITS_OF_A_SPACE, _DECOYS_OF_A_SPACE = 4, 16  # coordinates for each of them, by default


@dataclasses.dataclass(frozen=True, kw_only=True)
class Selftest:
    """What was planted and what was found; units are coordinates of the shared space.

    Attributes:
        facets: in which units were looked for.
        planted: units that were planted.
        decoys: coordinates that fire for different concepts in pictures and texts.
        found: units that were found; both directions of a coordinate are units.
        recall: share of the planted units that were found.
        precision: share of the found units that were planted; 1 if none was found.
        right_concept: share of the found planted units whose strongest concept is the planted one.
        missed: names of the planted units that were not found.
        wrong: names of the found units that were not planted.
        decoys_found: of these, decoys.
        unplanted: units found in the same network before anything was planted.
        auroc: median over the planted units, by facet: how strong the plant is.
        auroc_held_out: the same over stimuli that the plant was not fitted on; None for a facet
            of which all were.
        seed: of the plant.
    """

    facets: tuple[str, ...]
    planted: int
    decoys: int
    found: int
    recall: float
    precision: float
    right_concept: float
    missed: tuple[str, ...]
    wrong: tuple[str, ...]
    decoys_found: int
    unplanted: int
    auroc: Mapping[str, float | None]
    auroc_held_out: Mapping[str, float | None]
    seed: int

    @property
    def passed(self) -> bool:
        """Whether a run of the lab on such a network can be trusted."""
        enough = self.recall >= RECALL and self.precision >= PRECISION
        return enough and self.unplanted == 0

    def to_json(self) -> dict[str, Any]:
        """Returns the numbers by name."""
        return {**dataclasses.asdict(self), "passed": self.passed}


def random_network(
    config: DualEncoderConfig, tokenizer: Tokenizer, *, seed: int, batch_size: int = 64
) -> Model:
    """Returns a network with initial parameters on all devices, computing in float32.

    What is planted is small beside the activations that it is made of: in 16 bits it would drown.

    Args:
        config: of the model.
        tokenizer: of the model.
        seed: of the parameters.
        batch_size: items of one call.
    """
    compute = dataclasses.replace(
        config.compute, dtype="float32", reduce_dtype=None, attention="auto"
    )
    config = dataclasses.replace(config, compute=compute)
    mesh = make_mesh(MeshConfig(fsdp=1))
    make = jax.jit(
        lambda: {**init_params(config, seed), **init_model_state(config)},
        out_shardings=replicated(mesh),
    )
    encoder = Encoder(config, tokenizer, mesh, batch_size=batch_size)
    return Model(config, make(), tokenizer, encoder, 0, f"untrained {seed}")


def selftest(
    model: Model,
    stimuli: Stimuli,
    *,
    units: int | None = None,
    decoys: int | None = None,
    seed: int = 0,
    settings: DetectSettings | None = None,
) -> Selftest:
    """Plants units into a network and looks for them as `clipjax neurons scan` and `test` do.

    Args:
        model: with random parameters, so that it holds no units of its own.
        stimuli: facets of both towers; three or more, as two clustered ones coincide by chance.
        units: to plant; by default 20, but no more than a quarter of the coordinates.
        decoys: to plant; by default 5, but no more than a sixteenth.
        seed: of the plant.
        settings: of the tests; the usual ones by default.

    Raises:
        UserError: if nothing can be planted, or the stimuli do not show both towers anything.
    """
    dim = model.config.embed_dim
    concepts = len(stimuli.concepts)
    units = min(UNITS, dim // _UNITS_OF_A_SPACE, concepts) if units is None else units
    decoys = min(DECOYS, dim // _DECOYS_OF_A_SPACE) if decoys is None else decoys
    if units < 1:
        raise UserError(f"embed_dim={dim} is too small to plant a unit in.")
    settings = dataclasses.replace(settings or DetectSettings(), units=(PATH,))
    facets = {n: f for n, f in stimuli.facets.items() if not f.rows.is_control}
    planted = plant(model, facets, units=units, decoys=decoys, seed=seed, settings=settings)
    before, _, _ = _found(model, stimuli, settings)
    changed = Model(
        model.config, planted.params, model.tokenizer, model.encoder, 0, f"planted {seed}"
    )
    found, effect, scanned = _found(changed, stimuli, settings)
    return _judged(found, effect, before, planted, scanned, seed)


Pairs = np.ndarray


def _found(
    model: Model, stimuli: Stimuli, settings: DetectSettings
) -> tuple[Pairs, Pairs, dict[str, tuple[np.ndarray, np.ndarray]]]:
    """Returns which pairs were found, how strong they are, and activations and labels by facet."""
    with tempfile.TemporaryDirectory(prefix="clipjax-") as folder:
        out = Path(folder) / "scan"
        scan(model, stimuli, out=out, units=(PATH,), store="exact", name="selftest")
        made = Scan(out)
        arrays = detect(made, settings, controls=False).arrays
        seen = {
            name: (np.array(made.activations(name, PATH)), made.rows(name).labels)
            for name in made.facets_of(PATH)
            if not made.rows(name).is_control
        }
    return arrays[f"{PATH}:found"] > 0, arrays[f"{PATH}:effect"], seen


def _judged(
    found: Pairs,
    effect: Pairs,
    before: Pairs,
    planted: Plant,
    scanned: Mapping[str, tuple[np.ndarray, np.ndarray]],
    seed: int,
) -> Selftest:
    width = next(iter(scanned.values()))[0].shape[1]
    units = np.logical_or.reduce(found, axis=1)
    signed = len(units) > width
    is_planted = np.isin(np.arange(len(units)), planted.units)  # up: the second half is down
    hits = planted.units[units[planted.units]]
    concept_of = dict(zip(planted.units.tolist(), planted.concepts.tolist(), strict=True))
    strongest = {u: int(np.where(found[u], effect[u], -1).argmax()) for u in hits.tolist()}
    wrong = np.flatnonzero(units & ~is_planted)
    missed = [u for u in planted.units.tolist() if not units[u]]

    def names(numbers: Sequence[int]) -> tuple[str, ...]:
        signs = ("+", "-") if signed else ("", "")
        return tuple(f"{PATH}:{n % width}{signs[n // width]}" for n in sorted(numbers))

    return Selftest(
        facets=tuple(scanned),
        planted=len(planted.units),
        decoys=len(planted.decoys),
        found=int(units.sum()),
        recall=len(hits) / len(planted.units),
        precision=len(hits) / int(units.sum()) if units.any() else 1.0,
        right_concept=_share([strongest[u] == concept_of[u] for u in strongest]),
        missed=names(missed),
        wrong=names(wrong.tolist()),
        decoys_found=int(np.isin(wrong % width, planted.decoys).sum()),
        unplanted=int(before.any(axis=1).sum()),
        auroc={n: _strength(*pair, planted, None) for n, pair in scanned.items()},
        auroc_held_out={
            n: _strength(*pair, planted, ~planted.fitted[n]) for n, pair in scanned.items()
        },
        seed=seed,
    )


def _share(right: Sequence[bool]) -> float:
    return float(np.mean(right)) if right else 0.0


def _strength(
    activations: np.ndarray, labels: np.ndarray, planted: Plant, rows: np.ndarray | None
) -> float | None:
    """Returns the median AUROC of planted units for their concepts, over some rows.

    None where these rows show none of the concepts.
    """
    rows = np.ones(len(labels), bool) if rows is None else rows
    scores = facet_scores(
        activations[rows][:, planted.units], labels[rows], min_positives=1, exact_below=0
    )
    own = scores.auroc[np.arange(len(planted.units)), planted.concepts]
    return float(np.nanmedian(own)) if np.isfinite(own).any() else None
