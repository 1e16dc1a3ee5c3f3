import dataclasses
import json

import numpy as np
import pytest

from clipjax.cli.main import main
from clipjax.config import DualEncoderConfig, ViTConfig
from clipjax.data.writers import DONE
from clipjax.interpret.detect_settings import DetectSettings
from clipjax.interpret.detection import detect
from clipjax.interpret.scan_files import ScanRecord, write_scan
from clipjax.interpret.stimuli import EMOJI_WORLD, open_stimuli
from clipjax.interpret.summaries import summarise

FACETS = ("photo", "caption")
UNITS, PATH = 6, "shared/embed"


@pytest.fixture(scope="module")
def tested(tmp_path_factory):
    """A scan of the emoji world whose unit 2 answers to cats, tested."""
    out = tmp_path_factory.mktemp("scan")
    config = DualEncoderConfig(image=ViTConfig(image_size=32, patch_size=8))
    stimuli = open_stimuli(EMOJI_WORLD, config, facets=FACETS)
    cat = [one.id for one in stimuli.concepts].index("cat")
    rows = {name: facet.rows for name, facet in stimuli.facets.items()}
    rng = np.random.default_rng(0)
    activations = {}
    for name in FACETS:
        values = np.maximum(rng.normal(size=(len(rows[name].stimuli), UNITS)), 0)
        values[:, 2] += 6.0 * rows[name].labels[:, cat]
        activations[name] = values.astype(np.float32)
    record = ScanRecord(
        model="runs/cat",
        identity="abc",
        step=7,
        config=dataclasses.asdict(config),
        stimuli=EMOJI_WORLD,
        paths={PATH: UNITS},
        facets=dict.fromkeys(FACETS, (PATH,)),
        pool="max",
        bins=64,
        exemplars=10,
    )
    summaries = {n: summarise(one, bins=64, exemplars=10) for n, one in activations.items()}
    scan = write_scan(out, record, list(stimuli.concepts), rows, activations, summaries)
    detect(scan, DetectSettings(permutations=20, rotations=0)).to_json(out / "neurons.json")
    return out


def report(*flags):
    with pytest.raises(SystemExit) as ended:
        main(["neurons", "report", *map(str, flags)])
    return ended.value.code or 0


def test_the_page_shows_what_was_found_with_the_pictures_that_were_scanned(tested, tmp_path):
    out = tmp_path / "a.html"
    (tested / "typographic.json").unlink(missing_ok=True)
    assert report("--scan", tested, "--out", out) == 0
    page = out.read_text(encoding="utf-8")
    found = json.loads((tested / "neurons.json").read_text(encoding="utf-8"))
    assert found["units"][0]["concepts"][0]["name"] == "cat"
    assert "shared/embed:2" in page
    assert "runs/cat" in page
    assert page.count("data:image/webp") >= 10
    assert "<mark>cat</mark>" in page


def test_it_is_written_beside_the_scan_and_says_what_it_holds(tested, capsys):
    assert report("--scan", tested, "--no_pictures", "--most", 1) == 0
    page = tested / "neurons.html"
    assert f"{page}: 1 units, 0 pictures, 0." in capsys.readouterr().out
    assert "data:image/webp" not in page.read_text(encoding="utf-8")


def test_typographic_results_and_metrics_are_drawn(tested, tmp_path):
    score = {"value": 0.693, "low": 0.6, "high": 0.7}
    arms = dict.fromkeys(("clean", "scrambled", "incongruent", "congruent"), score)
    scores = dict.fromkeys(("hijack", "drop", "stroop", "covering", "reading"), score)
    counts = {"stimuli": 458, "trials": 1832, "classes": 24}
    results = {"accuracy": arms, "says_word": arms, **scores, **counts}
    (tested / "typographic.json").write_text(json.dumps(results))
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text('{"step": 10, "neurons/reading": 0.5}\n{"step": 20, "loss": 1}\n')
    out = tmp_path / "a.html"
    flags = ("--scan", tested, "--out", out, "--no_pictures", "--metrics", metrics)
    assert report(*flags) == 0
    page = out.read_text(encoding="utf-8")
    assert "Words over pictures" in page
    assert page.count('<data value="0.693">') == 8 + 5
    assert 'data-step="10"' in page
    (tested / "typographic.json").write_text(json.dumps({**results, "hijack": {}}))
    assert report(*flags) == 1
    (tested / "typographic.json").write_text("[]")
    assert report(*flags) == 1
    (tested / "typographic.json").unlink()


@pytest.mark.parametrize(
    ("flags", "status", "said"),
    [
        (["--stimuli", "broken", "--root", "ROOT"], 1, "draw without pictures: --no_pictures"),
        (["--most", "0"], 2, "--most=0: expected 1 or more"),
        (["--no_pictures", "--stimuli", "a"], 2, "what --stimuli is for: give one of them"),
        (["--no_pictures", "--root", "a"], 2, "what --root is for: give one of them"),
        (["--no_pictures", "--caption", "a"], 2, "what --caption is for: give one of them"),
        (["--no_pictures", "--concept_column", "a"], 2, "--concept_column is for: give one"),
        (["--no_pictures", "--out", "none/a.html"], 1, "there is no folder none"),
        (["--no_pictures", "--out", "ROOT"], 1, "it is a folder"),
        (["--metrics", "no/metrics.jsonl", "--no_pictures"], 1, "cannot be read"),
    ],
)
def test_mistakes_are_one_line_and_leave_no_page(tested, tmp_path, capsys, flags, status, said):
    out = tmp_path / "a.html"
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / DONE).write_text("{}")
    flags = [str(tmp_path) if flag == "ROOT" else flag for flag in flags]
    assert report("--scan", tested, "--out", out, *flags) == status
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error
    assert not out.exists()


def test_other_stimuli_are_told(tested, tmp_path, capsys):
    rows = tested / "facets" / "photo.npz"
    before = rows.read_bytes()
    with np.load(rows) as arrays:
        changed = {name: arrays[name] for name in arrays.files}
    changed["confounds"] = changed["confounds"] + 0.01
    np.savez(rows, **changed)
    try:
        assert report("--scan", tested, "--out", tmp_path / "a.html") == 1
        assert "the facet photo holds other stimuli or labels" in capsys.readouterr().err
    finally:
        rows.write_bytes(before)


def test_a_scan_that_was_not_tested_says_what_to_do(tested, tmp_path, capsys):
    found = (tested / "neurons.json").rename(tmp_path / "neurons.json")
    try:
        assert report("--scan", tested) == 1
        assert "neurons test" in capsys.readouterr().err
    finally:
        found.rename(tested / "neurons.json")
