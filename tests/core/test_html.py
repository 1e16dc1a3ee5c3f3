import re
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipjax.core import html


class Reader(HTMLParser):
    """Collects the tags, attributes and text of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.text = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.text += data


PICTURE = "data:image/jpeg;base64,AAAA"
SOUND = "data:audio/wav;base64,AAAA"


def every_block(text):
    return html.page(
        text,
        html.heading(text),
        html.paragraph(text),
        html.bullets([text, text]),
        html.table([text, text], [[text, 3]]),
        html.bar([(text, 1), (text, 2)], 4),
        html.heading(text, 3),
        html.paragraph(html.number(0.5, text), text, html.link(text, text), html.small(text)),
        html.details([text, html.small(text)], html.paragraph(text), name=text),
        html.grid([(html.picture(PICTURE, text), [text]), (html.picture(None, text), [text])]),
        html.table([text], [[html.interval(0.5, 0.4, 0.6, 0.1, text)]]),
        html.diagonal_chart([(0.0, 0.5, 0.25, text)], text, text, text),
        html.box(html.paragraph(html.badge(text, "good"), html.shared_picture("p1", text))),
        html.paragraph(html.sound(SOUND, text), html.marked(text, [])),
    )


TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1)


@given(TEXT)
def test_no_text_becomes_a_tag_and_all_of_it_is_seen(text):
    plain, page = Reader(every_block("x")), Reader(every_block(text))
    assert page.tags == plain.tags
    assert page.text.count(text) >= 26
    of = {
        key: [value for name, value in page.attributes if name == key]
        for key in ("title", "alt", "id", "href", "src", "aria-label")
    }
    assert of["title"] == [text, text]
    assert of["alt"] == of["id"] == [text]
    assert of["href"] == [f"#{text}"]
    assert of["src"] == [PICTURE, SOUND]
    interval = f"{text}: 0.5000, from 0.4000 to 0.6000, chance 0.1000"
    assert of["aria-label"] == [text, interval, text, text, text]


def test_a_page_needs_nothing_from_elsewhere():
    page = every_block("a")
    assert not re.search(r"https?:|//|@import|url\(|<script|<link|<iframe|\bon\w+=", page)
    assert page.startswith("<!doctype html>\n")
    for name, value in Reader(page).attributes:
        assert name not in ("src", "href") or value.startswith(("data:image/", "data:audio/", "#"))


def test_only_the_script_of_a_page_is_allowed_to_run():
    def policy(page):
        (found,) = [v for n, v in Reader(page).attributes if n == "content" and "default-src" in v]
        return dict(part.split(" ", 1) for part in found.split(";"))

    assert policy(html.page("a")) == {
        "default-src": "'none'",
        "style-src": "'unsafe-inline'",
        "img-src": "data:",
        "media-src": "data:",
    }
    # printf '%s' 'let a=1' | openssl dgst -sha256 -binary | base64
    digest = "+Q3dsIT3kYyYXlBldxY4Baal1kEoF6cDrlPvZn4iLYs="
    assert policy(html.page("a", script="let a=1"))["script-src"] == f"'sha256-{digest}'"
    assert "<script>let a=1</script>" in html.page("a", script="let a=1")


@given(TEXT, st.lists(TEXT, max_size=3))
def test_marks_change_nothing_of_a_text(text, words):
    assert Reader(html.marked(text, words)).text == text


@given(st.lists(st.sampled_from(["dog", "Dog", "hot dog", "hotdog", "cat", "dogs", "+"])))
def test_whole_words_are_marked_and_the_longest_first(pieces):
    text = " / ".join(pieces)
    found = re.findall("<mark>(.*?)</mark>", html.marked(text, ["dog", "hot dog", "+", ""]))
    assert found == [one for one in pieces if one in ("dog", "Dog", "hot dog", "+")]


@pytest.mark.parametrize(
    "address",
    ["https://a.org/a.png", "data:image/png;base64,A)}body{", "data:image/svg+xml;base64,AAAA", ""],
)
def test_a_rule_holds_a_picture_and_nothing_else(address):
    with pytest.raises(ValueError, match="expected data:image/TYPE"):
        html.shared_picture_rule("p1", address)
    with pytest.raises(ValueError, match="expected data:audio/"):
        html.sound(address, "a")
    rule = html.shared_picture_rule("p1", "data:image/webp;base64,A+/=")
    assert rule == ".p1{background-image:url(data:image/webp;base64,A+/=)}\n"


@pytest.mark.parametrize("address", ["https://a.org/a.png", "//a", "javascript:a", "data:text"])
def test_a_picture_from_elsewhere_is_refused(address):
    with pytest.raises(ValueError, match="expected data:image/"):
        html.picture(address, "a")


def test_a_piece_is_put_in_as_it_is_and_becomes_text_when_it_is_changed():
    piece = html.small("a & b")
    assert html.paragraph("<", piece) == "<p>&lt;<small>a &amp; b</small></p>"
    for changed in (piece + "", piece.upper(), piece[:]):
        assert "<small" not in html.paragraph(changed).lower()


@given(st.floats(0, 1) | st.integers(0, 10**12))
def test_programs_read_every_digit_of_a_number(value):
    (found,) = [v for name, v in Reader(html.number(value, "x")).attributes if name == "value"]
    assert type(value)(found) == value


def test_an_interval_is_drawn_to_scale_and_stays_inside():
    def at(svg, attribute):
        return [float(x) for x in re.findall(rf' {attribute}="([\d.-]+)"', svg)]

    svg = html.interval(0.5, 0.25, 0.75, 0.1, "a")
    assert at(svg, "cx") == [60]
    assert at(svg, "x1") == [12, 30, 30, 90]
    assert at(svg, "x2") == [12, 90, 30, 90]
    assert "dash" not in html.interval(0.5, 0.25, 0.75, None, "a")
    wild = html.interval(1.5, -1, 2, -3, "a")
    assert at(wild, "cx") == [120]
    assert set(at(wild, "x1") + at(wild, "x2")) == {0, 120}


def test_bars_of_a_chart_stand_on_its_floor_and_reach_the_diagonal_where_both_are_equal():
    svg = html.diagonal_chart([(0.0, 0.5, 0.25, "a"), (0.5, 1.0, 1.0, "b")], "x", "y", "n")
    rects = re.findall(r'<rect class="pale" x="(.*?)" y="(.*?)" width="(.*?)" height="(.*?)"', svg)
    x, y, width, height = zip(*[map(float, rect) for rect in rects], strict=True)
    assert y[0] + height[0] == y[1] + height[1]
    assert height[1] == 4 * height[0]
    assert x[1] - x[0] == pytest.approx(width[0] + 1)
    (dash,) = re.findall(r'<line class="dash" x1="(.*?)" x2="(.*?)" y1="(.*?)" y2="(.*?)"', svg)
    left, right, low, high = map(float, dash)
    assert (left, low, high) == (x[0], y[0] + height[0], y[1])
    assert right == pytest.approx(x[1] + width[1] + 1)


def test_parts_that_are_more_than_the_whole_fill_the_bar_and_are_marked():
    def widths(bar):
        return [float(width) for width in re.findall(r"width:([\d.]+)%", bar)]

    assert widths(html.bar([("a", 1), ("b", 2)], 4)) == [25, 50]
    over = html.bar([("a", 2), ("b", 6)], 4)
    assert widths(over) == [25, 75]
    assert 'class="bar over"' in over
    assert 'class="bar over"' not in html.bar([("a", 4)], 4)
    assert widths(html.bar([("a", 0)], 0)) == [0]
