"""Stimuli from the package, from a folder and from shards, and what could confound them."""

import dataclasses
import io
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from clipjax.config import DualEncoderConfig, TextConfig, UserError, ViTConfig
from clipjax.data.concepts import Concept, save_concepts
from clipjax.data.emoji_world import load_emoji_world
from clipjax.data.tokenizers.byte import ByteTokenizer
from clipjax.data.writers import write_members
from clipjax.interpret import open_stimuli
from clipjax.interpret.confounds import picture_confounds, text_confounds
from clipjax.interpret.reopened import Whereabouts, reopen_facets
from clipjax.interpret.scan_files import Scan, ScanRecord, write_scan
from clipjax.interpret.summaries import summarise

CONFIG = DualEncoderConfig(
    image=ViTConfig(depth=1, width=16, num_heads=1, image_size=32, patch_size=8),
    text=TextConfig(depth=1, width=16, num_heads=1, vocab_size=258),
)


def png(pixels):
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


@pytest.fixture(scope="module")
def world():
    return open_stimuli("emoji-world", CONFIG)


def test_the_world_has_its_facets(world):
    truth = load_emoji_world()
    assert list(world.facets) == ["photo", "edges", "word", "caption", "scrambled"]
    for name in ("photo", "edges", "caption"):
        rows = world.facets[name].rows
        assert rows.stimuli == truth.stimuli
        np.testing.assert_array_equal(rows.labels, truth.labels)
        assert not rows.is_control
    for name in ("word", "scrambled"):
        rows = world.facets[name].rows
        assert (len(rows.stimuli), rows.samples) == (24, 24 * truth.words.shape[1])
        np.testing.assert_array_equal(rows.labels, np.eye(24, dtype=bool))
        assert rows.is_control == (name == "scrambled")
    assert world.facets["word"].rows.texts == tuple(one.name for one in truth.concepts)
    assert world.facets["scrambled"].rows.texts == truth.scrambled_words
    assert not world.notes


def test_the_world_is_seen_as_it_is(world):
    truth, out = load_emoji_world(), np.zeros((32, 32, 3), np.uint8)
    world.facets["edges"].fill(7, out)
    np.testing.assert_array_equal(out, truth.edge_pictures[7])
    words = truth.word_pictures()
    world.facets["word"].fill(2 * words.shape[1] + 3, out)  # the third word, its fourth view
    np.testing.assert_array_equal(out, words[2, 3])
    np.testing.assert_array_equal(world.facets["word"].picture(2), words[2, 0])
    caption = world.facets["caption"]
    first = int(np.searchsorted(caption.owner, 5))
    assert caption.text(first) == truth.captions[5][0]
    assert caption.picture(5) is None
    with pytest.raises(TypeError):
        caption.fill(0, out)
    with pytest.raises(TypeError):
        world.facets["photo"].text(0)


def test_confounds_are_their_definitions(world):
    rows, pixels = world.facets["photo"].rows, load_emoji_world().photo[11]
    grey = pixels.astype(np.float64) @ [0.299, 0.587, 0.114] / 255
    across, down = grey[:-1, 1:] - grey[:-1, :-1], grey[1:, :-1] - grey[:-1, :-1]
    wanted = [grey.mean(), grey.std(), np.sqrt(across**2 + down**2).mean(), len(png(pixels))]
    np.testing.assert_allclose(rows.confounds[11], wanted, rtol=1e-5)
    assert rows.confound_names == ("luminance", "contrast", "edges", "bytes")
    assert picture_confounds(pixels, 5)[3] == 5
    # Of several views the mean.
    words = load_emoji_world().word_pictures()[4]
    mean = np.mean([picture_confounds(one) for one in words], axis=0)
    np.testing.assert_allclose(world.facets["word"].rows.confounds[4], mean, rtol=1e-9)


def test_confounds_of_texts():
    found = text_confounds(["red cat", "red", "..."])
    np.testing.assert_allclose(found[:, 0], [2, 1, 0])
    usual = [(np.log(2 / 3) + np.log(1 / 3)) / 2, np.log(2 / 3), 0]
    np.testing.assert_allclose(found[:, 1], usual, rtol=1e-9)

    tokenizer = ByteTokenizer(context_length=9, lowercase=True)
    frame = text_confounds([""], tokenizer)[0, 0]
    assert text_confounds(["abc", "abcdefghijk"], tokenizer)[:, 0].tolist() == [3 + frame, 8]  # cut


def test_facets_are_chosen_by_name():
    some = open_stimuli("emoji-world", CONFIG, facets=["word", "photo"])
    assert list(some.facets) == ["photo", "word"]
    with pytest.raises(UserError, match=r"no facet 'foto'.*photo"):
        open_stimuli("emoji-world", CONFIG, facets=["foto"])


