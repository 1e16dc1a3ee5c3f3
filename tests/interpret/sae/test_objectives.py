import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from clipjax.interpret.sae.model import init_params, pair_codes
from clipjax.interpret.sae.objectives import batch_top_k, group_top_k, top_k
from clipjax.interpret.sae.options import OBJECTIVES, SaeOptions

ROWS, LATENTS = 5, 9
TOP_K, BATCH_TOP_K = jax.jit(top_k, static_argnums=1), jax.jit(batch_top_k)
GROUP_TOP_K = jax.jit(group_top_k, static_argnums=2)
SOME_K = st.sampled_from([1, 4, LATENTS])
codes = npst.arrays(
    np.float32,
    (ROWS, LATENTS),
    elements=st.one_of(
        st.just(0.0), st.sampled_from([1.0, 2.0]), st.floats(0, 4, width=32, allow_subnormal=False)
    ),
)


@settings(deadline=None, max_examples=40)
@given(codes, SOME_K)
def test_top_k_is_the_k_largest_and_of_equal_ones_the_first(values, k):
    found = np.asarray(TOP_K(values, k))
    for row, kept in zip(values, found, strict=True):
        expected = np.zeros_like(row)
        order = np.argsort(-row, kind="stable")[:k]
        expected[order] = row[order]
        np.testing.assert_array_equal(kept, expected)


@settings(deadline=None, max_examples=40)
@given(codes, st.integers(1, ROWS * LATENTS))
def test_batch_top_k_is_what_sorting_the_batch_gives(values, count):
    found = BATCH_TOP_K(values, count)
    ordered = np.sort(values[values > 0])[::-1]
    if not len(ordered):
        assert not np.asarray(found).any()
        return
    least = ordered[min(count, len(ordered)) - 1]
    np.testing.assert_array_equal(found, np.where(values >= least, values, 0))
    kept = np.asarray(found) > 0
    assert kept.sum() == min(count, len(ordered)) or (values == least).sum() > 1


@settings(deadline=None, max_examples=40)
@given(codes, codes, SOME_K)
def test_groups_share_their_support(image, text, k):
    # Drawn numbers may be so small that their squares are 0: those lengths tie.
    image, text = (np.where(x < 1e-3, 0, x).astype(np.float32) for x in (image, text))
    kept_image, kept_text = map(np.asarray, GROUP_TOP_K(image, text, k))
    lengths = image * image + text * text
    for row in range(ROWS):
        order = np.argsort(-lengths[row], kind="stable")[:k]
        mask = np.zeros(LATENTS, bool)
        mask[order] = True
        np.testing.assert_array_equal(kept_image[row], np.where(mask, image[row], 0))
        np.testing.assert_array_equal(kept_text[row], np.where(mask, text[row], 0))


def test_a_large_pair_beats_a_latent_of_one_modality():
    image = jnp.array([[0.8, 1.0, 0.0]])
    text = jnp.array([[0.8, 0.0, 0.9]])
    kept = group_top_k(image, text, 1)
    assert np.asarray(kept).tolist() == pytest.approx(np.array([[[0.8, 0, 0]], [[0.8, 0, 0]]]))


@pytest.mark.parametrize("kind", ["topk", "batchtopk", "group"])
def test_the_gradient_flows_through_what_is_kept_only(kind):
    rng = np.random.default_rng(0)
    x, weights = (rng.normal(size=(4, 6)).astype(np.float32) for _ in range(2))
    other = rng.normal(size=(4, 6)).astype(np.float32)

    def value(x):
        z = jax.nn.relu(x)
        if kind == "topk":
            kept = top_k(z, 2)
        elif kind == "batchtopk":
            kept = batch_top_k(z, 8)
        else:
            kept = group_top_k(z, jax.nn.relu(other), 2)[0]
        return (kept * weights).sum(), kept

    (_, kept), gradient = jax.value_and_grad(value, has_aux=True)(jnp.asarray(x))
    np.testing.assert_allclose(gradient, np.where(np.asarray(kept) > 0, weights, 0), rtol=1e-6)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_training_keeps_exactly_as_many_as_asked_for(objective):
    options = SaeOptions(objective=objective, latents=64, k=4, steps=1)
    rng = np.random.default_rng(1)
    image, text = (jnp.asarray(rng.normal(size=(32, 16)), jnp.float32) for _ in range(2))
    seen = jnp.ones((32, 2), bool)
    params = init_params(options, 16)
    levels = pair_codes(options, params, image, text, seen)
    assert len(levels) == len(options.levels)
    for k, (z_image, z_text) in zip(options.levels, levels, strict=True):
        on_image, on_text = np.asarray(z_image) > 0, np.asarray(z_text) > 0
        if objective == "batchtopk":
            assert on_image.sum() + on_text.sum() == 2 * 32 * k
        elif objective == "group":
            assert ((on_image | on_text).sum(axis=1) == k).all()
        else:
            assert (on_image.sum(axis=1) == k).all()
            assert (on_text.sum(axis=1) == k).all()


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_hidden_modality_enters_nothing(objective):
    options = SaeOptions(objective=objective, latents=40, k=3, mask=0.5, steps=1)
    rng = np.random.default_rng(2)
    image, text, noise = (jnp.asarray(rng.normal(size=(8, 12)), jnp.float32) for _ in range(3))
    seen = jnp.asarray(np.array([[True, True], [False, True], [True, False], [True, True]] * 2))
    params = init_params(options, 12)

    def found(image, text):
        return pair_codes(options, params, image, text, seen)

    plain = found(image, text)
    other = found(
        jnp.where(seen[:, :1], image, 100 * noise), jnp.where(seen[:, 1:], text, -50 * noise)
    )
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), plain, other))
    for z_image, z_text in plain:
        hidden = ~np.asarray(seen).all(axis=1)
        np.testing.assert_array_equal(z_image[hidden], z_text[hidden])
        if objective != "batchtopk":  # there a row may be left with none
            assert np.asarray(z_image)[hidden].any(axis=1).all()


@pytest.mark.parametrize(
    ("field", "value"),
    [("k", 0), ("k", 513), ("mask", 1.1), ("learning_rate", float("nan"))],
)
def test_options_that_cannot_be_are_refused(field, value):
    with pytest.raises(ValueError, match=field):
        SaeOptions(**{field: value})
