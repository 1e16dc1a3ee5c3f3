"""Emergence curves: what a model's units are at one step of its training.

    neurons/multimodal_units      units that answer to one concept in all facets
    neurons/replicated_pairs      of a unit and a concept, found in both halves of the stimuli
    neurons/strict_units          with an AUROC above 0.8 for one concept in all facets
    neurons/cross_modal_ratio     whether the pictures and texts of an axis mean the same; chance 1
    neurons/cross_modal_ratio_rotated   the same of random axes of the same space
    neurons/bimodal_share         axes that pictures and texts use about as much
    neurons/live_axes             axes that any of them uses
    neurons/modality_gap          distance between the means of pictures and of texts
    neurons/reading_accuracy      pictures of words that are nearest to the word's own text

Definitions: `clipjax.interpret.emergence_scores`. What the stimuli have no facet for is left out.
"""

import os
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float

from clipjax.config import DualEncoderConfig, NeuronsConfig, UserError
from clipjax.core.mesh import batch_devices, batch_sharding, local_rows, put_rows, replicated
from clipjax.core.progress import Progress
from clipjax.data.ordered_map import ordered_map
from clipjax.data.tokenizers import Tokenizer
from clipjax.interpret.emergence_scores import (
    Values,
    curves,
    reading_accuracy,
    space_scores,
)
from clipjax.interpret.facet_samples import FacetSamples, mean_of_views, sample_spec
from clipjax.interpret.facets import Facet, FacetRows, Tower
from clipjax.interpret.stimuli import Stimuli, open_stimuli
from clipjax.models import is_non_negative, tapped, unit_paths, with_params

Params = Mapping[str, jax.Array]

EMBED = "shared/embed"
_WORDS = "word"
_QUIET_SECONDS = 2.0


class NotFiniteError(UserError):
    """An activation is NaN or infinite, the same in every process."""


