import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import jaccard_score

from clipjax.evals.outcomes import metrics_of
from clipjax.evals.outcomes.association import _chance, judge


def embeds_of(similarities):
    """Candidates with these similarities to the cue [1, 0]."""
    return np.array([[s, 1.0] for s in similarities], np.float32)


def judge_lists(cues):
    """`cues`: lists of (similarity, right)."""
    flat = list(itertools.chain(*cues))
    cue_of_image = np.repeat(np.arange(len(cues)), [len(cue) for cue in cues])
    return judge(
        embeds_of([s for s, _ in flat]),
        np.tile(np.array([[1, 0]], np.float32), (len(cues), 1)),
        cue_of_image,
        np.array([right for _, right in flat]),
    )


CUE = st.lists(st.tuples(st.integers(1, 4), st.booleans()), min_size=1, max_size=12).filter(
    lambda cue: any(right for _, right in cue)
)


@settings(deadline=None, max_examples=60)
@given(st.lists(CUE, min_size=1, max_size=6))
def test_scores_are_those_of_scikit_learn_with_the_last_of_equals(cues):
    outcome = judge_lists(cues)
    expected = []
    for cue in cues:
        order = sorted(range(len(cue)), key=lambda i: (cue[i][0], i))
        right = [r for _, r in cue]
        taken = order[-sum(right) :]
        expected.append(jaccard_score(right, [i in taken for i in range(len(cue))]))
    np.testing.assert_allclose(outcome.arrays["jaccard"], expected, rtol=1e-12)
    assert metrics_of(outcome)["avg_jaccard_score"].value == pytest.approx(np.mean(expected))


@pytest.mark.parametrize("size", [5, 6, 10, 12])
def test_equals_are_those_of_a_sort_of_half_precision(size):
    """As the original takes them: the end of NumPy's default sort."""
    rng = np.random.default_rng(size)
    for _ in range(50):
        scores = (rng.integers(1, 5, size) / 4).astype(np.float16)
        right = rng.permutation(size) < rng.integers(1, size)
        outcome = judge_lists([list(zip(scores.tolist(), right.tolist(), strict=True))])
        taken = np.argsort(scores)[-right.sum() :]
        assert np.flatnonzero(outcome.arrays["predicted"][0]).tolist() == sorted(taken.tolist())


def test_candidates_may_come_in_any_order(unit_rows):
    rng = np.random.default_rng(0)
    images, cues = unit_rows(0, 40), unit_rows(1, 5)
    owner, right = np.arange(40) % 5, rng.random(40) < 0.4
    right[:5] = True
    before = judge(images, cues, owner, right)
    order = rng.permutation(40)
    after = judge(images[order], cues, owner[order], right[order])
    assert before.arrays["jaccard"].tolist() == after.arrays["jaccard"].tolist()


def test_sizes_are_those_that_occur(redraw):
    rng = np.random.default_rng(0)
    sizes = [5] * 6 + [6] * 3 + [10] * 5
    cues = [[(float(rng.random()), i < 1 + size // 5) for i in range(size)] for size in sizes]
    outcome = judge_lists(cues)
    found = metrics_of(outcome)
    assert list(found) == [
        "avg_jaccard_score",
        "jaccard_score_5",
        "jaccard_score_6",
        "jaccard_score_10",
        "jaccard_score_5-6",
        "jaccard_score_10-12",
    ]
    assert [metric.samples for metric in found.values()] == [14, 6, 3, 5, 9, 5]
    jaccard, candidates = outcome.arrays["jaccard"], np.array(sizes)
    redraw(found["avg_jaccard_score"], lambda chosen: jaccard[chosen].mean())
    redraw(
        found["jaccard_score_5-6"], lambda chosen: jaccard[chosen][candidates[chosen] <= 6].mean()
    )
    redraw(
        found["jaccard_score_10-12"],
        lambda chosen: jaccard[chosen][candidates[chosen] >= 10].mean(),
    )


def test_a_picture_that_did_not_decode_is_never_predicted():
    images = embeds_of([0.9, 0.8, -0.5, -0.6])
    images[0] = 0
    cue = np.array([[1, 0]], np.float32)
    right = np.array([True, False, True, False])
    outcome = judge(images, cue, np.zeros(4, int), right)
    assert outcome.arrays["predicted"].tolist() == [[False, True, True, False]]
    assert outcome.arrays["jaccard"].tolist() == [pytest.approx(1 / 3)]
    images[1:] = np.nan
    outcome = judge(images, cue, np.zeros(4, int), right)
    assert not outcome.arrays["predicted"].any()
    assert outcome.arrays["jaccard"].tolist() == [0.0]


@pytest.mark.parametrize(("candidates", "wanted"), [(5, 2), (6, 3), (4, 4), (5, 1), (5, 4)])
def test_chance_is_the_mean_over_all_choices(candidates, wanted):
    right = set(range(wanted))
    scores = [
        len(right & set(chosen)) / len(right | set(chosen))
        for chosen in itertools.combinations(range(candidates), wanted)
    ]
    assert _chance(candidates, wanted) == pytest.approx(np.mean(scores))


def test_mistakes_are_named(unit_rows):
    images, cues = unit_rows(0, 3), unit_rows(1, 2)
    with pytest.raises(ValueError, match="cue 1: none of its candidates is right"):
        judge(images, cues, np.array([0, 0, 1]), np.array([True, True, False]))
    with pytest.raises(ValueError, match="of a cue outside 0 to 1"):
        judge(images, cues, np.array([0, 1, 2]), np.array([True, True, True]))
