"""Paired embeddings of pictures and texts, in files or in memory, read a block at a time."""

import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from clipjax.config.errors import UserError
from clipjax.core.progress import Progress
from clipjax.evals.outcomes.outcome import unusable

Modality = Literal["image", "text"]
MODALITIES: tuple[Modality, ...] = ("image", "text")

Embeds = Float[np.ndarray, "rows embed"]

_BLOCK_ROWS = 8192


@dataclasses.dataclass(frozen=True, kw_only=True)
class Moments:
    """Means and spread of both modalities, in float64.

    Attributes:
        image_mean: of the pictures.
        text_mean: of the texts.
        image_variance: mean squared distance from `image_mean`.
        text_variance: of the texts likewise.
    """

    image_mean: Float[np.ndarray, " embed"]
    text_mean: Float[np.ndarray, " embed"]
    image_variance: float
    text_variance: float


class FeaturePairs:
    """Embeddings of which row i of both modalities is the same thing.

    Pairs of which one row cannot be used (zeros, of a picture that did not decode, NaN or inf) are
    left out: they have no number.

    Args:
        image: float, one row a picture; may be mapped from a file.
        text: float, one row a text.
        where: what to call them in messages.

    Raises:
        UserError: if they do not fit together, or too few are left.
    """

    def __init__(self, image: np.ndarray, text: np.ndarray, where: str = "features"):
        self.where = where
        for name, rows in (("image", image), ("text", text)):
            if rows.ndim != 2 or rows.dtype.kind != "f":
                raise UserError(
                    f"{where}: {name} features are {rows.dtype} of shape {rows.shape}; expected "
                    "floats of shape (rows, dim)."
                )
        if image.shape != text.shape:
            raise UserError(
                f"{where}: image features of shape {image.shape}, text features of "
                f"{text.shape}; expected as many of the same length, row by row a pair. Embed both "
                "with one model in one `clipjax embed`, without --images or --texts."
            )
        self._arrays: dict[Modality, np.ndarray] = {"image": image, "text": text}
        kept = [~(unusable(i) | unusable(t)) for i, t in self._blocks()]
        self._rows = np.flatnonzero(np.concatenate(kept)) if kept else np.zeros(0, np.int64)
        if len(self._rows) < 2:
            raise UserError(
                f"{where}: {len(self._rows)} pairs that can be used of {len(image):,}; at least "
                "two are needed. Rows of zeros are pictures that did not decode."
            )

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def dim(self) -> int:
        """Numbers of an embedding."""
        return self._arrays["image"].shape[1]

    @property
    def rows(self) -> Int[np.ndarray, " pairs"]:
        """Which rows of the files the pairs are."""
        return self._rows

    def take(self, pairs: np.ndarray) -> tuple[Embeds, Embeds]:
        """Returns the pictures and the texts of pairs, float32."""
        rows = self._rows[pairs]
        # A file is read forwards; the order asked for is made in memory.
        ordered, back = np.unique(rows, return_inverse=True)
        image, text = (
            np.asarray(array[ordered], np.float32)[back] for array in self._arrays.values()
        )
        return image, text

    def blocks(self, size: int = _BLOCK_ROWS) -> Iterator[tuple[Embeds, Embeds]]:
        """Yields all pairs in their order, float32, at most `size` at a time."""
        for first in range(0, len(self), size):
            yield self.take(np.arange(first, min(first + size, len(self))))

    @functools.cached_property
    def moments(self) -> Moments:
        """Means and spread, of one pass; the spread is of what is left of the first pair."""
        first = [x[0].astype(np.float64) for x in self.take(np.arange(1))]
        sums, squares = np.zeros((2, self.dim)), np.zeros(2)
        with Progress("reading features", len(self), "pairs", quiet_seconds=2.0) as progress:
            for block in self.blocks():
                for m, rows in enumerate(block):
                    moved = rows.astype(np.float64) - first[m]
                    sums[m] += moved.sum(axis=0)
                    squares[m] += np.square(moved).sum()
                progress.advance(len(block[0]))
        means = sums / len(self)
        variances = squares / len(self) - np.square(means).sum(axis=1)
        for name, variance in zip(MODALITIES, variances, strict=True):
            if variance <= 1e-9:
                raise UserError(
                    f"{self.where}: all {name} features are the same: there is nothing to take "
                    "apart. Look at the model that made them."
                )
        return Moments(
            image_mean=first[0] + means[0],
            text_mean=first[1] + means[1],
            image_variance=float(variances[0]),
            text_variance=float(variances[1]),
        )

    @functools.cached_property
    def identity(self) -> str:
        """Another one for other features: a digest of all that can be used."""
        digest = hashlib.sha256(f"{len(self)} {self.dim}".encode())
        for block in self.blocks():
            for rows in block:
                digest.update(rows.tobytes())
        return digest.hexdigest()

    def _blocks(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        image, text = self._arrays["image"], self._arrays["text"]
        for first in range(0, len(image), _BLOCK_ROWS):
            part = slice(first, first + _BLOCK_ROWS)
            yield image[part], text[part]


def open_features(folder: str | os.PathLike[str], flag: str = "--features") -> FeaturePairs:
    """Opens what `clipjax embed` wrote; the arrays stay in their files.

    Args:
        folder: with image_features.npy and text_features.npy.
        flag: what names it in messages.

    Raises:
        UserError: if a file is missing or no array, or the two do not fit.
    """
    folder, where = Path(folder), f"{flag}={folder}"
    if not folder.is_dir():
        raise UserError(f"{where}: no such folder. `clipjax embed --out {folder}` writes one.")
    return FeaturePairs(
        _read(folder, "image_features.npy", where), _read(folder, "text_features.npy", where), where
    )


def described(folder: str | os.PathLike[str]) -> dict[str, str]:
    """Returns which model made the features of a folder from what, as far as embed.json says."""
    try:
        found = json.loads((Path(folder) / "embed.json").read_text())
        return {name: str(found[name]) for name in ("model", "step", "shards") if name in found}
    except (OSError, ValueError, TypeError):
        return {}


def _read(folder: Path, name: str, where: str) -> np.ndarray:
    path = folder / name
    if not path.is_file():
        other = " Those there are a table: embed with --format npy." if _is_table(folder) else ""
        raise UserError(
            f"{where}: no {name} there.{other} `clipjax embed`, without --images or --texts, "
            "writes both."
        )
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise UserError(
            f"{path}: not one array of NumPy ({error}). Expected a .npy file."
        ) from error
    if not isinstance(array, np.ndarray):
        raise UserError(f"{path}: several arrays; expected a .npy file, which holds one.")
    return array


def _is_table(folder: Path) -> bool:
    return (folder / "features.parquet").is_file()
