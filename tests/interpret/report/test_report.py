import base64
import hashlib
import io
import json
import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from clipjax.config import UserError
from clipjax.interpret.report import write_report

EVIL = "<script>alert('1')</script><img src=x onerror=a> & \"é\" ünïts"
DRAWN = ("data-counts", "data-positives", "data-x", "data-y", "data-step", "data-value")


class Read(HTMLParser):
    """A page as a person and a program read it.

    Attributes:
        tags: all, each with its attributes.
        numbers: each exact, with how it is shown.
        drawn: numbers that charts hold.
        words: all text that is no such number, outside of drawings.
        sections: text by heading.
    """

    def __init__(self, page):
        super().__init__()
        self.tags, self.numbers, self.drawn, self.words, self.sections = [], [], [], [], {}
        self._open, self._number, self._section = [], None, ""
        self.feed(page)
        assert not self._open, self._open

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.tags.append((tag, attributes))
        if tag not in ("meta", "img", "br", "input"):
            self._open.append(tag)
        if tag == "data":
            self._number = attributes["value"]
        if tag in ("h1", "h2"):
            self._section = None
        for name in DRAWN:
            self.drawn += [json.loads(one) for one in attributes.get(name, "").split()]

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self._open.pop()

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if {"style", "script"} & set(self._open):
            return
        if self._section is None:
            self._section = data
        self.sections[self._section] = self.sections.get(self._section, "") + data
        if self._number is not None:
            self.numbers.append((json.loads(self._number), data))
            self._number = None
        elif not {"svg", "title"} & set(self._open):
            self.words.append(data)


def everything(value):
    """All numbers and all strings of plain values, keys as well."""
    if isinstance(value, dict):
        parts = [everything(one) for one in [*value, *value.values()]]
    elif isinstance(value, list | tuple):
        parts = [everything(one) for one in value]
    elif isinstance(value, str):
        return set(), {value}
    elif isinstance(value, bool) or value is None:
        return set(), set()
    else:
        return {value}, set()
    return set().union(*[n for n, _ in parts]), set().union(*[s for _, s in parts])


@pytest.fixture(scope="module")
def found(make):
    return make()


