"""The captioning loss in blocks of the vocabulary: definition, gradients, sharding, memory."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clipjax.losses import captioning_loss, chunked_captioning_loss

BATCH, PLACES, WIDTH, VOCAB = 8, 5, 8, 24
OPTIONS = {
    "plain": {},
    "smoothed": {"label_smoothing": 0.1},
    "z-loss": {"z_loss": 0.02},
    "everything": {"label_smoothing": 0.2, "z_loss": 0.01},
}
# One block, several equal ones, one that overlaps the one before, and one id at a time.
BLOCKS = (100, 8, 7, 23, 1)


def inputs(*, dtype=np.float64, bias=True, vocab=VOCAB):
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(BATCH, PLACES, WIDTH)).astype(dtype)
    kernel = rng.normal(size=(WIDTH, vocab)).astype(dtype)
    targets = rng.integers(0, vocab, (BATCH, PLACES)).astype(np.int32)
    targets[0, :2] = 0, vocab - 1
    counted = rng.random((BATCH, PLACES)) < 0.7
    offset = rng.normal(size=vocab).astype(dtype) if bias else None
    return hidden, kernel, offset, targets, counted


def on_device(arrays):
    return tuple(None if x is None else jnp.asarray(x) for x in arrays)


def value_and_grads(loss, bias=True):
    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2) if bias else (0, 1)))


def definition(hidden, kernel, bias, targets, counted, label_smoothing=0.0, z_loss=0.0):
    """Token by token."""
    total, tokens = 0.0, 0
    for row, place in zip(*np.nonzero(counted), strict=True):
        logits = hidden[row, place] @ kernel + (0 if bias is None else bias)
        normaliser = np.logaddexp.reduce(logits)
        wanted = np.full(len(logits), label_smoothing / len(logits))
        wanted[targets[row, place]] += 1 - label_smoothing
        total += normaliser - wanted @ logits + z_loss * normaliser**2
        tokens += 1
    return total / tokens


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_the_reference_is_its_definition(name, bias):
    arrays = inputs(bias=bias)
    with jax.enable_x64(True):
        value = captioning_loss(*on_device(arrays), **OPTIONS[name])
        np.testing.assert_allclose(value, definition(*arrays, **OPTIONS[name]), rtol=1e-12)


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("block", BLOCKS)
def test_value_and_gradients_are_those_of_the_reference(name, block):
    """In float64, where only a wrong formula could differ by more than 1e-12."""
    with jax.enable_x64(True):
        arrays = on_device(inputs())
        loss = functools.partial(captioning_loss, **OPTIONS[name])
        expected, expected_grads = value_and_grads(loss)(*arrays)
        loss = functools.partial(chunked_captioning_loss, block=block, **OPTIONS[name])
        value, grads = value_and_grads(loss)(*arrays)
        np.testing.assert_allclose(value, expected, rtol=1e-12)
        for grad, expected_grad in zip(grads, expected_grads, strict=True):
            np.testing.assert_allclose(grad, expected_grad, rtol=1e-12, atol=1e-12)


def test_without_a_bias_too():
    with jax.enable_x64(True):
        arrays = on_device(inputs(bias=False))
        expected, expected_grads = value_and_grads(captioning_loss, bias=False)(*arrays)
        loss = functools.partial(chunked_captioning_loss, block=7)
        value, grads = value_and_grads(loss, bias=False)(*arrays)
        np.testing.assert_allclose(value, expected, rtol=1e-12)
        for grad, expected_grad in zip(grads, expected_grads, strict=True):
            np.testing.assert_allclose(grad, expected_grad, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("vocab", [49_408, 256_000, 32_000])
def test_gradients_in_float32_are_near_those_of_float64(vocab):
    """Each number is a sum of products whose roundings are independent: a few eps of its norm."""
    arrays = inputs(vocab=vocab)
    with jax.enable_x64(True):
        _, expected = value_and_grads(captioning_loss)(*on_device(arrays))
        expected = [np.asarray(grad) for grad in expected]
    small = [x.astype(np.float32) if x.dtype == np.float64 else x for x in arrays]
    loss = functools.partial(chunked_captioning_loss, block=4096)
    _, grads = value_and_grads(loss)(*on_device(small))
    for grad, exact in zip(grads, expected, strict=True):
        assert grad.dtype == np.float32
        assert np.linalg.norm(grad - exact) <= 5e-6 * np.linalg.norm(exact)


def test_bfloat16_adds_up_in_float32():
    """Inputs are rounded to 8 bits, the sums are not: the mean of 28 tokens stays within 1 %."""
    arrays = inputs(dtype=np.float32)
    hidden = jnp.asarray(arrays[0], jnp.bfloat16)
    loss = functools.partial(chunked_captioning_loss, block=7)
    value, grads = value_and_grads(loss)(hidden, *on_device(arrays[1:]))
    assert value.dtype == grads[1].dtype == jnp.float32
    assert grads[0].dtype == jnp.bfloat16
    np.testing.assert_allclose(value, captioning_loss(*on_device(arrays)), rtol=1e-2)


def test_tokens_that_do_not_count_change_nothing():
    hidden, kernel, bias, targets, counted = inputs(dtype=np.float32)
    other = np.where(counted[..., None], hidden, 1e3).astype(np.float32)
    loss = value_and_grads(functools.partial(chunked_captioning_loss, block=7))
    value, grads = loss(hidden, kernel, bias, targets, counted)
    same, same_grads = loss(other, kernel, bias, np.where(counted, targets, 3), counted)
    np.testing.assert_array_equal(value, same)
    np.testing.assert_allclose(grads[1], same_grads[1], rtol=1e-6)
    assert not np.asarray(grads[0])[~counted].any()


def test_without_a_token_that_counts_the_loss_is_zero():
    *arrays, counted = on_device(inputs(dtype=np.float32))
    for loss in (captioning_loss, functools.partial(chunked_captioning_loss, block=7)):
        value, grads = value_and_grads(loss)(*arrays, jnp.zeros_like(counted))
        assert value == 0
        assert not any(np.abs(grad).max() for grad in grads)


@pytest.mark.parametrize("size", [1e4, 1e-4], ids=str)
def test_stays_finite_at_extremes(size):
    hidden, *rest = on_device(inputs(dtype=np.float32))
    value, grads = value_and_grads(functools.partial(chunked_captioning_loss, block=7))(
        size * hidden, *rest
    )
    assert np.isfinite(value)
    assert all(np.isfinite(grad).all() for grad in grads)


@pytest.mark.parametrize("split", [("fsdp", None), (None, "fsdp"), (None, None)], ids=str)
def test_sharded_equals_unsharded(split, mesh_222):
    arrays = inputs()
    with jax.enable_x64(True):
        expected, expected_grads = value_and_grads(captioning_loss)(*on_device(arrays))
        rows = jax.P(("data", "fsdp"))
        places = (rows, jax.P(*split), jax.P(split[1]), rows, rows)
        placed = [
            jax.device_put(x, jax.NamedSharding(mesh_222, place))
            for x, place in zip(arrays, places, strict=True)
        ]
        with jax.set_mesh(mesh_222):
            loss = functools.partial(chunked_captioning_loss, block=7)
            value, grads = value_and_grads(loss)(*placed)
        np.testing.assert_allclose(value, expected, rtol=1e-12)
        for grad, expected_grad in zip(grads, expected_grads, strict=True):
            np.testing.assert_allclose(grad, expected_grad, rtol=1e-12, atol=1e-12)


# ---- memory


def temporaries(loss, vocab, mesh=None, tokens=(32, 64), width=16):
    """Bytes of one device, forward and backward, beside arguments and results."""
    rows = None if mesh is None else jax.NamedSharding(mesh, jax.P(("data", "fsdp")))
    whole = None if mesh is None else jax.NamedSharding(mesh, jax.P())

    def array(shape, dtype=jnp.float32, place=rows):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=place)

    arrays = (
        array((*tokens, width)),
        array((width, vocab), place=whole),
        array((vocab,), place=whole),
        array(tokens, jnp.int32),
        array(tokens, jnp.bool_),
    )
    program = value_and_grads(loss).lower(*arrays).compile()
    return program.memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("sharded", [False, True], ids=["alone", "sharded"])
def test_memory_does_not_grow_with_tokens_times_vocabulary(sharded, mesh):
    """Beside the gradient of the kernel, which is as large as the kernel and may be held twice."""
    width, small, large = 16, 1024, 8192
    loss = functools.partial(chunked_captioning_loss, block=256)
    found = {}
    for vocab in (small, large):
        if sharded:
            with jax.set_mesh(mesh):
                found[vocab] = temporaries(loss, vocab, mesh)
        else:
            found[vocab] = temporaries(loss, vocab)
    own = 4 * (width + 1) * (large - small)
    assert found[large] - found[small] <= 2 * own, found
    if not sharded:
        # The guard itself: all logits would be 8 bytes and more a token and id.
        assert temporaries(captioning_loss, large) > 10 * found[large]
