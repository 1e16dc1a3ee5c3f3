"""Stored results of other implementations; tests/parity recomputes them from torch.

References are float64, inputs and weights are numbers that float32 holds.
"""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

HERE = Path(__file__).parent


def load(name):
    with np.load(HERE / f"{name}.npz") as stored:
        return dict(stored)


@pytest.mark.parametrize("sharded", [False, True], ids=["reference", "sharded"])
@pytest.mark.parametrize("scale", [5, 14])
@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_losses_are_those_of_open_clip_in_value_and_gradient(kind, scale, sharded, mesh):
    """Logits of up to 14 are off by 14 roundings of 6e-8, hence every exp by 1e-6 of itself."""
    from clipjax.config import LossConfig
    from clipjax.losses import LOSSES, make_loss

    golden = load(f"loss_{kind}_{scale}")
    names = [name for name in ("images", "texts", "scale", "bias") if name in golden]
    inputs = [jnp.asarray(golden[name], jnp.float32) for name in names]
    loss = make_loss(LossConfig(kind=kind), mesh) if sharded else LOSSES[kind][0]
    value, grads = jax.jit(jax.value_and_grad(loss, argnums=tuple(range(len(names)))))(*inputs)
    np.testing.assert_allclose(value, golden["value"], rtol=2e-6)
    for name, grad in zip(names, grads, strict=True):
        expected = golden[f"grad_{name}"]
        # A gradient is a sum with cancellation: its error is relative to its largest term.
        largest = np.abs(expected).max()
        np.testing.assert_allclose(grad, expected, rtol=0, atol=5e-6 * largest, err_msg=name)


def test_evaluation_crops_are_those_of_open_clip():
    """To the last bit: the filter, the rounding of the long side, and the offset of the crop."""
    from clipjax.data.resize import EvaluationTransform

    golden = load("preprocessing")
    numbers = [key.removeprefix("image_") for key in golden if key.startswith("image_")]
    assert len(numbers) == 9
    for number in numbers:
        image, expected = golden[f"image_{number}"], golden[f"crop_{number}"]
        out = np.empty_like(expected)
        EvaluationTransform()(image, out)
        np.testing.assert_array_equal(out, expected, err_msg=f"{image.shape}")


def test_every_way_to_resize_is_that_of_its_source():
    """To the last bit, open_clip's and those of transformers that work with Pillow."""

    from clipjax.data.resize import EvaluationTransform

    golden = load("preprocessing_modes")
    images = {k.removeprefix("image_"): v for k, v in golden.items() if k.startswith("image_")}
    cases = {k.removeprefix("fields_"): v for k, v in golden.items() if k.startswith("fields_")}
    assert len(images) == 7
    assert len(cases) == 9
    for case, fields in cases.items():
        transform = EvaluationTransform(**json.loads(str(fields)))
        for number, image in images.items():
            expected = golden[f"{case}_{number}"]
            out = np.empty_like(expected)
            transform(image, out)
            np.testing.assert_array_equal(out, expected, err_msg=f"{case} {image.shape}")


@pytest.fixture(scope="module")
def adamw():
    """The stored trajectory and our optimizer with its settings."""
    from clipjax.config import OptimConfig

    golden = load("adamw")
    config = OptimConfig(
        peak_learning_rate=float(golden["peak"]),
        warmup_steps=int(golden["warmup"]),
        weight_decay=float(golden["decay"]),
        eps=float(golden["eps"]),
        clip_norm=float(golden["clip"]),
    )
    return golden, config, int(golden["steps"])


def test_the_learning_rate_is_that_of_open_clip(adamw):
    from clipjax.optim import learning_rate

    golden, config, steps = adamw
    schedule = learning_rate(config, steps)
    rates = [float(schedule(step)) for step in range(steps)]
    # Near the end 1 + cos(x) cancels: the error is relative to the peak.
    np.testing.assert_allclose(rates, golden["rates"], rtol=0, atol=2e-7 * golden["peak"])


def test_adamw_walks_as_that_of_torch(adamw):
    """An update of at most 0.01 is off by about 3e-6 of itself, a parameter by 6e-8 a step.

    20 steps: 20 x (0.01 x 3e-6 + 2 x 6e-8) = 3e-6.
    """
    import optax

    from clipjax.optim import make_optimizer

    golden, config, steps = adamw
    names = ("kernel", "bias")
    optimizer = make_optimizer(config, steps)
    params = {name: jnp.asarray(golden[f"start_{name}"]) for name in names}
    state = optimizer.init(params)
    norms = []
    for step in range(steps):
        grads = {name: jnp.asarray(golden[f"grads_{name}"][step]) for name in names}
        norms.append(float(optax.tree.norm(grads)))
        updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        for name in names:
            expected = golden[f"path_{name}"][step]
            np.testing.assert_allclose(params[name], expected, rtol=0, atol=3e-6)
    assert min(norms) < config.clip_norm < max(norms)