@pytest.fixture(scope="module")
def written(found, show, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "neurons.html"
    return write_report(found, show, path)


@pytest.fixture(scope="module")
def page(written):
    return Read(written.path.read_text(encoding="utf-8"))


def drawn_page(tmp_path, findings, picture_of=lambda *_: None, **options):
    written = write_report(findings, picture_of, tmp_path / "neurons.html", **options)
    return Read(written.path.read_text(encoding="utf-8"))


def test_every_number_is_one_of_the_json(found, page):
    numbers, _ = everything(found)
    assert len(page.numbers) > 3000
    assert {value for value, _ in page.numbers} <= numbers
    assert len(page.drawn) > 3000
    assert set(page.drawn) <= numbers


def test_what_is_shown_is_the_number_rounded(page):
    for value, shown in page.numbers:
        read = float(shown.replace(",", ""))
        assert math.isclose(read, value, rel_tol=0.05, abs_tol=0.0051), (value, shown)


def test_no_number_stands_in_a_sentence_of_its_own(found, page):
    _, texts = everything(found)
    # Longest first, so that "12" does not cut "12 o'clock" in two.
    known = re.compile("|".join(re.escape(t) for t in sorted(texts, key=len, reverse=True) if t))
    for words in page.words:
        rest = known.sub("", words)
        rest = re.sub(r"\(1988\)|et al\. 2022|95 %|it is 1 for a basis", "", rest)
        assert not re.search(r"\d", rest), words


def test_the_headline_has_all_controls_beside_it(found, page):
    top = page.sections[f"Multimodal neurons of {found['model']['spec']}"]
    assert "127 of 256 units of image/blocks/1/mlp_act" in top
    assert "photo, edges and word" in top
    assert "Controls hold" in top
    assert "untrained and shuffled: the same tests find next to nothing" in top
    for name, control in found["spaces"][0]["controls"].items():
        assert name in top
        assert control["pairs"] in [value for value, _ in page.numbers]
    assert "Unit permutation" in top
    assert found["proves"][0] in page.sections["What this proves, and what not"]
    assert list(page.sections).index("Units") < list(page.sections).index("How it was done")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"controls": {}}, "No control model"),
        ({"untrained": True}, "untrained: too much of what was found"),
        ({"rotated": True}, "Rotation equal"),
        ({"permutation": True}, "unit permutation: too much"),
        ({"nothing": True}, "Nothing was replicated"),
        ({"weak": True}, "In word there are too few stimuli for a test"),
    ],
)
def test_controls_that_fail_are_told_at_the_top(tmp_path, change, said, make):
    findings = make(units=2)
    space = findings["spaces"][0]
    if "controls" in change:
        space["controls"] = {}
    elif "permutation" in change:
        space["permutation"]["failed"] = True
    elif "weak" in change:
        space["floor_only_facets"] = ["word"]
    elif "nothing" in change:
        space.update(replicated_pairs=None, replicated_units=None, replicated_concepts=None)
    else:
        space["controls"][next(iter(change))]["failed"] = True
    page = drawn_page(tmp_path, findings)
    top = page.sections["Multimodal neurons of runs/emoji"]
    assert said in top
    assert "in photo, edges and word." in top
    holds = next(iter(change)) in ("rotated", "nothing", "weak")
    assert ("Controls hold" in top) == holds
    boxes = [a["class"] for tag, a in page.tags if a.get("class", "").startswith("box")]
    assert boxes[0] == ("box good" if holds else "box bad")


def test_the_page_needs_nothing_and_runs_one_script(written, page):
    text = written.path.read_text(encoding="utf-8")
    assert not re.search(r"https?:|@import|<link|<iframe|<object", text)
    assert all(
        found.startswith("data:image/webp;base64,")
        for found in re.findall(r"url\(([^)]{0,40})", text)
    )
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(set(ids)) == len(ids)
    for tag, attributes in page.tags:
        assert not any(name.startswith("on") for name in attributes)
        assert "src" not in attributes
        if "href" in attributes:
            assert attributes["href"][1:] in ids
        if tag == "svg":
            assert attributes["aria-label"]
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    (policy,) = [a["content"] for _, a in page.tags if a.get("http-equiv")]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy


def hostile(value, key=""):
    """The same findings with other words in every place that is a person's."""
    if isinstance(value, dict):
        return {name: hostile(one, name) for name, one in value.items()}
    if isinstance(value, list):
        return [hostile(one, key) for one in value]
    free = ("text", "name", "label", "words", "badges", "proves", "untested", "spec", "version")
    return f"{value} {EVIL}" if isinstance(value, str) and key in free else value


def test_text_stays_text(tmp_path, make):
    plain = make(units=4)
    evil = hostile(plain)
    # Names of facets are keys elsewhere.
    evil["data"]["facets"] = plain["data"]["facets"]
    pages = [drawn_page(tmp_path, one) for one in (plain, evil)]
    tags = [[tag for tag, _ in page.tags if tag != "mark"] for page in pages]
    assert tags[0] == tags[1]
    assert "".join(pages[1].words).count("<script>alert('1')</script>") > 50


def pixels_of(page, name):
    (address,) = re.findall(
        rf"\.{name}{{background-image:url\(data:image/webp;base64,(.*?)\)", page
    )
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(address))).convert("RGB"), np.float64)


