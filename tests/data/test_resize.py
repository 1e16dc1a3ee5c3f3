import io
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
from PIL import Image

from clipjax.config import DualEncoderConfig
from clipjax.data import resize
from clipjax.data.decode import BadSampleError, decode_image
from clipjax.data.resize import EvaluationTransform, resize_bicubic, resize_fast


def pixels(height=20, width=30, seed=0):
    """A smooth picture."""
    y, x = np.mgrid[:height, :width]
    phase = np.random.default_rng(seed).uniform(0, 6, 3)
    return np.stack([127 + 100 * np.sin(x / 9 + y / 7 + p) for p in phase], -1).astype(np.uint8)


def torchvision_eval(image, side):
    """Resize(side, BICUBIC) of the short side, then CenterCrop(side), as torchvision defines them.

    The long side is int(side * long / short); the crop starts at int(round((length - side) / 2)).
    """
    height, width = image.shape[:2]
    if width <= height:
        size = side, int(side * height / width)
    else:
        size = int(side * width / height), side
    resized = Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)
    left, top = round((size[0] - side) / 2.0), round((size[1] - side) / 2.0)
    return np.asarray(resized.crop((left, top, left + side, top + side)))


@pytest.mark.parametrize("side", [16, 17, 31])
@pytest.mark.parametrize(
    ("height", "width"),
    [(40, 40), (16, 16), (67, 100), (100, 67), (17, 16), (16, 19), (9, 5), (200, 31), (1, 7)],
)
def test_the_default_transform_is_torchvisions(height, width, side):
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    out = np.zeros((side, side, 3), np.uint8)
    EvaluationTransform()(image, out)
    np.testing.assert_array_equal(out, torchvision_eval(image, side))


@pytest.mark.parametrize("box", [(0, 0, 30, 20), (3, 2, 11, 10), (5, 5, 6, 6), (0, 0, 30, 1)])
def test_resize_fast_fills_every_pixel_of_a_row_of_a_batch(box):
    batch = np.full((3, 16, 16, 3), 7, np.uint8)
    left, top, right, bottom = box
    image = np.full((20, 30, 3), 7, np.uint8)
    image[top:bottom, left:right] = 200
    resize_fast(image, box, batch[1])
    assert (batch[1] == 200).all()
    assert (batch[[0, 2]] == 7).all()


def test_resize_fast_averages_where_it_shrinks():
    """Blocks of 4 x 4 pixels become their mean: area interpolation, no aliasing."""
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    out = np.zeros((16, 16, 3), np.uint8)
    resize_fast(image, (0, 0, 64, 64), out)
    means = image.reshape(16, 4, 16, 4, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(out, means, atol=0.51)


def test_resize_fast_at_equal_size_copies_the_box():
    image = pixels()
    out = np.zeros((16, 16, 3), np.uint8)
    resize_fast(image, (5, 3, 21, 19), out)
    np.testing.assert_array_equal(out, image[3:19, 5:21])


@pytest.mark.parametrize("size", [(64, 224), (224, 64), (100, 300), (300, 300)])
def test_a_side_that_shrinks_by_much_is_not_left_to_linear_interpolation(size):
    """Nearer to Pillow's filter than linear interpolation, whatever the other side does."""
    height, width = size
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    image = cv2.GaussianBlur(noise, (0, 0), 1.0)
    out, linear, exact = (np.zeros((64, 64, 3), np.uint8) for _ in range(3))
    resize_fast(image, (0, 0, width, height), out)
    resize_bicubic(image, (0, 0, width, height), exact)
    cv2.resize(image, (64, 64), dst=linear, interpolation=cv2.INTER_LINEAR)
    error, linear_error = (np.square(x.astype(float) - exact).mean() for x in (out, linear))
    assert error < 0.7 * linear_error


def squares(image, side, **fields):
    out = np.full((side, side, 3), 99, np.uint8)
    EvaluationTransform(**fields)(image, out)
    return out


def test_a_border_is_of_the_given_value_and_the_picture_is_whole():
    image = np.random.default_rng(0).integers(0, 256, (10, 20, 3), dtype=np.uint8)
    out = squares(image, 20, resize="pad", pad_value=77)
    np.testing.assert_array_equal(out[5:15], image)
    assert (out[:5] == 77).all()
    assert (out[15:] == 77).all()


def test_an_odd_border_is_wider_behind():
    """One pixel in front and two behind, as open_clip pads."""
    image = np.full((1, 4, 3), 200, np.uint8)
    assert squares(image, 4, resize="pad")[:, 0, 0].tolist() == [0, 200, 0, 0]


def test_a_hair_of_a_picture_keeps_a_pixel():
    image = np.full((1, 500, 3), 200, np.uint8)
    out = squares(image, 16, resize="pad")
    assert (out == 200).all(axis=(1, 2)).sum() == 1


def test_squash_shows_the_whole_picture_and_crop_its_middle():
    image = np.zeros((8, 24, 3), np.uint8)
    image[:, :8] = 250  # the left third
    assert squares(image, 8, resize="squash")[:, 0].min() > 200
    assert squares(image, 8).max() == 0


@pytest.mark.parametrize(("offset", "first"), [("nearest", 2), ("down", 1)])
def test_half_a_pixel_is_rounded_as_the_source_rounds(offset, first):
    """Three columns are cut away: 1.5 in front is 2 for torchvision and 1 for transformers."""
    image = np.repeat(np.arange(7, dtype=np.uint8)[None, :, None], 4, axis=0).repeat(3, axis=2)
    assert squares(image, 4, crop_offset=offset)[0, :, 0].tolist() == list(range(first, first + 4))


@pytest.mark.parametrize("resize", ["crop", "squash"])
def test_the_middle_of_a_larger_square(resize):
    image = np.random.default_rng(0).integers(0, 256, (30, 45, 3), dtype=np.uint8)
    whole = squares(image, 20, resize=resize)
    middle = squares(image, 14, resize=resize, resize_side=20)
    np.testing.assert_array_equal(middle, whole[3:17, 3:17])


@pytest.mark.parametrize("resize", ["crop", "squash", "pad"])
@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (17, 16), (16, 16)])
def test_every_pixel_is_written_whatever_the_shape(resize, size):
    image = np.full((*size, 3), 200, np.uint8)
    out = squares(image, 16, resize=resize, pad_value=200)
    assert (out == 200).all()


