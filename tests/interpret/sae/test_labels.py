import dataclasses

import numpy as np
import pytest

from clipjax.cli import sae_label
from clipjax.cli.parser import Parser
from clipjax.config import UserError
from clipjax.data.concepts import Concept
from clipjax.interpret import scan_files
from clipjax.interpret.detect_settings import DetectSettings
from clipjax.interpret.detection import detect
from clipjax.interpret.facets import FacetRows
from clipjax.interpret.sae.naming import UNLABELLED, name_atoms
from clipjax.interpret.sae.scan_codes import facet_embeds, scan_codes
from clipjax.interpret.scan_files import Scan, ScanRecord, write_scan
from clipjax.interpret.summaries import summarise


@pytest.fixture
def write_embeds(tmp_path):
    """Writes a scan of the shared embedding: photo and caption, one concept a planted atom."""

    def write(embeds, labels, *, store="exact", name="scan"):
        count = labels.shape[1]
        rows = {
            facet: FacetRows(
                name=facet,
                tower=tower,
                stimuli=tuple(f"s{i}" for i in range(len(labels))),
                samples=len(labels),
                texts=tuple(f"thing {i}" for i in range(len(labels))),
                labels=labels,
                confounds=np.zeros((len(labels), 0)),
            )
            for facet, tower in (("photo", "image"), ("caption", "text"))
        }
        record = ScanRecord(
            model="planted",
            identity="planted",
            step=7,
            config={},
            stimuli="planted",
            paths={"shared/embed": embeds["photo"].shape[1]},
            facets=dict.fromkeys(rows, ("shared/embed",)),
            pool="mean",
            store=store,
            bins=32,
            exemplars=5,
        )
        concepts = [Concept(f"c{i}", f"name{i}", (f"name{i}",)) for i in range(count)]
        summaries = {
            facet: summarise(x.astype(np.float32), bins=32, exemplars=5)
            for facet, x in embeds.items()
        }
        return write_scan(tmp_path / name, record, concepts, rows, embeds, summaries)

    return write


def test_latents_are_tested_as_units(make_sae, make_pairs, write_embeds, tmp_path):
    image, text, _, amounts = make_pairs(pairs=300, with_amounts=True)
    # Embeddings of a scan are means over views, hence shorter than 1.
    scan = write_embeds({"photo": 0.5 * image, "caption": text}, amounts[:, :8] > 0)
    sae = make_sae()
    codes = scan_codes(scan, sae, "mine", tmp_path / "codes")
    np.testing.assert_allclose(
        codes.activations("photo", "sae:mine"), sae.encode(image, "image"), atol=1e-5
    )
    assert codes.record.step == 7
    assert codes.record.identity != scan.record.identity
    settings = DetectSettings(rotations=0, permutations=0)
    found = detect(codes, settings, controls=False)
    concepts = {
        one["name"] for unit in found.content["units"] for one in unit["concepts"] if one["found"]
    }
    assert len(concepts) >= 7
    assert all(unit["unit"].startswith("sae:mine:") for unit in found.content["units"])


def test_a_scan_that_does_not_fit_is_refused(make_sae, make_pairs, write_embeds):
    image, text, _ = make_pairs(pairs=40)
    labels = np.zeros((40, 1), bool)
    narrow = write_embeds({"photo": image[:, :9], "caption": text[:, :9]}, labels)
    with pytest.raises(UserError, match="9 numbers"):
        facet_embeds(narrow, make_sae(), "photo")
    codes = {"photo": image.astype(np.uint8), "caption": text.astype(np.uint8)}
    coarse = write_embeds(codes, labels, store="codes", name="codes")
    with pytest.raises(UserError, match="--store exact"):
        facet_embeds(coarse, make_sae(), "photo")


