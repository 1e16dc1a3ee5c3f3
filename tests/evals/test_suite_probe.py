import re

import numpy as np
import pytest

from clipjax.config import UsageError, UserError
from clipjax.evals.dataset import Dataset, truth_of
from clipjax.evals.logistic import numpy_objective
from clipjax.evals.suite_probe import PROBES, check_probes, probe

pytestmark = pytest.mark.usefixtures("one_blas_thread")


def data(labels):
    class Nothing:
        def __len__(self):
            return len(labels)

        def fill(self, index, out):
            raise AssertionError("features are there already")

    keys = [str(i) for i in range(len(labels))]
    return Dataset(
        name="x", kind="classification", items=Nothing(), keys=keys, truth=truth_of(label=labels)
    )


def features(labels, seed, noise=0.2):
    rng = np.random.default_rng(seed)
    centres = np.eye(8)[labels]
    rows = centres + noise * rng.normal(size=(len(labels), 8))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def run(kinds, learn, score, bad=()):
    said = []
    of_train, of_test = features(learn, 0), features(score, 1)
    of_train[list(bad)] = 0
    found = probe(
        kinds,
        data(learn),
        of_train,
        data(score),
        of_test,
        make_objective=numpy_objective,
        resamples=20,
        say=said.append,
    )
    return found, said


def test_all_kinds_at_once():
    labels = np.repeat(np.arange(4), 20)
    found, said = run(PROBES, labels, labels)
    assert set(found) == {
        "linear_probe_acc1",
        "linear_probe_mean_per_class_recall",
        "knn_acc1",
        "knn_mean_per_class_recall",
        "few_shot_1_acc1",
        "few_shot_4_acc1",
        "few_shot_16_acc1",
    }
    for score in found.values():
        assert score.value > 0.6 > score.chance
        assert score.low <= score.value <= score.high
    assert any("C=" in line for line in said)


def test_sizes_that_a_class_is_too_small_for_are_left_out():
    learn = np.array([0] * 9 + [1] * 5)
    found, _ = run(["few_shot"], learn, learn)
    assert set(found) == {"few_shot_1_acc1", "few_shot_4_acc1"}
    # Two of the five do not decode.
    found, _ = run(["few_shot"], learn, learn, bad=[9, 10])
    assert set(found) == {"few_shot_1_acc1"}
    with pytest.raises(UserError, match="a class has no image that decodes"):
        run(["few_shot"], learn, learn, bad=range(9, 14))


def test_fewer_neighbours_than_asked_for():
    learn = np.array([0, 0, 1, 1])
    found, _ = run(["knn"], learn, np.array([0, 1]), bad=[0])
    assert set(found) == {"knn_acc1", "knn_mean_per_class_recall"}


def test_names_of_probes():
    assert check_probes("") == []
    assert check_probes("linear, knn") == ["linear", "knn"]
    with pytest.raises(UsageError, match=re.escape("no probe 'k-nn'. Did you mean 'knn'?")):
        check_probes("linear,k-nn")