def test_each_place_shows_its_picture(found, written, page, show):
    text = written.path.read_text(encoding="utf-8")
    unit = found["units"][1]
    ids = [a.get("id") for _, a in page.tags]
    card = page.tags[ids.index("unit1") : ids.index("unit2")]
    places = [a for _, a in card if a.get("class", "").startswith("shared")]
    wanted = [
        (facet, one)
        for key, most in (("top", 8), ("bottom", 4))
        for facet in ("photo", "edges", "word")
        for one in unit[key][facet][:most]
    ]
    # The glance of the next card stands before its name.
    assert len(places) >= len(wanted) == 36
    for (facet, one), place in zip(wanted, places, strict=False):
        assert place["aria-label"] == f"{facet}: {one['text']}"
        error = np.abs(pixels_of(text, place["class"].split()[1]) - show(facet, one["row"]))
        assert error.mean() < 12
    assert written.left_out == 0


def test_equal_pictures_are_there_once(tmp_path, make):
    findings = make(units=12)
    path = tmp_path / "a.html"
    shades = [np.full((40, 40, 3), 60 * shade, np.uint8) for shade in range(4)]
    asked = []

    def shade(facet, row):
        asked.append((facet, row))
        return shades[row % 4]

    written = write_report(findings, shade, path)
    assert written.pictures == path.read_text().count("data:image/webp") == 4
    assert len(set(asked)) == len(asked)


def test_large_pictures_become_small_ones(tmp_path, make):
    findings = make(units=1)
    big = np.random.default_rng(0).integers(0, 256, (300, 120, 3), dtype=np.uint8)
    written = write_report(findings, lambda *_: big, tmp_path / "a.html")
    assert pixels_of(written.path.read_text(), "p0").shape == (64, 26, 3)


def noise(facet, row):
    return np.random.default_rng([len(facet), row]).integers(0, 256, (64, 64, 3), dtype=np.uint8)


def different_everywhere(make, units):
    findings = make(units=units, exemplars=8)
    rows = 0
    for unit in findings["units"]:
        unit["top"].setdefault("caption", [dict(one) for one in unit["top"]["photo"]])
        unit["bottom"] = {}
        for exemplars in unit["top"].values():
            for one in exemplars:
                one["row"], rows = rows, rows + 1
    return findings


def test_the_worst_case_stays_below_20_megabytes(tmp_path, make):
    findings = different_everywhere(make, 200)
    written = write_report(findings, noise, tmp_path / "a.html")
    assert written.bytes == written.path.stat().st_size <= 20_000_000
    assert (written.units, written.pictures, written.left_out) == (200, 200 * 4 * 8, 0)


def test_what_has_no_room_is_left_out_from_behind(tmp_path, make):
    findings = different_everywhere(make, 4)
    bare = write_report(findings, lambda *_: None, tmp_path / "a.html")
    written = write_report(findings, noise, tmp_path / "a.html", most_bytes=bare.bytes + 60_000)
    text = written.path.read_text(encoding="utf-8")
    assert written.bytes <= bare.bytes + 60_000
    assert written.left_out > 0
    held = set(re.findall(r"\.(p\d+)\{background-image", text))
    assert len(held) == written.pictures > 16
    page = Read(text)
    classes = [a.get("class", "").split() for _, a in page.tags]
    places = [(at, names[1]) for at, names in enumerate(classes) if names[:1] == ["shared"]]
    strips = [at for at, names in enumerate(classes) if names == ["strip"]]
    firsts = {next(name for at, name in places if at > strip) for strip in strips}
    assert len(firsts) >= 16
    assert firsts <= held
    assert {name for _, name in places} - held


def test_units_are_fewer_where_not_even_their_words_have_room(tmp_path, make):
    findings = make(units=12)
    written = write_report(findings, lambda *_: None, tmp_path / "a.html", most_bytes=200_000)
    assert written.bytes <= 200_000
    assert 0 < written.units < 12
    page = Read(written.path.read_text(encoding="utf-8"))
    assert "neurons.json has all" in page.sections["Units"]
    few = write_report(findings, lambda *_: None, tmp_path / "a.html", most_units=3)
    assert few.units == 3


