"""Naming the class of an image, Radford et al. 2021, section 3.1, arXiv:2103.00020.

Classes that are equally similar stand in the order of their numbers: the lowest is predicted, as by
`argmax` of torch and NumPy, and the first five hold the lowest. CLIP_benchmark takes its recall
from `argmax`, so it is the same here to the last tie. Its accuracies come from `torch.topk`, whose
order among equals is an accident of how it partitions; ours lie within what any order could give,
and are equal wherever the order of equals decides nothing.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from clipjax.evals.metric import Counts, Metric, mean_metric
from clipjax.evals.outcomes.groups import group_share, mean_of_groups, worst_of_groups
from clipjax.evals.outcomes.outcome import Outcome, unusable

Labels = Int[np.ndarray, " images"]

_MOST_LOGITS = 1 << 23
_TOP = {1: "acc1", 5: "acc5"}


def judge(
    image_embeds: Float[np.ndarray, "images embed"],
    class_embeds: Float[np.ndarray, "classes embed"],
    labels: Labels,
    *,
    groups: Mapping[str, Labels] | None = None,
    group_names: Mapping[str, Sequence[str]] | None = None,
    worst: Sequence[Mapping[str, Any]] = (),
    scale: float = 100.0,
) -> Outcome:
    """Returns what is predicted for every image.

    Arrays: `label`, `predicted` (-1 for a picture that did not decode), `in_top5`, `confidence`
    (softmax probability of the predicted class), `truth_probability`, and `group/FIELD`. A picture
    that did not decode is not among the first five and has the probabilities of a guess.

    Args:
        image_embeds: unit rows; zeros where a picture did not decode.
        class_embeds: unit rows.
        labels: the row of `class_embeds` that is right.
        groups: by field, the group of every image; -1 for none.
        group_names: by field, the name of each group; by default its number.
        worst: further scores of the worst group: {"name": as it is reported, "field": of `groups`,
            "top": 1 or 5, "skip": names of groups that do not count}, the last two optional.
        scale: of the logits behind the probabilities; 100 is where CLIP's ends.

    Raises:
        ValueError: if a label, group, field or `top` is not one of those there are.
    """
    images, classes = len(image_embeds), len(class_embeds)
    _check_range("label", labels, 0, classes)
    names = _names(groups or {}, group_names or {})
    for entry in worst:
        _check_worst(entry, names)
    predicted = np.empty(images, np.int64)
    in_top5 = np.empty(images, bool)
    confidence, truth = np.empty(images, np.float32), np.empty(images, np.float32)
    chunk = max(1, _MOST_LOGITS // classes)
    for first in range(0, images, chunk):
        rows = slice(first, first + chunk)
        with np.errstate(invalid="ignore", over="ignore"):
            # In this order CLIP_benchmark rounds too.
            logits = (np.float32(scale) * image_embeds[rows]) @ class_embeds.T
        bad = unusable(image_embeds[rows]) | ~np.isfinite(logits).all(axis=1)
        logits[bad] = 0
        label = labels[rows, None]
        of_truth = np.take_along_axis(logits, label, axis=1)
        before = (logits == of_truth) & (np.arange(classes) < label)
        in_top5[rows] = ((logits > of_truth) | before).sum(axis=1) < 5
        predicted[rows] = logits.argmax(axis=1)
        highest = logits.max(axis=1)
        total = np.exp(logits - highest[:, None]).sum(axis=1)
        confidence[rows] = 1 / total
        truth[rows] = np.exp(of_truth[:, 0] - highest) / total
        predicted[rows][bad] = -1
        in_top5[rows][bad] = False
    arrays = {
        "label": labels,
        "predicted": predicted,
        "in_top5": in_top5,
        "confidence": confidence,
        "truth_probability": truth,
    }
    arrays |= {f"group/{field}": group for field, group in (groups or {}).items()}
    options = {"num_classes": classes, "groups": names, "worst": [dict(entry) for entry in worst]}
    return Outcome(kind="classification", arrays=arrays, options=options)


def metrics(outcome: Outcome) -> dict[str, Metric]:
    """Returns the scores of `judge`'s outcome.

    acc1, acc5: share of images whose class is the first, or among the first five; the latter from
        five classes on. Chance is k / classes, or always naming the k commonest classes where that
        is more.
    mean_per_class_recall, recall-macro_all: mean over the classes that occur of their shares of
        hits, however many images each has; two names of one score, of scikit-learn's balanced
        accuracy and of WILDS. Chance is 1 / classes that occur: always naming one of them.
    F1-macro_all: mean over the classes that occur of the harmonic mean of recall and precision, as
        WILDS has it. Chance is the more of two guesses: any class alike, always the commonest.
    acc_avg: acc1 once more where there are groups, under the name that WILDS gives it.
    acc_FIELD_NAME: acc1 within one group.
    acc_worst_FIELD and those of the option `worst`: of the groups that occur the lowest. Chance is
        k / classes, for naming a single class has no worst group that it could be said of.

    Source: Koh et al. 2021, "WILDS: A Benchmark of in-the-Wild Distribution Shifts",
    https://arxiv.org/abs/2012.07421; which group of which data set counts: Gadre et al. 2023,
    "DataComp", appendix on evaluation, https://arxiv.org/abs/2304.14108.
    """
    arrays, classes = outcome.arrays, outcome.options["num_classes"]
    labels, predicted = arrays["label"], arrays["predicted"]
    hits = {1: predicted == labels, 5: arrays["in_top5"]}
    out = {
        name: mean_metric(hits[k].astype(np.float64), chance=_chance(labels, k, classes))
        for k, name in _TOP.items()
        if k == 1 or k <= classes
    }
    occurring = len(np.unique(labels))
    recall = mean_of_groups(hits[1], labels, chance=1 / occurring)
    out["mean_per_class_recall"] = recall
    groups: Mapping[str, Sequence[str]] = outcome.options.get("groups", {})
    if groups:
        out["acc_avg"] = out["acc1"]
    out |= {"F1-macro_all": _macro_f1(labels, predicted, classes), "recall-macro_all": recall}
    for field, names in groups.items():
        of_image = arrays[f"group/{field}"]
        for group in np.unique(of_image[of_image >= 0]):
            chance = _chance(labels[of_image == group], 1, classes)
            out[f"acc_{field}_{names[group]}"] = group_share(
                hits[1], of_image, int(group), chance=chance
            )
    worst = [{"name": f"acc_worst_{field}", "field": field} for field in groups]
    for entry in [*worst, *outcome.options.get("worst", ())]:
        field, top = entry["field"], entry.get("top", 1)
        counted = _without(arrays[f"group/{field}"], groups[field], entry.get("skip", ()))
        if (counted >= 0).any():
            chance = min(1.0, top / classes)
            out[entry["name"]] = worst_of_groups(hits[top], counted, chance=chance)
    return out


def _chance(labels: Labels, k: int, classes: int) -> float:
    commonest = np.sort(np.bincount(labels))[::-1][:k].sum() / len(labels)
    return min(1.0, max(k / classes, float(commonest)))


def _macro_f1(labels: Labels, predicted: Labels, classes: int) -> Metric:
    """Returns the mean over the classes that occur in a draw of 2 hits / (predicted + true)."""
    occurring, label = np.unique(labels, return_inverse=True)
    number = np.full(classes + 1, -1)  # the last is that of a picture that did not decode
    number[occurring] = np.arange(len(occurring))
    guess = number[predicted]  # -1: no class that occurs, and which one does not matter
    pairs, cells = np.unique(np.stack([label, guess], 1), axis=0, return_inverse=True)
    of_label, of_guess = pairs.T
    hit = of_label == of_guess
    first = np.unique(of_label, return_index=True)[1]
    by_guess = np.argsort(of_guess, kind="stable")
    guessed, first_guess = np.unique(of_guess[by_guess], return_index=True)

    def of_counts(counts: Counts) -> Float[np.ndarray, " resamples"]:
        true = np.add.reduceat(counts, first, axis=1)
        both = true.copy()
        totals = np.add.reduceat(counts[:, by_guess], first_guess, axis=1)
        both[:, guessed[guessed >= 0]] += totals[:, guessed >= 0]
        hits = np.zeros_like(true)
        hits[:, of_label[hit]] = counts[:, hit]
        occurs = true > 0
        scores = np.divide(2 * hits, both, out=np.zeros_like(true), where=occurs)
        with np.errstate(invalid="ignore"):
            return scores.sum(axis=1) / occurs.sum(axis=1)

    shares = np.bincount(label) / len(labels)
    any_alike = np.mean(2 * shares / classes / (shares + 1 / classes))
    commonest = 2 * shares.max() / (1 + shares.max()) / len(shares)
    return Metric(
        cells=cells.reshape(-1),
        of_counts=of_counts,
        chance=float(max(any_alike, commonest)),
        samples=len(labels),
    )


def _without(groups: Labels, names: Sequence[str], skip: Sequence[str]) -> Labels:
    skipped = [number for number, name in enumerate(names) if name in skip]
    return np.where(np.isin(groups, skipped), -1, groups)


def _names(
    groups: Mapping[str, Labels], names: Mapping[str, Sequence[str]]
) -> dict[str, list[str]]:
    out = {}
    for field, group in groups.items():
        count = int(group.max(initial=-1)) + 1
        out[field] = list(names.get(field) or map(str, range(count)))
        _check_range(f"group of {field!r}", group, -1, len(out[field]))
    return out


def _check_worst(entry: Mapping[str, Any], names: Mapping[str, Sequence[str]]) -> None:
    if entry["field"] not in names:
        raise ValueError(f"{entry['name']}: no groups by {entry['field']!r}, only by {list(names)}")
    if entry.get("top", 1) not in _TOP:
        raise ValueError(f"{entry['name']}: top={entry['top']}; expected 1 or 5")


def _check_range(what: str, values: np.ndarray, lowest: int, end: int) -> None:
    bad = (values < lowest) | (values >= end)
    if bad.any():
        at = int(bad.argmax())
        raise ValueError(f"{what} {values[at]} of image {at}; expected {lowest} to {end - 1}")
