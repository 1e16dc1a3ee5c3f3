"""Cached features with the classes of their images: what probes learn from and are scored on."""

import dataclasses
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float32, Int64

from clipjax.config.errors import UserError
from clipjax.evals.outcomes.outcome import unusable


@dataclasses.dataclass(frozen=True)
class LabelledFeatures:
    """Features of images with their classes.

    Attributes:
        features: of a model, as it gives them; a row of zeros is an image that did not decode.
        labels: class of each image.
        where: what to call this set in messages.

    Raises:
        UserError: if they do not fit together, a number is not finite or a label is negative.
    """

    features: Float32[np.ndarray, "images dim"]
    labels: Int64[np.ndarray, " labels"]
    where: str = "features"

    def __post_init__(self):
        if len(self.features) != len(self.labels):
            raise UserError(
                f"{self.where}: {len(self.features):,} rows of features and {len(self.labels):,} "
                "labels; expected one label a row, in the same order."
            )
        if not self.features.size:
            raise UserError(f"{self.where}: no features; expected at least one row.")
        bad = np.flatnonzero(~np.isfinite(self.features).all(axis=1))
        if bad.size:
            raise UserError(
                f"{self.where}: {bad.size:,} rows hold NaN or inf, the first is row {bad[0]:,}. "
                "Embed the images again, in float32, or look for the image that gives it."
            )
        wrong = np.flatnonzero(self.labels < 0)
        if wrong.size:
            raise UserError(
                f"{self.where}: label {self.labels[wrong[0]]} of row {wrong[0]:,}; expected "
                "classes from 0 on. Leave out the images that have no class."
            )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def usable(self) -> Bool[np.ndarray, " images"]:
        """Which images did decode."""
        return ~unusable(self.features)

    def take(self, rows: np.ndarray) -> "LabelledFeatures":
        """Returns the images at `rows`, numbers or a mask."""
        return LabelledFeatures(self.features[rows], self.labels[rows], self.where)

    def joined(self, other: "LabelledFeatures") -> "LabelledFeatures":
        """Returns these images and then the others."""
        return LabelledFeatures(
            np.concatenate([self.features, other.features]),
            np.concatenate([self.labels, other.labels]),
            f"{self.where} and {other.where}",
        )


def read_labelled(features: str, labels: str) -> LabelledFeatures:
    """Reads features and labels from two files of NumPy.

    Args:
        features: `.npy` of floats, [images, dim].
        labels: `.npy` of whole numbers, [images].

    Raises:
        UserError: if a file is missing, is no array, or the two do not fit.
    """
    rows, classes = _read(features), _read(labels)
    if rows.ndim != 2 or rows.dtype.kind != "f":
        raise UserError(
            f"{features}: {rows.dtype} of shape {rows.shape}; expected floats of shape "
            "(images, dim), one row an image."
        )
    if classes.ndim != 1 or classes.dtype.kind not in "iu":
        raise UserError(
            f"{labels}: {classes.dtype} of shape {classes.shape}; expected whole numbers of shape "
            "(images,), the class of each row."
        )
    with np.errstate(over="ignore"):  # what float32 cannot hold is told of as inf
        rows = rows.astype(np.float32)
    return LabelledFeatures(rows, classes.astype(np.int64), features)


def check_same_dim(train: LabelledFeatures, other: LabelledFeatures) -> None:
    """Raises UserError unless both have features of one length."""
    if train.features.shape[1] != other.features.shape[1]:
        raise UserError(
            f"{other.where}: features of length {other.features.shape[1]}, but those of "
            f"{train.where} have {train.features.shape[1]}. Embed both with the same model."
        )


def _read(path: str) -> np.ndarray:
    if not Path(path).is_file():
        raise UserError(f"{path}: no such file. `clipjax embed` writes features and labels.")
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise UserError(
            f"{path}: not one array of NumPy ({error}). Expected a .npy file."
        ) from error
    if not isinstance(array, np.ndarray):
        raise UserError(f"{path}: several arrays; expected a .npy file, which holds one.")
    return array