def test_the_transform_of_a_model_is_what_its_config_says():
    model = DualEncoderConfig(
        resize="squash", interpolation="bilinear", resize_side=300, crop_offset="down", pad_value=9
    )
    assert EvaluationTransform.of(model) == EvaluationTransform(
        resize="squash", interpolation="bilinear", resize_side=300, crop_offset="down", pad_value=9
    )
    assert EvaluationTransform.of(DualEncoderConfig()) == EvaluationTransform()


def jpeg(image, **options):
    out = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(
        out, "JPEG", quality=90, **options
    )
    return out.getvalue()


def files():
    """Files of every kind that is decoded in a way of its own, by name."""
    image = pixels(45, 70)
    exif = Image.Exif()
    exif[0x0112] = 6
    clear = np.dstack([image, np.full(image.shape[:2], 90, np.uint8)])
    png = io.BytesIO()
    Image.fromarray(clear).save(png, "PNG")
    return {
        "jpeg": jpeg(image),
        "tall": jpeg(pixels(90, 40)),
        "grey": jpeg(image[..., 0]),
        "progressive": jpeg(image, progressive=True),
        "444": jpeg(image, subsampling=0),
        "cmyk": jpeg(Image.fromarray(image).convert("CMYK")),
        "turned": jpeg(image, exif=exif),
        "of its size": jpeg(pixels(16, 16)),
        "png": png.getvalue(),
    }


@pytest.mark.parametrize("can_share", [True, False])
@pytest.mark.parametrize(
    "fields", [{}, {"resize": "squash"}, {"resize": "pad"}, {"resize_side": 20}], ids=str
)
def test_a_file_is_what_its_pixels_are(fields, can_share, monkeypatch):
    monkeypatch.setattr(resize, "CAN_SHARE", can_share and resize.CAN_SHARE)
    transform = EvaluationTransform(**fields)
    for name, data in [*files().items(), *files().items()]:  # in memory that others have used
        found, expected = (np.zeros((16, 16, 3), np.uint8) for _ in range(2))
        transform.of_file(data, 10_000, found)
        transform(decode_image(data, 10_000), expected)
        np.testing.assert_array_equal(found, expected, err_msg=name)
        if name not in ("cmyk", "turned", "png"):
            opened = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
            transform(opened, expected)
            np.testing.assert_array_equal(found, expected, err_msg=name)


@pytest.mark.parametrize(
    ("data", "reason"),
    [(b"", "empty"), (b"<html>", "not an image"), (jpeg(pixels())[:300], "damaged")],
)
def test_a_file_that_is_no_picture_is_named(data, reason):
    with pytest.raises(BadSampleError, match=reason):
        EvaluationTransform().of_file(data, 10_000, np.zeros((16, 16, 3), np.uint8))


def test_a_file_that_is_too_large_is_refused():
    with pytest.raises(BadSampleError, match="too large"):
        EvaluationTransform().of_file(jpeg(pixels()), 599, np.zeros((16, 16, 3), np.uint8))


def test_threads_do_not_see_each_others_pixels():
    data = list(files().values())
    transform = EvaluationTransform()

    def square(number):
        out = np.zeros((16, 16, 3), np.uint8)
        transform.of_file(data[number % len(data)], 10_000, out)
        return out

    alone = [square(number) for number in range(len(data))]
    with ThreadPoolExecutor(4) as pool:
        for number, found in enumerate(pool.map(square, range(400))):
            np.testing.assert_array_equal(found, alone[number % len(data)])
