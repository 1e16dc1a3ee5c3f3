"""Whether a model is right as often as it says."""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

# The smallest normal float32: a probability of 0 would make the whole mean infinite.
_LEAST_PROBABILITY = float(np.finfo(np.float32).tiny)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reliability:
    """Bins of confidence, as a reliability diagram shows them; empty bins are left out.

    Attributes:
        low: least confidence that a bin takes, itself excluded but for 0 in the first.
        high: most confidence that it takes.
        confidence: mean confidence of what is inside.
        accuracy: share of it that is right.
        count: how many predictions are inside.
    """

    low: Float[np.ndarray, " bins"]
    high: Float[np.ndarray, " bins"]
    confidence: Float[np.ndarray, " bins"]
    accuracy: Float[np.ndarray, " bins"]
    count: Float[np.ndarray, " bins"]

    @property
    def error(self) -> float:
        """Mean over predictions of |accuracy - confidence| of their bin."""
        gaps = abs(self.accuracy - self.confidence)
        return float((self.count * gaps).sum() / self.count.sum())

    @property
    def largest_error(self) -> float:
        """Largest |accuracy - confidence| of a bin."""
        return float(abs(self.accuracy - self.confidence).max())


def reliability(
    confidence: Float[np.ndarray, " samples"],
    correct: Bool[np.ndarray, " samples"],
    *,
    bins: int = 15,
    equal_mass: bool = False,
) -> Reliability:
    """Returns accuracy by confidence.

    Bins of equal width hold their upper end, so 0.2 of ten bins is in the second. Bins of equal
    mass end at quantiles of the confidence; equal values are never torn apart, so that the order of
    the samples does not matter, and bins hold unequal numbers where values are equal.

    Args:
        confidence: probability that the model gives its own prediction.
        correct: whether the prediction is right.
        bins: how many; of equal mass at most one a sample.
        equal_mass: as many samples in each bin instead of bins of equal width.

    Raises:
        ValueError: if there are no samples, or a confidence is no probability.

    Source: Guo et al. 2017, "On Calibration of Modern Neural Networks", section 2,
    https://arxiv.org/abs/1706.04599; equal mass as in Nixon et al. 2019, "Measuring Calibration in
    Deep Learning", section 3, https://arxiv.org/abs/1904.01685, but of the predicted class only.
    """
    confidence = _checked(confidence)
    if bins < 1:
        raise ValueError(f"{bins} bins; expected one or more")
    if equal_mass:
        ends = np.ceil(np.arange(1, bins + 1) * len(confidence) / bins).astype(int) - 1
        edges = np.sort(confidence)[ends]
        lows = np.concatenate([[0.0], edges[:-1]])
    else:
        edges = np.arange(1, bins + 1) / bins
        lows = np.arange(bins) / bins
    number = np.searchsorted(edges, confidence, side="left")
    count = np.bincount(number, minlength=len(edges)).astype(np.float64)
    used = count > 0
    confident = np.bincount(number, confidence, minlength=len(edges))
    right = np.bincount(number, correct, minlength=len(edges))
    return Reliability(
        low=lows[used],
        high=edges[used],
        confidence=confident[used] / count[used],
        accuracy=right[used] / count[used],
        count=count[used],
    )


def calibration(
    confidence: Float[np.ndarray, " samples"],
    correct: Bool[np.ndarray, " samples"],
    truth_probability: Float[np.ndarray, " samples"] | None = None,
    *,
    bins: int = 15,
) -> dict[str, Any]:
    """Returns how well calibrated predictions are, as plain numbers and lists.

    `ece` and `ece_equal_mass` are the expected calibration errors of bins of equal width and mass,
    `mce` the largest of equal width, `overconfidence` mean confidence less accuracy, `brier` the
    mean squared difference between confidence and being right (of the predicted class, not the sum
    over all), `nll` the mean of -log of the truth's probability, and `table` the bins of equal
    width.

    Args:
        confidence: probability that the model gives its own prediction.
        correct: whether the prediction is right.
        truth_probability: probability that it gives the right class; without it there is no `nll`.
            Below the smallest normal float32 it counts as that, so that one sample costs at most
            87.3.
        bins: of each kind.

    Raises:
        ValueError: if there are no samples, or a number is no probability.

    Source: Guo et al. 2017, section 2, https://arxiv.org/abs/1706.04599; Brier 1950, "Verification
    of forecasts expressed in terms of probability", Monthly Weather Review 78.

    >>> figures = calibration(np.array([0.9, 0.9, 0.6]), np.array([True, False, True]), bins=10)
    >>> round(figures["ece"], 4), round(figures["brier"], 4)
    (0.4, 0.3267)
    """
    confidence = _checked(confidence)
    table = reliability(confidence, correct, bins=bins)
    mass = reliability(confidence, correct, bins=bins, equal_mass=True)
    figures: dict[str, Any] = {
        "ece": table.error,
        "ece_equal_mass": mass.error,
        "mce": table.largest_error,
        "overconfidence": float(confidence.mean() - np.mean(correct)),
        "brier": float(np.square(confidence - correct).mean()),
        "table": {name: column.tolist() for name, column in dataclasses.asdict(table).items()},
    }
    if truth_probability is not None:
        truth = _checked(truth_probability)
        figures["nll"] = float(-np.log(np.maximum(truth, _LEAST_PROBABILITY)).mean())
    return figures


def _checked(probability: np.ndarray) -> np.ndarray:
    probability = np.asarray(probability, np.float64)
    if not len(probability):
        raise ValueError("no samples")
    # Softmax in float32 may end a little above 1.
    bad = ~((probability >= 0) & (probability <= 1 + 1e-5))
    if bad.any():
        raise ValueError(f"sample {int(bad.argmax()):,} has probability {probability[bad][0]}")
    return np.minimum(probability, 1)
