"""Logistic regression against scikit-learn's, finite differences and a definition by hand."""

import warnings

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression

from clipjax.evals.logistic import fit, num_rows, numpy_objective, predict
from clipjax.evals.weight_coordinates import Coordinates

pytestmark = pytest.mark.usefixtures("one_blas_thread")


def gaussians(kind, *, dim, classes, images=400, seed=0):
    """Overlapping classes: labels, and features of one of the kinds that real ones are."""
    rng = np.random.default_rng([seed, dim, classes])
    shares = np.ones(classes)
    if kind == "unbalanced":
        shares = 2.0 ** -np.arange(classes)
    labels = rng.choice(classes, images, p=shares / shares.sum())
    labels[:classes] = np.arange(classes)
    centres = np.random.default_rng([dim, classes]).normal(size=(classes, dim))
    features = (centres[labels] + 5 * rng.normal(size=(images, dim))) / dim**0.5
    if kind == "collinear":
        features[:, dim // 2 :] = features[:, : dim - dim // 2] * 2 + 1
    if kind == "unit":
        features = features * np.arange(1, dim + 1) ** -0.5 + 3
        features /= np.linalg.norm(features, axis=1, keepdims=True)
    return features.astype(np.float32), labels


def sklearn_fit(features, labels, c, solver="lbfgs", tolerance=1e-8):
    model = LogisticRegression(C=c, solver=solver, tol=tolerance, max_iter=10_000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # at this tolerance it ends by rounding
        model.fit(features.astype(np.float64), labels)
    return np.column_stack([model.coef_, model.intercept_]), model


def ours(features, labels, c, **options):
    classes = int(labels.max()) + 1
    objective = numpy_objective(features, labels, classes)
    return fit(
        objective, classes, features.shape[1], c, coordinates=Coordinates.of(features), **options
    )


@pytest.mark.parametrize(
    ("kind", "dim", "classes", "c"),
    [
        ("overlapping", 64, 5, 0.1),
        ("overlapping", 512, 3, 1e-3),
        ("collinear", 96, 4, 0.1),
        ("unbalanced", 64, 7, 0.1),
        ("unbalanced", 64, 3, 10.0),
        ("unit", 128, 10, 1e-3),
        ("unit", 128, 10, 10.0),
        ("unit", 64, 2, 100.0),
    ],
)
def test_fit_equals_scikit_learn(kind, dim, classes, c):
    features, labels = gaussians(kind, dim=dim, classes=classes)
    test, _ = gaussians(kind, dim=dim, classes=classes, images=1000, seed=1)
    theirs, model = sklearn_fit(features, labels, c)
    weights = ours(features, labels, c)
    objective = numpy_objective(features, labels, classes)
    least, reference = objective(weights, c)[0], objective(theirs, c)[0]
    assert least <= reference * (1 + 1e-7)
    assert reference <= least * (1 + 1e-6)
    named = model.predict(test.astype(np.float64))
    # What lies so near a border that two fits may differ is at most one image in a thousand.
    assert (predict(weights, test.astype(np.float64)) != named).sum() <= 1


@pytest.mark.parametrize("c", [1e4, 1e6])
def test_fit_equals_newtons_method_where_classes_can_be_told_apart(c):
    features, labels = gaussians("unit", dim=32, classes=4, images=100)
    theirs, _ = sklearn_fit(features, labels, c, "newton-cholesky")
    objective = numpy_objective(features, labels, 4)
    said = []
    weights = ours(features, labels, c, say=said.append)
    assert objective(weights, c)[0] == pytest.approx(objective(theirs, c)[0], rel=1e-7)
    assert not said


def test_objective_is_its_definition():
    features, labels = gaussians("overlapping", dim=6, classes=3, images=30)
    rng = np.random.default_rng(0)
    weights, c = rng.normal(size=(3, 7)), 0.7
    logits = features.astype(np.float64) @ weights[:, :-1].T + weights[:, -1]
    losses = -log_softmax(logits, axis=1)[np.arange(30), labels]
    value, _ = numpy_objective(features, labels, 3)(weights, c)
    assert value == pytest.approx(0.5 * (weights[:, :-1] ** 2).sum() + c * losses.sum(), rel=1e-13)


@pytest.mark.parametrize("classes", [2, 3])
def test_gradient_equals_finite_differences(classes):
    features, labels = gaussians("overlapping", dim=4, classes=classes, images=40)
    objective = numpy_objective(features, labels, classes)
    weights = np.random.default_rng(1).normal(size=(num_rows(classes), 5))
    _, gradient = objective(weights, 2.0)
    step = 1e-5
    for place in np.ndindex(weights.shape):
        away = np.zeros_like(weights)
        away[place] = step
        slope = (objective(weights + away, 2.0)[0] - objective(weights - away, 2.0)[0]) / step / 2
        # Error of the difference: step^2 f''' / 6 and rounding of the values by the step.
        assert gradient[place] == pytest.approx(slope, rel=1e-6, abs=1e-5)


def test_two_classes_are_the_logistic_loss_of_one_row():
    features, labels = gaussians("overlapping", dim=3, classes=2, images=20)
    weights = np.random.default_rng(2).normal(size=(1, 4))
    z = features.astype(np.float64) @ weights[0, :3] + weights[0, 3]
    losses = np.log1p(np.exp(-np.where(labels == 1, z, -z)))
    value, _ = numpy_objective(features, labels, 2)(weights, 3.0)
    assert value == pytest.approx(0.5 * (weights[0, :3] ** 2).sum() + 3 * losses.sum())


def test_huge_logits_do_not_overflow():
    for classes in (2, 3):
        features = np.full((4, 2), 1e5, np.float32)
        labels = np.arange(4) % classes
        weights = np.full((num_rows(classes), 3), 1e3)
        weights[-1] *= -1
        value, gradient = numpy_objective(features, labels, classes)(weights, 1.0)
        assert np.isfinite(value)
        assert np.isfinite(gradient).all()


def test_blocks_do_not_change_the_objective(monkeypatch):
    features, labels = gaussians("overlapping", dim=5, classes=4, images=50)
    weights = np.random.default_rng(3).normal(size=(4, 6))
    whole = numpy_objective(features, labels, 4)(weights, 1.0)
    monkeypatch.setattr("clipjax.evals.logistic._BLOCK_LOGITS", 28)
    parts = numpy_objective(features, labels, 4)(weights, 1.0)
    assert parts[0] == pytest.approx(whole[0], rel=1e-13)
    np.testing.assert_allclose(parts[1], whole[1], rtol=1e-12, atol=1e-12)
    assert np.array_equal(
        predict(weights, features),
        predict(weights, features[:7].copy()).tolist()
        + predict(weights, features[7:].copy()).tolist(),
    )


def test_fit_in_float32_is_near_that_in_float64():
    features, labels = gaussians("unit", dim=64, classes=6)
    exact = numpy_objective(features, labels, 6)
    rough = numpy_objective(features, labels, 6, np.float32)
    said = []
    weights = fit(rough, 6, 64, 10.0, coordinates=Coordinates.of(features), say=said.append)
    assert not said
    assert exact(weights, 10.0)[0] <= exact(ours(features, labels, 10.0), 10.0)[0] * (1 + 1e-5)


def test_coordinates_and_start_do_not_move_the_minimum():
    features, labels = gaussians("unit", dim=32, classes=4)
    objective = numpy_objective(features, labels, 4)
    value = objective(ours(features, labels, 1.0), 1.0)[0]
    plain = fit(objective, 4, 32, 1.0)
    started = ours(features, labels, 1.0, start=np.random.default_rng(4).normal(size=(4, 33)))
    for other in (plain, started):
        assert objective(other, 1.0)[0] == pytest.approx(value, rel=1e-9)


def test_coordinates_save_steps():
    features, labels = gaussians("unit", dim=64, classes=4)
    calls = {"plain": 0, "ours": 0}

    def counted(name):
        inner = numpy_objective(features, labels, 4)

        def objective(weights, c):
            calls[name] += 1
            return inner(weights, c)

        return objective

    fit(counted("plain"), 4, 64, 10.0)
    fit(counted("ours"), 4, 64, 10.0, coordinates=Coordinates.of(features))
    assert 3 * calls["ours"] < calls["plain"]


@given(
    hnp.arrays(np.float64, (12, 3), elements=st.floats(-3, 3)),
    hnp.arrays(np.float64, (2, 4), elements=st.floats(-3, 3)),
    st.floats(1e-4, 1e4),
)
@settings(max_examples=40, deadline=None)
def test_coordinates_go_there_and_back_and_keep_slopes(features, weights, c):
    frame = Coordinates.of(features).scaled(c, 3)
    inner = frame.inner(weights)
    np.testing.assert_allclose(frame.weights(inner), weights, atol=1e-9)
    # <gradient, change of weights> is the same number in either coordinates.
    change, gradient = np.flip(inner, 1), np.cos(weights)
    np.testing.assert_allclose(
        np.vdot(frame.gradient(gradient), change),
        np.vdot(gradient, frame.weights(change)),
        rtol=1e-9,
        atol=1e-9 * np.abs(change).max() * 1e3,
    )


def test_an_end_before_the_minimum_is_told():
    features, labels = gaussians("unit", dim=64, classes=5)
    said = []
    fit(numpy_objective(features, labels, 5), 5, 64, 1e3, max_iterations=3, say=said.append)
    assert len(said) == 1
    assert said[0].startswith("C=1e+03: L-BFGS did not converge in 3 iterations")


def test_a_gradient_that_leads_nowhere_is_told():
    features, labels = gaussians("unit", dim=8, classes=3)
    right, said = numpy_objective(features, labels, 3), []

    def wrong(weights, c):
        value, gradient = right(weights, c)
        return value, -gradient

    weights = fit(wrong, 3, 8, 10.0, say=said.append)
    assert np.isfinite(weights).all()
    assert len(said) == 1
    assert "did not converge" in said[0]


def test_features_that_say_nothing_give_the_shares_of_the_classes():
    labels = np.array([0, 0, 0, 1, 2, 2])
    weights = ours(np.ones((6, 3), np.float32), labels, 1.0)
    np.testing.assert_allclose(weights[:, :-1], 0, atol=1e-6)
    odds = np.exp(weights[:, -1])
    np.testing.assert_allclose(odds / odds.sum(), [3 / 6, 1 / 6, 2 / 6], rtol=1e-6)


def test_balanced_labels_without_features_need_no_step():
    assert not ours(np.zeros((4, 2), np.float32), np.array([0, 1, 0, 1]), 1.0).any()
