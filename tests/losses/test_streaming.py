"""Losses in blocks: every option against its definition in float64, and memory."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clipjax.cli.bench_loss import gathered_local_loss
from clipjax.config import MeshConfig
from clipjax.core.mesh import BATCH_AXES, make_mesh
from clipjax.losses import LOSSES, LossOptions, Walk

SIZE, NEGATIVES = 16, 3
OPTIONS = {
    "plain": ("softmax", LossOptions(), 0),
    "masked": ("softmax", LossOptions(same_group="ignored"), 0),
    "smoothed": ("softmax", LossOptions(label_smoothing=0.1), 0),
    "z-loss": ("softmax", LossOptions(z_loss=0.02), 0),
    "negatives": ("softmax", LossOptions(), NEGATIVES),
    "everything": (
        "softmax",
        LossOptions(same_group="ignored", label_smoothing=0.2, z_loss=0.01),
        NEGATIVES,
    ),
    "sigmoid": ("sigmoid", LossOptions(), 0),
    "sigmoid, masked": ("sigmoid", LossOptions(same_group="ignored"), 0),
    "sigmoid, negatives": ("sigmoid", LossOptions(), NEGATIVES),
}
WALKS = {
    "ring": ("ring", 512, (1, 8, 1, 1)),
    "ring in blocks": ("ring", 1, (1, 4, 2, 1)),
    "ring of few": ("ring", 2, (1, 2, 2, 2)),
    "chunked": ("chunked", 512, (4, 2, 1, 1)),
    "chunked in blocks": ("chunked", 4, (1, 2, 2, 2)),
    "slices": ("ring", 4, (2, 2, 2, 1)),
    "alone in blocks": ("ring", 4, (1, 1, 1, 8)),
}
named = pytest.mark.parametrize("name", OPTIONS)


def mesh_of(sizes):
    replica, data, fsdp, tensor = sizes
    return make_mesh(MeshConfig(replica=replica, data=data, fsdp=fsdp, tensor=tensor))


@pytest.fixture(scope="module")
def batch(pairs, rows_of):
    """Arguments of a loss in float64, with hard negatives."""
    negatives = rows_of(9, SIZE * NEGATIVES, 8, np.float64).reshape(SIZE, NEGATIVES, 8)
    return (
        *(np.asarray(x, np.float64) for x in (pairs.images, pairs.texts, pairs.scale, pairs.bias)),
        np.asarray(pairs.groups),
        negatives,
    )


def definition(kind, options, images, texts, scale, bias, groups, negatives):
    """Pair by pair."""
    logits = scale * images @ texts.T + bias
    wrong = scale * images @ negatives.reshape(-1, 8).T + bias
    total = 0.0
    if kind == "softmax":
        logits, wrong = logits - bias, wrong - bias
    else:
        for i in range(SIZE):
            for j in range(SIZE):
                same = groups[i] == groups[j]
                if i != j and same and options.same_group == "ignored":
                    continue
                total += np.logaddexp(0.0, -logits[i, j] if same else logits[i, j])
        return (total + np.logaddexp(0.0, wrong).sum()) / SIZE
    for direction in (logits, logits.T):
        for i in range(SIZE):
            same = np.flatnonzero(groups == groups[i])
            others = [j for j in range(SIZE) if j not in same]
            positives = same if options.same_group == "positives" else [i]
            candidates = [direction[i, j] for j in [*positives, *others]]
            if direction is logits:
                candidates += list(wrong[i])
            normaliser = np.logaddexp.reduce(candidates)
            hit = np.mean([direction[i, j] for j in positives])
            share = options.label_smoothing
            total += normaliser - (1 - share) * hit - share * np.mean(candidates)
            total += options.z_loss * normaliser**2
    return total / (2 * SIZE)


@functools.cache
def compiled(name, walk):
    kind, options, _ = OPTIONS[name]
    loss = functools.partial(LOSSES[kind][0], options=options)
    if walk is not None:
        form, block, sizes = WALKS[walk]
        chosen = Walk(form, mesh_of(sizes), block)
        loss = functools.partial(LOSSES[kind][1], walk=chosen, options=options)
    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2, 3, 5)))


def cut(name, batch):
    *arrays, negatives = (jnp.asarray(x) for x in batch)
    return *arrays, negatives[:, : OPTIONS[name][2]]


@named
def test_the_reference_is_its_definition(name, batch):
    kind, options, _ = OPTIONS[name]
    with jax.enable_x64(True):
        arrays = cut(name, batch)
        value, _ = compiled(name, None)(*arrays)
        expected = definition(kind, options, *(np.asarray(x) for x in arrays))
        np.testing.assert_allclose(value, expected, rtol=1e-12)


@named
@pytest.mark.parametrize("walk", WALKS)
def test_value_and_gradients_are_those_of_the_reference(name, walk, batch):
    """In float64; with respect to both embeddings, scale, bias and hard negatives."""
    with jax.enable_x64(True):
        arrays = cut(name, batch)
        expected, expected_grads = compiled(name, None)(*arrays)
        value, grads = compiled(name, walk)(*arrays)
        np.testing.assert_allclose(value, expected, rtol=1e-12)
        for grad, expected_grad in zip(grads, expected_grads, strict=True):
            np.testing.assert_allclose(grad, expected_grad, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["everything", "sigmoid, negatives"])
@pytest.mark.parametrize("walk", ["ring in blocks", "chunked in blocks"])
def test_gradients_in_float32_are_near_those_of_float64(name, walk, batch):
    with jax.enable_x64(True):
        _, expected = compiled(name, None)(*cut(name, batch))
        expected = [np.asarray(grad) for grad in expected]
    small = [np.asarray(x, np.float32 if x.dtype == np.float64 else x.dtype) for x in batch]
    _, grads = compiled(name, walk)(*cut(name, small))
    for grad, exact in zip(grads, expected, strict=True):
        assert grad.dtype == np.float32
        if np.abs(exact).max() > 1e-6:  # not that of the bias of a softmax, which is zero
            assert np.linalg.norm(grad - exact) <= 5e-6 * np.linalg.norm(exact)


def test_a_hard_negative_costs_something_and_only_the_images(batch):
    images, texts, scale, bias, _, negatives = (jnp.asarray(x, jnp.float32) for x in batch)
    without = LOSSES["softmax"][0](images, texts, scale, bias)
    with_them = LOSSES["softmax"][0](images, texts, scale, bias, None, negatives)
    assert with_them > without
    one = jax.grad(LOSSES["softmax"][0], argnums=5)(images, texts, scale, bias, None, negatives)
    assert np.abs(one).min() > 0


# ---- memory


def temporaries(loss, mesh, batch_size, dim=64):
    """Bytes of one device, forward and backward, beside arguments and results."""
    rows = jax.NamedSharding(mesh, jax.P(BATCH_AXES))
    embeds = jax.ShapeDtypeStruct((batch_size, dim), jnp.float32, sharding=rows)
    scalar = jax.ShapeDtypeStruct((), jnp.float32)
    step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)), out_shardings=None)
    program = step.lower(embeds, embeds, scalar, scalar).compile()
    return program.memory_analysis().temp_size_in_bytes


def first_devices(count):
    return make_mesh(MeshConfig(), num_devices=count)


@pytest.mark.parametrize("kind", LOSSES)
def test_the_memory_of_a_ring_does_not_depend_on_the_number_of_devices(kind):
    """At a fixed local batch."""
    found = {}
    for devices in (2, 4, 8):
        mesh = first_devices(devices)
        loss = functools.partial(LOSSES[kind][1], walk=Walk("ring", mesh, 128))
        found[devices] = temporaries(loss, mesh, 256 * devices)
    assert len(set(found.values())) == 1, found


def test_open_clips_way_gives_the_same_loss(batch, mesh):
    arrays = [jnp.asarray(x, jnp.float32) for x in batch[:4]]
    expected = LOSSES["softmax"][0](*arrays)
    np.testing.assert_allclose(gathered_local_loss(*arrays, mesh=mesh), expected, rtol=1e-5)


def test_at_65536_pairs_the_ring_takes_a_hundredth_of_the_local_loss(mesh):
    size = 65_536
    ring = functools.partial(LOSSES["softmax"][1], walk=Walk("ring", mesh, 512))
    chunked = functools.partial(LOSSES["softmax"][1], walk=Walk("chunked", mesh, 512))
    theirs = temporaries(functools.partial(gathered_local_loss, mesh=mesh), mesh, size, dim=512)
    assert temporaries(ring, mesh, size, dim=512) <= theirs / 100
    # Beside the blocks it holds all texts and their gradients.
    assert temporaries(chunked, mesh, size, dim=512) <= theirs / 30
