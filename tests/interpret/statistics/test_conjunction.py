import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from clipjax.interpret.statistics.conjunction import (
    adafilter,
    confirmation_half,
    conjunction,
    dead_units,
    facet_finds,
    facet_label_auroc,
    invariance_index,
    partial_conjunction,
    replicated,
    unit_kinds,
)

# Few distinct values, so that there are ties.
P_VALUES = st.lists(
    st.tuples(*[st.sampled_from([0.0, 0.001, 0.004, 0.01, 0.02, 0.2, 0.9, 1.0])] * 2),
    min_size=1,
    max_size=12,
)


def by_definition(filters, selection, rate):
    """Pairs rejected at the largest g with g #(F <= g) / max(1, #(S <= g)) <= rate."""
    valid = [
        g
        for g in [*filters, *selection]
        if g * (filters <= g).sum() / max(1, (selection <= g).sum()) <= rate
    ]
    return selection <= max(valid, default=-1.0)


@settings(max_examples=200, deadline=None)
@given(P_VALUES, st.sampled_from([0.001, 0.0101, 0.05, 0.31]))
def test_adafilter_is_its_definition(pairs, rate):
    filters, selection = np.sort(np.array(pairs), axis=1).T
    ours = adafilter(filters, selection) <= rate
    np.testing.assert_array_equal(ours, by_definition(filters, selection, rate))


def test_adafilter_with_nothing_to_filter_is_benjamini_hochberg_and_skips_nan():
    p = np.array([0.01, np.nan, 0.04, 0.03])
    ours = adafilter(np.where(np.isnan(p), np.nan, 0.0), p)
    np.testing.assert_allclose(ours, [0.03, np.nan, 0.04, 0.04])


def test_adafilter_finds_more_than_benjamini_hochberg_by_leaving_out_the_hopeless():
    """By hand: 2 true pairs among 1,000; only 3 have any small p value at all."""
    p = np.full((2, 1, 1_000), 0.5)
    p[:, 0, :2] = 0.01
    p[0, 0, 2] = 0.01
    found = conjunction(p, np.full(p.shape, 0.9))
    assert found.adafilter[0, 0] == pytest.approx(0.01 * 3 / 2)
    assert found.bh[0, 0] == pytest.approx(0.5)
    assert found.by[0, 0] == 1
    assert found.counts() == {"adafilter": 2, "bh": 0, "by": 0}


@pytest.mark.parametrize("required", [1, 2, 3, 4])
def test_partial_conjunctions_are_those_of_scipy(required):
    p = np.random.default_rng(0).random((4, 30))
    largest = np.sort(p, axis=0)[required - 1 :]
    fisher = [stats.combine_pvalues(column).pvalue for column in largest.T]
    ours = {m: partial_conjunction(p, required, method=m) for m in ("simes", "bonferroni")}
    np.testing.assert_allclose(partial_conjunction(p, required, method="fisher"), fisher)
    # The least that Benjamini and Hochberg give is Simes' combination.
    simes = [stats.false_discovery_control(column).min() for column in largest.T]
    np.testing.assert_allclose(ours["simes"], simes)
    np.testing.assert_allclose(ours["bonferroni"], np.minimum(1, len(largest) * largest[0]))
    assert (ours["simes"] <= ours["bonferroni"] + 1e-15).all()
    if required == 4:
        for values in ours.values():
            np.testing.assert_array_equal(values, p.max(axis=0))


def test_facets_that_there_are_not_cannot_be_required():
    with pytest.raises(ValueError, match="required is 3; expected 1 to 2"):
        partial_conjunction(np.ones((2, 3)), 3)


def test_partial_conjunction_holds_its_level_when_one_facet_always_fires():
    rng = np.random.default_rng(1)
    p = rng.random((3, 20_000))
    p[0] = 0.0
    for method in ("simes", "bonferroni", "fisher"):
        share = (partial_conjunction(p, 2, method=method) < 0.05).mean()
        assert share < 0.05 + 4 * np.sqrt(0.05 * 0.95 / 20_000)


def test_effect_is_that_of_the_weakest_required_facet():
    auroc = np.array([0.95, 0.7, 0.8]).reshape(3, 1, 1)
    p = np.full((3, 1, 1), 1e-9)
    everywhere, in_two = conjunction(p, auroc), conjunction(p, auroc, required=2)
    assert everywhere.effect.item() == 0.7
    assert in_two.effect.item() == 0.8
    assert not everywhere.finds().any()
    assert in_two.finds().all()
    assert everywhere.finds(floor=0.7).all()
    assert everywhere.invariance.item() == pytest.approx(0.2 / 0.45)


