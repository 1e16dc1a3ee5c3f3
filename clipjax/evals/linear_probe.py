"""Linear probes: what a linear classifier reads from frozen features.

Source: Radford et al., "Learning Transferable Visual Models From Natural Language Supervision",
2021, appendix A.3, https://arxiv.org/abs/2103.00020.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Int64

from clipjax.config.errors import UserError
from clipjax.evals.labelled_features import LabelledFeatures, check_same_dim
from clipjax.evals.logistic import MakeObjective, Weights, fit, numpy_objective, predict
from clipjax.evals.weight_coordinates import Coordinates

Say = Callable[[str], None]
Score = Callable[[np.ndarray, np.ndarray], float]
Table = tuple[tuple[float, float], ...]

STEPS_PER_DECADE, LEAST_DECADE, MOST_DECADE = 8, -6, 6
_FIRST_STEP = 2 * STEPS_PER_DECADE


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProbeResult:
    """What a linear probe makes of the test images.

    Attributes:
        predicted: class of each test image; -1 where it did not decode.
        accuracy: share of the test images that are named right, in [0, 1].
        mean_per_class_recall: mean over the classes of the test images.
        c: the weight of the log losses that was chosen, or given.
        table: the values of C that were tried, ascending, each with its score on validation.
    """

    predicted: Int64[np.ndarray, " images"]
    accuracy: float
    mean_per_class_recall: float
    c: float
    table: Table


def accuracy(predicted: np.ndarray, labels: np.ndarray) -> float:
    """Returns the share of `predicted` that are right."""
    return float((predicted == labels).mean())


def mean_per_class_recall(predicted: np.ndarray, labels: np.ndarray) -> float:
    """Returns the mean over the classes of `labels` of the share that is named right.

    >>> mean_per_class_recall(np.array([0, 0, 0, 1]), np.array([0, 0, 1, 1]))
    0.75
    """
    classes, index = np.unique(labels, return_inverse=True)
    hits = np.bincount(index, predicted == labels, minlength=len(classes))
    return float((hits / np.bincount(index)).mean())


def c_at(step: int) -> float:
    """Returns one of the 97 values of C from 1e-6 to 1e6, eight a decade.

    >>> c_at(0), c_at(48), c_at(96)
    (1e-06, 1.0, 1000000.0)
    """
    return float(10.0 ** (LEAST_DECADE + step / STEPS_PER_DECADE))


class Probe:
    """Linear classifiers of one set of images, for any C.

    Images that did not decode are left out of it. Classes are those of its images: one that is
    only in the test set is never named.

    Args:
        train: the images to learn from.
        make_objective: how to compute the objective; on the host by default.
        max_iterations: of L-BFGS.
        say: is told when L-BFGS does not converge.

    Raises:
        UserError: if there are less than two classes.
    """

    def __init__(
        self,
        train: LabelledFeatures,
        make_objective: MakeObjective = numpy_objective,
        max_iterations: int = 1000,
        say: Say | None = None,
    ):
        usable = train.take(train.usable)
        self.classes, labels = np.unique(usable.labels, return_inverse=True)
        if len(self.classes) < 2:
            raise UserError(
                f"{train.where}: {len(self.classes)} classes among the images that decode; a "
                "classifier needs two at least. Give the images of more classes."
            )
        self._objective = make_objective(usable.features, labels, len(self.classes))
        self._coordinates = Coordinates.of(usable.features)
        self._max_iterations, self._say = max_iterations, say

    def weights(self, c: float, start: Weights | None = None) -> Weights:
        """Returns the weights for one C."""
        return fit(
            self._objective,
            len(self.classes),
            len(self._coordinates.mean),
            c,
            start=start,
            max_iterations=self._max_iterations,
            coordinates=self._coordinates,
            say=self._say,
        )

    def predict(self, weights: Weights, images: LabelledFeatures) -> Int64[np.ndarray, " images"]:
        """Returns the classes of images; -1 for one that did not decode."""
        named = self.classes[predict(weights, images.features)]
        return np.where(images.usable, named, -1)


def sweep(
    train: LabelledFeatures,
    val: LabelledFeatures,
    *,
    make_objective: MakeObjective = numpy_objective,
    score: Score = accuracy,
    max_iterations: int = 1000,
    say: Say | None = None,
) -> tuple[float, Table]:
    """Returns the C that does best on validation, and what was tried.

    Seven values two decades apart are tried first; then the step is halved around the best until it
    is an eighth of a decade. Of equally good values the least is the best: the simplest classifier.

    Args:
        train: the images to learn from.
        val: the images to choose by.
        make_objective: how to compute the objective; on the host by default.
        score: of predicted and true classes; the larger the better.
        max_iterations: of L-BFGS for one C.
        say: is told how it goes.

    Raises:
        UserError: if the two sets do not fit together, or there are less than two classes.
    """
    check_same_dim(train, val)
    probe = Probe(train, make_objective, max_iterations, say)
    tried: dict[int, float] = {}
    weights: dict[int, Weights] = {}
    last = (MOST_DECADE - LEAST_DECADE) * STEPS_PER_DECADE

    def attempt(steps: Sequence[int]) -> int:
        for step in steps:
            if 0 <= step <= last and step not in tried:
                start = max((other for other in weights if other < step), default=None)
                weights[step] = probe.weights(c_at(step), None if start is None else weights[start])
                tried[step] = score(probe.predict(weights[step], val), val.labels)
                if say:
                    say(f"C={c_at(step):.3g}: {tried[step]:.4f} on {len(val):,} validation images")
        return min(tried, key=lambda step: (-tried[step], step))

    size = _FIRST_STEP
    best = attempt(range(0, last + 1, size))
    while size > 1:
        size //= 2
        best = attempt([best - size, best + size])
    if say and best in (0, last):
        say(
            f"The best C, {c_at(best):g}, is at the end of the range: look whether the validation "
            "images are like the training images, and at the scale of the features."
        )
    return c_at(best), tuple((c_at(step), tried[step]) for step in sorted(tried))


def linear_probe(
    train: LabelledFeatures,
    val: LabelledFeatures | None,
    test: LabelledFeatures,
    *,
    c: float | None = None,
    make_objective: MakeObjective = numpy_objective,
    score: Score = accuracy,
    seed: int = 0,
    max_iterations: int = 1000,
    say: Say | None = None,
) -> ProbeResult:
    """Chooses C on validation, learns from training and validation images, and names the test's.

    Args:
        train: the images to learn from.
        val: the images to choose C by; by default a fifth of each class of `train`.
        test: the images to score.
        c: no choice but this one; `val` is then learnt from, if it is given.
        make_objective: how to compute the objective; on the host by default.
        score: by which C is chosen.
        seed: of the split where there is no `val`.
        max_iterations: of L-BFGS for one C.
        say: is told how it goes.

    Raises:
        UserError: if the sets do not fit together or are too small.
    """
    check_same_dim(train, test)
    everything = train if val is None else train.joined(val)
    table: Table = ()
    if c is None:
        if val is None:
            kept, held = stratified_split(train, share=0.2, seed=seed)
            train, val = train.take(kept), train.take(held)
        c, table = sweep(
            train,
            val,
            make_objective=make_objective,
            score=score,
            max_iterations=max_iterations,
            say=say,
        )
    probe = Probe(everything, make_objective, max_iterations, say)
    if say and (strange := np.setdiff1d(test.labels, probe.classes)).size:
        say(
            f"{test.where}: {strange.size:,} classes that no training image has, such as "
            f"{strange[0]}; their images count as wrong."
        )
    predicted = probe.predict(probe.weights(c), test)
    return ProbeResult(
        predicted=predicted,
        accuracy=accuracy(predicted, test.labels),
        mean_per_class_recall=mean_per_class_recall(predicted, test.labels),
        c=c,
        table=table,
    )


def stratified_split(
    images: LabelledFeatures, *, share: float, seed: int
) -> tuple[Int64[np.ndarray, " kept"], Int64[np.ndarray, " held"]]:
    """Returns the rows to learn from and those held out, each ascending.

    Args:
        images: to split.
        share: of each class that is held out, rounded; one image of a class is always kept.
        seed: of the choice.

    Raises:
        UserError: if no class has enough images.
    """
    held = []
    for label in np.unique(images.labels):
        rows = np.flatnonzero(images.labels == label)
        count = min(int(share * len(rows) + 0.5), len(rows) - 1)
        held.append(np.random.default_rng([seed, int(label)]).permutation(rows)[:count])
    chosen = np.sort(np.concatenate(held))
    if not chosen.size:
        raise UserError(
            f"{images.where}: no class has images enough to hold out {share:.0%} of them for "
            "validation. Give validation images, or a fixed C."
        )
    return np.setdiff1d(np.arange(len(images)), chosen), chosen
