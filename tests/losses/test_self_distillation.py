"""Prototypes of student and teacher: definition, blocks, the centre and what it prevents."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clipjax.losses import (
    Prototypes,
    chunked_prototype_losses,
    prototype_losses,
    updated_center,
)

BATCH, PLACES, WIDTH, COUNT = 8, 3, 4, 20
COLD, WARM = 0.05, 0.1


def unit(x, axis=-1):
    return x / np.linalg.norm(x, axis=axis, keepdims=True)


@pytest.fixture(scope="module")
def arrays():
    """Features and kernels of student and teacher, and a centre, float64."""
    rng = np.random.default_rng(0)
    student, teacher = (unit(rng.normal(size=(BATCH, PLACES, WIDTH))) for _ in range(2))
    kernel, teacher_kernel = (unit(rng.normal(size=(WIDTH, COUNT)), axis=0) for _ in range(2))
    return student, kernel, teacher, teacher_kernel, 0.1 * rng.normal(size=COUNT)


def losses_of(losses):
    def call(student, kernel, teacher, teacher_kernel, center):
        pair = Prototypes(kernel, WARM), Prototypes(teacher_kernel, COLD)
        return losses(student, teacher, *pair, center)

    return call


def weighted_sum(losses):
    """A scalar to which every place adds with a weight of its own."""
    weights = jnp.arange(1.0, 1 + BATCH * PLACES).reshape(BATCH, PLACES)
    return lambda *arrays: (weights * losses_of(losses)(*arrays)).mean()


def definition(student, kernel, teacher, teacher_kernel, center):
    """Place by place."""
    out = np.empty((BATCH, PLACES))
    for at in np.ndindex(BATCH, PLACES):
        logits = student[at] @ kernel / WARM
        targets = (teacher[at] @ teacher_kernel - center) / COLD
        shares = np.exp(targets - np.logaddexp.reduce(targets))
        out[at] = -shares @ (logits - np.logaddexp.reduce(logits))
    return out


def test_the_reference_is_its_definition(arrays):
    with jax.enable_x64(True):
        found = losses_of(prototype_losses)(*map(jnp.asarray, arrays))
        np.testing.assert_allclose(found, definition(*arrays), rtol=1e-12)


@pytest.mark.parametrize("sharded", [False, True], ids=["alone", "sharded"])
@pytest.mark.parametrize("block", [100, 10, 7, 1])
def test_value_and_gradients_are_those_of_the_reference(block, sharded, arrays, mesh_222):
    """In float64, where only a wrong formula could differ by more than 1e-12."""
    chunked = functools.partial(chunked_prototype_losses, block=block)
    with jax.enable_x64(True):
        placed = [jnp.asarray(x) for x in arrays]
        both = (0, 1)
        expected, expected_grads = jax.jit(
            jax.value_and_grad(weighted_sum(prototype_losses), argnums=both)
        )(*placed)
        step = jax.jit(jax.value_and_grad(weighted_sum(chunked), argnums=both))
        if sharded:
            rows = jax.NamedSharding(mesh_222, jax.P(("data", "fsdp")))
            whole = jax.NamedSharding(mesh_222, jax.P())
            places = rows, whole, rows, whole, whole
            placed = [jax.device_put(x, at) for x, at in zip(placed, places, strict=True)]
            with jax.set_mesh(mesh_222):
                value, grads = step(*placed)
        else:
            value, grads = step(*placed)
        np.testing.assert_allclose(value, expected, rtol=1e-12)
        for grad, expected_grad in zip(grads, expected_grads, strict=True):
            np.testing.assert_allclose(grad, expected_grad, rtol=1e-12, atol=1e-12)


def test_one_place_of_the_teacher_is_the_target_of_all(arrays):
    student, kernel, teacher, teacher_kernel, center = (jnp.asarray(x, jnp.float32) for x in arrays)
    one = teacher[:, :1]
    same = jnp.broadcast_to(one, teacher.shape)
    for losses in (prototype_losses, functools.partial(chunked_prototype_losses, block=7)):
        value = jax.value_and_grad(weighted_sum(losses), argnums=(0, 1))
        found, expected = (value(student, kernel, t, teacher_kernel, center) for t in (one, same))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), found, expected)


def test_the_teacher_gets_no_gradient(arrays):
    small = [jnp.asarray(x, jnp.float32) for x in arrays]
    for losses in (prototype_losses, functools.partial(chunked_prototype_losses, block=7)):
        grads = jax.grad(weighted_sum(losses), argnums=(2, 3, 4))(*small)
        assert not any(np.abs(grad).max() for grad in grads)


def test_memory_does_not_grow_with_features_times_prototypes():
    """Beside the gradient of the kernel, which may be held twice."""
    batch, places, width, small, large = 32, 32, 8, 1024, 8192

    def temporaries(losses, count):
        shapes = (
            (batch, places, width),
            (width, count),
            (batch, places, width),
            (width, count),
            (count,),
        )
        structs = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
        total = lambda *arrays: losses_of(losses)(*arrays).sum()  # noqa: E731
        step = jax.jit(jax.value_and_grad(total, argnums=(0, 1)))
        return step.lower(*structs).compile().memory_analysis().temp_size_in_bytes

    chunked = functools.partial(chunked_prototype_losses, block=256)
    found = {count: temporaries(chunked, count) for count in (small, large)}
    assert found[large] - found[small] <= 2 * 4 * width * (large - small), found
    assert temporaries(prototype_losses, large) > 10 * found[large]


def test_the_centre_is_the_moving_average_of_the_mean_logits(arrays):
    with jax.enable_x64(True):
        _, _, teacher, kernel, center = map(jnp.asarray, arrays)
        found = updated_center(center, teacher, Prototypes(kernel, COLD), 0.8)
        mean = (arrays[2] @ arrays[3]).mean(axis=(0, 1))
        np.testing.assert_allclose(found, 0.8 * arrays[4] + 0.2 * mean, rtol=1e-12)


def test_the_centre_takes_away_what_all_features_prefer(arrays):
    """With one prototype that every feature prefers, the centred teacher still tells them apart."""
    _, _, teacher, kernel, _ = (jnp.asarray(x, jnp.float32) for x in arrays)
    liked = teacher.at[..., 0].set(3.0)  # all features agree on the first coordinate
    center = updated_center(jnp.zeros(COUNT), liked, Prototypes(kernel, COLD), 0.0)
    raw = (liked @ kernel).reshape(-1, COUNT).argmax(axis=1)
    centred = (liked @ kernel - center).reshape(-1, COUNT).argmax(axis=1)
    assert len(np.unique(centred)) > len(np.unique(raw))
