"""Encoded bytes to pixels, and nothing that a hostile file could ask for beyond that."""

import io
import warnings

import cv2
import numpy as np
import simplejpeg
from jaxtyping import UInt8
from PIL import Image

from clipjax.data.crops import Box, center_crop

# The crops of one process run on its own threads: OpenCV's would only fight with them.
cv2.setNumThreads(1)
# Pillow warns of metadata; what matters raises. Set once: `catch_warnings` is not for threads, they
# would leave the filters of the whole process changed.
warnings.filterwarnings("ignore", module=r"PIL\.")

_FORMATS = ("JPEG", "PNG", "WEBP")


class BadSampleError(Exception):
    """A sample that cannot be used; `reason` is one of a few words, for counting."""

    def __init__(self, reason: str, detail: str):
        super().__init__(f"{reason}: {detail}")
        self.reason = reason


def decode_image(data: bytes, max_pixels: int) -> UInt8[np.ndarray, "height width 3"]:
    """Returns the pixels of a JPEG, PNG or WebP, by its first bytes and not by its name.

    Transparent images lie on white. EXIF rotation is ignored, as everywhere in this field.

    Args:
        data: the file.
        max_pixels: images that claim more are refused before anything is decoded.

    Raises:
        BadSampleError: if the image is too large, damaged, or of another format.
    """
    if data[:3] == b"\xff\xd8\xff":
        try:
            height, width, colour, _ = simplejpeg.decode_jpeg_header(data)
            _check_pixels(int(width), int(height), max_pixels)
            if colour not in ("CMYK", "YCCK"):
                return simplejpeg.decode_jpeg(data, "RGB")
        except ValueError as error:
            raise BadSampleError("damaged", str(error)) from error
    return _decode_with_pillow(data, max_pixels)


def _decode_with_pillow(data: bytes, max_pixels: int) -> np.ndarray:
    try:
        image = Image.open(io.BytesIO(data), formats=_FORMATS)
        _check_pixels(image.width, image.height, max_pixels)
        return on_white(image)
    except BadSampleError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadSampleError("too large", str(error)) from error
    except Exception as error:  # Pillow raises a dozen kinds on damaged files
        raise BadSampleError("damaged", f"{type(error).__name__}: {error}") from error


def on_white(image: Image.Image) -> UInt8[np.ndarray, "height width 3"]:
    """Returns the pixels of a Pillow image of any mode; what is transparent shows white."""
    if image.mode.startswith("I;16"):  # Pillow would clip to 255: all white
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    return np.asarray(image.convert("RGB"))


def _check_pixels(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise BadSampleError("too large", f"{width} x {height} pixels, at most {max_pixels:,}")


def resize_into(image: np.ndarray, box: Box, out: UInt8[np.ndarray, "side side 3"]) -> None:
    """Writes the part `box` of `image`, resized, into `out`: fast, for training.

    Averages over areas where it shrinks, interpolates linearly where it grows.
    """
    left, top, right, bottom = box
    side = out.shape[0]
    shrinks = min(right - left, bottom - top) >= side
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    cv2.resize(image[top:bottom, left:right], (side, side), dst=out, interpolation=method)


def resize_exact(image: np.ndarray, out: UInt8[np.ndarray, "side side 3"]) -> None:
    """Writes the centre of `image`, resized, into `out`: CLIP's evaluation transform.

    Pillow's antialiased bicubic filter to the short side, then the central square.
    """
    side = out.shape[0]
    height, width = image.shape[:2]
    if height == width == side:
        out[...] = image
        return
    short = min(width, height)
    size = (side * width // short, side * height // short)  # rounded down, as in torchvision
    if (width, height) != size:
        image = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))
    left, top, _, _ = center_crop(*size)
    out[...] = image[top : top + side, left : left + side]
