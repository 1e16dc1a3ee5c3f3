"""What the activations of one space say of all its units: scores of every pair, by facet.

Pairs of a unit and a concept are compared with each other to hold the rate of false finds, hence
the scores of one space are all at hand; its activations are read in blocks of units.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from clipjax.interpret.detect_settings import DetectSettings
from clipjax.interpret.facets import FacetRows
from clipjax.interpret.meaning import Meaning, MeaningOfBlock
from clipjax.interpret.spaces import Space
from clipjax.interpret.statistics.conjunction import (
    FacetPairs,
    confirmation_half,
    dead_units,
    facet_label_auroc,
)
from clipjax.interpret.statistics.ranks import (
    Pairs,
    count_positives,
    facet_scores,
    of_rank_sums,
    testable,
    upper_tail,
)
from clipjax.interpret.statistics.strata import (
    ControlledScores,
    Strata,
    confound_strata,
    controlled_scores,
)

Advance = Callable[[int], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Halves:
    """Scores of stimuli that discover and of those that confirm.

    Attributes:
        discovery_p: of the half in which pairs are found.
        discovery_auroc: of the same.
        confirmation_p: of the other half.
    """

    discovery_p: FacetPairs
    discovery_auroc: FacetPairs
    confirmation_p: FacetPairs


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evidence:
    """Scores of all pairs of a space.

    Attributes:
        p_value: of each tested facet, the larger of raw and stratified; NaN where not tested.
        auroc: of each tested facet.
        raw_p: without regard to confounds.
        positives: stimuli of each concept, by tested facet.
        stimuli: of each tested facet.
        halves: None where activations were not kept.
        not_replicable: concepts that are tested, but have too few positives in some half.
        weak_auroc: of each facet that is too small for a test.
        control_auroc: of each facet in which no concept ought to be found.
        facet_auroc: how well each unit tells each facet, tested or not, from the others; None as
            above.
        dead: units with one value for all stimuli.
        meaning: whether what drives a unit means one thing; None as above.
    """

    p_value: FacetPairs
    auroc: FacetPairs
    raw_p: FacetPairs
    positives: Int[np.ndarray, "facets concepts"]
    stimuli: tuple[int, ...]
    halves: Halves | None
    not_replicable: Bool[np.ndarray, " concepts"]
    weak_auroc: dict[str, Pairs]
    control_auroc: dict[str, Pairs]
    facet_auroc: Float[np.ndarray, "shown units"] | None
    dead: Bool[np.ndarray, " units"]
    meaning: Meaning | None


def gather(space: Space, settings: DetectSettings, advance: Advance = lambda _: None) -> Evidence:
    """Returns the evidence of a space.

    Args:
        space: with activations, or with rank sums alone.
        settings: of the tests.
        advance: is called with the number of units that were read.

    Raises:
        UserError: if an activation is NaN, or a confound is not finite.
    """
    if not space.stored:
        advance(space.units)
        return _from_rank_sums(space, settings)
    tests = [FacetTest.of(space.rows(name), settings) for name in space.facets]
    shape = (len(space.facets), space.units, len(space.scan.concepts))
    p_value, auroc, raw_p = (np.full(shape, np.nan) for _ in range(3))
    halves = Halves(
        discovery_p=np.full(shape, np.nan),
        discovery_auroc=np.full(shape, np.nan),
        confirmation_p=np.full(shape, np.nan),
    )
    plain = {name: np.full(shape[1:], np.nan) for name in (*space.weak, *space.controls)}
    facet_auroc = np.full((len(space.shown), space.units), np.nan)
    dead = np.zeros(space.units, bool)
    meaning = MeaningOfBlock.of(space)
    parts = []
    for block in space.blocks():
        names = [str(space.unit_name(u)) for u in range(block.start, block.stop)]
        values = {name: space.values(name, block) for name in (*space.shown, *space.controls)}
        for m, test in enumerate(tests):
            of_facet = values[test.rows.name]
            whole = test.scores(of_facet, names)
            p_value[m, block], auroc[m, block] = whole.p_value, whole.raw.auroc
            raw_p[m, block] = whole.raw.p_value
            first, second = test.half_scores(of_facet, names)
            halves.discovery_p[m, block] = first.p_value
            halves.discovery_auroc[m, block] = first.raw.auroc
            halves.confirmation_p[m, block] = second.p_value
        for name, scores in plain.items():
            labels = space.rows(name).labels
            found = facet_scores(values[name], labels, min_positives=1, exact_below=0, units=names)
            scores[block] = found.auroc
        shown = [values[name] for name in space.shown]
        facet_auroc[:, block] = facet_label_auroc(shown)
        dead[block] = dead_units(shown)
        parts.append(meaning.scores(shown))
        advance(block.stop - block.start)
    return Evidence(
        p_value=p_value,
        auroc=auroc,
        raw_p=raw_p,
        positives=np.stack([test.positives for test in tests]),
        stimuli=tuple(len(test.rows.stimuli) for test in tests),
        halves=halves,
        not_replicable=np.logical_or.reduce([t.tested & ~t.replicable for t in tests]),
        weak_auroc={name: plain[name] for name in space.weak},
        control_auroc={name: plain[name] for name in space.controls},
        facet_auroc=facet_auroc,
        dead=dead,
        meaning=Meaning.joined(parts),
    )


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class FacetTest:
    """How units are tested in one facet.

    Attributes:
        rows: the stimuli.
        confirms: whether a stimulus is kept to confirm what the others discover.
        strata: groupings of all stimuli by what could explain a unit instead; None for none.
        half_strata: the same of either half, which has fewer stimuli and so fewer bins.
        least: positives without which a concept is not tested.
        least_in_half: the same in either half.
    """

    rows: FacetRows
    confirms: Bool[np.ndarray, " rows"]
    strata: Int[np.ndarray, "rows _"] | None
    half_strata: tuple[Int[np.ndarray, "_ _"] | None, Int[np.ndarray, "_ _"] | None]
    least: int
    least_in_half: int

    @classmethod
    def of(cls, rows: FacetRows, settings: DetectSettings) -> "FacetTest":
        """Returns the test of a facet.

        Raises:
            UserError: if a confound is not finite.
        """
        confirms = confirmation_half(rows.stimuli)
        return cls(
            rows=rows,
            confirms=confirms,
            strata=facet_strata(rows.confounds, settings),
            half_strata=(
                facet_strata(rows.confounds[~confirms], settings),
                facet_strata(rows.confounds[confirms], settings),
            ),
            least=settings.least,
            least_in_half=settings.least_in_half,
        )

    @property
    def positives(self) -> Int[np.ndarray, " concepts"]:
        """Stimuli of each concept."""
        return count_positives(self.rows.labels)

    @property
    def tested(self) -> Bool[np.ndarray, " concepts"]:
        """Whether each concept is tested."""
        return testable(self.positives, len(self.rows.stimuli), self.least)

    @property
    def replicable(self) -> Bool[np.ndarray, " concepts"]:
        """Whether each concept is tested in both halves."""
        both = True
        for half in (self.confirms, ~self.confirms):
            positives = count_positives(self.rows.labels[half])
            both &= testable(positives, int(half.sum()), self.least_in_half)
        return np.asarray(both)

    def scores(
        self, values: Float[np.ndarray, "rows units"], names: list[str] | None = None
    ) -> ControlledScores:
        """Returns the scores of units over all stimuli."""
        return controlled_scores(
            values,
            self.rows.labels,
            self.strata,
            min_positives=self.least,
            units=names,
            stimuli=self.rows.stimuli,
        )

    def half_scores(
        self, values: Float[np.ndarray, "rows units"], names: list[str]
    ) -> tuple[ControlledScores, ControlledScores]:
        """Returns the scores of the half that discovers and of the one that confirms."""
        found = []
        for half, strata in zip((~self.confirms, self.confirms), self.half_strata, strict=True):
            found.append(
                controlled_scores(
                    values[half],
                    self.rows.labels[half],
                    strata,
                    min_positives=self.least_in_half,
                    units=names,
                )
            )
        return found[0], found[1]


def facet_strata(
    confounds: Float[np.ndarray, "stimuli confounds"], settings: DetectSettings
) -> Strata | None:
    """Returns groupings by each confound that varies; None where there is none, or no room.

    Raises:
        UserError: if a confound is not finite.
    """
    bins = settings.bins(len(confounds))
    if bins < 2:
        return None
    varies = (confounds != confounds[:1]).any(axis=0)  # a constant one would repeat the raw test
    return confound_strata(confounds[:, varies], bins=bins) if varies.any() else None


def _from_rank_sums(space: Space, settings: DetectSettings) -> Evidence:
    """Returns what rank sums and histograms tell: no strata, no halves, no meaning."""
    found = [_facet_of_rank_sums(space, name, settings.least) for name in space.facets]
    auroc, p_value = (np.stack(arrays) for arrays in zip(*found, strict=True))
    plain = {
        name: _facet_of_rank_sums(space, name, 1)[0] for name in (*space.weak, *space.controls)
    }
    low, high = (
        np.stack([getattr(space.summary(name), end) for name in space.shown])
        for end in ("low", "high")
    )
    dead = low.min(axis=0) == high.max(axis=0)
    return Evidence(
        p_value=p_value,
        auroc=auroc,
        raw_p=p_value,
        positives=np.stack([count_positives(space.rows(name).labels) for name in space.facets]),
        stimuli=tuple(len(space.rows(name).stimuli) for name in space.facets),
        halves=None,
        not_replicable=np.ones(len(space.scan.concepts), bool),
        weak_auroc={name: plain[name] for name in space.weak},
        control_auroc={name: plain[name] for name in space.controls},
        facet_auroc=None,
        dead=np.tile(dead, 2) if space.signed else dead,
        meaning=None,
    )


def _facet_of_rank_sums(
    space: Space, facet: str, least: int
) -> tuple[Shaped[np.ndarray, "units concepts"], Shaped[np.ndarray, "units concepts"]]:
    """Returns AUROC and normal p of one facet; ties are those of the histogram's bins."""
    positives = count_positives(space.rows(facet).labels)
    counts = space.summary(facet).counts.astype(np.float64)
    total = int(counts[0].sum())
    middles = np.cumsum(counts, axis=1) - (counts - 1) / 2
    spread = (counts * (middles - (total + 1) / 2) ** 2).sum(axis=1)
    sums = space.scan.rank_sums(facet, space.path)
    auroc, z = of_rank_sums(sums, spread, positives, total)
    if space.signed:
        auroc, z = np.concatenate([auroc, 1 - auroc]), np.concatenate([z, -z])
        spread = np.tile(spread, 2)
    p_value = np.where(spread[:, None] > 0, upper_tail(z), 1.0)
    auroc = np.clip(auroc, 0, 1)  # ranks are estimates
    untested = ~testable(positives, total, least)
    auroc[:, untested] = p_value[:, untested] = np.nan
    return auroc, p_value
