import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from clipjax.core.mesh import batch_sharding
from clipjax.train.device_crop import crop_and_resize

CANVAS, SIDE = 72, 24
run = jax.jit(crop_and_resize, static_argnames=("side", "products", "rounded"))


def psnr(one, other):
    error = np.mean((np.asarray(one, np.float64) - np.asarray(other, np.float64)) ** 2)
    return 10 * math.log10(255**2 / error) if error else math.inf


def pictures(kind, count, seed=0):
    """Gradients and waves; with noise on them for "mixed", nothing but noise for "noise"."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:CANVAS, :CANVAS] / CANVAS
    out = []
    for _ in range(count):
        a, b, c = rng.uniform(2, 20, 3)
        smooth = np.stack([255 * y, 255 * x, 128 + 100 * np.sin(a * x + b) * np.cos(c * y)], -1)
        spread = {"smooth": 0, "mixed": 25}.get(kind)
        if spread is None:
            smooth = rng.integers(0, 256, smooth.shape)
        else:
            smooth = smooth + rng.normal(0, 1, smooth.shape) * spread
        out.append(np.clip(smooth, 0, 255).astype(np.uint8))
    return np.stack(out)


def random_boxes(count, seed=1, smallest=10):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(smallest, CANVAS + 1, (count, 2))
    corners = rng.integers(0, CANVAS - sizes + 1)
    return np.concatenate([corners, corners + sizes], axis=1).astype(np.float32)


def pillow(canvas, box, side, *, beyond=False):
    image = Image.fromarray(canvas)
    size = (side, side)
    if beyond:
        box = tuple(float(end) for end in box)
        return np.asarray(image.resize(size, Image.Resampling.BICUBIC, box=box))
    cropped = image.crop(tuple(int(end) for end in box))
    return np.asarray(cropped.resize(size, Image.Resampling.BICUBIC))


def by_definition(canvas, box, side, bounds):
    """float64, one pixel of one axis after the other, horizontally first, rounded between."""

    def cubic(x):
        x = abs(x)
        if x < 1:
            return 1.5 * x**3 - 2.5 * x**2 + 1
        return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x < 2 else 0.0

    def along(values, first, last, low, high):
        scale = (last - first) / side
        width = max(scale, 1.0)
        rows = []
        for n in range(side):
            centre = first + (n + 0.5) * scale
            inside = range(math.floor(low), math.ceil(high))
            weights = np.array([cubic((i + 0.5 - centre) / width) for i in inside])
            picked = values[math.floor(low) : math.ceil(high)]
            rows.append(np.tensordot(weights / weights.sum(), picked, axes=1))
        return np.clip(np.floor(np.stack(rows) + 0.5), 0, 255)

    box, bounds = [float(e) for e in box], [float(e) for e in bounds]
    across = along(canvas.astype(float).transpose(1, 0, 2), box[0], box[2], bounds[0], bounds[2])
    return along(across.transpose(1, 0, 2), box[1], box[3], bounds[1], bounds[3])


@pytest.mark.parametrize("side", [SIDE, 64])
@pytest.mark.parametrize("kind", ["smooth", "mixed"])
def test_is_as_good_as_pillow_in_bfloat16(kind, side):
    """50 dB for 95 % of the pictures: the level of two roundings to uint8, not of a filter."""
    canvases, boxes = pictures(kind, 40), random_boxes(40)
    out = np.asarray(run(canvases, boxes, side))
    assert out.dtype == np.uint8
    cropped = [pillow(c, b, side) for c, b in zip(canvases, boxes, strict=True)]
    assert np.percentile([psnr(*pair) for pair in zip(out, cropped, strict=True)], 5) >= 50
    whole = jnp.tile(jnp.array([0.0, 0.0, CANVAS, CANVAS]), (40, 1))
    out = np.asarray(run(canvases, boxes, side, bounds=whole))
    beyond = [pillow(c, b, side, beyond=True) for c, b in zip(canvases, boxes, strict=True)]
    assert np.percentile([psnr(*pair) for pair in zip(out, beyond, strict=True)], 5) >= 50


@pytest.mark.parametrize(("products", "least"), [("bfloat16", 55), ("float32", 68)])
def test_noise_of_wide_boxes_is_that_of_pillow(products, least):
    """Noise overshoots everywhere, so it shows the rounding and cutting between the products."""
    canvases, boxes = pictures("noise", 24), random_boxes(24, seed=2)
    boxes[:, 3] = np.minimum(boxes[:, 3], boxes[:, 1] + boxes[:, 2] - boxes[:, 0])
    out = run(canvases, boxes, SIDE, products=products)
    expected = [pillow(c, b, SIDE) for c, b in zip(canvases, boxes, strict=True)]
    assert min(psnr(*pair) for pair in zip(out, expected, strict=True)) > least


BOXES = {
    "canvas": (0, 0, CANVAS, CANVAS),
    "corner": (0, 0, 31, 29),
    "far corner": (CANVAS - 31, CANVAS - 29, CANVAS, CANVAS),
    "upscaled": (20, 30, 30, 37),
    "one axis up, one down": (3, 50, 70, 60),
    "one pixel": (40, 50, 41, 51),
    "one column": (9, 3, 10, 70),
    "two pixels": (CANVAS - 2, 0, CANVAS, 2),
}


@pytest.mark.parametrize("products", ["bfloat16", "float32"])
def test_boxes_at_the_edges_and_of_all_sizes(products):
    boxes = np.array(list(BOXES.values()), np.float32)
    canvases = pictures("mixed", len(boxes), seed=3)
    out = run(canvases, boxes, SIDE, products=products)
    for name, row, canvas, box in zip(BOXES, out, canvases, boxes, strict=True):
        assert psnr(row, pillow(canvas, box, SIDE)) > 50, name


def test_a_box_of_the_size_of_the_result_is_copied_exactly():
    canvases = pictures("noise", 3)
    boxes = np.array([(0, 0, 24, 24), (48, 48, 72, 72), (5, 17, 29, 41)], np.float32)
    expected = [
        c[int(t) : int(b), int(le) : int(r)]
        for c, (le, t, r, b) in zip(canvases, boxes, strict=True)
    ]
    np.testing.assert_array_equal(run(canvases, boxes, SIDE), expected)
    whole = np.array([(0, 0, CANVAS, CANVAS)] * 3, np.float32)
    np.testing.assert_array_equal(run(canvases, whole, CANVAS), canvases)


def test_an_empty_box_gives_black_and_leaves_the_others_alone():
    canvases = pictures("mixed", 3)
    boxes = np.array([(10, 10, 40, 40), (7, 7, 7, 7), (10, 10, 40, 40)], np.float32)
    out = np.asarray(run(canvases, boxes, SIDE))
    assert (out[1] == 0).all()
    assert (np.asarray(run(canvases, boxes, SIDE, rounded=False))[1] == 0).all()  # not NaN
    alone = run(canvases, np.tile(boxes[:1], (3, 1)), SIDE)
    np.testing.assert_array_equal(out[::2], alone[::2])


def test_unrounded_values_are_within_half_a_level_and_never_overshoot():
    canvases, boxes = pictures("noise", 8), random_boxes(8, smallest=3)
    exact = np.asarray(run(canvases, boxes, SIDE, rounded=False))
    assert exact.dtype == np.float32
    assert exact.min() == 0.0
    assert exact.max() == 255.0
    assert np.abs(exact - run(canvases, boxes, SIDE)).max() <= 0.5
    assert (exact % 1 != 0).mean() > 0.5


ends = st.tuples(st.floats(0, CANVAS - 1, width=32), st.floats(0.25, CANVAS, width=32)).map(
    lambda pair: (pair[0], min(pair[0] + pair[1], CANVAS))
)


@given(horizontal=ends, vertical=ends, seed=st.integers(0, 99), inside=st.booleans())
@example(horizontal=(0, CANVAS), vertical=(0, CANVAS), seed=0, inside=True)
@example(horizontal=(0.5, 1.0), vertical=(71.5, 71.75), seed=0, inside=False)
@settings(max_examples=25, deadline=None)
def test_any_box_is_resized_by_definition_and_reads_nothing_else(
    horizontal, vertical, seed, inside
):
    box = np.array([horizontal[0], vertical[0], horizontal[1], vertical[1]], np.float32)
    rng = np.random.default_rng(seed)
    bounds = box if inside else np.array([0, 0, CANVAS, CANVAS], np.float32)
    canvas = pictures("noise", 1, seed)[0]
    definition = by_definition(canvas, box, SIDE, bounds)
    left, top, right, bottom = (*np.floor(bounds[:2]), *np.ceil(bounds[2:]))
    hidden = rng.integers(0, 256, canvas.shape).astype(np.uint8)
    kept = slice(int(top), int(bottom)), slice(int(left), int(right))
    hidden[kept] = canvas[kept]
    both = np.stack([canvas, hidden])
    out = run(both, np.stack([box] * 2), SIDE, bounds=np.stack([bounds] * 2), products="float32")
    np.testing.assert_array_equal(out[0], out[1])
    # A value at a half between the products may round to either side.
    difference = np.abs(np.asarray(out[0], np.float64) - definition)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.05


@given(box=st.tuples(ends, ends), value=st.integers(0, 255))
@settings(max_examples=25, deadline=None)
def test_a_plain_area_keeps_its_value_in_bfloat16(box, value):
    (left, right), (top, bottom) = box
    canvases = np.full((2, CANVAS, CANVAS, 3), value, np.uint8)
    boxes = np.array([[left, top, right, bottom]] * 2, np.float32)
    assert (np.asarray(run(canvases, boxes, SIDE)) == value).all()


def test_products_are_of_the_type_and_size_that_the_text_says():
    count = 5
    trace = jax.make_jaxpr(functools.partial(crop_and_resize, side=SIDE))(
        jnp.zeros((count, CANVAS, CANVAS, 3), jnp.uint8), jnp.zeros((count, 4))
    )
    flops = 0
    products = [eqn for eqn in _equations(trace.jaxpr) if eqn.primitive.name == "dot_general"]
    for product in products:
        left, right = (factor.aval for factor in product.invars)
        assert left.dtype == right.dtype == jnp.bfloat16
        (contracted, _), _ = product.params["dimension_numbers"]
        assert product.outvars[0].aval.dtype == jnp.float32
        flops += 2 * product.outvars[0].aval.size * math.prod(left.shape[a] for a in contracted)
    assert len(products) == 2
    assert flops == count * 2 * 3 * SIDE * CANVAS * (CANVAS + SIDE)


def _equations(jaxpr):
    for equation in jaxpr.eqns:
        yield equation
        for value in equation.params.values():
            if hasattr(value, "jaxpr"):
                yield from _equations(value.jaxpr)


def test_a_batch_split_over_devices_needs_no_other_device_and_gives_the_same_bits(mesh):
    canvases, boxes = pictures("noise", 16), random_boxes(16)
    expected = run(canvases, boxes, SIDE)
    place = batch_sharding(mesh)
    split = jax.device_put((canvases, boxes), place)
    out = run(*split, SIDE)
    assert out.sharding.is_equivalent_to(place, out.ndim)
    np.testing.assert_array_equal(out, expected)
    program = run.lower(*split, SIDE).compile().as_text()
    assert f"[2,{CANVAS},{CANVAS},3]" in program
    assert not re.search(r"all-|collective|reduce-scatter", program)
