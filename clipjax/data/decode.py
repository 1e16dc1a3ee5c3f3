"""Encoded bytes to pixels, and nothing that a hostile file could ask for beyond that."""

import io
import struct
import threading
import warnings

import cv2
import numpy as np
import simplejpeg
from jaxtyping import UInt8
from PIL import Image, ImageOps

# The images of one process are decoded in its own threads: OpenCV's would only fight with them.
cv2.setNumThreads(1)
# Pillow warns of metadata; what matters raises. Set once: `catch_warnings` is not for threads, they
# would leave the filters of the whole process changed.
warnings.filterwarnings("ignore", module=r"PIL\.")

_FORMATS = ("JPEG", "PNG", "WEBP", "GIF")
_MAGIC = (b"\xff\xd8", b"\x89PNG", b"GIF8")
_JPEG = b"\xff\xd8\xff"
_ORIENTATION = 0x0112
_UPRIGHT = 1


class BadSampleError(Exception):
    """A sample that cannot be used; `reason` is one of a few words, for counting."""

    def __init__(self, reason: str, detail: str):
        super().__init__(f"{reason}: {detail}")
        self.reason = reason


class _Scratch(threading.local):
    """Pixels of one thread, kept: fresh pages for every image cost a good part of its decoding."""

    def __init__(self):
        self.pixels = np.empty(0, np.uint8)

    def of_size(self, size: int) -> np.ndarray:
        if len(self.pixels) < size:
            self.pixels = np.empty(size, np.uint8)
        return self.pixels


_scratch = _Scratch()


def decode_image(data: bytes, max_pixels: int) -> UInt8[np.ndarray, "height width 3"]:
    """Returns the pixels of a JPEG, PNG, WebP or GIF, by its first bytes and not by its name.

    Upright: the EXIF rotation is applied, where open_clip, big_vision and img2dataset ignore it.
    What is transparent lies on white; of an animation the first picture is taken.

    Args:
        data: the file.
        max_pixels: images that claim more are refused before anything is decoded.

    Raises:
        BadSampleError: if the image is too large, empty, damaged, or no image of these formats.
    """
    size = jpeg_size(data, max_pixels)
    if size is None:
        return _decode_with_pillow(data, max_pixels)
    return upright(decode_jpeg(data), jpeg_orientation(data))


def decode_shared(
    data: bytes, max_pixels: int, *, channels: int, as_stored: bool = False
) -> UInt8[np.ndarray, "height width channels"]:
    """Returns what `decode_image` does, in memory of this thread that its next call overwrites.

    Args:
        data: the file.
        max_pixels: images that claim more are refused before anything is decoded.
        channels: 3, or 4 for pixels as Pillow keeps them: most JPEGs have a fourth byte then, which
            stands for nothing.
        as_stored: give what `PIL.Image.open(file).convert("RGB")` does, which other codebases
            score: the EXIF rotation is not applied and transparency is dropped.

    Raises:
        BadSampleError: if the image is too large, empty, damaged, or no image of these formats.
    """
    size = jpeg_size(data, max_pixels)
    if size is None:
        return _decode_with_pillow(data, max_pixels, as_stored)
    orientation = _UPRIGHT if as_stored else jpeg_orientation(data)
    if orientation != _UPRIGHT:
        return upright(decode_jpeg(data, 1, size), orientation)
    if channels == 3:
        return decode_jpeg(data, 1, size)
    try:
        buffer = _scratch.of_size(4 * size[0] * size[1])
        return simplejpeg.decode_jpeg(data, "RGBX", buffer=buffer)
    except ValueError as error:
        raise BadSampleError("damaged", str(error)) from error


