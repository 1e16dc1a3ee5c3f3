"""Which names an atom of an autoencoder points at, and which atoms point at none."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from clipjax.core.paired_comparison import benjamini_hochberg
from clipjax.interpret.sae.features import Embeds
from clipjax.interpret.sae.model import Sae

UNLABELLED = "unlabelled"

_DRAWS = 20_000
_BLOCK = 4096


@dataclasses.dataclass(frozen=True, kw_only=True)
class AtomNames:
    """The nearest name of each atom.

    Attributes:
        best: place of the name.
        cosine: of the atom with that name.
        p_value: share of directions, drawn like embeddings, of which the nearest name is as near.
        q_value: the same after Benjamini and Hochberg 1995 over all atoms.
    """

    best: Int[np.ndarray, " latents"]
    cosine: Float[np.ndarray, " latents"]
    p_value: Float[np.ndarray, " latents"]
    q_value: Float[np.ndarray, " latents"]

    def labels(self, names: Sequence[str], *, rate: float = 0.05) -> list[str]:
        """Returns the name of each atom, "unlabelled" where q is above `rate`."""
        return [
            str(names[int(place)]) if q <= rate else UNLABELLED
            for place, q in zip(self.best, self.q_value, strict=True)
        ]


def name_atoms(
    sae: Sae, name_embeds: Embeds, embeds: Float[np.ndarray, "inputs embed"], *, seed: int = 0
) -> AtomNames:
    """Returns the name that each atom points at.

    An argmax always has an answer; here it must be nearer than the nearest name of a direction that
    is as likely as an embedding: a normal draw with the covariance of embeddings.

    Args:
        sae: the autoencoder.
        name_embeds: of the names, by the model's text tower, unit rows.
        embeds: inputs of the autoencoder (`Sae.inputs`), of which the covariance is taken.
        seed: of the draws.
    """
    names = _units(sae.inputs(name_embeds, "text").astype(np.float64))
    cosines = sae.decoder.astype(np.float64) @ names.T
    best = cosines.argmax(axis=1)
    cosine = cosines[np.arange(len(best)), best]
    chance = np.sort(_chance(embeds.astype(np.float64), names, seed))
    # A draw as near as the atom itself counts, so that p is never 0.
    above = len(chance) - np.searchsorted(chance, cosine, side="left")
    p_value = (1 + above) / (1 + len(chance))
    return AtomNames(best=best, cosine=cosine, p_value=p_value, q_value=benjamini_hochberg(p_value))


def _chance(embeds: np.ndarray, names: np.ndarray, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centred = embeds - embeds.mean(axis=0)
    values, vectors = np.linalg.eigh(centred.T @ centred / len(centred))
    root = vectors * np.sqrt(np.maximum(values, 0))
    found = []
    for first in range(0, _DRAWS, _BLOCK):
        draws = rng.normal(size=(min(_BLOCK, _DRAWS - first), len(root))) @ root.T
        found.append((_units(draws) @ names.T).max(axis=1))
    return np.concatenate(found)


def _units(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
