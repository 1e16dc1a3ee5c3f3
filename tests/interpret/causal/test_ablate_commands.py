"""`neurons ablate` and `steer` on a scan of a toy, against the library; what they refuse."""

import dataclasses
import json
import re
import shutil
import types
from unittest.mock import Mock

import numpy as np
import pytest

from clipjax.cli import neurons_ablate, neurons_steer
from clipjax.cli.parser import Parser
from clipjax.config import UsageError, UserError
from clipjax.data.concepts import Concept
from clipjax.inference.load import Model
from clipjax.interpret import reopened
from clipjax.interpret.ablation import ablation, check_named, found_pairs, named_pairs
from clipjax.interpret.causal import causal_drop, steering_curve
from clipjax.interpret.findings import Findings
from clipjax.interpret.reopened import Reopened, reopen
from clipjax.interpret.scan_files import Scan, ScanRecord, write_scan
from clipjax.interpret.spaces import UnitName
from clipjax.interpret.summaries import summarise

PATH = "image/blocks/1/mlp_act"
IDS = ["cat", "dog", "tree"]


def listed(index, *concepts, path=PATH, sign=""):
    return {
        "unit": f"{path}:{index}{sign}",
        "path": path,
        "index": index,
        "sign": sign,
        "kind": "multimodal-same",
        "concepts": [{"concept": one} for one in concepts],
    }


@pytest.fixture(scope="module")
def scan(toy, tmp_path_factory):
    """A scan of random activations, in which units 3 and 5 were found; and the toy behind it."""
    folder = tmp_path_factory.mktemp("scan")
    rng = np.random.default_rng(0)
    acts = {name: rng.normal(size=(12, 24)).astype(np.float32) for name in ("photo", "edges")}
    write_scan(
        folder,
        ScanRecord(
            model="runs/toy",
            identity=toy.model.identity,
            step=0,
            config={},
            stimuli="toy",
            paths={PATH: 24},
            facets={"photo": (PATH,), "edges": (PATH,)},
            pool="max",
            bins=8,
            exemplars=3,
        ),
        [Concept(one, one, (one,)) for one in IDS],
        {name: toy.facets[name].rows for name in acts},
        acts,
        {name: summarise(values, bins=8, exemplars=3) for name, values in acts.items()},
    )
    content = {"schema": 1, "units": [listed(3, "dog"), listed(5, "cat", "tree")], "spaces": []}
    (folder / "neurons.json").write_text(json.dumps(content))
    return folder


@pytest.fixture
def opened(toy, monkeypatch):
    """`reopen` gives the toy."""
    facets = {name: toy.facets[name] for name in ("photo", "edges")}
    monkeypatch.setattr(reopened, "reopen", lambda scan, **_: Reopened(toy.model, facets))


def arguments(module, *words):
    parser = Parser()
    module.configure(parser)
    return parser.parse_args(list(words))


def test_ablate_writes_what_the_library_says(toy, scan, opened, capsys):
    args = arguments(neurons_ablate, "--scan", str(scan), "--against", "4", "--resamples", "50")
    figures = neurons_ablate.run(args)
    assert json.loads((scan / "ablation.json").read_text()) == figures
    ((path, told),) = [(one["path"], one) for one in figures["paths"]]
    assert path == PATH
    assert [(u["unit"], u["concept"]) for u in told["units"]] == [
        (f"{PATH}:3", "dog"),
        (f"{PATH}:5", "cat"),
        (f"{PATH}:5", "tree"),
    ]
    names = [one.name for one in Scan(scan).concepts]
    drops = causal_drop(toy.model, PATH, [3, 5, 0, 1], toy.facets, names)
    for facet in ("photo", "edges"):
        assert told["facets"][facet]["others"] == 4
        wanted = [drops[facet].drop[0, 1], drops[facet].drop[1, 0], drops[facet].drop[1, 2]]
        np.testing.assert_allclose([u["drop"][facet] for u in told["units"]], wanted, atol=3e-5)
        assert told["facets"][facet]["found"] == pytest.approx(np.mean(wanted), abs=3e-5)
    assert "photo" in capsys.readouterr().out


def test_steer_moves_in_deviations_of_the_facet(toy, scan, opened, capsys):
    args = arguments(neurons_steer, f"{PATH}:3", "--scan", str(scan), "--amounts=-2,0,1")
    figures = neurons_steer.run(args)
    assert (figures["concept"], figures["amounts"]) == ("dog", [-2.0, 0.0, 1.0])
    step = float(Scan(scan).summary("edges", PATH).deviation[3])
    curve = steering_curve(toy.model, PATH, 3, toy.facets["edges"], IDS, [-2 * step, 0.0, step])
    np.testing.assert_allclose(figures["facets"]["edges"]["on"], curve.on[:, 1], atol=3e-5)
    assert "edges" in capsys.readouterr().out


