"""`neurons ablate` and `steer` on a scan of a toy, against the library; what they refuse."""

import dataclasses
import json
import types

import numpy as np
import pytest

from clipjax.cli import neurons_ablate, neurons_steer
from clipjax.cli.parser import Parser
from clipjax.config import UsageError, UserError
from clipjax.data.concepts import Concept
from clipjax.inference.load import Model
from clipjax.interpret import reopened
from clipjax.interpret.ablation import ablation, found_pairs, named_pairs
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
    rows = dataclasses.replace(facets["edges"].rows, labels=~facets["edges"].rows.labels)
    facets["edges"] = dataclasses.replace(facets["edges"], rows=rows)
    with pytest.raises(UserError, match="the facet edges holds other stimuli or labels"):
        reopen(whole)
