"""Activations of which it is known which units answer to which concepts, to test detectors with."""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlantConfig:
    """What is planted, and in what noise.

    Attributes:
        units: all units.
        concepts: all concepts.
        stimuli: of each facet; the same things in all facets.
        facets: how many.
        planted: units that answer to one concept in all facets.
        single: units that answer to one concept in one facet only.
        divergent: units that answer to another concept in each facet.
        effect: d', how far positives are shifted, in standard deviations of the unit's background,
            which is noise, shared factors and the confound.
        tail: degrees of freedom of the noise's Student t; few are heavy tails.
        factors: causes that units of a facet share, which make them depend on each other.
        shared: share of a unit's variance that the factors explain.
        rectified: share of the units that are ReLUs: about half of their activations are zero.
        fewest: positives of the rarest concept.
        most: positives of the commonest concept, about.
        confound: how strongly half of the units follow, and half of the concepts depend on, a
            property of the stimulus such as its luminance; 0 for not at all.
    """

    units: int = 256
    concepts: int = 40
    stimuli: int = 600
    facets: int = 2
    planted: int = 60
    single: int = 30
    divergent: int = 20
    effect: float = 1.0
    tail: float = 5.0
    factors: int = 8
    shared: float = 0.2
    rectified: float = 0.5
    fewest: int = 5
    most: int = 60
    confound: float = 0.0

    def __post_init__(self) -> None:
        if self.planted + self.single + self.divergent > self.units:
            raise ValueError("more units are planted than there are")
        if self.divergent and self.facets > self.concepts:
            raise ValueError("divergent units need a concept for each facet")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Planted:
    """Activations by facet and what is true of them.

    Attributes:
        activations: of each facet.
        labels: which stimulus shows which concept; the same in all facets.
        confounds: the property of each stimulus that may explain units and concepts.
        truth: pairs that hold in all facets.
        truth_by_facet: pairs that hold in each facet.
    """

    activations: list[Float[np.ndarray, "stimuli units"]]
    labels: Bool[np.ndarray, "stimuli concepts"]
    confounds: Float[np.ndarray, "stimuli 1"]
    truth: Bool[np.ndarray, "units concepts"]
    truth_by_facet: Bool[np.ndarray, "facets units concepts"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recovery:
    """How much of the plant a detector found.

    Attributes:
        found: pairs that it found.
        wrong: of these, pairs that were not planted.
        precision: share of the found that were planted; 1 if nothing was found.
        recall: share of the planted that were found; 1 if nothing was planted.
    """

    found: int
    wrong: int
    precision: float
    recall: float


def plant(config: PlantConfig, *, seed: int) -> Planted:
    """Returns activations with planted units.

    With a confound, half of the units follow it in every facet and half of the concepts are seen
    more often where it is high; a planted concept may be either. Their raw association is real and
    says nothing of the concept.
    """
    rng = np.random.default_rng(seed)
    confounds = rng.normal(size=(config.stimuli, 1))
    labels = _labels(config, confounds[:, 0], rng)
    truth_by_facet = np.zeros((config.facets, config.units, config.concepts), bool)
    order = rng.permutation(config.units)
    ends = np.cumsum([config.planted, config.single, config.divergent])
    same, single, divergent = np.split(order[: ends[-1]], ends[:-1])
    truth_by_facet[:, same, rng.integers(0, config.concepts, len(same))] = True
    of = rng.integers(0, config.facets, len(single))
    truth_by_facet[of, single, rng.integers(0, config.concepts, len(single))] = True
    for unit in divergent:
        concepts = rng.choice(config.concepts, config.facets, replace=False)
        truth_by_facet[np.arange(config.facets), unit, concepts] = True
    follows = (rng.random(config.units) < 0.5) * config.confound
    rectified = rng.random(config.units) < config.rectified
    activations = []
    for truth in truth_by_facet:
        values = (_noise(config, rng) + confounds * follows) / np.sqrt(1 + follows**2)
        values += config.effect * (labels.astype(np.float64) @ truth.T)
        activations.append(np.where(rectified, np.maximum(values, 0), values))
    return Planted(
        activations=activations,
        labels=labels,
        confounds=confounds,
        truth=np.logical_and.reduce(truth_by_facet),
        truth_by_facet=truth_by_facet,
    )


def recovery(found: np.ndarray, truth: np.ndarray) -> Recovery:
    """Returns how well the found pairs match the true ones.

    >>> recovery(np.array([True, True, False]), np.array([True, False, True]))
    Recovery(found=2, wrong=1, precision=0.5, recall=0.5)
    """
    right, total, true = int((found & truth).sum()), int(found.sum()), int(truth.sum())
    return Recovery(
        found=total,
        wrong=total - right,
        precision=right / total if total else 1.0,
        recall=right / true if true else 1.0,
    )


def _labels(config: PlantConfig, confound: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draws the positives of each concept without replacement, where the confound leans to."""
    labels = np.zeros((config.stimuli, config.concepts), bool)
    leaning = (rng.random(config.concepts) < 0.5) * config.confound
    for concept in range(config.concepts):
        odds = np.exp(leaning[concept] * confound)
        size = rng.integers(config.fewest, config.most + 1)
        chosen = rng.choice(config.stimuli, size, replace=False, p=odds / odds.sum())
        labels[chosen, concept] = True
    return labels


def _noise(config: PlantConfig, rng: np.random.Generator) -> np.ndarray:
    """Draws noise of variance 1 with heavy tails, of which the units share a part."""
    shape = (config.stimuli, config.units)
    scale = np.sqrt((config.tail - 2) / config.tail) if config.tail > 2 else 1.0
    own = scale * rng.standard_t(config.tail, shape)
    if not config.factors:
        return own
    loadings = rng.normal(size=(config.factors, config.units))
    loadings /= np.linalg.norm(loadings, axis=0)
    common = rng.normal(size=(config.stimuli, config.factors)) @ loadings
    return np.sqrt(1 - config.shared) * own + np.sqrt(config.shared) * common
