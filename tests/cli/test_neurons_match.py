"""`clipjax neurons dissect` and `match` on scans whose truth is known."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from clipjax.cli import neurons_dissect
from clipjax.cli.main import main
from clipjax.data.concepts import Concept
from clipjax.interpret.facets import FacetRows
from clipjax.interpret.scan_files import ScanRecord, write_scan
from clipjax.interpret.summaries import summarise

STIMULI, UNITS = 240, 30
CONCEPTS = [Concept(name, name, (name,)) for name in ("cat", "dog", "sun", "car")]
WIDTHS = {"image/a": UNITS, "text/b": UNITS, "shared/embed": 4}
RUNS = {"photo": ("image/a", "shared/embed"), "caption": ("text/b", "shared/embed")}


def facet(name, tower, order, labels, prefix="s"):
    return FacetRows(
        name=name,
        tower=tower,
        stimuli=tuple(f"{prefix}{i}" for i in order),
        samples=len(order),
        texts=tuple(f"text {i}" for i in order),
        labels=labels[order],
        confounds=np.zeros((len(order), 0)),
    )


def scan_of(path, seed=0, prefix="s", count=STIMULI):
    """Photo units 0 to 3 answer to a concept each; text unit u answers as photo unit 29 - u."""
    rng = np.random.default_rng(0)
    labels = rng.random((STIMULI, 4)) < 0.15
    photo = rng.normal(size=(STIMULI, UNITS))
    photo[:, :4] += 4 * labels
    rng = np.random.default_rng(seed + 1)
    other = photo[:, ::-1] + 0.3 * rng.normal(size=photo.shape)
    photo = photo + 0.1 * seed * rng.normal(size=photo.shape)
    orders = {"photo": np.arange(count), "caption": rng.permutation(STIMULI)[: STIMULI - 40]}
    units = {"photo": photo, "caption": other}
    shared = rng.normal(size=(STIMULI, 4))
    acts = {
        name: np.concatenate([units[name], shared], axis=1)[order].astype(np.float32)
        for name, order in orders.items()
    }
    record = ScanRecord(
        model=f"runs/{seed}",
        identity=str(seed),
        step=1,
        config={},
        stimuli="nowhere",
        paths=WIDTHS,
        facets=RUNS,
        pool="max",
        bins=9,
        exemplars=25,
    )
    rows = {
        "photo": facet("photo", "image", orders["photo"], labels, prefix),
        "caption": facet("caption", "text", orders["caption"], labels, prefix),
    }
    summaries = {name: summarise(array, bins=9) for name, array in acts.items()}
    write_scan(path, record, CONCEPTS, rows, acts, summaries)
    return str(path)


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    return scan_of(tmp_path_factory.mktemp("scan") / "a")


@pytest.fixture
def neurons(capsys, tmp_path):
    """Runs `clipjax neurons`; returns (exit status, figures, out, err)."""

    def run(*flags):
        path = tmp_path / "figures.json"
        path.unlink(missing_ok=True)
        with pytest.raises(SystemExit) as ended:
            main(["neurons", *flags, f"--json={path}"])
        figures = json.loads(path.read_text()) if path.exists() else None
        return ended.value.code, figures, *capsys.readouterr()

    return run


def test_two_facets_give_pairs_of_image_and_text_units(neurons, scan):
    code, found, out, _ = neurons(
        "match", f"--scan={scan}", "--path=image/a", "--other_path=text/b", "--shuffles=20"
    )
    assert code == 0
    assert found["stimuli"] == STIMULI - 40  # only those that both facets have
    pairs = {(pair["first"], pair["second"]) for pair in found["pairs"] if pair["q"] <= 0.05}
    assert pairs == {(f"image/a:{u}", f"text/b:{UNITS - 1 - u}") for u in range(UNITS)}
    assert found["above_floor_shuffled"] == 0
    assert found["alignment"]["cka"]["p"] < 0.05
    assert "30 with q <= 0.05" in out


def test_two_scans_of_the_same_stimuli(neurons, scan, tmp_path):
    other = scan_of(tmp_path / "b", seed=1)
    code, found, _, _ = neurons(
        "match", f"--scan={scan}", f"--other={other}", "--path=image/a", "--shuffles=20"
    )
    assert code == 0
    assert {(p["first"], p["second"]) for p in found["pairs"]} == {
        (f"image/a:{u}", f"image/a:{u}") for u in range(UNITS)
    }
    assert json.loads((Path(scan) / "match.json").read_text()) == found


def test_other_stimuli_are_an_error(neurons, scan, tmp_path):
    fewer = scan_of(tmp_path / "c", count=200)
    code, _, _, err = neurons("match", f"--scan={scan}", f"--other={fewer}", "--path=image/a")
    assert code == 1
    assert "saw other stimuli in the facet photo" in err
    others = scan_of(tmp_path / "d", prefix="t")
    flags = (f"--other={others}", "--path=image/a", "--other_path=text/b")
    code, _, _, err = neurons("match", f"--scan={scan}", *flags)
    assert code == 1
    assert "facets photo and caption share 0 stimuli" in err


SIDES = ["--path=image/a", "--other_path=text/b"]


@pytest.mark.parametrize(
    ("flags", "status", "why"),
    [
        (["--path=image/a"], 2, "units match themselves"),
        (["--path=image/b", "--other_facet=caption"], 1, "Did you mean 'image/a'"),
        (["--path=image/a", "--other_facet=caption"], 1, "caption does not run image/a"),
        (["--path=shared/embed", "--other_facet=captoin"], 1, "Did you mean 'caption'"),
        (["--path=image/a", "--other_path=text/b", "--shuffles=0"], 2, "--shuffles=0"),
        ([*SIDES, "--q=7"], 2, "--q=7.0: expected a rate between 0 and 1"),
        ([*SIDES, "--q=nan"], 2, "--q=nan: expected a rate"),
        ([*SIDES, "--floor=9"], 2, "--floor=9.0: expected a correlation, -1 to 1"),
        ([*SIDES, "--seed=-1"], 2, "--seed=-1: expected 0 or more"),
        ([*SIDES, "--neighbours=30"], 2, "--neighbours=30: image/a has 30 units"),
        (["--path=image/a", "--other_path=shared/embed", "--neighbours=4"], 2, "has 4 units"),
    ],
)
def test_what_cannot_be_matched_is_an_error(neurons, scan, flags, status, why):
    code, _, _, err = neurons("match", f"--scan={scan}", *flags)
    assert code == status
    assert why in err


def test_units_are_named_and_noise_is_not(neurons, scan):
    code, found, out, _ = neurons("dissect", f"--scan={scan}", "--units=image/*")
    assert code == 0
    names = [unit["concept"] for unit in found["units"]]
    assert names[:4] == ["cat", "dog", "sun", "car"]
    assert names[4:].count(None) >= 25  # a false name is one in twenty
    assert found["labelled"] == 30 - names.count(None)
    assert "the others are unlabelled" in out
    assert all(unit["nearest"] for unit in found["units"])


@pytest.mark.parametrize(
    ("flags", "status", "why"),
    [
        (["--units=image/b"], 1, "Did you mean 'image/a'"),
        (["--facet=foto"], 1, "Did you mean 'photo'"),
        (["--concepts=words.txt"], 2, "--concepts needs --judge"),
        (["--q=0"], 2, "--q=0"),
        (["--seed=-1"], 2, "--seed=-1: expected 0 or more"),
        (["--judge=x", "--concepts=none.json"], 1, "none.json: cannot be read as concepts"),
        (["--scan=nowhere"], 1, "not a whole scan"),
    ],
)
def test_what_cannot_be_dissected_is_an_error(neurons, scan, flags, status, why):
    given = flags if flags[0].startswith("--scan") else [f"--scan={scan}", *flags]
    code, _, _, err = neurons("dissect", *given)
    assert code == status
    assert why in err


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.txt", "cat\n\nbig dog\n"),
        ("a.json", '[{"id": "c", "name": "cat"}, {"id": "d", "name": "big dog"}]'),
        ("a.yaml", "- {id: c, name: cat}\n- {id: d, name: big dog}\n"),
    ],
)
def test_texts_of_a_judge_are_lines_or_concepts(neurons, scan, tmp_path, monkeypatch, name, text):
    (tmp_path / name).write_text(text)
    asked = []

    def judged(args, scan, facet, names):
        asked.extend(names)
        return np.random.default_rng(0).random((STIMULI, 2))

    monkeypatch.setattr(neurons_dissect, "_judged", judged)
    flags = ("--judge=other", f"--concepts={tmp_path / name}", "--draws=9")
    assert neurons("dissect", f"--scan={scan}", *flags)[0] == 0
    assert asked == ["cat", "big dog"]


@pytest.mark.parametrize(("command", "flags"), [("match", SIDES), ("dissect", ["--judge=nowhere"])])
def test_a_scan_that_cannot_be_written_is_told_before_the_work(
    neurons, scan, tmp_path, command, flags
):
    folder = tmp_path / "scan"
    shutil.copytree(scan, folder)
    (folder / f"{command}.json").unlink(missing_ok=True)
    (folder / f"{command}.json").mkdir()
    code, _, _, err = neurons(command, f"--scan={folder}", *flags)
    assert code == 1
    assert f"{command}.json: cannot be written (it is a folder)" in err
