"""The objective over the mesh equals the one on the host, on any number of devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clipjax.config import MeshConfig
from clipjax.core.mesh import make_mesh
from clipjax.evals.labelled_features import LabelledFeatures
from clipjax.evals.linear_probe import linear_probe
from clipjax.evals.logistic import num_rows, numpy_objective
from clipjax.inference import probe_objective as module
from clipjax.inference.probe_objective import losses_and_residuals, probe_objective

EPS = float(np.finfo(np.float32).eps)


def drawn(images, classes, dim=6, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, images)
    labels[:classes] = np.arange(classes)
    features = np.random.default_rng(5).normal(size=(classes, dim))[labels]
    features = features + 1.5 * rng.normal(size=(images, dim)) + 1
    return (features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float32), labels


@pytest.mark.parametrize("images", [5, 16, 203])
@pytest.mark.parametrize("classes", [2, 4])
def test_equals_the_host(mesh, mesh_222, monkeypatch, images, classes):
    features, labels = drawn(images, classes)
    weights = np.random.default_rng(1).normal(size=(num_rows(classes), 7))
    value, gradient = numpy_objective(features, labels, classes)(weights, 3.0)
    one = make_mesh(MeshConfig(), num_devices=1)
    for block in (1 << 22, 5 * classes):
        monkeypatch.setattr("clipjax.inference.probe_objective._BLOCK_LOGITS", block)
        for where in (one, mesh, mesh_222):
            ours = probe_objective(where)(features, labels, classes)(weights, 3.0)
            # Each image's loss and residual is rounded a few times, by parts of its logits.
            bound = 30 * EPS * 3.0 * images
            assert ours[0] == pytest.approx(value, abs=bound)
            np.testing.assert_allclose(ours[1], gradient, atol=bound)


def test_the_sweep_over_eight_devices_equals_that_on_the_host(mesh):
    sets = [LabelledFeatures(*drawn(n, 4, seed=i)) for i, n in enumerate((100, 90, 1000))]
    host, said = linear_probe(*sets), []
    ours = linear_probe(*sets, make_objective=probe_objective(mesh), say=said.append)
    assert not any("did not converge" in line for line in said)
    assert ours.c == host.c
    assert (ours.predicted == host.predicted).mean() >= 0.999
    assert abs(ours.accuracy - host.accuracy) <= 0.001


def test_the_probe_on_one_device_equals_that_over_eight(mesh):
    sets = [LabelledFeatures(*drawn(n, 5, seed=i)) for i, n in enumerate((100, 90, 1000))]
    for c in (0.1, 1e4):
        one, eight = (
            linear_probe(*sets, c=c, make_objective=probe_objective(where)).predicted
            for where in (make_mesh(MeshConfig(), num_devices=1), mesh)
        )
        assert (one == eight).mean() >= 0.999


def test_one_program_for_all_weights_and_every_c(mesh, monkeypatch):
    programs, make = [], module._program
    monkeypatch.setattr(module, "_program", lambda *a: programs.append(make(*a)) or programs[-1])
    features, labels = drawn(40, 3)
    objective = probe_objective(mesh)(features, labels, 3)
    objective(np.zeros((3, 7)), 1.0)
    first, again = (objective(np.ones((3, 7)), 1e-6) for _ in range(2))
    assert first[0] == again[0]
    assert np.array_equal(first[1], again[1])
    assert [program._cache_size() for program in programs] == [1]


def test_memory_is_that_of_the_features_and_a_block(mesh, monkeypatch):
    monkeypatch.setattr(module, "_BLOCK_LOGITS", 64 * 50)
    program = module._program(mesh, 64)
    shape = jax.ShapeDtypeStruct
    sizes = {}
    for images in (8 * 64 * 4, 8 * 64 * 16):
        lowered = program.lower(
            shape((50, 33), np.float32),
            shape((images, 32), np.float32),
            shape((images,), np.int32),
            shape((images,), np.float32),
        )
        analysis = lowered.compile().memory_analysis()
        sizes[images] = analysis.temp_size_in_bytes
    few, many = sizes.values()
    # All logits of a device would be images / 8 * 50 * 4 bytes.
    assert many - few < (8 * 64 * 12) / 8 * 50 * 4 / 4


@pytest.mark.parametrize("classes", [2, 3])
def test_digits_are_kept_where_the_truth_is_nearly_certain(classes):
    far = np.array([[-30.0]] if classes == 2 else [[30.0, 0.0, 0.0]])
    losses, residuals = losses_and_residuals(jnp.asarray(far, jnp.float32), jnp.array([0]))
    expected = (1 if classes == 2 else 2) * np.exp(-30.0)
    assert float(losses[0]) == pytest.approx(expected, rel=1e-5, abs=0)
    assert abs(float(residuals[0, 0])) == pytest.approx(expected, rel=1e-5, abs=0)
    objective = numpy_objective(
        np.ones((1, 1), np.float32), np.array([0]), classes, dtype=np.float32
    )
    value, gradient = objective(np.column_stack([np.zeros(far.shape[1]), far[0]]), 1.0)
    assert value == pytest.approx(expected, rel=1e-5, abs=0)
    assert abs(gradient[0, 1]) == pytest.approx(expected, rel=1e-5, abs=0)


def test_the_gradient_is_that_of_the_losses():
    rng = np.random.default_rng(2)
    for rows, classes in ((1, 2), (4, 4)):
        logits = jnp.asarray(rng.normal(size=(9, rows)) * 3, jnp.float32)
        labels = jnp.asarray(rng.integers(0, classes, 9))
        slope = jax.grad(lambda x, y=labels: losses_and_residuals(x, y)[0].sum())(logits)
        np.testing.assert_allclose(slope, losses_and_residuals(logits, labels)[1], atol=1e-5)


def test_huge_logits_stay_finite():
    for rows in (1, 3):
        logits = jnp.full((2, rows), 3e38).at[1].set(-3e38)
        for part in losses_and_residuals(logits, jnp.array([0, 1])):
            assert np.isfinite(part).all()
