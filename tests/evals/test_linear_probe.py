"""The sweep and the probe against scikit-learn's classifier, swept in the same way."""

import warnings

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score

from clipjax.config import UserError
from clipjax.evals.labelled_features import LabelledFeatures
from clipjax.evals.linear_probe import (
    Probe,
    c_at,
    linear_probe,
    mean_per_class_recall,
    stratified_split,
    sweep,
)

pytestmark = pytest.mark.usefixtures("one_blas_thread")


def drawn(images, *, dim=32, classes=5, noise=3.0, seed=0, kind="raw", where="train"):
    """Overlapping classes, the same ones for every seed."""
    centres = np.random.default_rng(99).normal(size=(classes, dim))
    rng = np.random.default_rng(seed)
    shares = 2.0 ** -np.arange(classes) if kind == "unbalanced" else np.ones(classes)
    labels = rng.choice(classes, images, p=shares / shares.sum())
    labels[:classes] = np.arange(classes)
    features = centres[labels] + noise * rng.normal(size=(images, dim))
    features = features + 4 if kind == "unit" else features / dim**0.5
    if kind == "collinear":
        features[:, dim // 2 :] = 3 * features[:, : dim // 2] - 1
    if kind == "unit":
        features /= np.linalg.norm(features, axis=1, keepdims=True)
    return LabelledFeatures(features.astype(np.float32), labels, where)


def sklearn_named(train, test, c, solver="lbfgs"):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = LogisticRegression(C=c, tol=1e-8, max_iter=3000, solver=solver)
        model.fit(train.features.astype(np.float64), train.labels)
    return model.predict(test.features.astype(np.float64))


def sklearn_sweep(train, val):
    """The protocol once more, in the plainest way: grid by grid, all of them anew."""
    score = {}

    def value(step):
        if step not in score:
            named = sklearn_named(train, val, 10 ** (step / 8 - 6), "newton-cholesky")
            score[step] = (named == val.labels).mean()
        return score[step]

    best, size = max(range(0, 97, 16), key=value), 16
    while size > 1:
        size //= 2
        around = [s for s in (best - size, best, best + size) if 0 <= s <= 96]
        best = max(around, key=lambda s: (value(s), -s))
    return 10 ** (best / 8 - 6), score


@pytest.mark.parametrize(
    ("kind", "dim", "classes"),
    [
        ("raw", 64, 3),
        ("unit", 64, 5),
        ("collinear", 64, 3),
        ("unbalanced", 16, 5),
        ("unit", 512, 2),
    ],
)
def test_sweep_and_probe_equal_scikit_learn(kind, dim, classes):
    train, val, test = (
        drawn(n, seed=i, dim=dim, classes=classes, kind=kind)
        for i, n in enumerate((300, 200, 2000))
    )
    best, score = sklearn_sweep(train, val)
    result = linear_probe(train, val, test)
    assert result.c == pytest.approx(best)
    for c, ours in result.table:
        step = round(8 * np.log10(c)) + 48
        assert abs(ours - score[step]) < 0.001 + 1 / len(val)
    assert [c for c, _ in result.table] == sorted(c for c, _ in result.table)
    assert len(result.table) <= 15
    theirs = sklearn_named(train.joined(val), test, best)
    assert (result.predicted != theirs).mean() <= 0.001
    assert abs(result.accuracy - (theirs == test.labels).mean()) <= 0.001
    recall = balanced_accuracy_score(test.labels, result.predicted)
    assert result.mean_per_class_recall == pytest.approx(recall)


def test_the_range_is_that_of_the_paper():
    grid = np.array([c_at(step) for step in range(97)])
    np.testing.assert_allclose(grid, np.logspace(-6, 6, 97), rtol=1e-12)
    train = drawn(60, dim=4)
    said = []
    _, table = sweep(train, drawn(40, dim=4, seed=1), say=said.append)
    tried = [c for c, _ in table]
    assert {1e-6, 1e-4, 1e-2, 1.0, 1e2, 1e4, 1e6} <= set(np.round(tried, 12))
    steps = sorted(np.rint(8 * np.log10(tried) + 48).astype(int))
    assert min(np.diff(steps)) == 1  # an eighth of a decade around the best
    assert len(said) >= len(table)


def test_of_equal_values_the_least_c_is_taken():
    train = drawn(40, classes=2, noise=0.01)
    c, table = sweep(train, drawn(40, classes=2, noise=0.01, seed=1))
    assert c == min(c for c, score in table if score == 1.0)


def test_a_best_c_at_the_end_is_told():
    train = drawn(60, dim=4)
    shuffled = np.random.default_rng(0).permutation(train.labels)
    said = []
    # On classes that the features say nothing of, no weight is the best.
    scores = iter(range(100, 0, -1))
    c, _ = sweep(
        train,
        LabelledFeatures(train.features, shuffled),
        score=lambda predicted, labels: float(next(scores)),
        say=said.append,
    )
    assert c == 1e-6
    assert said[-1].startswith("The best C, 1e-06, is at the end of the range")


def test_the_score_that_is_asked_for_chooses():
    train, val = drawn(200, classes=3), drawn(150, classes=3, seed=1)
    _, table = sweep(train, val, score=mean_per_class_recall)
    probe = Probe(train)
    for c, score in table[::4]:
        named = probe.predict(probe.weights(c), val)
        assert score == pytest.approx(balanced_accuracy_score(val.labels, named), abs=0.01)


def test_pictures_that_did_not_decode_are_wrong_and_teach_nothing():
    train, val, test = drawn(200), drawn(100, seed=1), drawn(300, seed=2)
    clean = linear_probe(train, val, test)
    gap = LabelledFeatures(np.zeros((7, 32), np.float32), np.arange(7) % 5)
    result = linear_probe(train.joined(gap), val, test.joined(gap))
    assert (result.predicted[-7:] == -1).all()
    assert result.accuracy == pytest.approx(clean.accuracy * 300 / 307)
    assert np.array_equal(result.predicted[:-7], clean.predicted)


def test_labels_may_be_any_numbers():
    train, val, test = (
        drawn(200, classes=3),
        drawn(90, classes=3, seed=1),
        drawn(90, seed=2, classes=3),
    )
    names = np.array([7, 1000, 12])

    def renamed(images):
        return LabelledFeatures(images.features, names[images.labels])

    plain = linear_probe(train, val, test)
    # Classes are taken in the order of their numbers, so that rounding is the same only nearly.
    other = linear_probe(renamed(train), renamed(val), renamed(test))
    assert (other.predicted == names[plain.predicted]).mean() > 0.97
    assert set(other.predicted) <= {7, 12, 1000}


def test_a_class_that_was_never_learnt_is_told_and_wrong():
    train, test = drawn(100, classes=3), drawn(60, classes=4, seed=1, where="test")
    said = []
    result = linear_probe(train, None, test, c=1.0, say=said.append)
    assert not (result.predicted == 3).any()
    assert said == [
        "test: 1 classes that no training image has, such as 3; their images count as wrong."
    ]


def test_a_given_c_is_not_searched_for_and_learns_from_validation_too():
    train, val, test = drawn(80), drawn(80, seed=1), drawn(200, seed=2)
    result = linear_probe(train, val, test, c=0.3)
    assert (result.c, result.table) == (0.3, ())
    probe = Probe(train.joined(val))
    assert np.array_equal(result.predicted, probe.predict(probe.weights(0.3), test))


def test_without_validation_a_fifth_of_each_class_is_held_out():
    train, test = drawn(150), drawn(100, seed=2)
    kept, held = stratified_split(train, share=0.2, seed=3)
    result = linear_probe(train, None, test, seed=3)
    c, table = sweep(train.take(kept), train.take(held))
    assert (result.c, result.table) == (c, table)
    probe = Probe(train)
    assert np.array_equal(result.predicted, probe.predict(probe.weights(c), test))


def test_the_split_is_stratified_seeded_and_keeps_every_class():
    labels = np.repeat(np.arange(5), [1, 2, 3, 10, 100])
    images = LabelledFeatures(np.ones((len(labels), 1), np.float32), labels)
    kept, held = stratified_split(images, share=0.2, seed=0)
    assert np.bincount(labels[held], minlength=5).tolist() == [0, 0, 1, 2, 20]
    assert sorted([*kept, *held]) == list(range(len(labels)))
    assert np.array_equal(held, stratified_split(images, share=0.2, seed=0)[1])
    assert not np.array_equal(held, stratified_split(images, share=0.2, seed=1)[1])
    kept, _ = stratified_split(images, share=0.99, seed=0)
    assert np.bincount(labels[kept], minlength=5).min() == 1
    with pytest.raises(UserError, match="no class has images enough to hold out 20%"):
        stratified_split(images.take(np.arange(3)), share=0.2, seed=0)


def test_one_class_is_no_task():
    one = LabelledFeatures(np.ones((4, 2), np.float32), np.zeros(4, int), "x.npy")
    with pytest.raises(UserError, match=r"x\.npy: 1 classes among the images that decode"):
        Probe(one)