def test_concepts_from_a_file(tmp_path):
    """Without positives words decide; one that nothing shows is told, and two alike refused."""
    path = tmp_path / "concepts.json"
    concepts = [Concept("cat", "cat", ("cat",)), Concept("yeti", "yeti", ("yeti",))]
    save_concepts(path, concepts)
    found = open_stimuli("emoji-world", CONFIG, concepts=path)
    assert found.notes == ("1 of 2 concepts have no stimulus: yeti",)
    assert found.facets["caption"].rows.labels[:, 0].sum() >= 8
    assert found.facets["word"].rows.labels[:, 0].sum() == 1
    assert found.digest != open_stimuli("emoji-world", CONFIG).digest
    save_concepts(path, [*concepts, concepts[0]])
    with pytest.raises(UserError, match="has the id 'cat' of concept 1"):
        open_stimuli("emoji-world", CONFIG, concepts=path)


def test_facets_that_share_nothing_are_refused(tmp_path):
    path = tmp_path / "concepts.json"
    save_concepts(path, [Concept("x", "x", ("x",), {"photo": ("1F431",), "caption": ("nothing",)})])
    with pytest.raises(UserError, match="no concept has stimuli in two facets"):
        open_stimuli("emoji-world", CONFIG, concepts=path, facets=["photo", "caption"])


def samples(count=40):
    rng = np.random.default_rng(0)
    for number in range(count):
        colour = ("red", "blue")[number % 2]
        pixels = rng.integers(0, 99, (40, 30, 3), np.uint8)
        pixels[..., 0 if colour == "red" else 2] = 255
        captions = [f"a {colour} square {number}", f"one {colour} thing"]
        yield {
            "png": png(pixels),
            "txt": captions[0].encode(),
            "json": {"captions": captions, "tags": [colour], "number": number % 4, "key": ""},
        }


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    write_members(folder, samples(), shard_size=25)
    return folder


def test_shards_by_their_captions(shards):
    found = open_stimuli(str(shards), CONFIG, caption="json.captions", facets=["photo", "caption"])
    photo, caption = (found.facets[name].rows for name in ("photo", "caption"))
    assert photo.stimuli == caption.stimuli
    assert (photo.samples, caption.samples) == (40, 80)
    columns = {concept.name: n for n, concept in enumerate(found.concepts)}
    red = np.arange(40) % 2 == 0
    np.testing.assert_array_equal(photo.labels[:, columns["red"]], red)
    np.testing.assert_array_equal(caption.labels[:, columns["blue"]], ~red)
    assert photo.confound_names[-1] == "shard"
    assert photo.confounds[:, -1].tolist() == [0] * 25 + [1] * 15
    files = [len(sample["png"]) for sample in samples()]
    np.testing.assert_array_equal(photo.confounds[:, 3], files)
    out = np.zeros((32, 32, 3), np.uint8)
    found.facets["photo"].fill(1, out)
    assert out[..., 2].min() > 200


@pytest.mark.parametrize("column", ["json.tags", "json.number"])
def test_shards_by_a_column(shards, column):
    found = open_stimuli(str(shards), CONFIG, concept_column=column, facets=["photo", "caption"])
    labels = found.facets["photo"].rows.labels
    names = [concept.name for concept in found.concepts]
    assert names == (["blue", "red"] if column == "json.tags" else ["0", "1", "2", "3"])
    wanted = [samples_of["json"][column[5:]] for samples_of in samples()]
    for row, value in enumerate(wanted):
        assert [names[n] for n in np.flatnonzero(labels[row])] == (
            value if isinstance(value, list) else [str(value)]
        )


def test_shards_without_the_column(shards):
    with pytest.raises(UserError, match=r"--concept_column json.tag: .*has none"):
        open_stimuli(str(shards), CONFIG, concept_column="json.tag")


def scan_of(stimuli, out):
    """A scan of these stimuli that holds no activations."""
    rows = {name: facet.rows for name, facet in stimuli.facets.items()}
    record = ScanRecord(
        model="runs/a",
        identity="a",
        step=1,
        config=dataclasses.asdict(CONFIG),
        stimuli=stimuli.name,
        paths={"shared/embed": 2},
        facets=dict.fromkeys(rows, ("shared/embed",)),
        pool="max",
        store="none",
        bins=4,
        exemplars=2,
        reading=stimuli.reading,
    )
    acts = {name: np.zeros((len(one.stimuli), 2), np.float32) for name, one in rows.items()}
    kept = {name: summarise(one, bins=4, exemplars=2) for name, one in acts.items()}
    return write_scan(out, record, list(stimuli.concepts), rows, acts, kept)