def jpeg_size(data: bytes, max_pixels: int) -> tuple[int, int] | None:
    """Returns width and height of a JPEG that `decode_jpeg` takes, as stored; None for others.

    Raises:
        BadSampleError: if its header is damaged or claims too many pixels.
    """
    if data[:3] != _JPEG:
        return None
    try:
        found = simplejpeg.decode_jpeg_header(data)
    except ValueError as error:
        raise BadSampleError("damaged", str(error)) from error
    height, width, colour = int(found[0]), int(found[1]), found[2]
    _check_pixels(width, height, max_pixels)
    return None if colour in ("CMYK", "YCCK") else (width, height)


def decode_jpeg(
    data: bytes,
    factor: int = 1,
    size: tuple[int, int] | None = None,
    out: np.ndarray | None = None,
    *,
    coarse: bool = False,
) -> UInt8[np.ndarray, "height width 3"]:
    """Returns the pixels of a JPEG, each side divided by `factor` and rounded up.

    Args:
        data: the file.
        factor: 1, 2, 4 or 8: smaller transforms, so that less is computed.
        size: width and height if the pixels may lie in memory of this thread that its next call
            overwrites.
        out: contiguous uint8 memory to decode into instead, with room for the pixels.
        coarse: repeat the stored colours instead of interpolating them, for what is shrunk anyway.

    Raises:
        BadSampleError: if the file is damaged.
    """
    try:
        if size is None:
            return simplejpeg.decode_jpeg(data, "RGB")
        width, height = -(-size[0] // factor), -(-size[1] // factor)
        buffer = _scratch.of_size(3 * width * height) if out is None else out
        if factor == 1:
            return simplejpeg.decode_jpeg(data, "RGB", buffer=buffer, fastupsample=coarse)
        return simplejpeg.decode_jpeg(data, "RGB", False, coarse, height, width, buffer=buffer)
    except ValueError as error:
        raise BadSampleError("damaged", str(error)) from error


def jpeg_orientation(data: bytes) -> int:
    """Returns the EXIF orientation of a JPEG, 1 to 8; 1 where there is none or it is damaged."""
    at, end = 2, len(data) - 4
    while at < end and data[at] == 0xFF and 0xE0 <= data[at + 1] <= 0xEF:
        (length,) = struct.unpack_from(">H", data, at + 2)
        if data[at + 1] == 0xE1 and data[at + 4 : at + 10] == b"Exif\0\0":
            exif = Image.Exif()
            try:
                exif.load(data[at + 4 : at + 2 + length])
                found = exif.get(_ORIENTATION, _UPRIGHT)
            except Exception:  # damaged metadata, of which Pillow raises a dozen kinds
                return _UPRIGHT
            return found if found in range(1, 9) else _UPRIGHT
        at += 2 + length
    return _UPRIGHT


def upright(image: np.ndarray, orientation: int) -> UInt8[np.ndarray, "height width 3"]:
    """Returns the pixels turned and mirrored as an EXIF orientation says."""
    if orientation in (5, 6, 7, 8):
        image = image.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    return np.ascontiguousarray(image)


def _decode_with_pillow(data: bytes, max_pixels: int, as_stored: bool = False) -> np.ndarray:
    if not data:
        raise BadSampleError("empty", "the file has no bytes")
    try:
        image = Image.open(io.BytesIO(data), formats=_FORMATS)
    except Image.UnidentifiedImageError as error:
        known = data.startswith(_MAGIC) or data[8:12] == b"WEBP"
        raise BadSampleError("damaged" if known else "not an image", _beginning(data)) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadSampleError("too large", str(error)) from error
    except Exception as error:  # Pillow raises a dozen kinds on damaged files
        raise BadSampleError("damaged", f"{type(error).__name__}: {error}") from error
    _check_pixels(image.width, image.height, max_pixels)
    try:
        if as_stored:
            return np.asarray(image.convert("RGB"))
        ImageOps.exif_transpose(image, in_place=True)
        return on_white(image)
    except Exception as error:
        raise BadSampleError("damaged", f"{type(error).__name__}: {error}") from error


def _beginning(data: bytes) -> str:
    names = ", ".join(_FORMATS)
    return f"expected one of {names}, found a file that begins with {data[:16]!r}"


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
