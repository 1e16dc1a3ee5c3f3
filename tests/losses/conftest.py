"""Embeddings, and the definitions of both losses as sums over pairs in float64."""

import types

import jax.numpy as jnp
import numpy as np
import pytest


def unit_rows(seed, rows=16, dim=8, dtype=np.float32):
    x = np.random.default_rng(seed).normal(size=(rows, dim))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(dtype)


def softmax_definition(images, texts, scale, bias, groups):
    """Cross-entropy row by row and column by column; targets spread evenly over a group."""
    logits = float(scale) * np.asarray(images, np.float64) @ np.asarray(texts, np.float64).T
    logits += float(bias)
    total = 0.0
    for block in (logits, logits.T):
        for i, row in enumerate(block):
            positives = np.flatnonzero(groups == groups[i])
            log_sum = row.max() + np.log(np.sum(np.exp(row - row.max())))
            total += np.mean([log_sum - row[j] for j in positives])
    return total / (2 * len(logits))


def sigmoid_definition(images, texts, scale, bias, groups):
    """Minus the log-probability of every pair's label, over the batch size."""
    logits = float(scale) * np.asarray(images, np.float64) @ np.asarray(texts, np.float64).T
    logits += float(bias)
    total = 0.0
    for i in range(len(logits)):
        for j in range(len(logits)):
            sign = 1.0 if groups[i] == groups[j] else -1.0
            total += np.logaddexp(0.0, -sign * logits[i, j])
    return total / len(logits)


@pytest.fixture(scope="session")
def rows_of():
    """The function `unit_rows`."""
    return unit_rows


@pytest.fixture(scope="session")
def definitions():
    """The losses in float64, by kind."""
    return {"softmax": softmax_definition, "sigmoid": sigmoid_definition}


@pytest.fixture(scope="session")
def pairs():
    """16 pairs at a scale of 10 and a bias of -2; `groups` has groups of 1 to 4 rows."""
    groups = np.array([0, 1, 2, 3, 0, 1, 4, 5, 0, 6, 7, 8, 0, 9, 2, 10], np.int32)
    return types.SimpleNamespace(
        images=jnp.asarray(unit_rows(0)),
        texts=jnp.asarray(unit_rows(1)),
        scale=jnp.float32(10.0),
        bias=jnp.float32(-2.0),
        groups=jnp.asarray(groups),
    )
