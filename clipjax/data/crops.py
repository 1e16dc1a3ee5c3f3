"""Which part of an image is seen: CLIP's random crop in training, the centre in evaluation."""

import math

import numpy as np

Box = tuple[int, int, int, int]
"""left, top, right, bottom in pixels."""


def random_resized_crop(
    draws: np.ndarray,
    width: int,
    height: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> Box:
    """Returns a random box whose area is a share in `scale` and whose aspect is in `ratio`.

    Ten tries as in torchvision's RandomResizedCrop, then the largest centred box with an aspect in
    `ratio`.

    Args:
        draws: 40 numbers in [0, 1).
        width: of the image in pixels.
        height: of the image in pixels.
        scale: smallest and largest share of the area.
        ratio: smallest and largest width / height.

    Source: Szegedy et al. 2014, "Going Deeper with Convolutions", section 6, arXiv:1409.4842.
    """
    log_low, log_high = math.log(ratio[0]), math.log(ratio[1])
    for area_draw, ratio_draw, x_draw, y_draw in draws.reshape(-1, 4).tolist():
        area = width * height * (scale[0] + area_draw * (scale[1] - scale[0]))
        aspect = math.exp(log_low + ratio_draw * (log_high - log_low))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(x_draw * (width - w + 1)), int(y_draw * (height - h + 1))
            return left, top, left + w, top + h
    aspect = min(max(width / height, ratio[0]), ratio[1])
    w = min(width, max(1, round(height * aspect)))
    h = min(height, max(1, round(width / aspect)))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def center_crop(width: int, height: int) -> Box:
    """Returns the largest centred square.

    >>> center_crop(640, 480)
    (80, 0, 560, 480)
    """
    side = min(width, height)
    left, top = round((width - side) / 2), round((height - side) / 2)
    return left, top, left + side, top + side
