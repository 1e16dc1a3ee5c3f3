import io
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import simplejpeg
from PIL import Image, ImageFile, ImageOps

from clipjax.config import DataConfig, ViTConfig
from clipjax.data.decode import BadSampleError, decode_image, jpeg_orientation
from clipjax.data.training_images import MODES

MOST = 1_000_000


def pixels(height=20, width=30, seed=0):
    """A smooth picture, which JPEG changes by little."""
    y, x = np.mgrid[:height, :width]
    phase = np.random.default_rng(seed).uniform(0, 6, 3)
    return np.stack([127 + 100 * np.sin(x / 9 + y / 7 + p) for p in phase], -1).astype(np.uint8)


def encode(image, kind, **options):
    out = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(out, kind, **options)
    return out.getvalue()


def reason(data, max_pixels=MOST):
    with pytest.raises(BadSampleError) as caught:
        decode_image(data, max_pixels)
    assert str(caught.value).startswith(caught.value.reason)
    return caught.value.reason


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("WEBP", {"lossless": True})])
def test_lossless_formats_give_the_pixels_back(kind, options):
    decoded = decode_image(encode(pixels(), kind, **options), MOST)
    np.testing.assert_array_equal(decoded, pixels())
    assert decoded.dtype == np.uint8


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
def test_a_jpeg_is_what_pillow_decodes(options):
    """Two decoders may differ by their rounding of the colour transform and the upsampling."""
    data = encode(pixels(), "JPEG", quality=90, **options)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    np.testing.assert_allclose(decode_image(data, MOST).astype(int), expected, atol=2)
    np.testing.assert_allclose(expected.astype(int), pixels(), atol=40)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_gray_becomes_three_equal_channels(kind):
    gray = pixels()[..., 0]
    decoded = decode_image(encode(gray, kind, quality=95), MOST)
    assert decoded.shape == (20, 30, 3)
    assert (decoded == decoded[..., :1]).all()
    np.testing.assert_allclose(decoded[..., 0].astype(int), gray, atol=8 if kind == "JPEG" else 0)


def test_cmyk_becomes_rgb():
    """Full magenta ink absorbs green."""
    ink = Image.new("CMYK", (8, 8), (0, 255, 0, 0))
    decoded = decode_image(encode(ink, "JPEG", quality=100), MOST)
    np.testing.assert_allclose(decoded[4, 4].astype(int), [255, 0, 255], atol=3)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_transparency_lies_on_white(kind):
    """Alpha 0 is white, 255 the colour, 51 a fifth of it: 0.2 c + 0.8 * 255."""
    image = np.zeros((1, 3, 4), np.uint8)
    image[..., :3] = (200, 100, 0)
    image[0, :, 3] = (0, 255, 51)
    decoded = decode_image(encode(image, kind, lossless=True, exact=True), MOST)
    expected = [[255, 255, 255], [200, 100, 0], [244, 224, 204]]
    np.testing.assert_allclose(decoded[0].astype(int), expected, atol=1)


@pytest.mark.parametrize("mode", ["LA", "P", "P bytes", "1"])
def test_every_kind_of_png_transparency_lies_on_white(mode):
    """Two pixels: an opaque black one and a transparent black one."""
    if mode == "LA":
        data = encode(np.array([[[0, 255], [0, 0]]], np.uint8), "PNG")
    elif mode == "1":
        data = encode(Image.fromarray(np.array([[False, True]])), "PNG", transparency=1)
    else:
        image = Image.new("P", (2, 1))
        image.putpalette([0, 0, 0, 0, 0, 0])
        image.putdata([0, 1])
        data = encode(image, "PNG", transparency=1 if mode == "P" else b"\xff\x00")
    assert decode_image(data, MOST)[0].tolist() == [[0, 0, 0], [255, 255, 255]]


def test_sixteen_bits_keep_their_high_byte():
    """Pillow clips 16-bit gray at 255: nearly every picture would turn white."""
    ramp = np.linspace(0, 65535, 64).astype(np.uint16)[None].repeat(4, 0)
    np.testing.assert_array_equal(decode_image(encode(ramp, "PNG"), MOST)[..., 1], ramp >> 8)


