import dataclasses
import json
from html.parser import HTMLParser

import numpy as np
import pytest

from clipjax.config import UserError
from clipjax.data.resize import EvaluationTransform
from clipjax.evals.calibration import calibration
from clipjax.evals.dataset import Pictures
from clipjax.evals.embedded import QUICK, open_embedded
from clipjax.evals.html_report import html_report, write_report
from clipjax.evals.records import read_results, write_results, write_task
from clipjax.evals.suite_task import SuiteTask
from clipjax.evals.thumbnails import examples_of, pictures_of

EVIL = "<script>alert('1')</script> & \"é\""
REGIONS = ["Asia", "Europe", EVIL]
BAD = 17
MAY_LACK = ("examples", "calibration", "geometry", "seconds")


class Colours:
    """Pictures by their mean colours, texts by chance: a model that is often wrong."""

    def images(self, images, rows=None):
        pixels = np.zeros((8, 8, 3), np.uint8)
        out = np.zeros((len(images), 192), np.float32)
        for index in range(len(images)):
            if index != BAD:
                images.fill(index, pixels)
                out[index] = pixels.reshape(-1) + 1.0
        norms = np.linalg.norm(out, axis=1, keepdims=True)
        return out / np.where(norms, norms, 1)

    def texts(self, texts):
        x = np.random.default_rng(len(texts)).normal(size=(len(texts), 192)).astype(np.float32)
        return x / np.linalg.norm(x, axis=1, keepdims=True)


def evaluate(folder, name, *, whole=True):
    data = open_embedded(QUICK[name], EvaluationTransform())
    if name == "quick/digits":
        names = [EVIL, *data.prompts.class_names[1:]]
        data = dataclasses.replace(
            data,
            truth={**data.truth, "group/region": np.arange(300) % 7 % 3},
            group_names={"region": REGIONS},
            prompts=dataclasses.replace(data.prompts, class_names=names),
        )
    if name == "quick/emoji_captions":
        data = dataclasses.replace(data, texts=[f"{text} {EVIL}" for text in data.texts])
    done = SuiteTask(benchmark=QUICK[name], dataset=data, resamples=50).evaluate(Colours())
    record = {**done.record, "notes": [EVIL]}
    if whole:
        record["examples"] = examples_of(data, done.outcome)
    else:
        record = {name: of for name, of in record.items() if name not in MAY_LACK}
    pictures = pictures_of(data, done.outcome) if whole else {}
    write_task(folder, record, done.outcome, data.keys, pictures)
    return record


