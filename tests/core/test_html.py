import re
from html.parser import HTMLParser

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


def every_block(text):
    return html.page(
        text,
        html.heading(text),
        html.paragraph(text),
        html.bullets([text, text]),
        html.table([text, text], [[text, 3]]),
        html.bar([(text, 1), (text, 2)], 4),
    )


TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1)


@given(TEXT)
def test_no_text_becomes_a_tag_and_all_of_it_is_seen(text):
    plain, page = Reader(every_block("x")), Reader(every_block(text))
    assert page.tags == plain.tags
    assert page.text.count(text) >= 9
    assert [value for name, value in page.attributes if name == "title"] == [text, text]


def test_a_page_needs_nothing_from_elsewhere():
    page = every_block("a")
    assert not re.search(r"https?:|//|\bsrc\b|\bhref\b|@import|url\(|<script|<link", page)
    assert page.startswith("<!doctype html>\n")


def test_parts_that_are_more_than_the_whole_fill_the_bar_and_are_marked():
    def widths(bar):
        return [float(width) for width in re.findall(r"width:([\d.]+)%", bar)]

    assert widths(html.bar([("a", 1), ("b", 2)], 4)) == [25, 50]
    over = html.bar([("a", 2), ("b", 6)], 4)
    assert widths(over) == [25, 75]
    assert 'class="bar over"' in over
    assert 'class="bar over"' not in html.bar([("a", 4)], 4)
    assert widths(html.bar([("a", 0)], 0)) == [0]