def test_pairs_that_are_not_tested_count_nowhere():
    p = np.full((2, 2, 2), 1e-3)
    p[1, :, 0] = np.nan
    found = conjunction(p, np.where(np.isnan(p), np.nan, 0.9))
    assert found.finds().tolist() == [[False, True], [False, True]]
    np.testing.assert_allclose(found.bh[:, 1], 1e-3)
    assert np.isnan(found.effect[:, 0]).all()
    assert np.isnan(found.invariance[:, 0]).all()
    assert np.isnan(found.by[:, 0]).all()


def test_by_is_that_of_scipy():
    p = np.random.default_rng(2).random((1, 4, 5)) ** 3
    ours = conjunction(p, np.ones(p.shape)).by
    np.testing.assert_allclose(
        ours.ravel(), stats.false_discovery_control(p.ravel(), method="by"), rtol=1e-12
    )


def test_invariance_is_between_none_and_all():
    auroc = np.array([[0.9, 0.9, 0.5, 0.3], [0.9, 0.4, 0.5, 0.2]])
    assert invariance_index(auroc).tolist() == [1, 0, 0, 0]


def test_the_confirmation_half_depends_on_the_name_alone():
    names = [f"stimulus-{i}" for i in range(4_000)]
    half = confirmation_half(names)
    assert abs(half.mean() - 0.5) < 4 * np.sqrt(0.25 / 4_000)
    np.testing.assert_array_equal(confirmation_half(names[::-1])[::-1], half)
    assert 0.4 < (confirmation_half(names, salt="other") == half).mean() < 0.6
    assert confirmation_half(["cat", "dog", "sun", "sea"]).tolist() == [False, True, True, True]


def test_a_find_is_replicated_where_the_required_facets_confirm_it():
    finds = np.array([[True, True, True, False]])
    p = np.array([[[0.01, 0.01, 0.01, 0.01]], [[0.04, 0.06, np.nan, 0.01]]])
    assert replicated(finds, p).tolist() == [[True, False, False, False]]
    assert replicated(finds, p, required=1).tolist() == [[True, True, True, False]]


def test_facets_find_by_themselves():
    p = np.array([[[0.001, 0.9]], [[0.6, np.nan]]])
    auroc = np.array([[[0.9, 0.9]], [[0.9, np.nan]]])
    assert facet_finds(p, auroc).tolist() == [[[True, False]], [[False, False]]]
    assert not facet_finds(p, auroc, floor=0.95).any()


def test_facet_labels_are_told_by_units_that_know_them():
    rng = np.random.default_rng(3)
    photo, word = rng.normal(size=(50, 2)), rng.normal(size=(80, 2))
    word[:, 1] += 9
    auroc = facet_label_auroc([photo, word])
    assert auroc[:, 1].tolist() == [0, 1]
    theirs = stats.mannwhitneyu(photo[:, 0], word[:, 0]).statistic / 4_000
    np.testing.assert_allclose(auroc[:, 0], [theirs, 1 - theirs])


def test_every_kind_of_unit():
    kinds = [
        "multimodal-same",
        "multimodal-partial",
        "multimodal-divergent",
        "unimodal",
        "modality-detector",
        "dead",
        "none",
    ]
    joint = np.zeros((7, 4), bool)
    single = np.zeros((3, 7, 4), bool)
    joint[0, 1] = single[1, 0, 1] = True
    single[:2, 1, 2] = True
    single[0, 2, 0] = single[2, 2, 3] = True
    single[1, 3, [0, 2]] = True
    auroc = np.full((3, 7), 0.5)
    auroc[2, [0, 4]] = 0.95
    dead = np.arange(7) == 5
    units = unit_kinds(joint, single, auroc, dead)
    assert [unit.kind for unit in units] == kinds
    assert [unit.concepts for unit in units] == [(1,), (2,), (0, 3), (0, 2), (), (), ()]
    assert [unit.facets for unit in units] == [(1,), (0, 1), (0, 2), (1,), (2,), (), ()]
    assert [unit.detects for unit in units] == [(2,), (), (), (), (2,), (), ()]


def test_dead_units_have_one_value_in_all_facets():
    first = np.array([[0.0, 0.0, 1.0], [0.0, 0.0, 1.0]])
    second = np.array([[0.0, 0.0, 2.0], [0.0, 0.5, 2.0], [0.0, 0.0, 2.0]])
    assert dead_units([first, second]).tolist() == [True, False, False]
