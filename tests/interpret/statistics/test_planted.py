import dataclasses

import numpy as np
import pytest
from scipy import stats

from clipjax.interpret.statistics.conjunction import conjunction
from clipjax.interpret.statistics.planted import PlantConfig, plant, recovery
from clipjax.interpret.statistics.strata import confound_strata, controlled_scores

PLAIN = PlantConfig()
CONFOUNDED = PlantConfig(confound=1.0)


def detected(config, seed, *, stratified):
    planted = plant(config, seed=seed)
    strata = confound_strata(planted.confounds) if stratified else None
    scores = [controlled_scores(a, planted.labels, strata) for a in planted.activations]
    found = conjunction(
        np.stack([s.p_value for s in scores]), np.stack([s.raw.auroc for s in scores])
    )
    return found, planted


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_weak_plants_are_found(seed):
    found, planted = detected(PLAIN, seed, stratified=False)
    score = recovery(found.finds(floor=0.0), planted.truth)
    assert score.precision >= 0.9
    assert score.recall >= 0.8
    cautious = recovery(found.finds(floor=0.0, method="bh"), planted.truth)
    assert cautious.precision >= 0.95
    assert cautious.recall < score.recall


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_strata_undo_a_confound(seed):
    found, planted = detected(CONFOUNDED, seed, stratified=True)
    score = recovery(found.finds(floor=0.0), planted.truth)
    assert score.precision >= 0.9
    assert score.recall >= 0.85
    bare, _ = detected(CONFOUNDED, seed, stratified=False)
    assert recovery(bare.finds(floor=0.0), planted.truth).precision < 0.1


@pytest.mark.parametrize("confound", [0.0, 1.0])
def test_nothing_is_found_where_nothing_is(confound):
    config = PlantConfig(
        units=64,
        concepts=30,
        stimuli=400,
        planted=0,
        single=0,
        divergent=0,
        confound=confound,
    )
    runs = [detected(config, seed, stratified=confound > 0)[0] for seed in range(20)]
    finds = [run.finds(floor=0.0).sum() for run in runs]
    assert np.mean(finds) <= 0.5


def test_plants_are_what_they_are_said_to_be():
    config = dataclasses.replace(PLAIN, stimuli=3_000, fewest=800, most=900, facets=3, effect=1.0)
    planted = plant(config, seed=1)
    assert planted.truth.sum() == config.planted
    truth = planted.truth_by_facet
    holds = truth.sum(axis=(0, 2))
    assert np.bincount(holds, minlength=4).tolist() == [146, 30, 0, 80]
    np.testing.assert_array_equal(planted.truth, truth.all(axis=0))
    background = ~truth.any(axis=(0, 2))
    for values in planted.activations:
        zero = (values == 0).mean(axis=0)
        assert 0.35 < (zero > 0.3).mean() < 0.65
        linear = values[:, background & (zero == 0)]
        assert abs(linear.std(axis=0).mean() - 1) < 0.05
        assert stats.kurtosis(linear, axis=0).mean() > 0.5
        # Shared factors: correlations are larger than the 1 / sqrt(3,000) of independence.
        correlations = np.corrcoef(linear.T)[np.triu_indices(linear.shape[1], 1)]
        assert correlations.std() > 2 / np.sqrt(3_000)
    shifts = []
    for values, pairs in zip(planted.activations, truth, strict=True):
        for unit, concept in np.argwhere(pairs):
            column, shown = values[:, unit], planted.labels[:, concept]
            if column.min() < 0:
                shifts.append(column[shown].mean() - column[~shown].mean())
    assert abs(np.mean(shifts) - 1) < 0.05


def test_a_confound_moves_units_and_concepts_but_keeps_the_scale():
    planted = plant(dataclasses.replace(CONFOUNDED, stimuli=3_000, most=300), seed=2)
    confound = planted.confounds[:, 0]
    linear = planted.activations[0][:, planted.activations[0].min(axis=0) < 0]
    correlations = np.array([np.corrcoef(confound, column)[0, 1] for column in linear.T])
    assert 0.3 < (correlations > 0.5).mean() < 0.7
    assert abs(np.median(linear.std(axis=0)) - 1) < 0.1
    leaning = np.array([confound[shown].mean() for shown in planted.labels.T])
    assert 0.2 < (leaning > 0.5).mean() < 0.8


def test_the_seed_decides():
    first, again, other = (plant(PLAIN, seed=seed) for seed in (5, 5, 6))
    np.testing.assert_array_equal(first.activations[1], again.activations[1])
    assert (first.labels != other.labels).any()


def test_a_plant_must_fit():
    with pytest.raises(ValueError, match="more units are planted"):
        PlantConfig(units=10)
    with pytest.raises(ValueError, match="a concept for each facet"):
        PlantConfig(concepts=2, facets=3)


def test_recovery_of_nothing():
    nothing = np.zeros(3, bool)
    assert recovery(nothing, nothing).precision == recovery(nothing, nothing).recall == 1
