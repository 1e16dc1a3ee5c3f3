"""Embeddings with exact similarities, and draws to put a score through."""

import numpy as np
import pytest


@pytest.fixture
def unit_rows():
    """Rows of unit length; with `ties` every similarity is an exact multiple of 1/4."""

    def make(seed, rows, dim=8, ties=False):
        rng = np.random.default_rng(seed)
        if not ties:
            x = rng.normal(size=(rows, dim)).astype(np.float32)
            return x / np.linalg.norm(x, axis=1, keepdims=True)
        x = np.zeros((rows, dim), np.float32)
        for row in x:
            row[rng.choice(dim, 4, replace=False)] = rng.choice([-0.5, 0.5], 4)
        return x

    return make


@pytest.fixture
def redraw():
    """Checks a score against itself on resampled data, cluster by cluster.

    `score(chosen)` computes it afresh with the clusters of these numbers, some of them repeatedly.
    """

    def check(metric, score, draws=20, seed=0):
        rng = np.random.default_rng(seed)
        clusters = len(metric.cells)
        chosen = [np.arange(clusters)]
        chosen += [rng.integers(0, clusters, clusters) for _ in range(draws)]
        counts = [np.bincount(metric.cells[c], minlength=metric.cells.max() + 1) for c in chosen]
        found = metric.of_counts(np.array(counts, np.float64))
        expected = [score(c) for c in chosen]
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)
        assert metric.value == pytest.approx(expected[0], rel=1e-12, nan_ok=True)
        assert 0 <= metric.chance <= 1

    return check
