"""Classification from a few images a class, over several draws of them.

Source: Radford et al., "Learning Transferable Visual Models From Natural Language Supervision",
2021, section 3.1.5 (1 to 16 images a class), https://arxiv.org/abs/2103.00020, and Snell et al.,
"Prototypical Networks for Few-shot Learning", 2017, https://arxiv.org/abs/1703.05175.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import scipy.stats
from jaxtyping import Int64

from clipjax.config.errors import UserError
from clipjax.evals.labelled_features import LabelledFeatures, check_same_dim
from clipjax.evals.linear_probe import Say, accuracy, linear_probe, sweep
from clipjax.evals.logistic import MakeObjective, numpy_objective
from clipjax.evals.neighbours import unit_rows

Method = Literal["linear", "mean"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class FewShotResult:
    """Accuracy with so many images a class, over several draws of them.

    Attributes:
        shots: images a class.
        accuracies: of each draw, on the same test images, in [0, 1].
        chosen_c: of each draw, for linear probes; else empty.
    """

    shots: int
    accuracies: tuple[float, ...]
    chosen_c: tuple[float, ...] = ()

    @property
    def mean(self) -> float:
        """Mean over the draws."""
        return float(np.mean(self.accuracies))

    @property
    def spread(self) -> float:
        """Standard deviation over the draws; NaN for a single one."""
        return float(np.std(self.accuracies, ddof=1)) if len(self.accuracies) > 1 else np.nan

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the mean over all draws, by Student's t; NaN for a single draw.

        It says how much depends on which images were drawn; not how much on the test images.

        >>> result = FewShotResult(shots=1, accuracies=(0.5, 0.6, 0.7))
        >>> [round(end, 4) for end in result.interval]
        [0.3516, 0.8484]
        """
        draws = len(self.accuracies)
        if draws < 2:
            return np.nan, np.nan
        half = float(scipy.stats.t.ppf(0.975, draws - 1)) * self.spread / draws**0.5
        return self.mean - half, self.mean + half


def nested_subsets(
    images: LabelledFeatures,
    shots: Sequence[int],
    *,
    seed: int,
    name: Callable[[int], str] = str,
) -> dict[int, Int64[np.ndarray, " rows"]]:
    """Returns rows with so many images of each class, by the number of images a class.

    Those of a smaller number are among those of a larger one. Images that did not decode are never
    drawn.

    Args:
        images: to draw from.
        shots: images a class.
        seed: of the draw.
        name: of a class, for messages.

    Raises:
        UserError: if a class has too few images, or a number is less than one.
    """
    if not shots or min(shots) < 1:
        raise UserError(f"shots={list(shots)}: expected numbers of images a class, from 1 on.")
    orders = []
    for label in np.unique(images.labels):
        rows = np.flatnonzero((images.labels == label) & images.usable)
        if len(rows) < max(shots):
            raise UserError(
                f"{images.where}: class {name(int(label))} has {len(rows):,} images that decode; "
                f"{max(shots)} a class were asked for. Ask for {len(rows)} at most, or leave the "
                "class out."
            )
        orders.append(np.random.default_rng([seed, int(label)]).permutation(rows))
    return {k: np.sort(np.concatenate([order[:k] for order in orders])) for k in shots}


def few_shot(
    train: LabelledFeatures,
    test: LabelledFeatures,
    *,
    shots: Sequence[int] = (1, 2, 4, 8, 16),
    seeds: Sequence[int] = (0, 1, 2),
    method: Method = "linear",
    c: float = 1.0,
    val: LabelledFeatures | None = None,
    make_objective: MakeObjective = numpy_objective,
    name: Callable[[int], str] = str,
    say: Say | None = None,
) -> list[FewShotResult]:
    """Returns accuracies by the number of images a class, for several draws of them.

    Args:
        train: the images to draw from.
        test: the images to score; the same for all draws.
        shots: images a class.
        seeds: of the draws, one each.
        method: a linear probe, or the class whose mean direction is nearest.
        c: of the linear probes, as `val` is not given.
        val: images by which each linear probe chooses its C; they are not learnt from.
        make_objective: how linear probes compute theirs; on the host by default.
        name: of a class, for messages.
        say: is told how it goes.

    Raises:
        UserError: if a class has too few images or the sets do not fit together.
    """
    check_same_dim(train, test)
    if not seeds:
        raise UserError("seeds is empty: no draw to take the mean of.")
    found: dict[int, list[tuple[float, float]]] = {k: [] for k in sorted(set(shots))}
    for seed in seeds:
        for k, rows in nested_subsets(train, list(found), seed=seed, name=name).items():
            few, chosen = train.take(rows), c
            if method == "mean":
                predicted = nearest_mean(few, test)
            else:
                if val is not None:
                    chosen, _ = sweep(few, val, make_objective=make_objective)
                probe = linear_probe(few, None, test, c=chosen, make_objective=make_objective)
                predicted = probe.predicted
            found[k].append((accuracy(predicted, test.labels), chosen))
            if say:
                told = f", C={chosen:.3g}" if method == "linear" else ""
                say(f"{k} images a class, draw {seed}: {found[k][-1][0]:.4f}{told}")
    return [
        FewShotResult(
            shots=k,
            accuracies=tuple(score for score, _ in draws),
            chosen_c=tuple(chosen for _, chosen in draws) if method == "linear" else (),
        )
        for k, draws in found.items()
    ]


def nearest_mean(train: LabelledFeatures, test: LabelledFeatures) -> Int64[np.ndarray, " images"]:
    """Returns the class whose mean direction is nearest; -1 for an image that did not decode.

    Deviation: the paper measures squared distances to means of features; here features have length
    one, and means are compared by their cosine, as classes are in zero-shot classification.

    Args:
        train: the images of which means are taken.
        test: the images to name.
    """
    check_same_dim(train, test)
    usable = train.take(train.usable)
    classes, labels = np.unique(usable.labels, return_inverse=True)
    sums = np.zeros((len(classes), train.features.shape[1]))
    np.add.at(sums, labels, unit_rows(usable.features))
    cosines = unit_rows(test.features) @ unit_rows(sums).T
    return np.where(test.usable, classes[cosines.argmax(axis=1)], -1)