class Emergence:
    """Shows stimuli to a model whose parameters change; every process takes part.

    Args:
        config: of the model.
        tokenizer: of its texts.
        mesh: the batch is split over all its axes but `tensor`.
        stimuli: what is shown.
        neurons: which units, and how many stimuli at a time.

    Raises:
        UserError: if a path names no unit of the model.
    """

    def __init__(
        self,
        config: DualEncoderConfig,
        tokenizer: Tokenizer,
        mesh: Mesh,
        stimuli: Stimuli,
        neurons: NeuronsConfig,
    ):
        self._config, self._tokenizer, self._mesh, self._stimuli = config, tokenizer, mesh, stimuli
        parts = batch_devices(mesh)
        self._size = -(-neurons.batch_size // parts) * parts
        self._rows = local_rows(mesh, self._size)
        self._chosen = tuple(unit_paths(config, neurons.units))
        read = dict.fromkeys((*self._chosen, EMBED))
        self._paths: dict[Tower, list[str]] = {
            tower: [path for path in read if path.startswith((f"{tower}/", EMBED))]
            for tower in ("image", "text")
        }
        self._programs: dict[Tower, Any] = {
            tower: self._program(tower, neurons.pool) for tower in self._paths
        }

    def compile(self, params: Params) -> None:
        """Compiles both towers for parameters with these shardings; nothing is compiled after."""
        with jax.set_mesh(self._mesh):
            for tower, program in self._programs.items():
                shape, dtype = sample_spec(self._config, tower)
                x = jax.ShapeDtypeStruct(
                    (self._size, *shape), dtype, sharding=batch_sharding(self._mesh)
                )
                self._programs[tower] = program.lower(params, x).compile()

    def run(self, params: Params) -> dict[str, float]:
        """Returns the metrics of a model by name, the same in every process.

        Args:
            params: of the model.

        Raises:
            NotFiniteError: if an activation is not finite, naming unit and stimulus.
        """
        rows = {name: facet.rows for name, facet in self._stimuli.facets.items()}
        values = {name: self._facet(params, f) for name, f in self._stimuli.facets.items()}
        by_path: dict[str, dict[str, Values]] = {
            path: {name: found[path] for name, found in values.items() if path in found}
            for path in self._chosen
        }
        signed = {p: p == EMBED and not is_non_negative(self._config, p) for p in by_path}
        out = curves(rows, by_path, signed)
        embeds = {name: found[EMBED] for name, found in values.items()}
        if (pair := picture_and_text(rows)) is not None:
            first, second = ((rows[name], embeds[name]) for name in pair)
            out |= space_scores(first, second)
        if _WORDS in rows:
            accuracy = reading_accuracy(rows[_WORDS], embeds[_WORDS], self._classes(params))
            out |= {} if accuracy is None else {"reading_accuracy": accuracy}
        return {f"neurons/{name}": value for name, value in out.items()}

    def _program(self, tower: Tower, pool: str) -> Any:
        whole, split = replicated(self._mesh), batch_sharding(self._mesh)
        read = dict.fromkeys(self._paths[tower], pool)

        def forward(params: Params, x: jax.Array) -> dict[str, jax.Array]:
            model = with_params(self._config, params)
            encode = model.encode_image if tower == "image" else model.encode_text
            return tapped(encode, read=read)(x)[1]

        return jax.jit(forward, in_shardings=(None, split), out_shardings=whole)

    def _facet(self, params: Params, facet: Facet) -> dict[str, Values]:
        """Returns activations by path, views of a stimulus averaged."""
        rows, fill = facet.rows, FacetSamples(facet, self._tokenizer).fill
        found = self._forward(params, rows.tower, rows.name, rows.samples, fill)
        out = {}
        for path, array in found.items():
            _check_finite(path, array, facet)
            out[path] = mean_of_views(array, facet)
        return out

    def _classes(self, params: Params) -> Float[np.ndarray, "concepts embed"]:
        names = [concept.name for concept in self._stimuli.concepts]

        def fill(number: int, out: np.ndarray) -> None:
            out[...] = self._tokenizer(names[number])

        return self._forward(params, "text", "names of concepts", len(names), fill)[EMBED]

    def _forward(
        self,
        params: Params,
        tower: Tower,
        what: str,
        samples: int,
        fill: Callable[[int, np.ndarray], None],
    ) -> dict[str, np.ndarray]:
        """Returns float32 [samples, units] by path."""
        shape, dtype = sample_spec(self._config, tower)
        threads = min(16, os.cpu_count() or 1)
        parts: dict[str, list[np.ndarray]] = {path: [] for path in self._paths[tower]}

        def filled(place: int) -> np.ndarray:
            row = np.zeros(shape, dtype)
            if place < samples:
                fill(place, row)
            return row

        quiet = _QUIET_SECONDS if jax.process_index() == 0 else np.inf
        with Progress(f"showing {what}", samples, "stimuli", quiet_seconds=quiet) as told:
            for first in range(0, samples, self._size):
                mine = (int(first + row) for row in self._rows)
                x = np.stack(list(ordered_map(filled, mine, threads=threads)))
                with jax.set_mesh(self._mesh):
                    placed = put_rows(x, self._rows, self._size, self._mesh)
                    found = self._programs[tower](params, placed)
                for path, array in found.items():
                    parts[path].append(np.asarray(array.addressable_data(0))[: samples - first])
                told.advance(min(self._size, samples - first))
        return {path: np.concatenate(arrays) for path, arrays in parts.items()}


def picture_and_text(rows: Mapping[str, FacetRows]) -> tuple[str, str] | None:
    """Returns the facets of pictures and of texts that share most stimuli, None if none does.

    Of equal ones the first counts; controls do not.
    """
    best: tuple[str, str] | None = None
    most = 0
    for one, first in rows.items():
        for other, second in rows.items():
            if (first.tower, second.tower) != ("image", "text"):
                continue
            shared = len(set(first.stimuli) & set(second.stimuli))
            if shared > most and not (first.is_control or second.is_control):
                best, most = (one, other), shared
    return best


def emergence_line(step: int, metrics: Mapping[str, float], seconds: float) -> str:
    """Returns the metrics as one line of the terminal."""
    told = "  ".join(
        f"{name.removeprefix('neurons/').replace('_', ' ')} {value:.4g}"
        for name, value in metrics.items()
    )
    return f"neurons at step {step:,} ({seconds:.1f} s): {told}"


def _check_finite(path: str, array: np.ndarray, facet: Facet) -> None:
    wrong = np.argwhere(~np.isfinite(array))
    if len(wrong):
        sample, unit = wrong[0]
        stimulus = facet.rows.stimuli[facet.owner[sample]]
        raise NotFiniteError(
            f"{path}:{unit}: its activation for the stimulus {stimulus} of facet "
            f"{facet.rows.name} is {array[sample, unit]}; expected a finite number. If the "
            "model diverged, lower optim.peak_learning_rate."
        )


def open_for_run(neurons: NeuronsConfig, config: DualEncoderConfig, root: str) -> Stimuli | None:
    """Returns the stimuli of a run, None where it does not look at its units.

    Args:
        neurons: of the run.
        config: of the model.
        root: folder that a relative address starts from.

    Raises:
        UserError: if there are no stimuli, or a path names no unit.
    """
    if not neurons.every_steps:
        return None
    unit_paths(config, neurons.units)
    return open_stimuli(neurons.stimuli, config, root=root)
