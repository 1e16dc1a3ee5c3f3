import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clipjax.models.layers.patch_dropout import kept_patches


@hypothesis.given(st.integers(1, 60), st.floats(0, 0.99), st.integers(0, 9))
@hypothesis.settings(deadline=None, max_examples=40)
def test_so_many_different_places_in_order(patches, dropped, seed):
    keep = np.asarray(kept_patches(jax.random.key(seed), None, (3, patches), dropped))
    assert keep.shape == (3, max(1, round((1 - dropped) * patches)))
    assert keep.min() >= 0
    assert keep.max() < patches
    assert (np.diff(keep, axis=1) > 0).all()


@pytest.mark.parametrize(("dropped", "kept"), [(0.5, 98), (0.75, 49), (0.9, 20), (0.0, 196)])
def test_the_shares_of_the_paper(dropped, kept):
    assert kept_patches(jax.random.key(0), None, (1, 196), dropped).shape == (1, kept)


def test_every_patch_is_kept_equally_often_and_images_differ():
    keep = np.asarray(kept_patches(jax.random.key(0), None, (4000, 8), 0.75))
    counts = np.bincount(keep.ravel(), minlength=8)
    # 1000 of 4000 each, a deviation of sqrt(4000 / 4 * 3 / 4) = 27.
    assert np.abs(counts - 1000).max() < 5 * 27
    assert len(np.unique(keep, axis=0)) == 8 * 7 // 2


def test_padding_is_kept_last():
    mask = jnp.arange(12)[None] < jnp.array([[12], [6], [3], [1]])
    for seed in range(20):
        keep = np.asarray(kept_patches(jax.random.key(seed), mask, (4, 12), 0.5))
        real = [int((keep[i] < n).sum()) for i, n in enumerate((12, 6, 3, 1))]
        assert real == [6, 6, 3, 1]