def test_a_sixteen_bit_colour_png_keeps_its_high_byte():
    values = np.array([[[0, 255, 256], [65535, 32768, 32767]]], ">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    np.testing.assert_array_equal(decode_image(png(2, 1, rows, depth=16), MOST), values >> 8)


def png(width, height, rows, depth=8):
    def chunk(kind, data):
        crc = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + crc

    header = struct.pack(">IIBBBBB", width, height, depth, 2, 0, 0, 0)
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", header),
            chunk(b"IDAT", zlib.compress(rows)),
            chunk(b"IEND", b""),
        ]
    )


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"", "empty"),
        (b"<html><body>404</body></html>", "not an image"),
        (b"RIFF" * 9, "not an image"),
        (b"%PDF-1.7", "not an image"),
        (b"\xff\xd8\xff", "damaged"),
        (b"\x89PNG\r\n\x1a\n", "damaged"),
        (b"GIF89a", "damaged"),
    ],
)
def test_what_is_no_image_says_so(data, found):
    assert reason(data) == found


@pytest.mark.parametrize("kind", ["BMP", "TIFF", "PPM"])
def test_other_formats_are_refused(kind):
    assert reason(encode(pixels(), kind)) == "not an image"


@pytest.mark.parametrize("kind", ["GIF", "WEBP"])
def test_of_an_animation_the_first_picture_is_taken(kind):
    first, second = (Image.fromarray(pixels(seed=i)) for i in (1, 2))
    out = io.BytesIO()
    first.save(out, kind, save_all=True, append_images=[second], duration=100, lossless=True)
    expected = np.asarray(first if kind == "WEBP" else first.quantize().convert("RGB"), int)
    decoded = decode_image(out.getvalue(), MOST).astype(int)
    assert np.abs(decoded - expected).mean() < 8
    assert np.abs(decoded - np.asarray(second, int)).mean() > 30


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_truncated_images_are_damaged(kind, share):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = encode(noise, kind)
    assert reason(data[: int(share * len(data))]) == "damaged"


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_random_damage_gives_pixels_or_a_bad_sample_and_nothing_else(kind):
    whole, rng = encode(pixels(), kind), np.random.default_rng(1)
    for _ in range(150):
        data = bytearray(whole)
        for place in rng.integers(0, len(whole), rng.integers(1, 6)):
            data[place] = rng.integers(256)
        try:
            decoded = decode_image(bytes(data), 10_000)
        except BadSampleError as error:
            assert error.reason in ("damaged", "too large", "not an image")  # noqa: PT017 - either is right
        else:
            assert decoded.shape[2] == 3
            assert decoded.shape[0] * decoded.shape[1] <= 10_000


def claims(kind, width, height):
    """A small file whose header claims a huge image."""
    if kind == "PNG":
        return png(width, height, b"\0" * 1000)
    data = bytearray(encode(pixels(), kind))
    if kind == "JPEG":
        start = data.index(b"\xff\xc0") + 5
        data[start : start + 4] = struct.pack(">HH", height, width)
    else:
        start = data.index(b"\x9d\x01\x2a") + 3
        data[start : start + 4] = struct.pack("<HH", width, height)
    return bytes(data)


@pytest.mark.parametrize(
    ("kind", "side"),
    [("PNG", 5000), ("PNG", 12_000), ("PNG", 10**6), ("JPEG", 5000), ("JPEG", 65_500),
     ("WEBP", 5000), ("WEBP", 16_383)],
)  # fmt: skip
def test_a_huge_claimed_size_is_refused_before_anything_is_decoded(kind, side, monkeypatch):
    def started(*_args, **_kwargs):
        raise AssertionError("decoding has started")

    monkeypatch.setattr(ImageFile.ImageFile, "load", started)
    monkeypatch.setattr(simplejpeg, "decode_jpeg", started)
    assert reason(claims(kind, side, side), 6_400_000) == "too large"


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_the_limit_itself_is_allowed(kind):
    data = encode(pixels(), kind)
    assert decode_image(data, 20 * 30).shape == (20, 30, 3)
    assert reason(data, 20 * 30 - 1) == "too large"


