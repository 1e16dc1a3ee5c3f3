"""What the features of a benchmark hold beside zero-shot: probes from its training images."""

from collections.abc import Callable, Sequence

import numpy as np

from clipjax.config import UsageError, UserError, did_you_mean
from clipjax.evals.dataset import Dataset
from clipjax.evals.estimate import Estimate
from clipjax.evals.few_shot import few_shot
from clipjax.evals.labelled_features import LabelledFeatures
from clipjax.evals.linear_probe import linear_probe
from clipjax.evals.logistic import MakeObjective
from clipjax.evals.neighbours import nearest_neighbours
from clipjax.evals.probe_scores import probe_scores

PROBES = ("linear", "knn", "few_shot")
_SEEDS = 3
_SHOTS = (1, 4, 16)
_NEIGHBOURS = 20


def check_probes(names: str) -> list[str]:
    """Returns the probes of a flag, e.g. "linear,knn".

    Raises:
        UsageError: if there is none of a name.
    """
    chosen = [name.strip() for name in names.split(",") if name.strip()]
    for name in chosen:
        if name not in PROBES:
            raise UsageError(
                f"--probe={names}: no probe {name!r}.{did_you_mean(name, PROBES)} There are: "
                f"{', '.join(PROBES)}."
            )
    return chosen


def probe(
    kinds: Sequence[str],
    train: Dataset,
    train_features: np.ndarray,
    test: Dataset,
    test_features: np.ndarray,
    *,
    make_objective: MakeObjective,
    resamples: int,
    say: Callable[[str], None],
) -> dict[str, Estimate]:
    """Returns scores such as linear_probe_acc1, knn_acc1 and few_shot_4_acc1.

    The linear probe is CLIP's: C is chosen on a fifth of the training images. kNN is DINO's with 20
    neighbours. Few-shot is the mean over three draws of 1, 4 and 16 images a class, its interval
    that of the draws; sizes that a class is too small for are left out.

    Args:
        kinds: of PROBES.
        train: images to learn from.
        train_features: their embeddings.
        test: images to score.
        test_features: their embeddings.
        make_objective: computes the loss of the linear probe.
        resamples: behind each interval.
        say: is told how it goes.

    Raises:
        UserError: if the training images cannot be learnt from.
    """
    learn = LabelledFeatures(train_features, train.truth["label"], f"{train.name} (train)")
    score = LabelledFeatures(test_features, test.truth["label"], test.name)
    out: dict[str, Estimate] = {}
    for kind in kinds:
        if kind == "linear":
            found = linear_probe(learn, None, score, make_objective=make_objective, say=say)
            say(f"{test.name}: linear probe with C={found.c:.3g}")
            scores = probe_scores(found.predicted, score.labels, resamples=resamples)
            out |= {f"linear_probe_{name}": one for name, one in scores.items()}
        elif kind == "knn":
            predicted = nearest_neighbours(learn, score, k=min(_NEIGHBOURS, len(learn)))
            scores = probe_scores(predicted, score.labels, resamples=resamples)
            out |= {f"knn_{name}": one for name, one in scores.items()}
        else:
            out |= _few_shot(learn, score, make_objective, say)
    return out


def _few_shot(
    learn: LabelledFeatures,
    score: LabelledFeatures,
    make_objective: MakeObjective,
    say: Callable[[str], None],
) -> dict[str, Estimate]:
    chance = probe_scores(score.labels, score.labels, resamples=1)["acc1"].chance
    least = int(np.unique(learn.labels[learn.usable], return_counts=True)[1].min())
    shots = [count for count in _SHOTS if count <= least]
    if not shots:
        raise UserError(f"{learn.where}: a class has no image that decodes.")
    found = few_shot(
        learn,
        score,
        shots=shots,
        seeds=range(_SEEDS),
        method="linear",
        c=1.0,
        val=None,
        make_objective=make_objective,
        say=say,
    )
    return {
        f"few_shot_{one.shots}_acc1": Estimate(
            value=one.mean,
            low=one.interval[0],
            high=one.interval[1],
            chance=chance,
            samples=len(score),
        )
        for one in found
    }
