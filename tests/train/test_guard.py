"""Outliers among gradient norms, against their definition in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clipjax.config import GuardConfig
from clipjax.train.guard import first_record, is_outlier, next_record

MEMORY, SIGMAS = 20, 4.0


@pytest.fixture(scope="module")
def walk():
    """Returns which of some norms are outliers, and the record at the end."""
    config = GuardConfig(max_sigmas=SIGMAS, memory_steps=MEMORY)

    @jax.jit
    def step(record, norm, number):
        out = is_outlier(config, record, norm, number)
        taken = jnp.isfinite(norm) & ~out
        return next_record(config, record, norm, taken), out

    def run(norms):
        record, outs = first_record(), []
        for number, norm in enumerate(norms):
            record, out = step(record, jnp.float32(norm), jnp.int32(number))
            outs.append(bool(out))
        return outs, record

    return run


def by_definition(norms):
    """Means weighted by (1 - 1/memory)^age over the steps that were taken."""
    taken, outs = [], []
    for number, norm in enumerate(norms):
        logs = np.log(np.array(taken, np.float64))
        far = False
        if number >= MEMORY and taken:
            weights = (1 - 1 / MEMORY) ** np.arange(len(logs))[::-1]
            mean = np.average(logs, weights=weights)
            deviation = max(np.sqrt(np.average((logs - mean) ** 2, weights=weights)), 1e-3)
            far = bool(np.log(norm) - mean > SIGMAS * deviation)
        outs.append(far)
        if np.isfinite(norm) and not far:
            taken.append(norm)
    return outs


def test_outliers_are_those_of_the_definition(walk):
    rng = np.random.default_rng(0)
    norms = np.exp(rng.normal(0, 0.3, 120))
    norms[[5, 60, 61, 90]] = [50.0, 20.0, 1e6, 3.0]
    norms *= 50  # far from 1, or the mean would hardly count
    norms[100:] *= 30  # a new regime is refused, as its norms are never remembered
    outs, record = walk(norms)
    assert outs == by_definition(norms)
    assert not outs[5]
    assert outs[60]
    assert outs[61]
    assert int(record["skipped"]) == sum(outs)


def test_norms_that_are_not_finite_are_not_remembered(walk):
    rng = np.random.default_rng(1)
    norms = np.exp(rng.normal(0, 0.3, 60))
    plain, before = walk(norms)
    poisoned = np.concatenate([norms[:30], [np.nan, np.inf], norms[30:]])
    outs, after = walk(poisoned)
    assert outs[:30] + outs[32:] == plain
    for name in ("mean", "square", "weight"):
        np.testing.assert_allclose(before[name], after[name], rtol=1e-6)
    assert int(after["skipped"]) == 2 + sum(plain)


def test_without_sigmas_nothing_is_an_outlier_and_steps_are_counted():
    config = GuardConfig()
    record = first_record()
    assert not is_outlier(config, record, jnp.float32(1e30), jnp.int32(10_000))
    record = next_record(config, record, jnp.float32(1e30), jnp.zeros((), bool))
    assert int(record["skipped"]) == 1
