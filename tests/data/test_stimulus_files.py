import json

import numpy as np
import pytest

from clipjax.config.errors import UserError
from clipjax.data.concepts import Concept, save_concepts
from clipjax.data.stimulus_files import StimulusFolder
from clipjax.data.writers import Sample, write_members, write_shards


def fields(stimulus, facet, **more):
    return {
        "concept": "cat face",
        "concepts": ["cat"] if stimulus == "A" else [],
        "facet": facet,
        "stimulus": stimulus,
        "view": 0,
        "split": "train",
        **more,
    }


@pytest.fixture
def folder(tmp_path):
    picture = np.zeros((4, 4, 3), np.uint8)
    photos = [Sample(picture + n, s, fields(s, "photo")) for n, s in enumerate("ABC")]
    write_shards(tmp_path / "photo", photos, shard_size=2)
    texts = [
        {"txt": s.encode(), "json": {"key": "", **fields(s, "caption", locale="de")}} for s in "AB"
    ]
    write_members(tmp_path / "caption", texts)
    concepts = [Concept("cat", "cat", ("cat",), {"photo": ("A",), "caption": ("A",)})]
    save_concepts(tmp_path / "concepts.json", concepts, facets=["photo"], controls=["scrambled"])
    done = {"dataset": "stimuli", "facets": {"photo": 3, "caption": 2}}
    (tmp_path / "dataset.json").write_text(json.dumps(done))
    return tmp_path


def test_samples_come_in_order_with_what_was_written(folder):
    opened = StimulusFolder(folder)
    assert opened.counts == {"photo": 3, "caption": 2}
    assert opened.controls == ("scrambled",)
    assert [one.id for one in opened.concepts] == ["cat"]
    photos = list(opened.read("photo"))
    assert [one.stimulus for one in photos] == ["A", "B", "C"]
    assert [one.concepts for one in photos] == [("cat",), (), ()]
    assert {(one.kind, one.locale, one.content[:4]) for one in photos} == {
        ("png", "en", b"\x89PNG")
    }
    captions = list(opened.read("caption"))
    assert [(one.stimulus, one.kind, one.content, one.text, one.locale) for one in captions] == [
        ("A", "txt", b"A", "A", "de"),
        ("B", "txt", b"B", "B", "de"),
    ]


def test_what_is_missing_or_damaged_is_said(folder):
    opened = StimulusFolder(folder)
    with pytest.raises(UserError, match=r"no facet 'foto'. Did you mean 'photo'"):
        next(opened.read("foto"))
    last = folder / "photo" / "00001.tar"
    whole = last.read_bytes()
    last.unlink()
    with pytest.raises(UserError, match=r"holds 2 samples, wanted 3 as in dataset.json"):
        list(opened.read("photo"))
    last.write_bytes(whole.replace(b'"stimulus"', b'"stimulux"'))
    with pytest.raises(UserError, match=r"00001.tar: damaged \('stimulus'\)"):
        list(opened.read("photo"))
    last.write_bytes(whole[:600])
    with pytest.raises(UserError, match="damaged"):
        list(opened.read("photo"))


def test_a_folder_that_is_not_complete_is_refused(folder):
    (folder / "concepts.json").unlink()
    with pytest.raises(UserError, match="not a complete folder of stimuli"):
        StimulusFolder(folder)
    (folder / "dataset.json").write_text("[]")
    with pytest.raises(UserError, match="Make one: clipjax data emoji --facets"):
        StimulusFolder(folder)
    with pytest.raises(UserError, match="FileNotFoundError"):
        StimulusFolder(folder / "none")
