import io

import cv2
import numpy as np
import pytest
from PIL import Image

from clipjax.cli.bench_fidelity import MOST_PSNR, fidelity, psnr, reference_pixels, seen_box
from clipjax.config import DataConfig, ViTConfig
from clipjax.data.training_images import MODES


def jpeg(seed, width, height):
    """Returns smooth noise, which survives a JPEG at full quality."""
    noise = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3), np.uint8)
    image = cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()


FILES = [jpeg(seed, *size) for seed, size in enumerate([(96, 64), (64, 96), (200, 160), (60, 60)])]
DRAWS = np.random.default_rng(0).random(40)


def pixels_of(config, side):
    images = MODES[config.image_mode](config, ViTConfig(image_size=side))

    def pixels(data, draws):
        row = {name: np.zeros(shape, kind) for name, (shape, kind) in images.row_spec.items()}
        images(data, draws, row, lambda stage: None)
        return images.picture(row)

    return pixels


def test_psnr_is_that_of_the_definition():
    rng = np.random.default_rng(1)
    a, b = (rng.integers(0, 256, (5, 6, 3), np.uint8) for _ in range(2))
    error = sum((int(x) - int(y)) ** 2 for x, y in zip(a.flat, b.flat, strict=True)) / a.size
    assert psnr(a, b) == pytest.approx(20 * np.log10(255 / np.sqrt(error)))
    assert psnr(a, a) == MOST_PSNR


def test_exact_mode_differs_only_by_the_decoder():
    config = DataConfig(image_mode="exact")
    found = fidelity(FILES, pixels_of(config, 32), config, image_size=32)
    assert found["psnr_images"] == 4
    assert found["psnr_median"] > 50
    assert found["psnr_p5"] <= found["psnr_median"]


def test_fast_mode_is_compared_on_the_crop_that_it_shows():
    """A crop that is moved to whole pixels of a smaller image is near the reference there."""
    config = DataConfig(image_mode="fast", crop_scale=(0.5, 0.6))
    ours = pixels_of(config, 32)(FILES[2], DRAWS)
    box = seen_box(DRAWS, 200, 160, config, 32)
    assert all(edge % 2 == 0 for edge in box)  # shrunk while it is decoded
    reference = reference_pixels(FILES[2], DRAWS, config, 32)
    moved = reference_pixels(FILES[2], np.roll(DRAWS, 1), config, 32)
    assert psnr(ours, reference) > 30 > psnr(ours, moved) + 5


def test_a_mode_that_shows_something_else_scores_low():
    config = DataConfig(image_mode="exact")
    right = pixels_of(config, 32)
    found = fidelity(FILES, lambda d, r: right(d, r)[:, ::-1], config, image_size=32)
    assert found["psnr_median"] < 20


def test_what_fits_on_the_canvas_is_not_moved():
    box = seen_box(DRAWS, 200, 160, DataConfig(image_mode="exact"), 32)
    fits = DataConfig(image_mode="device", canvas_size=200)
    smaller = DataConfig(image_mode="device", canvas_size=199)
    assert seen_box(DRAWS, 200, 160, fits, 32) == box
    assert seen_box(DRAWS, 200, 160, smaller, 32) == seen_box(DRAWS, 200, 160, DataConfig(), 32)


def test_the_reference_is_cut_before_it_is_filtered():
    """Beyond the crop nothing is read: torchvision crops first."""
    image = Image.new("RGB", (64, 64), "black")
    image.paste("white", (0, 0, 32, 64))
    config = DataConfig(image_mode="exact", crop_scale=(0.25, 0.25), crop_ratio=(1.0, 1.0))
    buffer = io.BytesIO()
    image.save(buffer, "png")
    draws = np.zeros(40)
    draws[2] = 32 / 33 + 1e-9  # left at 32: all that is seen is black
    assert seen_box(draws, 64, 64, config, 16) == (32, 0, 64, 32)
    assert reference_pixels(buffer.getvalue(), draws, config, 16).max() == 0