def test_mistakes_are_told_before_the_model_is_loaded(scan):
    def ablate(*words):
        neurons_ablate.run(arguments(neurons_ablate, "--scan", str(scan), *words))

    with pytest.raises(UserError, match=r"Did you mean 'cat'"):
        ablate("--units", f"{PATH}:3=catt")
    with pytest.raises(UserError, match="names no unit"):
        ablate("--units", "cat")
    with pytest.raises(UserError, match=f"Did you mean '{PATH}'"):
        ablate("--units", "image/blocks/1/mlp_ac:3=cat")
    with pytest.raises(UsageError, match="--against=0 is not positive"):
        ablate("--against", "0")
    with pytest.raises(UsageError, match="wanted numbers"):
        neurons_steer.run(
            arguments(neurons_steer, f"{PATH}:3", "--scan", str(scan), "--amounts", "two")
        )


LABELS = {"sae:mine": 24}


@pytest.mark.parametrize(
    ("unit", "paths", "said"),
    [
        (f"{PATH}:24", None, f"{PATH} has units 0 to 23, not 24"),
        (f"{PATH}:3-", None, f"{PATH}:3-: the units of {PATH} have no sign"),
        (f"{PATH}:3+", None, f"{PATH}:3+: the units of {PATH} have no sign"),
        ("sae:mine:3", None, "sae:mine:3: latents of an autoencoder cannot"),
        ("sae:mine:3", LABELS, "sae:mine:3: latents of an autoencoder cannot"),
        (f"{PATH}:3", LABELS, f"{PATH}:3: latents of an autoencoder cannot"),
    ],
)
@pytest.mark.parametrize("module", [neurons_ablate, neurons_steer])
def test_units_that_cannot_be_changed_are_refused_first(scan, tmp_path, module, unit, paths, said):
    folder = tmp_path / "scan"
    shutil.copytree(scan, folder)
    if paths is not None:
        record = json.loads((folder / "scan.json").read_text())
        record |= {"paths": paths, "facets": {name: list(paths) for name in record["facets"]}}
        (folder / "scan.json").write_text(json.dumps(record))
    words = ["--units", f"{unit}=cat"] if module is neurons_ablate else [unit, "--concept", "cat"]
    with pytest.raises(UserError, match=re.escape(said)):
        module.run(arguments(module, "--scan", str(folder), *words))


def test_a_signed_embedding_has_signs(toy, tmp_path):
    """A coordinate that may be negative is a unit in both directions; one above a ReLU is not."""
    acts = np.random.default_rng(0).normal(size=(12, 8)).astype(np.float32)
    for name, values, signed in (("plain", acts, True), ("relu", np.maximum(acts, 0), False)):
        record = ScanRecord(
            model="runs/toy",
            identity="toy",
            step=0,
            config={},
            stimuli="toy",
            paths={"shared/embed": 8},
            facets={"photo": ("shared/embed",)},
            pool="max",
            bins=8,
            exemplars=3,
        )
        scan = write_scan(
            tmp_path / name,
            record,
            [Concept(one, one, (one,)) for one in IDS],
            {"photo": toy.facets["photo"].rows},
            {"photo": values},
            {"photo": summarise(values, bins=8, exemplars=3)},
        )
        unit = UnitName("shared/embed", 5, "-")
        if signed:
            check_named(scan, unit)
        else:
            with pytest.raises(UserError, match="have no sign"):
                check_named(scan, unit)


@pytest.mark.parametrize(
    ("words", "kind", "said"),
    [
        (["--seed=-1"], UsageError, "--seed=-1: expected 0 or more"),
        (["--out=nowhere/a.json"], UserError, "--out=nowhere/a.json: cannot be written"),
    ],
)
def test_what_would_lose_the_work_is_told_before_it(scan, words, kind, said):
    with pytest.raises(kind, match=said):  # the model is nowhere
        neurons_ablate.run(arguments(neurons_ablate, "--scan", str(scan), *words))


def test_a_scan_that_cannot_be_written_is_told_before_the_work(scan, tmp_path):
    folder = tmp_path / "scan"
    shutil.copytree(scan, folder)
    (folder / "ablation.json").unlink(missing_ok=True)
    (folder / "ablation.json").mkdir()
    with pytest.raises(UserError, match=r"ablation.json: cannot be written \(it is a folder\)"):
        neurons_ablate.run(arguments(neurons_ablate, "--scan", str(folder)))


