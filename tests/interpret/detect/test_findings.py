"""Findings are searched, shown, written and read again."""

import json
import zipfile

import numpy as np
import pytest

from clipjax.config import UserError
from clipjax.interpret.detect_settings import DetectSettings
from clipjax.interpret.detection import detect
from clipjax.interpret.findings import ARRAYS, JSON, Findings, written_arrays
from clipjax.interpret.scan_files import RECORD
from clipjax.interpret.spaces import UnitName
from clipjax.interpret.statistics.planted import PlantConfig, plant

CONFIG = PlantConfig(
    units=24, concepts=6, stimuli=120, planted=8, single=4, divergent=2, fewest=10, most=20,
    effect=3.0,
)  # fmt: skip


@pytest.fixture(scope="module")
def planted():
    return plant(CONFIG, seed=0)


@pytest.fixture(scope="module")
def findings(plants, planted, tmp_path_factory):
    path = tmp_path_factory.mktemp("scan")
    scan = plants.write_planted(path, planted)
    found = detect(scan, DetectSettings(rotations=0, permutations=0))
    found.to_json(path / JSON)
    found.save_arrays(path / ARRAYS)
    return path, found


def test_what_is_read_is_what_was_written(findings):
    path, found = findings
    again = Findings.read(path)
    assert again.content == json.loads(json.dumps(found.content))
    assert [unit["unit"] for unit in again.units()] == [unit["unit"] for unit in found.units()]
    with np.load(path / ARRAYS, allow_pickle=False) as arrays:
        assert set(arrays.files) == set(found.arrays)
        for name in arrays.files:
            assert arrays[name].dtype == np.float32
            np.testing.assert_array_equal(arrays[name], found.arrays[name])
    # A unit a line: differences of two files can be read.
    lines = (path / JSON).read_text().splitlines()
    assert sum('"unit": "image' in line for line in lines) == len(found.units())


def test_search_knows_names_words_and_texts(findings, planted):
    _, found = findings
    unit, concept = np.argwhere(planted.truth)[0]
    best = found.search(f"Thing{concept}")
    own = [one["concepts"][0]["concept"] for one in best if one["kind"] == "multimodal-same"]
    assert own[0] == f"c{concept}"
    assert unit in [one["index"] for one in best[: planted.truth[:, concept].sum() + 4]]
    some = found.units()[0]["top"]["facet0"][0]
    number = some["text"].split()[-1]
    assert found.units()[0]["unit"] in [one["unit"] for one in found.search(number)]
    with pytest.raises(UserError, match="Did you mean 'thing3'"):
        found.search("thang3")
    with pytest.raises(UserError, match="holds no word"):
        found.search("...")


def test_those_come_first_that_answer_most_surely_to_what_is_looked_for():
    """A unit with a stronger concept beside it is not the better answer."""

    def unit(name, **concepts):
        held = [
            {"concept": c, "found": found, "replicated": again, "effect": effect}
            for c, (found, again, effect) in concepts.items()
        ]
        return {"unit": name, "concepts": held, "words": [], "label": "", "top": {}}

    known = [
        {"id": "cat", "name": "cat", "words": ["kitten"]},
        {"id": "car", "name": "car", "words": []},
        {"id": "big", "name": "big cat", "words": []},
    ]
    units = [
        unit("strong car", car=(True, True, 0.99), cat=(True, False, 0.76)),
        unit("partial", cat=(False, False, 0.95)),
        unit("big", big=(True, True, 0.98)),
        unit("firm", cat=(True, True, 0.8)),
        unit("firmer", car=(True, True, 0.95), cat=(True, True, 0.9)),
    ]
    found = Findings(content={"units": units, "data": {"concepts": known}})
    order = ["firmer", "firm", "strong car", "partial", "big"]
    assert [one["unit"] for one in found.search("cat")] == order
    assert [one["unit"] for one in found.search("Kitten")] == order[:-1]
    for one in units:
        meant = found.concept_meant(one, "cat")
        assert meant is not None
        assert meant["concept"] == ("big" if one["unit"] == "big" else "cat")
    first = found.concept_meant(units[0], "nothing")
    assert first is units[0]["concepts"][0]
    assert found.concept_meant(unit("none"), "cat") is None


def test_show_and_kinds(findings):
    _, found = findings
    name = found.units()[0]["unit"]
    assert found.show(name) is found.units()[0]
    with pytest.raises(UserError, match="Did you mean 'image/blocks/0/mlp_act:"):
        found.show("image/blocks/0/mlp_akt:1")
    with pytest.raises(UserError, match="names no unit"):
        found.show("image/blocks/0/mlp_act")
    kinds = {unit["kind"] for unit in found.units()}
    assert kinds <= set(found.content["spaces"][0]["kinds"])
    assert len(found.units("multimodal")) == found.content["spaces"][0]["multimodal_units"]
    with pytest.raises(UserError, match="Did you mean 'unimodal'"):
        found.units("unimodel")


def test_names_of_units():
    for text in ("image/blocks/1/mlp_act:17", "shared/embed:5+", "sae:mine:3-"):
        assert str(UnitName.parse(text)) == text
    assert UnitName.parse("sae:mine:3-") == UnitName("sae:mine", 3, "-")


def test_findings_that_are_missing_or_of_another_schema(findings, tmp_path):
    with pytest.raises(UserError, match="neurons test --scan"):
        Findings.read(tmp_path)
    (tmp_path / JSON).write_text(json.dumps({**findings[1].content, "schema": 9}))
    with pytest.raises(UserError, match="has schema 9, this release reads 1"):
        Findings.read(tmp_path)


def test_findings_of_another_scan_are_refused(findings, tmp_path):
    content = {**findings[1].content, "scan": "one"}
    (tmp_path / JSON).write_text(json.dumps(content))
    (tmp_path / RECORD).write_text('{"key": "one"}')
    assert Findings.read(tmp_path).content["scan"] == "one"
    (tmp_path / RECORD).write_text('{"key": "two"}')
    with pytest.raises(UserError, match=r"of another scan .* Test the scan again"):
        Findings.read(tmp_path)
    del content["scan"]  # as of an earlier release
    (tmp_path / JSON).write_text(json.dumps(content))
    assert Findings.read(tmp_path).units()


def test_arrays_appear_whole_or_not_at_all(tmp_path):
    def broken():
        with written_arrays(tmp_path / ARRAYS) as keep:
            keep("a:b", np.zeros(3))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        broken()
    assert list(tmp_path.iterdir()) == []
    with written_arrays(tmp_path / ARRAYS) as keep:
        keep("image/a:auroc", np.ones((2, 3)))
    assert zipfile.is_zipfile(tmp_path / ARRAYS)
    with np.load(tmp_path / ARRAYS, allow_pickle=False) as arrays:
        np.testing.assert_array_equal(arrays["image/a:auroc"], np.ones((2, 3)))
