import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clipjax.train.colour import adjust
from clipjax.train.rand_augment import MAX_MAGNITUDE, OPERATIONS, apply_operation

pytestmark = pytest.mark.parity

HEIGHT, WIDTH = 30, 34
NAMES = {
    "identity": "Identity",
    "auto_contrast": "AutoContrast",
    "equalise": "Equalize",
    "rotate": "Rotate",
    "posterize": "Posterize",
    "solarize": "Solarize",
    "colour": "Color",
    "contrast": "Contrast",
    "brightness": "Brightness",
    "sharpness": "Sharpness",
    "shear_x": "ShearX",
    "shear_y": "ShearY",
    "translate_x": "TranslateX",
    "translate_y": "TranslateY",
}
apply_one = jax.jit(apply_operation)


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)


def test_colour_changes_are_those_of_torchvision(torch, image):
    """On floats in 0 to 1; its weights of grey sum to 0.9999."""
    from torchvision.transforms import functional

    changes = (
        functional.adjust_brightness,
        functional.adjust_contrast,
        functional.adjust_saturation,
        functional.adjust_hue,
    )
    pixels = torch.from_numpy(image.transpose(2, 0, 1) / np.float32(255))
    ours = jax.jit(adjust)
    for operation, change in enumerate(changes):
        for amount in (-0.5, -0.32, 0.08, 0.5):
            factor = amount if operation == 3 else 1 + amount
            expected = 255 * change(pixels, factor).numpy().transpose(1, 2, 0)
            out = ours(jnp.asarray(image, jnp.float32), operation, amount)
            np.testing.assert_allclose(out, expected, atol=0.05, err_msg=change.__name__)


def test_the_operations_and_strengths_are_those_of_torchvision(torch, image):
    """Tensors of uint8: every step cuts off a fraction, which blending can double."""
    from torchvision.transforms import InterpolationMode, autoaugment

    assert set(NAMES) == set(OPERATIONS)
    space = autoaugment.RandAugment()._augmentation_space(MAX_MAGNITUDE + 1, (HEIGHT, WIDTH))
    assert {NAMES[name] for name in OPERATIONS} == set(space)
    pixels = torch.from_numpy(image.transpose(2, 0, 1).copy())
    for operation, name in enumerate(OPERATIONS):
        magnitudes, signed = space[NAMES[name]]
        for magnitude in (0, 4, 9, 17, 30):
            for sign in (1, -1):
                value = float(magnitudes[magnitude]) if magnitudes.ndim else 0.0
                expected = autoaugment._apply_op(
                    pixels,
                    NAMES[name],
                    sign * value if signed else value,
                    interpolation=InterpolationMode.NEAREST,
                    fill=[128.0] * 3,
                )
                out = apply_one(
                    jnp.asarray(image, jnp.float32), operation, sign * magnitude / MAX_MAGNITUDE
                )
                apart = np.abs(out - expected.numpy().transpose(1, 2, 0)).max(axis=-1)
                message = f"{name} {sign * magnitude}: {apart.max()}, {(apart > 2).mean()}"
                if name in ("rotate", "shear_x", "shear_y", "translate_x", "translate_y"):
                    # It rounds places to even, we round down: ties may fall to the other pixel.
                    assert (apart > 0).mean() < 0.03, message
                else:
                    assert apart.max() < 2.5, message
