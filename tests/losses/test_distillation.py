"""Distillation: definition, the streaming version in value and gradient, what gets no gradient."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clipjax.config import MeshConfig
from clipjax.core.mesh import BATCH_AXES, make_mesh
from clipjax.losses import (
    Walk,
    distillation_loss,
    feature_loss,
    streaming_distillation_loss,
)

SIZE = 16
WALKS = {
    "ring": ("ring", 512, (8, 1, 1)),
    "ring in blocks": ("ring", 2, (2, 2, 2)),
    "chunked": ("chunked", 512, (4, 2, 1)),
    "chunked in blocks": ("chunked", 4, (2, 2, 2)),
    "alone in blocks": ("ring", 4, (1, 1, 8)),
}
STUDENT = (0, 1, 2)


def walk_of(name):
    form, block, (data, fsdp, tensor) = WALKS[name]
    return Walk(form, make_mesh(MeshConfig(data=data, fsdp=fsdp, tensor=tensor)), block)


@pytest.fixture(scope="module")
def models(rows_of):
    """Student of width 8 at a scale of 10, teacher of width 6 at one of 20."""
    student = rows_of(0, SIZE, 8, np.float64), rows_of(1, SIZE, 8, np.float64), np.float64(10.0)
    teacher = rows_of(2, SIZE, 6, np.float64), rows_of(3, SIZE, 6, np.float64), np.float64(20.0)
    return *student, *teacher


def on_device(arrays, dtype=jnp.float64):
    return [jnp.asarray(x, dtype) for x in arrays]


def definition(images, texts, scale, teacher_images, teacher_texts, teacher_scale):
    """Row by row and column by column."""
    student, teacher = scale * images @ texts.T, teacher_scale * teacher_images @ teacher_texts.T
    total = 0.0
    for own, target in ((student, teacher), (student.T, teacher.T)):
        for row, wanted in zip(own, target, strict=True):
            shares = np.exp(wanted - np.logaddexp.reduce(wanted))
            total -= shares @ (row - np.logaddexp.reduce(row))
    return total / (2 * SIZE)


@functools.cache
def compiled(name):
    loss = distillation_loss
    if name is not None:
        loss = functools.partial(streaming_distillation_loss, walk=walk_of(name))
    return jax.jit(jax.value_and_grad(loss, argnums=STUDENT))


def test_the_reference_is_its_definition(models):
    with jax.enable_x64(True):
        value = distillation_loss(*on_device(models))
        np.testing.assert_allclose(value, definition(*models), rtol=1e-12)


@pytest.mark.parametrize("name", WALKS)
def test_value_and_gradients_are_those_of_the_reference(name, models):
    """In float64, where only a wrong formula could differ by more than 1e-12."""
    with jax.enable_x64(True):
        expected, expected_grads = compiled(None)(*on_device(models))
        value, grads = compiled(name)(*on_device(models))
        np.testing.assert_allclose(value, expected, rtol=1e-12)
        for grad, expected_grad in zip(grads, expected_grads, strict=True):
            np.testing.assert_allclose(grad, expected_grad, rtol=1e-12, atol=1e-12)


def test_gradients_in_float32_are_near_those_of_float64(models):
    with jax.enable_x64(True):
        _, expected = compiled(None)(*on_device(models))
        expected = [np.asarray(grad) for grad in expected]
    _, grads = compiled("ring in blocks")(*on_device(models, jnp.float32))
    for grad, exact in zip(grads, expected, strict=True):
        # Logits of up to 20 have an error of 20 eps, and so have their exponentials.
        assert np.linalg.norm(grad - exact) <= 20 * np.finfo(np.float32).eps * max(
            1.0, np.linalg.norm(exact)
        )


@pytest.mark.parametrize("name", [None, "ring"])
def test_the_teacher_gets_no_gradient(name, models):
    loss = distillation_loss
    if name is not None:
        loss = functools.partial(streaming_distillation_loss, walk=walk_of(name))
    grads = jax.jit(jax.grad(loss, argnums=(3, 4, 5)))(*on_device(models, jnp.float32))
    assert not any(np.abs(grad).max() for grad in grads)


def test_a_student_that_is_its_teacher_is_at_the_minimum(models):
    """The loss is then the entropy of the teacher, and no gradient is left."""
    with jax.enable_x64(True):
        teacher = on_device(models[3:])
        value, grads = compiled("ring")(*teacher, *teacher)
        assert value < compiled("ring")(*on_device(models))[0]
        assert max(np.abs(grad).max() for grad in grads) < 1e-12


def test_memory_does_not_depend_on_the_number_of_devices():
    """At a fixed local batch, on a ring."""
    found = set()
    for devices in (2, 8):
        mesh = make_mesh(MeshConfig(), num_devices=devices)
        rows = jax.NamedSharding(mesh, jax.P(BATCH_AXES))
        embeds = jax.ShapeDtypeStruct((256 * devices, 32), jnp.float32, sharding=rows)
        scalar = jax.ShapeDtypeStruct((), jnp.float32)
        loss = functools.partial(streaming_distillation_loss, walk=Walk("ring", mesh, 128))
        step = jax.jit(jax.value_and_grad(loss, argnums=STUDENT))
        program = step.lower(embeds, embeds, scalar, embeds, embeds, scalar).compile()
        found.add(program.memory_analysis().temp_size_in_bytes)
    assert len(found) == 1, found


def test_distances_of_features(models):
    """Of unit vectors the mean square is 2 / width of one minus the cosine."""
    with jax.enable_x64(True):
        images, texts = on_device(models[:2])
        cosines = (models[0] * models[1]).sum(axis=1)
        cosine = feature_loss(images, texts, distance="cosine")
        np.testing.assert_allclose(cosine, 1 - cosines.mean(), rtol=1e-12)
        np.testing.assert_allclose(feature_loss(3 * images, texts, distance="cosine"), cosine)
        squared = feature_loss(images, texts)
        np.testing.assert_allclose(squared, 2 / 8 * cosine, rtol=1e-12)
        assert not np.abs(jax.grad(feature_loss, argnums=1)(images, texts)).max()
        assert np.abs(jax.grad(feature_loss)(images, texts)).max() > 0
        assert feature_loss(images, images) == 0