@pytest.mark.parametrize("orientation", [1, 2, 3, 4, 5, 6, 7, 8])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_exif_rotation_is_applied_as_pillow_does(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encode(pixels(), kind, exif=exif, **options)
    image = Image.open(io.BytesIO(data))
    assert image.size == (30, 20)
    expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"), int)
    decoded = decode_image(data, MOST)
    assert decoded.shape == expected.shape
    np.testing.assert_allclose(decoded.astype(int), expected, atol=2)
    assert decoded.flags.c_contiguous


def with_segment(data, marker, content):
    """A JPEG with one more segment before all others."""
    length = (len(content) + 2).to_bytes(2, "big")
    return data[:2] + bytes([0xFF, marker]) + length + content + data[2:]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"Exif\0\0MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0", 6),
        (b"Exif\0\0MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\x63\0\0\0\0\0\0", 1),
        (b"Exif\0\0garbage", 1),
        (b"Exif\0\0", 1),
        (b"http://ns.adobe.com/xap/1.0/\0<x/>", 1),
        (b"", 1),
    ],
)
def test_damaged_metadata_leaves_the_picture_as_it_is(content, expected):
    data = with_segment(encode(pixels(), "JPEG"), 0xE1, content)
    assert jpeg_orientation(data) == expected
    # A segment with a profile before it is passed over.
    assert jpeg_orientation(with_segment(data, 0xE2, b"ICC" * 900)) == expected
    for cut in range(2, len(content) + 8):
        assert jpeg_orientation(data[:cut]) in range(1, 9)


HARD = {
    "baseline JPEG": (encode(pixels(), "JPEG", quality=95), (20, 30)),
    "progressive JPEG": (encode(pixels(), "JPEG", quality=95, progressive=True), (20, 30)),
    "CMYK JPEG": (encode(Image.fromarray(pixels()).convert("CMYK"), "JPEG"), (20, 30)),
    "grey JPEG": (encode(pixels()[..., 0], "JPEG"), (20, 30)),
    "PNG named .jpg": (encode(pixels(), "PNG"), (20, 30)),
    "palette": (encode(Image.fromarray(pixels()).quantize(), "PNG"), (20, 30)),
    "palette with alpha": (
        encode(Image.fromarray(pixels()).quantize(), "PNG", transparency=0),
        (20, 30),
    ),
    "16-bit grey": (encode(pixels()[..., 0].astype(np.uint16) * 257, "PNG"), (20, 30)),
    "one pixel": (encode(pixels(1, 1), "JPEG"), (1, 1)),
    "one row": (encode(pixels(1, 500), "JPEG"), (1, 500)),
    "truncated JPEG": (encode(pixels(), "JPEG")[:-40], "damaged"),
    "HTML named .jpg": (b"<!DOCTYPE html><html></html>", "not an image"),
    "SVG": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "not an image"),
    "zero bytes": (b"", "empty"),
    "only zeros": (bytes(1000), "not an image"),
    "JPEG header only": (encode(pixels(), "JPEG")[:100], "damaged"),
}


@pytest.mark.parametrize("mode", list(MODES))
@pytest.mark.parametrize("name", HARD)
def test_hard_images_in_every_mode(name, mode):
    """The table of what comes out: pixels of the whole picture, or a reason to be counted."""
    data, expected = HARD[name]
    fill = MODES[mode](
        DataConfig(canvas_size=512, max_image_pixels=MOST), ViTConfig(image_size=16, patch_size=4)
    )
    row = {key: np.zeros(shape, kind) for key, (shape, kind) in fill.row_spec.items()}
    draws = np.full(40, 0.5)
    if isinstance(expected, str):
        with pytest.raises(BadSampleError) as caught:
            fill(data, draws, row, lambda stage: None)
        assert caught.value.reason == expected
        assert reason(data) == expected
    else:
        fill(data, draws, row, lambda stage: None)
        assert decode_image(data, MOST).shape == (*expected, 3)
        assert any(array.any() for array in row.values())


def test_decoding_in_threads_leaves_the_warnings_of_the_process_alone():
    files = [encode(pixels(seed=i), "PNG") for i in range(4)]
    before = list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda data: decode_image(data, MOST), files * 100))
    assert list(warnings.filters) == before
