"""How near a way of resizing comes to Pillow's antialiased bicubic filter, on the same crops."""

import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from clipjax.config import DataConfig
from clipjax.data.crops import Box, random_resized_crop
from clipjax.data.decode_crop import shrink_factor, snap
from clipjax.data.keyed import uniforms

PixelsOf = Callable[[bytes, np.ndarray], np.ndarray]
"""(file, 40 draws of the crop) -> uint8 [side, side, 3] as the model sees them."""

MOST_PSNR = 100.0
_CROPS = 2  # stream of `uniforms`, as in training


def fidelity(
    files: Sequence[bytes], pixels_of: PixelsOf, config: DataConfig, *, image_size: int
) -> dict[str, Any]:
    """Compares the crops of files, and returns the median and the 5th percentile of the PSNR.

    Args:
        files: JPEGs.
        pixels_of: the way that is judged.
        config: of the crops and the mode.
        image_size: side in pixels.
    """
    values = []
    for number, data in enumerate(files):
        draws = uniforms(config.shuffle_seed, number, _CROPS, 40)
        ours = pixels_of(data, draws)
        values.append(psnr(ours, reference_pixels(data, draws, config, image_size)))
    return {
        "psnr_median": float(np.median(values)),
        "psnr_p5": float(np.percentile(values, 5)),
        "psnr_images": len(values),
    }


def reference_pixels(
    data: bytes, draws: np.ndarray, config: DataConfig, side: int
) -> UInt8[np.ndarray, "{side} {side} 3"]:
    """Returns what torchvision's RandomResizedCrop makes of the crop: cut, then filtered."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    box = seen_box(draws, image.width, image.height, config, side)
    return np.asarray(image.crop(box).resize((side, side), Image.Resampling.BICUBIC))


def seen_box(draws: np.ndarray, width: int, height: int, config: DataConfig, side: int) -> Box:
    """Returns the part of the whole image that a crop shows.

    Where images are shrunk while they are decoded the crop is moved to whole pixels of the smaller
    one; that it is moved is no loss of quality, so that the reference is moved with it.
    """
    box = random_resized_crop(draws, width, height, config.crop_scale, config.crop_ratio)
    fits = config.image_mode == "device" and max(width, height) <= config.canvas_size
    if config.image_mode == "exact" or fits:
        return box
    factor = shrink_factor(box, side)
    left, top, right, bottom = snap(box, factor, width, height)
    return left * factor, top * factor, right * factor, bottom * factor


def psnr(ours: np.ndarray, reference: np.ndarray) -> float:
    """Returns the peak signal-to-noise ratio in dB, at most 100.

    >>> psnr(np.zeros((4, 4, 3), np.uint8), np.full((4, 4, 3), 255, np.uint8))
    0.0
    """
    error = np.mean((ours.astype(np.float64) - reference) ** 2)
    return min(MOST_PSNR, float(10 * np.log10(255**2 / max(error, 1e-9))))
