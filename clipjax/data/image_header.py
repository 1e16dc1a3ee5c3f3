"""What the first bytes of an image file say: its format and its size, without its pixels."""

import dataclasses
import io

from PIL import Image

from clipjax.data.decode import BadSampleError

_SUFFIXES = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}


@dataclasses.dataclass(frozen=True)
class ImageHeader:
    """Format and size of an encoded image.

    Attributes:
        suffix: "jpg", "png" or "webp", by the content and not by any name.
        width: in pixels.
        height: in pixels.
    """

    suffix: str
    width: int
    height: int


def read_header(data: bytes) -> ImageHeader:
    """Returns the format and the size of a JPEG, PNG or WebP.

    Raises:
        BadSampleError: if the bytes are none of these.
    """
    try:
        with Image.open(io.BytesIO(data), formats=tuple(_SUFFIXES)) as image:
            return ImageHeader(_SUFFIXES[str(image.format)], image.width, image.height)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadSampleError("too large", str(error)) from error
    except Exception as error:  # Pillow raises a dozen kinds on damaged files
        raise BadSampleError("damaged", f"{type(error).__name__}: {error}") from error