def test_stimuli_of_a_scan_are_opened_as_they_were_read(shards, tmp_path):
    """Nobody says again where shards are, which captions they have and what says the concepts."""
    parts = {"root": str(shards.parent), "caption": "json.captions", "concept_column": "json.tags"}
    asked = open_stimuli(f"{shards.name}/*.tar", CONFIG, facets=["photo", "caption"], **parts)
    scan_of(asked, tmp_path / "scan")
    scan = Scan(tmp_path / "scan")
    found = reopen_facets(scan, CONFIG)
    assert found["caption"].text(3) == asked.facets["caption"].text(3)
    moved = Whereabouts(stimuli=f"{shards}/*.tar", root="elsewhere")
    assert list(reopen_facets(scan, CONFIG, moved)) == ["photo", "caption"]
    other = Whereabouts(caption="json.tags")
    with pytest.raises(UserError, match=r"photo holds other stimuli or labels.*--caption"):
        reopen_facets(scan, CONFIG, other)


@pytest.mark.parametrize("where", ["moved", "moved/*.tar"])
def test_stimuli_that_are_gone_are_asked_for(shards, tmp_path, where):
    root = str(shards.parent)
    asked = open_stimuli(shards.name, CONFIG, facets=["photo", "caption"], root=root)
    scan_of(dataclasses.replace(asked, name=where), tmp_path / "scan")
    with pytest.raises(UserError, match="say where they are now with --stimuli and --root"):
        reopen_facets(Scan(tmp_path / "scan"), CONFIG)


def test_other_pictures_under_the_same_names_are_told(tmp_path):
    members = list(samples())
    write_members(tmp_path / "s", iter(members), shard_size=25)
    asked = open_stimuli(str(tmp_path / "s"), CONFIG, concept_column="json.tags", facets=["photo"])
    scan_of(asked, tmp_path / "scan")
    reopen_facets(Scan(tmp_path / "scan"), CONFIG)
    members[3] = {**members[3], "png": members[5]["png"]}
    shutil.rmtree(tmp_path / "s")
    write_members(tmp_path / "s", iter(members), shard_size=25)
    with pytest.raises(UserError, match="photo holds other stimuli"):
        reopen_facets(Scan(tmp_path / "scan"), CONFIG)
    small = dataclasses.replace(CONFIG, image=dataclasses.replace(CONFIG.image, image_size=16))
    reopen_facets(Scan(tmp_path / "scan"), small)  # seen smaller they say nothing of that


def test_words_of_shards(shards):
    """Rendered words are a facet where the font is."""
    found = open_stimuli(str(shards), CONFIG, facets=["photo", "word"], concept_column="json.tags")
    if "word" not in found.facets:
        assert any("fonts-dejavu-core" in note for note in found.notes)
        return
    rows = found.facets["word"].rows
    assert rows.stimuli == ("word:blue", "word:red")
    assert rows.samples == 8
    np.testing.assert_array_equal(rows.labels, np.eye(2, dtype=bool))


def test_a_damaged_picture_is_named(tmp_path):
    members = list(samples(30))
    members[13] = {**members[13], "png": members[13]["png"][:60]}
    write_members(tmp_path / "s", iter(members))
    with pytest.raises(UserError, match=r"facet photo: the picture of \S*13 cannot be used"):
        open_stimuli(str(tmp_path / "s"), CONFIG, facets=["photo"])


def test_a_folder_of_stimuli(tmp_path):
    """As `data emoji --facets` writes it: sound is left out, locales and views are one stimulus."""
    ids, concept = [f"S{n}" for n in range(6)], "animal"

    def fields(one, view=0, **more):
        concepts = [concept] if int(one[1:]) % 2 else []
        return {"stimulus": one, "concepts": concepts, "split": "train", "view": view, **more}

    pixels = np.zeros((20, 20, 3), np.uint8)
    kinds = {
        "photo": lambda one: [{"png": png(pixels), "json": {**fields(one), "key": ""}}],
        "speech": lambda one: [{"wav": b"RIFF", "json": {**fields(one), "key": ""}}],
        "caption": lambda one: [
            {"json": {**fields(one, view, locale=locale), "key": ""}, "said": f"{locale} {one}"}
            for view, locale in enumerate(("en", "de"))
        ],
    }
    for facet, make in kinds.items():
        members = []
        for one in ids:
            for sample in make(one):
                text = sample.pop("said", f"{facet} {one}")
                members.append({"txt": text.encode(), **sample})
        write_members(tmp_path / facet, iter(members))
    counts = {"photo": 6, "speech": 6, "caption": 12}
    (tmp_path / "dataset.json").write_text(json.dumps({"facets": counts}))
    positives = {facet: tuple(ids[1::2]) for facet in counts}
    save_concepts(tmp_path / "concepts.json", [Concept(concept, concept, (concept,), positives)])
    found = open_stimuli(tmp_path, CONFIG)
    assert list(found.facets) == ["photo", "caption"]
    assert found.notes == ("speech is left out: this model has no tower for sound",)
    caption = found.facets["caption"]
    assert caption.rows.stimuli == tuple(ids)
    assert caption.owner.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert [caption.text(2), caption.text(3)] == ["en S1", "de S1"]
    np.testing.assert_array_equal(caption.rows.labels[:, 0], np.arange(6) % 2 == 1)
    assert dataclasses.replace(found, name="x").digest == found.digest
