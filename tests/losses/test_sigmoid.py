import math

import jax.numpy as jnp
import numpy as np

from clipjax.losses import sigmoid_loss


def test_value_by_hand():
    """Two orthogonal pairs: 2 positives at logit 1, 2 negatives at logit -1, over 2 rows."""
    pair = jnp.eye(2)
    loss = sigmoid_loss(pair, pair, jnp.float32(2.0), jnp.float32(-1.0))
    np.testing.assert_allclose(loss, 2 * np.log1p(np.exp(-1.0)), rtol=1e-6)


def test_value_of_a_group_by_hand():
    """All four pairs are positives: two at logit 1, two at -1, over 2 rows."""
    pair = jnp.eye(2)
    groups = jnp.zeros(2, jnp.int32)
    loss = sigmoid_loss(pair, pair, jnp.float32(2.0), jnp.float32(-1.0), groups)
    np.testing.assert_allclose(loss, np.log1p(np.exp(-1.0)) + np.log1p(np.exp(1.0)), rtol=1e-6)


def test_first_loss_at_the_bias_of_the_paper():
    """Cosine 0 and bias -log(n - 1): every row costs log(n) + (n - 1) log(n / (n - 1))."""
    n = 16
    zero = jnp.zeros((n, 4))
    loss = sigmoid_loss(zero, zero, jnp.float32(10.0), jnp.float32(-math.log(n - 1)))
    # log(1 + x) is a sum with 1: an error of a few eps in each of the n terms of a row.
    expected = np.log(n) + (n - 1) * np.log(n / (n - 1))
    np.testing.assert_allclose(loss, expected, atol=4 * n * np.finfo(np.float32).eps)


def test_saturated_wrong_pairs_cost_their_logits():
    """Positives at -1e4, negatives at 1e4: four pairs of 1e4 over two rows."""
    pair = jnp.asarray([[1.0, 0.0], [-1.0, 0.0]])
    loss = sigmoid_loss(pair, -pair, jnp.float32(1e4), jnp.float32(0.0))
    np.testing.assert_allclose(loss, 2e4, rtol=1e-6)
