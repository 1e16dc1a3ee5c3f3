import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipjax.evals.outcomes.groups import group_share, mean_of_groups, worst_of_groups

SAMPLES = st.lists(st.tuples(st.booleans(), st.integers(0, 4)), min_size=1, max_size=40)


def split(samples):
    hits, groups = zip(*samples, strict=True)
    return np.array(hits), np.array(groups)


def shares(hits, groups):
    return [float(np.mean(hits[groups == group])) for group in sorted(set(groups.tolist()))]


@settings(deadline=None, max_examples=50)
@given(SAMPLES)
def test_groups_are_those_that_occur_in_the_draw(samples):
    hits, groups = split(samples)
    rng = np.random.default_rng(0)
    for metric, of_shares in ((mean_of_groups, np.mean), (worst_of_groups, np.min)):
        score = metric(hits, groups, chance=0.0)
        for _ in range(10):
            chosen = rng.integers(0, len(hits), len(hits))
            counts = np.bincount(score.cells[chosen], minlength=score.cells.max() + 1)
            expected = of_shares(shares(hits[chosen], groups[chosen]))
            assert score.of_counts(counts[None].astype(float))[0] == pytest.approx(expected)
        assert score.value == pytest.approx(of_shares(shares(hits, groups)))
        assert score.samples == len(hits)


def test_a_group_alone_is_absent_from_some_draws(redraw):
    hits, groups = np.array([True, False, True, True]), np.array([0, 0, 1, 2])
    metric = group_share(hits, groups, 0, chance=0.5)
    assert (metric.value, metric.samples) == (0.5, 2)

    def score(chosen):
        inside = hits[chosen][groups[chosen] == 0]
        return inside.mean() if len(inside) else np.nan

    redraw(metric, score)


def test_samples_of_no_group_are_not_the_worst():
    hits, groups = np.array([False, False, True, False]), np.array([-1, -1, 3, 3])
    worst = worst_of_groups(hits, groups, chance=0.5)
    assert (worst.value, worst.samples) == (0.5, 2)
    # Cells in order: misses outside, misses and hits of group 3.
    assert worst.of_counts(np.array([[3.0, 0.0, 1.0]])).tolist() == [1.0]
    assert np.isnan(worst.of_counts(np.array([[4.0, 0.0, 0.0]]))).all()
