import itertools

import numpy as np
import pytest
from scipy import stats

from clipjax.config import UserError
from clipjax.interpret.statistics import ranks as ranks_module
from clipjax.interpret.statistics.ranks import facet_scores
from clipjax.interpret.statistics.strata import confound_strata, controlled_scores, van_elteren


def data(stimuli=120, units=5, concepts=4, seed=0, ties=False):
    rng = np.random.default_rng(seed)
    activations = rng.normal(size=(stimuli, units))
    if ties:
        activations = np.maximum(np.round(activations, 1), 0)
    return activations, rng.random((stimuli, concepts)) < 0.3, rng.integers(0, 6, stimuli)


@pytest.mark.parametrize("ties", [False, True])
def test_van_elteren_is_its_definition(ties, monkeypatch):
    monkeypatch.setattr(ranks_module, "CHUNK_ENTRIES", 250)
    activations, labels, strata = data(ties=ties)
    labels[:, 3] = strata == 2  # fills its stratum
    ours = van_elteren(activations, labels, strata)
    for u, c in itertools.product(range(5), range(3)):
        top = variance = 0.0
        for k in np.unique(strata):
            here, positive = activations[strata == k, u], labels[strata == k, c]
            n, m = len(here), positive.sum()
            ranks = stats.rankdata(here)
            _, t = np.unique(here, return_counts=True)
            w = 1 / (n + 1)
            top += w * (ranks[positive].sum() - m * (n + 1) / 2)
            tied = (t**3 - t).sum() / (n * (n - 1))
            variance += w**2 * m * (n - m) / 12 * (n + 1 - tied)
        assert ours.z[u, c] == pytest.approx(top / np.sqrt(variance), rel=1e-10)
        assert ours.p_value[u, c] == pytest.approx(stats.norm.sf(ours.z[u, c]), rel=1e-10)
    np.testing.assert_array_equal(ours.p_value[:, 3], 1)
    np.testing.assert_array_equal(ours.z[:, 3], 0)
    assert ours.informative.tolist() == [1, 1, 1, 0]


def test_one_stratum_is_the_plain_test_and_constants_say_nothing():
    activations, labels, _ = data(ties=True)
    activations[:, 0] = 0.1
    ours = van_elteren(activations, labels, np.full(120, 7))
    plain = facet_scores(activations, labels, min_positives=1)
    np.testing.assert_allclose(ours.z, plain.z, atol=1e-10)
    np.testing.assert_array_equal(ours.p_value[0], 1)


def test_a_unit_that_follows_the_confound_is_found_only_without_strata():
    rng = np.random.default_rng(1)
    confound = rng.normal(size=(2_000, 1))
    labels = rng.random((2_000, 1)) < 0.15 / (1 + np.exp(-2 * confound))
    activations = np.concatenate(
        [confound + rng.normal(size=(2_000, 1)), labels + rng.normal(size=(2_000, 1))], axis=1
    )
    scores = controlled_scores(activations, labels, confound_strata(confound))
    assert (scores.raw.p_value < 1e-3).all()
    assert scores.p_value[0, 0] > 1e-3
    assert scores.p_value[1, 0] < 1e-6
    np.testing.assert_array_equal(
        scores.p_value, np.maximum(scores.raw.p_value, scores.stratified[0].p_value)
    )
    bare = controlled_scores(activations, labels)
    np.testing.assert_array_equal(bare.p_value, bare.raw.p_value)


def test_p_values_of_strata_are_uniform_without_effect():
    rng = np.random.default_rng(2)
    confound = rng.normal(size=(600, 1))
    labels = rng.random((600, 10)) < 0.15 / (1 + np.exp(-2 * confound))
    units = np.maximum(confound > 0, 0) + rng.normal(size=(600, 40)) - 0.3
    strata = (confound > 0).astype(np.int64)[:, 0]  # the units depend on nothing else
    p = van_elteren(np.maximum(units, 0), labels, strata).p_value
    # 400 p values, in tens that share labels: at least 40 that are independent, 0.1 +- 4 sd.
    assert abs((p < 0.1).mean() - 0.1) < 4 * np.sqrt(0.09 / 400)
    assert (facet_scores(units, labels).p_value < 0.1).mean() > 0.5


@pytest.mark.parametrize("joint", ["each", "principal", "crossed"])
def test_bins_are_of_equal_size_and_keep_equal_values_together(joint):
    rng = np.random.default_rng(3)
    strata = confound_strata(rng.normal(size=(900, 2)), bins=25, joint=joint)
    assert strata.shape == (900, 2 if joint == "each" else 1)
    for grouping in strata.T:
        counts = np.bincount(grouping)
        assert len(counts) == 25
        assert counts.min() > (10 if joint == "crossed" else 30)
    lengths = rng.integers(3, 8, (900, 2)).astype(float)
    for grouping in confound_strata(lengths, bins=25, joint=joint).T:
        same = lengths[:, 0] if joint == "each" else lengths @ [10, 1]
        if joint != "each":
            assert all(len(set(grouping[same == value])) == 1 for value in np.unique(same))
    first = confound_strata(lengths, bins=25, joint="each")[:, 0]
    assert all(len(set(first[lengths[:, 0] == value])) == 1 for value in range(3, 8))


def test_the_principal_bins_follow_the_order_that_confounds_share():
    rng = np.random.default_rng(4)
    shared = rng.normal(size=(500, 1))
    confounds = np.exp(shared + 0.1 * rng.normal(size=(500, 3)))
    strata = confound_strata(confounds, bins=10, joint="principal")[:, 0]
    assert abs(stats.spearmanr(strata, shared[:, 0]).statistic) > 0.97
    np.testing.assert_array_equal(
        confound_strata(confounds, bins=10, joint="principal"),
        confound_strata(confounds**3, bins=10, joint="principal"),
    )


def test_a_confound_that_is_no_number_is_an_error():
    with pytest.raises(UserError, match="number 1 of stimulus 2 is nan"):
        confound_strata(np.array([[0.0, 1], [1, 2], [2, np.nan]]))


def test_untested_concepts_stay_untested():
    activations, labels, strata = data()
    labels[:, 1] = False
    scores = controlled_scores(activations, labels, strata[:, None])
    assert np.isnan(scores.p_value).all(axis=0).tolist() == [False, True, False, False]
