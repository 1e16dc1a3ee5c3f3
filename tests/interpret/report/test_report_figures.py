import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipjax.interpret import report_figures as figures


def bars(svg, name):
    """Left end, width and height of the bars of a path."""
    (path,) = re.findall(rf'<path class="{name}" d="(.*?)"', svg)
    found = re.findall(r"M([\d.]+) 44h([\d.]+)v-([\d.]+)h-([\d.]+)z", path)
    assert "".join(f"M{x} 44h{w}v-{h}h-{w}z" for x, w, h, _ in found) == path
    return [(float(x), float(w), float(h)) for x, w, h, _ in found]


COUNTS = st.lists(st.integers(0, 1000), min_size=3, max_size=32)


@given(COUNTS, st.floats(-1e3, 1e3), st.floats(1e-3, 1e3), st.randoms())
def test_a_histogram_is_drawn_to_scale(counts, low, width, random):
    edges = np.linspace(low, low + width, len(counts) + 1).tolist()
    positives = [random.randint(0, one) for one in counts]
    svg = figures.histogram({"edges": edges, "counts": counts, "positives": positives}, "<a>")
    drawn = bars(svg, "everyone")
    there = [at for at, one in enumerate(counts) if one]
    assert len(drawn) == len(there)
    step = 240 / len(counts)
    most = max([1, *counts])
    for at, (x, wide, tall) in zip(there, drawn, strict=True):
        assert x == pytest.approx(min(at * step, 240 - 1.5), abs=0.2)
        assert wide == pytest.approx(max(step - 0.5, 1.5), abs=0.2)
        assert tall == pytest.approx(max(44 * math.sqrt(counts[at] / most), 1), abs=0.06)
    assert len(bars(svg, "hits")) == sum(one > 0 for one in positives)
    (data,) = re.findall(r'data-positives="(.*?)"', svg)
    assert [int(one) for one in data.split()] == positives
    assert 'aria-label="&lt;a&gt;"' in svg


def test_one_value_everywhere_is_a_histogram_too():
    svg = figures.histogram({"edges": [2.0, 2.0], "counts": [5], "positives": [0]}, "a")
    assert bars(svg, "everyone") == [(0.0, 1.5, 44.0)]


def test_edges_between_bins_get_ends():
    svg = figures.histogram({"edges": [0.0, 1.0], "counts": [1, 4, 1], "positives": [0] * 3}, "a")
    assert [x for x, _, _ in bars(svg, "everyone")] == [0, 80, 160]
    with pytest.raises(ValueError, match="3 edges of 3 bins"):
        figures.histogram({"edges": [0, 1, 2], "counts": [1, 4, 1], "positives": [0] * 3}, "a")


def test_points_stand_where_their_numbers_are():
    points = [
        (0.5, 1.0, "a", "", True),
        (1.0, 0.75, "<b>", "unit1", False),
        (0.31, 0.5, "c", "", 1),
    ]
    svg = figures.scatter([(*one[:4], bool(one[4])) for one in points], "x", "y", 0.75)
    found = re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', svg)
    for (x, y, *_), (across, up) in zip(points, found, strict=True):
        assert float(across) == pytest.approx(48 + 260 * (x - 0.3) / 0.7, abs=0.06)
        assert float(up) == pytest.approx(8 + 260 * (1 - y) / 0.7, abs=0.06)
    assert svg.count("alone") == 1
    assert '<a href="#unit1"><circle' in svg
    assert "&lt;b&gt;" in svg


@given(st.lists(st.tuples(st.integers(0, 10**6), st.floats(-1e6, 1e6)), min_size=1, max_size=30))
def test_a_curve_goes_from_left_to_right_and_up_with_its_values(points):
    points = sorted(dict(points).items())
    svg = figures.curve(points, "a")
    found = re.findall(r'cx="(-?[\d.]+)" cy="(-?[\d.]+)"', svg)
    across, up = zip(*[(float(x), float(y)) for x, y in found], strict=True)
    assert list(across) == sorted(across)
    assert all(0 <= x <= 260 for x in across)
    assert all(0 <= y <= 110 for y in up)
    order = np.argsort([value for _, value in points], kind="stable")
    assert all(np.diff(np.array(up)[order]) <= 0.2)


@given(st.floats(0, 1))
def test_heat_grows_with_the_distance_from_chance(value):
    (depth,) = re.findall(r"rgba\(42,111,187,([\d.]+)\)", figures.heat(value))
    assert float(depth) == pytest.approx(0.75 * max(2 * value - 1, 0), abs=0.0051)


def test_a_meter_shows_what_is_there_however_little():
    def width(value, most):
        return float(re.findall(r"width:([\d.]+)%", figures.meter(value, most))[0])

    assert [width(n, 200) for n in (0, 1, 50, 200, None)] == [0, 2, 25, 100, 0]
    assert width(0, 0) == 0


def test_numbers_that_are_none_are_said_to_be_so():
    for value in (None, math.nan, math.inf):
        assert figures.figure(value) == "<small>n/a</small>"
    assert figures.count(1234) == '<data value="1234">1,234</data>'
    assert figures.count(244 + 1 / 3) == f'<data value="{244 + 1 / 3!r}">244.3</data>'
    assert figures.probability(1.234e-7) == '<data value="1.234e-07">1.2e-07</data>'