def test_too_few_units_for_an_interval_are_told_before_the_work(toy, monkeypatch):
    monkeypatch.setattr("clipjax.interpret.ablation.causal_drop", None)
    facets = {"photo": toy.facets["photo"]}
    enough = [(UnitName("image/blocks/0/mlp_act", unit), 0) for unit in range(20)]
    pairs = [*enough, (UnitName(PATH, 3), 0)]
    with pytest.raises(UserError, match=r"in photo: .*nothing to score.*--against.*--resamples"):
        ablation(toy.model, facets, IDS, pairs, against=2, resamples=10)


@pytest.mark.parametrize("amounts", ["nan", "0,inf", "-inf,0", "1e999"])
def test_amounts_are_finite(scan, amounts):
    words = [f"{PATH}:3", "--scan", str(scan), f"--amounts={amounts}"]
    with pytest.raises(UsageError, match="wanted numbers"):
        neurons_steer.run(arguments(neurons_steer, *words))


def test_the_concept_of_a_unit_is_one_that_was_found():
    unit = listed(3, "cat", "dog", "tree")
    for concept, found in zip(unit["concepts"], (False, True, True), strict=True):
        concept["found"] = found
    content = {"schema": 1, "spaces": [], "units": [unit]}
    assert named_pairs([f"{PATH}:3"], IDS, Findings(content=content)) == [(UnitName(PATH, 3), 1)]
    for concept in unit["concepts"]:
        concept["found"] = False
    with pytest.raises(UserError, match=rf"no concept was found .*{PATH}:3=CONCEPT.*--concept"):
        named_pairs([f"{PATH}:3"], IDS, Findings(content=content))


def test_pairs_are_those_found_or_those_named():
    content = {
        "schema": 1,
        "spaces": [{"kinds": {"multimodal-same": 1, "unimodal": 1}}],
        "units": [listed(2, "tree", path="shared/embed", sign="-"), listed(3, "dog")],
    }
    findings = Findings(content=content)
    embed, mlp = UnitName("shared/embed", 2, "-"), UnitName(PATH, 3)
    assert found_pairs(findings, IDS, most=5) == [(embed, 2), (mlp, 1)]
    assert found_pairs(findings, IDS, most=1) == [(embed, 2)]
    assert named_pairs([f"{PATH}:3", f"{PATH}:4=cat"], IDS, findings) == [
        (mlp, 1),
        (UnitName(PATH, 4), 0),
    ]
    with pytest.raises(UserError, match="for which concept"):
        named_pairs([f"{PATH}:3"], IDS, None)
    empty = Findings(content={**content, "units": []})
    with pytest.raises(UserError, match="no multimodal unit was found"):
        found_pairs(empty, IDS, most=5)


def test_a_layer_without_other_units_has_no_ratio(toy):
    pairs = [(UnitName("shared/embed", unit), 0) for unit in range(8)]
    (found,) = ablation(toy.model, {"photo": toy.facets["photo"]}, IDS, pairs)
    assert found.ratios == {"photo": None}
    assert found.to_json(IDS)["facets"] == {"photo": None}


def test_another_model_or_other_stimuli_than_those_of_the_scan_are_refused(
    toy, scan, monkeypatch, capsys
):
    facets = {name: toy.facets[name] for name in ("photo", "edges")}
    model = Model(
        toy.model.config, toy.model.params, toy.model.tokenizer, toy.model.encoder, 0, "other"
    )
    monkeypatch.setattr(reopened, "load", lambda *_, **__: model)
    stimuli = types.SimpleNamespace(facets=facets)
    monkeypatch.setattr(reopened, "open_stimuli", lambda *_, **__: stimuli)
    whole = Scan(scan)
    with pytest.raises(UserError, match="is not the model that"):
        reopen(whole)
    assert reopen(whole, model="runs/b").facets == facets
    assert "is not the model that was scanned" in capsys.readouterr().err
    model.identity = toy.model.identity
    gone = UserError("runs/toy: no such file or folder.")
    monkeypatch.setattr(reopened, "load", Mock(side_effect=gone))
    with pytest.raises(UserError, match=r"runs/toy: no such.*where it is now with --model"):
        reopen(whole)
    with pytest.raises(UserError, match=r"folder\.$"):
        reopen(whole, model="runs/toy")
    nameless = dataclasses.replace(whole.record, model="")
    monkeypatch.setattr(whole, "record", nameless)
    with pytest.raises(UserError, match="does not say which model was scanned"):
        reopen(whole)
    monkeypatch.undo()
    monkeypatch.setattr(reopened, "load", lambda *_, **__: model)
    monkeypatch.setattr(reopened, "open_stimuli", lambda *_, **__: stimuli)
    rows = dataclasses.replace(facets["edges"].rows, labels=~facets["edges"].rows.labels)
    facets["edges"] = dataclasses.replace(facets["edges"], rows=rows)
    with pytest.raises(UserError, match="the facet edges holds other stimuli or labels"):
        reopen(whole)
