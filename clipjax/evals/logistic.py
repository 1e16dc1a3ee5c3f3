"""Multinomial logistic regression with an L2 penalty, by L-BFGS."""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import numpy as np
import scipy.optimize
from jaxtyping import Float, Int64

from clipjax.evals.weight_coordinates import PLAIN, Coordinates

Weights = Float[np.ndarray, "rows dim_and_intercept"]

_BLOCK_LOGITS = 1 << 20
_STORED_STEPS = 20
_LINE_STEPS = 10
_LEAST_GRADIENT = 1e-12
_FAR_ABOVE_ONE = 1e12
_ROUNDING = 1e-3


@runtime_checkable
class Objective(Protocol):
    """The function that a fit minimises, 0.5 |W|^2 + C * (sum of the log losses).

    The last column of the weights are the intercepts, which the penalty leaves out. There is a row
    a class; with two classes only one, of the second class against logits of zero.
    """

    def __call__(self, weights: Weights, c: float, /) -> tuple[float, Weights]:
        """Returns the value and the gradient at `weights`, float64 or float32."""
        ...


MakeObjective = Callable[[np.ndarray, np.ndarray, int], Objective]


def num_rows(num_classes: int) -> int:
    """Returns the rows of the weights of so many classes."""
    return 1 if num_classes == 2 else num_classes


def numpy_objective(
    features: Float[np.ndarray, "images dim"],
    labels: Int64[np.ndarray, " images"],
    num_classes: int,
    dtype: Any = np.float64,
) -> Objective:
    """Returns the objective over these features, computed block by block on the host.

    Args:
        features: as they are; nothing is normalised.
        labels: 0 to num_classes - 1.
        num_classes: two at least.
        dtype: in which to compute.
    """
    features = np.asarray(features, dtype)
    images, dim = features.shape
    block = max(1, _BLOCK_LOGITS // num_classes)

    def objective(weights: Weights, c: float) -> tuple[float, Weights]:
        slopes, intercepts = weights[:, :-1].astype(dtype), weights[:, -1].astype(dtype)
        loss, gradient = 0.0, np.zeros((len(weights), dim + 1))
        for first in range(0, images, block):
            rows, truth = features[first : first + block], labels[first : first + block]
            residual = rows @ slopes.T
            residual += intercepts
            loss += _losses_to_residuals(residual, truth)
            gradient[:, :-1] += residual.T @ rows
            gradient[:, -1] += residual.sum(axis=0)
        gradient *= c
        gradient[:, :-1] += weights[:, :-1]
        return 0.5 * float(np.vdot(weights[:, :-1], weights[:, :-1])) + c * loss, gradient

    return objective


def _losses_to_residuals(logits: np.ndarray, truth: np.ndarray) -> float:
    """Returns the sum of the log losses, and leaves probability minus truth in `logits`.

    Both keep their digits where the truth is nearly certain: what the other classes have is added
    up, not taken from one.
    """
    if logits.shape[1] == 1:
        sign = np.where(truth == 1, -1, 1).astype(logits.dtype)
        against = sign * logits[:, 0]
        small = np.exp(-np.abs(against))
        losses = np.maximum(against, 0) + np.log1p(small)
        logits[:, 0] = sign * np.where(against > 0, 1, small) / (1 + small)
        return float(losses.sum(dtype=np.float64))
    index = np.arange(len(truth))
    logits -= logits.max(axis=1, keepdims=True)
    of_truth = logits[index, truth]
    np.exp(logits, out=logits)
    logits[index, truth] = 0
    others = logits.sum(axis=1)
    losses = np.log1p(others + np.expm1(of_truth)) - of_truth
    logits[index, truth] = -others
    logits /= (others + np.exp(of_truth))[:, None]
    return float(losses.sum(dtype=np.float64))


def fit(
    objective: Objective,
    num_classes: int,
    dim: int,
    c: float,
    *,
    start: Weights | None = None,
    max_iterations: int = 1000,
    tolerance: float = 1e-10,
    coordinates: Coordinates | None = None,
    say: Callable[[str], None] | None = None,
) -> Weights:
    """Returns the weights at which the objective is least, float64.

    Args:
        objective: see `Objective`.
        num_classes: two at least.
        dim: length of a feature.
        c: weight of the log losses, against a penalty of 0.5 |W|^2.
        start: weights to begin at, such as those of another C; zeros by default.
        max_iterations: of L-BFGS.
        tolerance: it ends when a step lowers the objective by less than this share of it.
        coordinates: of the features; they change the number of steps, not the minimum.
        say: is told if L-BFGS ends without having come to the minimum.

    Source: Liu and Nocedal, "On the limited memory BFGS method for large scale optimization", 1989,
    https://doi.org/10.1007/BF01589116.
    """
    shape = (num_rows(num_classes), dim + 1)
    frame = coordinates.scaled(c, num_classes) if coordinates else PLAIN
    value_at_zero, gradient = objective(np.zeros(shape), c)
    gradient = frame.gradient(gradient)
    steepest, inner = float(np.abs(gradient).max()), np.zeros(shape)
    if start is not None:
        inner, gradient = frame.inner(start), frame.gradient(objective(start, c)[1])
    # L-BFGS begins with a step of length one. Where the curvature is about one, the step to the
    # minimum is as long as the gradient.
    unit = float(np.linalg.norm(gradient)) if coordinates else 1.0
    if not steepest or not unit:
        return frame.weights(inner)

    # SciPy takes the least gain as a share of the value, or of one where that is more.
    scale = _FAR_ABOVE_ONE / value_at_zero

    def scaled(flat: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = objective(frame.weights(unit * flat.reshape(shape)), c)
        return value * scale, frame.gradient(gradient).ravel() * (unit * scale)

    found = scipy.optimize.minimize(
        scaled,
        inner.ravel() / unit,
        jac=True,
        method="L-BFGS-B",
        options={
            "maxiter": max_iterations,
            "maxfun": 20 * max_iterations,
            "maxcor": _STORED_STEPS,
            "maxls": _LINE_STEPS,
            "gtol": _LEAST_GRADIENT * steepest * unit * scale,
            "ftol": tolerance,
        },
    )
    # A line search that finds no lower value has met rounding, which float32 does early.
    left = float(np.abs(found.jac).max()) / (unit * scale * steepest)
    if say and (found.status == 1 or (found.status == 2 and left > _ROUNDING)):
        say(
            f"C={c:.3g}: L-BFGS did not converge in {found.nit:,} iterations; the gradient is "
            f"{left:.1e} of that at zero weights."
        )
    return frame.weights(unit * found.x.reshape(shape))


def predict(
    weights: Weights, features: Float[np.ndarray, "images dim"]
) -> Int64[np.ndarray, " images"]:
    """Returns the class of the largest logit, the first of equal ones."""
    slopes, intercepts = weights[:, :-1].T, weights[:, -1]
    block = max(1, _BLOCK_LOGITS // len(weights))
    out = np.empty(len(features), np.int64)
    for first in range(0, len(features), block):
        logits = features[first : first + block] @ slopes + intercepts
        last = first + len(logits)
        out[first:last] = logits[:, 0] > 0 if len(weights) == 1 else logits.argmax(axis=1)
    return out