def test_captions_with_the_concept_have_its_words_marked(tmp_path, make):
    findings = make(units=1)
    unit = findings["units"][0]
    concept = unit["concepts"][0]
    unit["concepts"] = [concept]
    name = concept["name"]
    caption = unit["top"]["caption"]
    caption[0].update(text=f"a {name.upper()}, not a {name}board", positive=True)
    caption[1].update(text=f"one {name}: <{name}>", positive=False)
    written = write_report(findings, lambda *_: None, tmp_path / "a.html")
    text = written.path.read_text(encoding="utf-8")
    assert f"a <mark>{name.upper()}</mark>, not a {name}board" in text
    assert f"one <mark>{name}</mark>: &lt;<mark>{name}</mark>&gt;" in text


def test_neighbours_share_concepts_and_the_nearest_comes_first(tmp_path, make):
    findings = make(units=3)
    first, second, third = findings["units"]
    a, b = first["concepts"][:2] if len(first["concepts"]) > 1 else first["concepts"] * 2
    first["concepts"], second["concepts"], third["concepts"] = [a], [a, {**b, "concept": "z"}], [a]
    page = drawn_page(tmp_path, findings)
    links = [a["href"] for tag, a in page.tags if tag == "a"]
    assert links[-6:-4] == ["#unit2", "#unit1"]


def test_sounds_are_part_of_the_page_unless_they_are_long(tmp_path, make):
    findings = make(units=1)
    wave = b"RIFF" + bytes(100)
    sounds = {"photo": wave, "edges": b"RIFF" + bytes(20_000), "word": b"no sound"}
    page = drawn_page(tmp_path, findings, sound_of=lambda facet, _: sounds.get(facet))
    (sound,) = [a for tag, a in page.tags if tag == "audio"]
    assert sound["src"] == f"data:audio/wav;base64,{base64.b64encode(wave).decode()}"


def test_what_is_not_known_is_not_a_number(tmp_path, make):
    findings = make(units=2)
    concept = findings["units"][0]["concepts"][0]
    concept.update(q=None, effect=None, interval={}, invariance=float("nan"))
    concept["auroc"]["edges"] = None
    findings["units"][0].update(histogram={"photo": None}, monosemanticity=None, label=None)
    findings["spaces"][0]["permutation"] = None
    findings["spaces"][0]["cross_modal_ratio"] = None
    page = drawn_page(tmp_path, findings)
    assert all(math.isfinite(value) for value, _ in page.numbers)
    assert "n/a" in page.sections["Units"]
    assert "unlabelled" in page.sections["Units"]


def test_curves_of_training_are_drawn(tmp_path, make):
    found = make(units=1)
    rows = [
        {
            "step": step,
            "neurons/replicated_units": step / 7,
            "train/loss": 1.0,
            "neurons/gap": "nan",
        }
        for step in (200, 100, 300)
    ]
    page = drawn_page(tmp_path, found, emergence=rows)
    assert "units: 42.86" in page.sections["While it was trained"]
    assert {100, 200, 300, 100 / 7, 200 / 7, 300 / 7} <= set(page.drawn)
    assert "While it was trained" not in drawn_page(tmp_path, found).sections


def test_findings_that_cannot_be_read_are_a_mistake_and_nothing_is_written(tmp_path, make):
    found = make(units=1)
    with pytest.raises(UserError, match="schema 2, this release reads 1"):
        drawn_page(tmp_path, {**found, "schema": 2})
    with pytest.raises(UserError, match="lacks 'spaces'"):
        drawn_page(tmp_path, {name: one for name, one in found.items() if name != "spaces"})
    assert not list(tmp_path.iterdir())


def test_nothing_found_is_a_page_too(tmp_path, make):
    page = drawn_page(tmp_path, make(units=0))
    assert "Units" not in page.sections
    assert "Controls hold" in page.sections["Multimodal neurons of runs/emoji"]
