import jax.numpy as jnp
import numpy as np

from clipjax.losses import softmax_loss


def test_value_by_hand():
    """Two orthogonal pairs at scale 2: every row and column is (2, 0), so log(1 + e^-2)."""
    pair = jnp.eye(2)
    np.testing.assert_allclose(
        softmax_loss(pair, pair, jnp.float32(2.0)), np.log1p(np.exp(-2.0)), rtol=1e-6
    )


def test_value_of_a_group_by_hand():
    """Rows 0 and 1 are one group: half of each target lies on logit 2, half on 0."""
    pair = jnp.eye(2)
    loss = softmax_loss(pair, pair, jnp.float32(2.0), None, jnp.zeros(2, jnp.int32))
    np.testing.assert_allclose(loss, np.log(np.e**2 + 1) - 1.0, rtol=1e-6)


def test_equal_embeddings_cost_the_logarithm_of_the_batch():
    same = jnp.ones((16, 4)) / 2
    np.testing.assert_allclose(softmax_loss(same, same, jnp.float32(30.0)), np.log(16), rtol=1e-6)


def test_the_bias_cancels(pairs):
    without = softmax_loss(pairs.images, pairs.texts, pairs.scale)
    biased = softmax_loss(pairs.images, pairs.texts, pairs.scale, pairs.bias)
    np.testing.assert_allclose(biased, without, rtol=1e-6)


def test_a_saturated_wrong_pair_costs_the_difference_of_its_logits():
    """At scale 1e4 the log-sum-exp is the largest logit: 1e4 - (-1e4)."""
    pair = jnp.asarray([[1.0, 0.0], [-1.0, 0.0]])
    loss = softmax_loss(pair, -pair, jnp.float32(1e4))
    np.testing.assert_allclose(loss, 2e4, rtol=1e-6)
