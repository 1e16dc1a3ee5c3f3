import io
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from clipjax.data.decode import BadSampleError
from clipjax.data.image_header import ImageHeader, read_header


def encoded(kind, mode="RGB", size=(31, 17)):
    buffer = io.BytesIO()
    Image.new(mode, size, 7).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("kind", "mode", "suffix"),
    [
        ("jpeg", "RGB", "jpg"),
        ("jpeg", "L", "jpg"),
        ("jpeg", "CMYK", "jpg"),
        ("png", "RGBA", "png"),
        ("png", "I;16", "png"),
        ("webp", "RGB", "webp"),
    ],
)
def test_format_and_size(kind, mode, suffix):
    assert read_header(encoded(kind, mode)) == ImageHeader(suffix, 31, 17)


def test_pixels_are_not_needed():
    data = encoded("png", size=(9000, 5000))
    assert read_header(data[:64]) == ImageHeader("png", 9000, 5000)


def test_a_bomb_is_too_large():
    data = bytearray(encoded("png"))
    data[16:24] = np.array([60_000, 60_000], ">u4").tobytes()
    data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")
    with pytest.raises(BadSampleError) as caught:
        read_header(bytes(data))
    assert caught.value.reason == "too large"


@pytest.mark.parametrize("kind", ["gif", "bmp", "tiff"])
def test_other_formats_are_refused(kind):
    with pytest.raises(BadSampleError, match="damaged"):
        read_header(encoded(kind))


@settings(max_examples=100, deadline=None)
@given(
    st.binary(max_size=80), st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF"])
)
def test_noise_is_a_bad_sample_or_an_image(noise, magic):
    reason = ""
    try:
        assert read_header(magic + noise).width > 0
    except BadSampleError as error:
        reason = error.reason
    assert reason in ("", "damaged", "too large")