def test_labels_replace_labels_and_nothing_else(
    make_sae, make_pairs, write_embeds, tmp_path, monkeypatch
):
    image, text, _ = make_pairs(pairs=40)
    scan = write_embeds({"photo": image, "caption": text}, np.zeros((40, 1), bool))
    sae, out = make_sae(), tmp_path / "codes"
    first = scan_codes(scan, sae, "mine", out)
    for name in ("neurons.json", "controls/a/scan.json"):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text("{}")
    assert scan_codes(scan, sae, "other", out).record.key != first.record.key
    assert not (out / "neurons.json").exists()
    assert (out / "controls" / "a" / "scan.json").exists()
    with pytest.raises(UserError, match="no result of clipjax sae label"):
        scan_codes(scan, sae, "mine", scan.path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "labels.json").write_text("{}")
    with pytest.raises(UserError, match=r"not of a scan \(labels\.json\)"):
        scan_codes(scan, sae, "mine", tmp_path / "mine")

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(scan_files, "write_summary", killed)
        with pytest.raises(KeyboardInterrupt):
            scan_codes(scan, sae, "mine", out)
    with pytest.raises(UserError, match="not a whole scan"):
        Scan(out)
    assert scan_codes(scan, sae, "mine", out).record == first.record


def test_atoms_that_point_at_no_name_stay_unlabelled(make_sae, pairs):
    """Half of the atoms are the names themselves, with noise; the others are random."""
    features, _ = pairs
    sae, rng = make_sae(), np.random.default_rng(2)
    image, text = features.take(np.arange(len(features)))
    embeds = np.concatenate([sae.inputs(image, "image"), sae.inputs(text, "text")])
    root = np.linalg.cholesky(np.cov(embeds.T) + 1e-9 * np.eye(embeds.shape[1]))
    names = _units(rng.normal(size=(20, 24)) @ root.T)
    others = _units(rng.normal(size=(20, 24)) @ root.T)
    atoms = np.concatenate([_units(names + 0.05 * rng.normal(size=names.shape)), others])
    sae = dataclasses.replace(sae, weights={**sae.weights, "decoder": atoms.astype(np.float32)})
    name_embeds = (names / sae.scale + sae.text_mean).astype(np.float32)
    found = name_atoms(sae, name_embeds, embeds)
    labels = found.labels([f"n{i}" for i in range(20)], rate=0.05)
    assert labels[:20] == [f"n{i}" for i in range(20)]
    # At a false discovery rate of 0.05 beside 20 true ones, 1 false is expected.
    assert labels[20:].count(UNLABELLED) >= 17
    again = name_atoms(sae, name_embeds, embeds)
    np.testing.assert_array_equal(again.p_value, found.p_value)


def test_p_values_of_random_atoms_are_uniform(make_sae, pairs):
    features, _ = pairs
    sae, rng = make_sae(), np.random.default_rng(4)
    image, text = features.take(np.arange(len(features)))
    embeds = np.concatenate([sae.inputs(image, "image"), sae.inputs(text, "text")])
    root = np.linalg.cholesky(np.cov(embeds.T) + 1e-9 * np.eye(embeds.shape[1]))
    atoms = _units(rng.normal(size=(2000, 24)) @ root.T).astype(np.float32)
    sae = dataclasses.replace(sae, weights={**sae.weights, "decoder": atoms})
    names = features.take(np.arange(15))[1]
    p_values = name_atoms(sae, names, embeds).p_value
    # Four standard deviations of a share of 2,000 at one half are 0.045.
    for share in (0.05, 0.25, 0.5, 0.9):
        assert (p_values <= share).mean() == pytest.approx(share, abs=0.045)


def _units(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_a_folder_that_cannot_be_made_is_told_before_the_work(
    make_sae, make_pairs, write_embeds, tmp_path, monkeypatch
):
    image, text, _ = make_pairs(pairs=40)
    scan = write_embeds({"photo": image, "caption": text}, np.zeros((40, 1), bool))
    (tmp_path / "out").touch()
    monkeypatch.setattr("clipjax.interpret.sae.files.load_sae", lambda _: make_sae())
    monkeypatch.setattr("clipjax.cli.sae_label._named", None)  # would load a model
    parser = Parser()
    sae_label.configure(parser)
    words = ["--sae", "sae", "--scan", str(scan.path), "--out", str(tmp_path / "out")]
    with pytest.raises(UserError, match="out: cannot be made or written"):
        sae_label.run(parser.parse_args(words))