def results_of(folder, records, failed=None):
    model = {"name": EVIL, "spec": "runs/a", "step": 1200, "parameters": 1_234_567}
    return write_results(
        folder,
        model,
        "quick",
        "clip-benchmark",
        [QUICK[name] for name in records],
        records,
        failed or {},
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    records = {name: evaluate(folder, name) for name in QUICK}
    results_of(folder, records, {"vtab/dtd": f"vtab/dtd: not there. Get it from {EVIL}."})
    return folder


class Read(HTMLParser):
    """A page as a person and a program read it.

    Attributes:
        tables: by section, rows of cells, each its text and its numbers.
        numbers: by section, (number, how it is shown) wherever it stands.
        text: by section.
        tags: all, each with its attributes.
    """

    def __init__(self, page):
        super().__init__()
        self.tables, self.numbers, self.text, self.tags = {}, {}, {}, []
        self._section, self._number, self._open = "", None, []
        self.feed(page)
        assert not self._open, self._open

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.tags.append((tag, attributes))
        if tag not in ("meta", "img", "br"):
            self._open.append(tag)
        if tag in ("h1", "h2"):
            self._section = tag
        if attributes.get("id", "").startswith("task"):
            self._section = attributes["id"]
        if tag == "table":
            self.tables.setdefault(self._section, []).append([])
        if tag == "tr":
            self.tables[self._section][-1].append([])
        if tag in ("td", "th"):
            self.tables[self._section][-1][-1].append(["", []])
        if tag == "data":
            self._number = json.loads(attributes["value"])

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if self._section in ("h1", "h2"):
            self._section = data
        self.text[self._section] = self.text.get(self._section, "") + data
        inside = {"td", "th"} & set(self._open)
        if inside:
            self.tables[self._section][-1][-1][-1][0] += data
        if self._number is not None:
            self.numbers.setdefault(self._section, []).append((self._number, data))
            if inside:
                self.tables[self._section][-1][-1][-1][1].append(self._number)
            self._number = None

    def rows(self, section, first):
        """The body of the table of a section whose first head is `first`, by first cell."""
        (table,) = [one for one in self.tables[section] if one[0][0][0] == first]
        return {row[0][0]: [x for cell in row[1:] for x in cell[1]] for row in table[1:]}


@pytest.fixture(scope="module")
def page(folder):
    return Read(html_report(folder))


def fields(score):
    return [score[key] for key in ("value", "low", "high", "chance", "samples")]


def test_the_tables_on_top_hold_the_numbers_of_the_json(folder, page):
    results = read_results(folder)
    means = {title: fields(score) for title, score in results["aggregates"].items()}
    assert page.rows("Means", "mean of tasks") == means
    assert list(means) == ["Average"]
    assert page.rows("Tasks", "task") == {
        f"{record['title']} {record['main_metric']}": [
            *fields(record["metrics"][record["main_metric"]]),
            record["bad_samples"],
        ]
        for record in results["tasks"].values()
    }
    for record in results["tasks"].values():
        assert (record["prompts_sha256"] or "none")[:12] in page.text["Tasks"]
    assert (1200, "1,200") in page.numbers[f"{EVIL} on quick"]
    assert (1_234_567, "1,234,567") in page.numbers[f"{EVIL} on quick"]
    assert list(page.text).index("Means") < list(page.text).index("Tasks")


def test_every_metric_of_every_task_is_there_once_with_its_numbers(folder, page):
    for number, record in enumerate(read_results(folder)["tasks"].values()):
        section = f"task{number}"
        shown = page.rows(section, "metric")
        grouped = {f"acc_region_{name}" for name in REGIONS}
        assert shown == {
            name: fields(score) for name, score in record["metrics"].items() if name not in grouped
        }
        for name, value in record["geometry"].items():
            assert value in [x for x, _ in page.numbers[section]], name
        if record["kind"] == "classification":
            figures = record["calibration"]
            rows = page.rows(section, "calibration")
            assert [x for row in rows.values() for x in row] == [
                figures[key]
                for key in ("ece", "ece_equal_mass", "mce", "overconfidence", "brier", "nll")
            ]
            bins = page.rows(section, "confidence").values()
            columns = [figures["table"][key] for key in ("confidence", "accuracy", "count")]
            assert [tuple(row) for row in bins] == list(zip(*columns, strict=True))


def test_what_is_shown_is_the_number_rounded(page):
    seen = [one for numbers in page.numbers.values() for one in numbers]
    assert len(seen) > 200
    for value, shown in seen:
        as_float = abs(float(shown.replace(",", "")))
        assert abs(as_float - abs(value)) <= 0.5e-4 + 1e-12, (value, shown)


def test_groups_have_counts_and_the_worst_is_marked(folder, page):
    metrics = read_results(folder)["tasks"]["quick/digits"]["metrics"]
    scores = {name: metrics[f"acc_region_{name}"] for name in REGIONS}
    lowest = min(scores, key=lambda name: scores[name]["value"])
    assert page.rows("task0", "group") == {
        name + (" (worst)" if name == lowest else ""): fields(score)
        for name, score in scores.items()
    }
    gap = max(s["value"] for s in scores.values()) - scores[lowest]["value"]
    assert gap in [value for value, _ in page.numbers["task0"]]
    assert sum(row[-1] for row in page.rows("task0", "group").values()) == 300


def test_confusions_and_worst_retrievals_are_shown_with_their_pictures(folder, page):
    tasks = read_results(folder)["tasks"]
    pairs = tasks["quick/digits"]["examples"]["confusions"]
    (table,) = [one for one in page.tables["task0"] if one[0][0][0] == "class"]
    assert [(row[0][0], row[1][0], row[2][1]) for row in table[1:]] == [
        (pair["truth"], pair["predicted"], [pair["count"]]) for pair in pairs
    ]
    examples = tasks["quick/emoji_captions"]["examples"]
    for one in examples["worst_images"]:
        assert " / ".join(one["own"]) in page.text["task2"]
        assert f"the first is “{one['nearest']}”" in page.text["task2"]
        assert f"{one['rank']:,} wrong texts stand before its own" in page.text["task2"]
    for one in examples["worst_texts"]:
        sentence = f"“{one['text']}” finds {one['rank']:,} wrong images before its own"
        assert sentence in page.text["task2"]
    pictures = {
        uri
        for stem in ("digits", "emoji", "emoji_captions")
        for uri in json.loads((folder / f"tasks/quick-{stem}.pictures.json").read_text()).values()
    }
    shown = [attributes["src"] for tag, attributes in page.tags if tag == "img"]
    assert set(shown) == pictures
    assert len(pictures) > 50


def test_the_page_needs_nothing_and_text_stays_text(folder, page):
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert ids == ["task0", "task1", "task2"]
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "iframe", "object", "base", "form")
        assert not any(name.startswith("on") for name in attributes)
        if "src" in attributes:
            assert attributes["src"].startswith("data:image/jpeg;base64,")
            assert attributes["alt"]
        if "href" in attributes:
            assert attributes["href"][1:] in ids
        if tag == "svg":
            assert attributes["role"] == "img"
            assert attributes["aria-label"]
    everywhere = [f"{EVIL} on quick", "Not scored (1)", "task0", "task2"]
    for section in everywhere:
        assert EVIL in page.text[section], section
    text = html_report(folder)
    assert "@import" not in text
    assert "url(" not in text


