"""Images at their own aspect ratio, cut into at most so many patches: NaFlex, for training.

Source: Tschannen et al. 2025, "SigLIP 2", section on NaFlex, https://arxiv.org/abs/2502.14786;
    patches of images of several shapes in one batch: Dehghani et al. 2023, "Patch n' Pack",
    https://arxiv.org/abs/2307.06304.
"""

from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import UInt8

from clipjax.config import DataConfig, UsageError, ViTConfig
from clipjax.config.image_towers import ImageConfig
from clipjax.data.crops import Box, random_resized_crop
from clipjax.data.decode_crop import decode_crop
from clipjax.data.resize import resize_fast


def patch_grid(width: int, height: int, max_patches: int) -> tuple[int, int]:
    """Returns rows and columns of the patches that an image is resized to.

    Both sides are scaled by one factor and rounded up to whole patches; the factor is the largest
    for which there are at most `max_patches`. A side is thus stretched by less than one patch, and
    small images are enlarged. One much longer than `max_patches` times its other side is squeezed.

    Args:
        width: of the image in pixels.
        height: of the image in pixels.
        max_patches: at least 1.

    Source: Tschannen et al. 2025, section on NaFlex (least distortion under a budget of patches).

    >>> patch_grid(224, 224, 256), patch_grid(640, 480, 256), patch_grid(1, 9999, 256)
    ((16, 16), (14, 18), (256, 1))
    """
    rows = columns = 1
    while True:
        # In units of patches the sides grow as height : width; which needs its next patch first?
        row_full, column_full = rows * width, columns * height
        more = rows + (row_full <= column_full), columns + (column_full <= row_full)
        if more[0] * more[1] > max_patches:
            return rows, columns
        rows, columns = more


def cut_patches(
    image: UInt8[np.ndarray, "height width 3"], patch_size: int
) -> UInt8[np.ndarray, "patches values"]:
    """Returns the patches of an image, row by row; the values of each in the order y, x, channel.

    Args:
        image: its sides are multiples of `patch_size`.
        patch_size: side of a patch in pixels.
    """
    rows, columns = image.shape[0] // patch_size, image.shape[1] // patch_size
    parts = image.reshape(rows, patch_size, columns, patch_size, 3)
    return parts.transpose(0, 2, 1, 3, 4).reshape(rows * columns, -1)


class NaFlexImages:
    """Crops that keep the aspect ratio of their image, as patches with positions and a mask.

    Rows of `patches` behind those of the image are zero. The crop is random in size (`crop_scale`)
    and place; its aspect ratio is that of the image, so `crop_ratio` has no part in it.
    """

    def __init__(self, config: DataConfig, image: ImageConfig):
        if not isinstance(image, ViTConfig):
            raise UsageError(
                "config.data.image_mode='naflex' cuts images into patches: model.image.kind="
                f"{image.kind!r} cannot read them. Take a vit, or another image_mode."
            )
        self._patch, self._most = image.patch_size, config.max_patches
        self._scale, self._max_pixels = config.crop_scale, config.max_image_pixels
        self.row_spec: Mapping[str, tuple[tuple[int, ...], np.dtype]] = {
            "patches": ((self._most, 3 * self._patch**2), np.dtype(np.uint8)),
            "patch_positions": ((self._most, 2), np.dtype(np.int16)),
            "patch_mask": ((self._most,), np.dtype(np.bool_)),
            "patch_grid": ((2,), np.dtype(np.int32)),
        }

    def __call__(
        self,
        data: bytes,
        draws: np.ndarray,
        row: Mapping[str, np.ndarray],
        lap: Callable[[str], None],
    ) -> None:
        """Decodes a file into the row."""
        image, box = decode_crop(data, draws, self._crop, self._shorter_side, self._max_pixels)
        lap("decode")
        rows, columns = self._grid(box)
        pixels = np.empty((rows * self._patch, columns * self._patch, 3), np.uint8)
        resize_fast(image, box, pixels)
        count = rows * columns
        row["patches"][:count] = cut_patches(pixels, self._patch)
        row["patches"][count:] = 0
        row["patch_positions"][:count, 0] = np.repeat(np.arange(rows), columns)
        row["patch_positions"][:count, 1] = np.tile(np.arange(columns), rows)
        row["patch_positions"][count:] = 0
        row["patch_mask"][...] = np.arange(self._most) < count
        row["patch_grid"][...] = rows, columns
        lap("resize")

    def picture(self, row: Mapping[str, np.ndarray]) -> UInt8[np.ndarray, "side side 3"]:
        """Returns what the model sees of a row, on a grey square."""
        (rows, columns), side = row["patch_grid"].tolist(), self._patch
        parts = row["patches"][: rows * columns].reshape(rows, columns, side, side, 3)
        image = parts.transpose(0, 2, 1, 3, 4).reshape(rows * side, columns * side, 3)
        longest = max(image.shape[:2])
        out = np.full((longest, longest, 3), 128, np.uint8)
        out[: image.shape[0], : image.shape[1]] = image
        return out

    def _crop(self, draws: np.ndarray, width: int, height: int) -> Box:
        aspect = width / height
        return random_resized_crop(draws, width, height, self._scale, (aspect, aspect))

    def _grid(self, box: Box) -> tuple[int, int]:
        return patch_grid(box[2] - box[0], box[3] - box[1], self._most)

    def _shorter_side(self, box: Box) -> int:
        return min(self._grid(box)) * self._patch
