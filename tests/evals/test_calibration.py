import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipjax.evals.calibration import calibration, reliability


def ece_by_definition(confidence, correct, bins):
    """Guo et al., equation 3: a loop over bins ((m - 1) / M, m / M]; 0 is in the first."""
    total = 0.0
    for m in range(1, bins + 1):
        inside = [
            i
            for i, c in enumerate(confidence)
            if (m - 1) / bins < c <= m / bins or (m == 1 and c == 0)
        ]
        if inside:
            accuracy = sum(bool(correct[i]) for i in inside) / len(inside)
            mean = sum(float(confidence[i]) for i in inside) / len(inside)
            total += len(inside) / len(confidence) * abs(accuracy - mean)
    return total


def samples(rng, n):
    confidence = rng.random(n)
    return confidence, rng.random(n) < confidence**1.5


def test_by_hand():
    figures = calibration(
        np.array([0.95, 0.85, 0.85, 0.3]),
        np.array([True, True, False, False]),
        np.array([0.95, 0.85, 0.1, 0.5]),
        bins=10,
    )
    # Bins: {0.3}: |0 - 0.3|; {0.85, 0.85}: |0.5 - 0.85|; {0.95}: |1 - 0.95|.
    assert figures["ece"] == pytest.approx((0.3 + 2 * 0.35 + 0.05) / 4)
    assert figures["mce"] == pytest.approx(0.35)
    assert figures["overconfidence"] == pytest.approx(2.95 / 4 - 0.5)
    assert figures["brier"] == pytest.approx((0.0025 + 0.0225 + 0.7225 + 0.09) / 4)
    assert figures["nll"] == pytest.approx(-np.log([0.95, 0.85, 0.1, 0.5]).mean())
    assert figures["table"]["count"] == [1, 2, 1]
    assert figures["table"]["low"] == pytest.approx([0.2, 0.8, 0.9])
    assert figures["table"]["high"] == pytest.approx([0.3, 0.9, 1.0])
    assert figures["table"]["accuracy"] == [0, 0.5, 1]
    assert figures["table"]["confidence"] == pytest.approx([0.3, 0.85, 0.95])


@pytest.mark.parametrize("bins", [1, 7, 10, 15, 100])
def test_equal_width_is_the_definition(bins):
    rng = np.random.default_rng(bins)
    confidence, correct = samples(rng, 500)
    confidence[:20] = rng.integers(0, bins + 1, 20) / bins  # upon the edges
    expected = ece_by_definition(confidence, correct, bins)
    # A mean of 500 numbers below 1 rounds by at most 500 half units in the last place.
    assert reliability(confidence, correct, bins=bins).error == pytest.approx(expected, abs=1e-13)


@pytest.mark.parametrize("n", [10, 101, 1000])
def test_equal_mass_is_sorting_and_cutting(n):
    confidence, correct = samples(np.random.default_rng(n), n)
    order = np.argsort(confidence)
    cuts = [-(-n * i // 10) for i in range(11)]
    parts = [order[a:b] for a, b in itertools.pairwise(cuts)]
    expected = sum(len(p) * abs(correct[p].mean() - confidence[p].mean()) for p in parts) / n
    table = reliability(confidence, correct, bins=10, equal_mass=True)
    assert table.count.tolist() == [len(p) for p in parts]
    assert np.ptp(table.count) <= 1
    assert table.error == pytest.approx(expected, abs=1e-13)


@pytest.mark.parametrize("equal_mass", [False, True])
def test_a_calibrated_model_has_no_error_but_noise(equal_mass):
    rng = np.random.default_rng(0)
    confidence = rng.random(200_000)
    correct = rng.random(200_000) < confidence
    # Of a bin with n / 15 samples, |accuracy - confidence| has mean 0.8 sigma with sigma at most
    # sqrt(1/4 / (n / 15)) = 0.0043.
    assert reliability(confidence, correct, equal_mass=equal_mass).error < 0.0043
    shifted = np.minimum(1, confidence + 0.2)
    assert reliability(shifted, correct, equal_mass=equal_mass).error > 0.15


_predictions = st.lists(
    st.tuples(st.integers(0, 12).map(lambda k: k / 12), st.booleans()), min_size=1, max_size=30
)


@settings(deadline=None, max_examples=60)
@given(_predictions, st.integers(1, 20), st.booleans(), st.randoms())
def test_order_and_copies_of_the_samples_do_not_matter(predictions, bins, equal_mass, random):
    def table(rows):
        confidence, correct = np.array([r[0] for r in rows]), np.array([r[1] for r in rows])
        return reliability(confidence, correct, bins=bins, equal_mass=equal_mass)

    one = table(predictions)
    shuffled = table(random.sample(predictions, len(predictions)))
    twice = table(predictions * 2)
    assert one.count.tolist() == shuffled.count.tolist()
    assert one.count.sum() == len(predictions)
    assert (2 * one.count).tolist() == twice.count.tolist()
    assert one.error == pytest.approx(shuffled.error, abs=1e-12)
    assert one.error == pytest.approx(twice.error, abs=1e-12)
    assert 0 <= one.error <= one.largest_error + 1e-12 <= 1 + 2e-12
    # Within its bin: each mean confidence lies between the ends, which follow each other.
    assert (one.low - 1e-12 <= one.confidence).all()
    assert (one.confidence <= one.high + 1e-12).all()
    assert (one.high[:-1] <= one.low[1:] + 1e-12).all()


@settings(deadline=None, max_examples=40)
@given(_predictions)
def test_fewer_bins_see_less_and_one_sees_the_mean(predictions):
    confidence = np.array([c for c, _ in predictions])
    correct = np.array([c for _, c in predictions])
    one = reliability(confidence, correct, bins=1).error
    assert one == pytest.approx(abs(confidence.mean() - correct.mean()), abs=1e-12)
    # Bins that split others can only add errors that had cancelled.
    errors = [reliability(confidence, correct, bins=n).error for n in (1, 2, 4, 12)]
    assert all(a <= b + 1e-12 for a, b in itertools.pairwise(errors))


def test_float32_rounding_above_one_counts_as_one():
    confidence = np.array([1 + 1e-6, 1.0])
    assert calibration(confidence, np.array([True, True]))["ece"] == 0
    assert calibration(confidence, np.array([True, True]), confidence)["nll"] == 0


def test_an_impossible_truth_costs_a_finite_amount():
    figures = calibration(np.array([1.0]), np.array([False]), np.array([0.0]))
    assert figures["nll"] == pytest.approx(87.336, abs=1e-3)
    assert figures["ece"] == figures["brier"] == 1


@pytest.mark.parametrize(
    ("confidence", "truth", "message"),
    [
        ([], None, "no samples"),
        ([0.5, 1.1], None, r"sample 1 has probability 1\.1"),
        ([0.5, np.nan], None, "sample 1 has probability nan"),
        ([-0.1, 0.5], None, r"sample 0 has probability -0\.1"),
        ([0.1, 0.5], [0.5, np.inf], "sample 1 has probability inf"),
    ],
)
def test_what_is_no_probability_is_an_error(confidence, truth, message):
    truth = None if truth is None else np.array(truth)
    with pytest.raises(ValueError, match=message):
        calibration(np.array(confidence, float), np.ones(len(confidence), bool), truth)


def test_no_bins_are_an_error():
    with pytest.raises(ValueError, match="0 bins"):
        reliability(np.array([0.5]), np.array([True]), bins=0)