def test_the_page_says_what_it_does_not_say_and_what_failed(page):
    words = page.text[f"{EVIL} on quick"]
    assert "over the images" in words
    assert "another seed" in words
    assert f"vtab/dtd: not there. Get it from {EVIL}." in page.text["Not scored (1)"]
    assert "1 of 300 samples do not decode and count as wrong" in page.text["task0"]
    assert "sha256" in page.text["task0"]


def test_the_file_is_the_page(folder):
    path = write_report(folder)
    assert path == folder / "report.html"
    assert path.read_text(encoding="utf-8") == html_report(folder)


def test_a_short_record_makes_a_page_from_the_arrays(tmp_path):
    record = evaluate(tmp_path, "quick/digits", whole=False)
    results_of(tmp_path, {"quick/digits": record})
    (tmp_path / "tasks" / "quick-digits.pictures.json").unlink()
    page = Read(html_report(tmp_path))
    with np.load(tmp_path / "tasks" / "quick-digits.npz") as arrays:
        right = arrays["predicted"] == arrays["label"]
        expected = calibration(arrays["confidence"], right, arrays["truth_probability"])
    assert expected["ece"] in [value for value, _ in page.numbers["task0"]]
    assert not any(tag == "img" for tag, _ in page.tags)
    assert ("details", {"open": None}) in page.tags  # of so few tasks
    (tmp_path / "tasks" / "quick-digits.npz").unlink()
    assert "Evaluate the task again" in Read(html_report(tmp_path)).text["task0"]


@pytest.mark.parametrize("written", ['{"0": "https://a.org/a.jpg"}', "[]", "{", '{"0": 3}'])
def test_pictures_that_are_not_of_the_page_are_not_shown(tmp_path, written):
    record = evaluate(tmp_path, "quick/emoji_captions", whole=False)
    worst = [{"item": 0, "rank": 3, "own": ["a"], "nearest": "b"}]
    results_of(tmp_path, {"quick/emoji_captions": {**record, "examples": {"worst_images": worst}}})
    (tmp_path / "tasks" / "quick-emoji_captions.pictures.json").write_text(written)
    page = Read(html_report(tmp_path))
    assert not any("src" in attributes for _, attributes in page.tags)
    assert any(attributes.get("aria-label") == "a" for _, attributes in page.tags)


def test_nothing_scored_is_a_page_too_and_no_results_are_a_mistake(tmp_path):
    with pytest.raises(UserError, match="no evaluation"):
        html_report(tmp_path)
    results_of(tmp_path, {}, {"a": "a: gone", "b": "missing"})
    page = Read(html_report(tmp_path))
    assert "No means" in page.text[f"{EVIL} on quick"]
    assert "a: gone" in page.text["Not scored (2)"]
    assert "Tasks" not in page.text
    assert "Each task" not in page.text


def test_bytes_of_file_names_that_are_no_text_do_not_stop_it(tmp_path):
    record = evaluate(tmp_path, "quick/emoji", whole=False)
    record["bad_examples"], record["bad_samples"] = ["caf\udce9.jpg: damaged"], 3
    results = results_of(tmp_path, {"quick/emoji": {**record, "bad_examples": []}})
    results["tasks"]["quick/emoji"]["bad_examples"] = record["bad_examples"]
    (tmp_path / "results.json").write_text(json.dumps(results))
    page = Read(write_report(tmp_path).read_text(encoding="utf-8"))
    assert "caf?.jpg: damaged" in page.text["task0"]
    assert "and 2 more" in page.text["task0"]


def test_the_fixture_has_bad_pictures_like_real_ones():
    data = open_embedded(QUICK["quick/digits"], EvaluationTransform())
    assert isinstance(data.items, Pictures)
    assert not Colours().images(data.items)[BAD].any()
