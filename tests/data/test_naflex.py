import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from clipjax.config import ConvNetConfig, DataConfig, UsageError, ViTConfig
from clipjax.data.naflex import NaFlexImages, cut_patches, patch_grid
from clipjax.data.training_images import row_spec

PATCH = 4
DRAWS = np.full(40, 0.5)


def encode(pixels, kind="PNG", **options):
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind, **options)
    return out.getvalue()


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def smooth(height, width):
    y, x = np.mgrid[:height, :width] / max(height, width)
    return np.stack([250 * x, 250 * y, 125 * (x + y)], -1).astype(np.uint8)


def make(max_patches=16, scale=(1.0, 1.0), **fields):
    config = DataConfig(
        image_mode="naflex", max_patches=max_patches, crop_scale=scale, max_image_pixels=10**6
    )
    return NaFlexImages(config, ViTConfig(image_size=16, patch_size=PATCH, **fields))


def empty_row(images, value=7):
    """A row as a buffer that was used before holds it."""
    return {name: np.full(shape, value, kind) for name, (shape, kind) in images.row_spec.items()}


def fill(images, data, draws=DRAWS, value=7):
    row = empty_row(images, value)
    images(data, draws, row, lambda stage: None)
    return row


def picture_of(row):
    """The image put together again, patch by patch, from the positions alone."""
    rows, columns = row["patch_grid"].tolist()
    out = np.zeros((rows * PATCH, columns * PATCH, 3), np.uint8)
    for values, (r, c) in zip(
        row["patches"][row["patch_mask"]], row["patch_positions"][row["patch_mask"]], strict=True
    ):
        out[r * PATCH : (r + 1) * PATCH, c * PATCH : (c + 1) * PATCH] = values.reshape(
            PATCH, PATCH, 3
        )
    return out


def largest_grid(width, height, most):
    """All grids tried: those that some scale s gives, ceil(s h) x ceil(s w); the largest scale."""
    found = []
    for rows in range(1, most + 1):
        for columns in range(1, most // rows + 1):
            # s in ((rows - 1) / h, rows / h] and in ((columns - 1) / w, columns / w]; times h w.
            low = max((rows - 1) * width, (columns - 1) * height)
            high = min(rows * width, columns * height)
            if low < high:
                found.append((high, rows, columns))
    return max(found)[1:]


@settings(deadline=None, max_examples=150)
@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 48))
def test_the_grid_is_the_largest_one_that_fits(width, height, most):
    rows, columns = patch_grid(width, height, most)
    assert (rows, columns) == largest_grid(width, height, most)
    assert rows * columns <= most
    assert patch_grid(height, width, most) == (columns, rows)


@settings(deadline=None, max_examples=100)
@given(st.integers(20, 2000), st.integers(20, 2000), st.integers(100, 1024))
def test_a_side_is_stretched_by_less_than_one_patch(width, height, most):
    rows, columns = patch_grid(width, height, most)
    scale = min(rows / height, columns / width)
    assert rows - 1 < scale * height + 1e-9
    assert columns - 1 < scale * width + 1e-9


def test_a_square_of_the_budget_gives_the_square_grid():
    for side in (1, 3, 7, 16):
        assert patch_grid(500, 500, side**2) == (side, side)


def test_patches_are_in_the_order_of_a_convolution():
    image = noise(8, 12)
    patches = cut_patches(image, PATCH)
    assert patches.shape == (6, 48)
    np.testing.assert_array_equal(patches[1].reshape(4, 4, 3), image[:4, 4:8])
    np.testing.assert_array_equal(patches[3].reshape(4, 4, 3), image[4:, :4])


@pytest.mark.parametrize(("height", "width", "grid"), [(16, 16, (4, 4)), (8, 32, (2, 8))])
def test_an_image_of_the_right_size_is_kept_to_the_pixel(height, width, grid):
    image = noise(height, width)
    row = fill(make(), encode(image))
    assert tuple(row["patch_grid"]) == grid
    assert row["patch_mask"].all()
    np.testing.assert_array_equal(picture_of(row), image)


@pytest.mark.parametrize(("height", "width"), [(90, 30), (30, 90), (61, 64), (12, 9), (400, 380)])
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_the_whole_image_is_seen_and_the_rest_is_zero(height, width, kind):
    image = smooth(height, width)
    row = fill(make(20), encode(image, kind, **({"quality": 95} if kind == "JPEG" else {})))
    rows, columns = row["patch_grid"].tolist()
    count = rows * columns
    assert (rows, columns) == patch_grid(width, height, 20)
    assert row["patch_mask"].tolist() == [True] * count + [False] * (20 - count)
    assert not row["patches"][count:].any()
    assert not row["patch_positions"][count:].any()
    size = (columns * PATCH, rows * PATCH)
    kind = Image.Resampling.BOX if width > size[0] else Image.Resampling.BILINEAR
    expected = np.asarray(Image.fromarray(image).resize(size, kind), np.float32)
    assert np.abs(picture_of(row) - expected).mean() < 6


def test_a_row_does_not_depend_on_what_the_buffer_held():
    images, data = make(30), encode(noise(50, 31))
    one, other = fill(images, data, value=1), fill(images, data, value=0)
    for name in one:
        np.testing.assert_array_equal(one[name], other[name])


def test_a_random_crop_keeps_the_aspect_ratio_and_moves():
    images, image = make(200, scale=(0.25, 0.3)), smooth(120, 240)
    rng = np.random.default_rng(0)
    pictures = []
    for _ in range(8):
        row = fill(images, encode(image), rng.uniform(size=40))
        rows, columns = row["patch_grid"].tolist()
        assert abs(columns / rows - 2) < 0.21
        picture = picture_of(row).astype(np.float32)
        pictures.append(picture)
        # The red channel grows by 250 over the whole width: half of it is seen.
        assert 100 < picture[:, -1, 0].mean() - picture[:, 0, 0].mean() < 140
    assert len({picture.tobytes() for picture in pictures}) == 8


def test_an_image_that_is_turned_by_its_orientation_has_the_upright_grid():
    image = Image.fromarray(smooth(20, 80))
    exif = image.getexif()
    exif[0x0112] = 6
    out = io.BytesIO()
    image.save(out, "JPEG", exif=exif)
    assert tuple(fill(make(), out.getvalue())["patch_grid"]) == (8, 2)


def test_a_convnet_cannot_read_patches():
    config = DataConfig(image_mode="naflex")
    with pytest.raises(
        UsageError, match=r"data\.image_mode='naflex'.*model\.image\.kind='convnet'"
    ):
        row_spec(config, ConvNetConfig(), 77)


def test_the_row_spec_of_every_mode():
    vit = ViTConfig(image_size=32, patch_size=8)

    def shapes(**fields):
        return {k: (s, str(d)) for k, (s, d) in row_spec(DataConfig(**fields), vit, 9).items()}

    tokens = {"tokens": ((9,), "int32")}
    square = {"images": ((32, 32, 3), "uint8")}
    assert shapes() == shapes(image_mode="exact") == square | tokens
    assert (
        shapes(image_mode="device", canvas_size=50)
        == {"canvas": ((50, 50, 3), "uint8"), "boxes": ((4,), "float32")} | tokens
    )
    assert (
        shapes(image_mode="naflex", max_patches=12)
        == {
            "patches": ((12, 192), "uint8"),
            "patch_positions": ((12, 2), "int16"),
            "patch_mask": ((12,), "bool"),
            "patch_grid": ((2,), "int32"),
        }
        | tokens
    )
