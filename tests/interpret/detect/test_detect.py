"""From planted activations through the whole pipeline; the statistics have tests of their own."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from clipjax.config import UsageError, UserError
from clipjax.interpret.detect_settings import DetectSettings
from clipjax.interpret.detection import detect
from clipjax.interpret.statistics.planted import PlantConfig, plant, recovery

PATH = "image/blocks/0/mlp_act"
QUICK = DetectSettings(rotations=0, permutations=0)
BARE = dataclasses.replace(QUICK, floor=0.0)  # the bars are those of the tests, not of the floor
SMALL = PlantConfig(
    units=24, concepts=6, stimuli=120, planted=8, single=4, divergent=2, fewest=10, most=20,
    effect=2.0,
)  # fmt: skip


def found_in(findings, name="found", path=PATH):
    return findings.arrays[f"{path}:{name}"] > 0


@pytest.mark.parametrize(("confound", "store"), [(0.0, "exact"), (1.0, "codes")])
def test_weak_plants_are_found_in_a_scan(plants, tmp_path, confound, store):
    planted = plant(PlantConfig(confound=confound), seed=3)
    scan = plants.write_planted(tmp_path, planted, confounded=confound > 0, store=store)
    findings = detect(scan, BARE)
    score = recovery(found_in(findings), planted.truth)
    assert score.precision >= 0.9
    assert score.recall >= (0.85 if confound else 0.8)
    space = findings.content["spaces"][0]
    assert space["pairs"] == score.found
    if confound:
        assert space["pairs_without_strata"] > 10 * space["pairs"]
        assert any("confound" in unit["badges"] for unit in findings.units())
    # What is replicated is found, and hardly ever wrong.
    firm = found_in(findings, "replicated")
    assert not (firm & ~found_in(findings)).any()
    assert recovery(firm, planted.truth).precision >= 0.95
    assert firm.sum() > 0.4 * score.found


def test_nothing_is_found_where_nothing_is(plants, tmp_path):
    config = PlantConfig(units=48, concepts=20, stimuli=200, planted=0, single=0, divergent=0)
    found = []
    for seed in range(8):
        scan = plants.write_planted(tmp_path / str(seed), plant(config, seed=seed), confounded=True)
        findings = detect(scan, BARE)
        found.append(findings.content["spaces"][0]["pairs"])
        assert findings.content["failed_controls"] == []
    assert np.mean(found) <= 0.5


def test_scores_are_those_of_scipy(plants, tmp_path):
    planted = plant(dataclasses.replace(SMALL, rectified=0.0), seed=1)
    findings = detect(plants.write_planted(tmp_path, planted), QUICK)
    for unit, concept in ((0, 0), (5, 3), (23, 5)):
        p = []
        for m, activations in enumerate(planted.activations):
            column = activations[:, unit].astype(np.float32)
            shown = planted.labels[:, concept]
            test = stats.mannwhitneyu(
                column[shown], column[~shown], alternative="greater", method="asymptotic",
                use_continuity=False,
            )  # fmt: skip
            auroc = test.statistic / (shown.sum() * (~shown).sum())
            assert findings.arrays[f"{PATH}:auroc"][m, unit, concept] == pytest.approx(auroc, 1e-6)
            p.append(test.pvalue)
        got = findings.arrays[f"{PATH}:p"][:, unit, concept]
        np.testing.assert_allclose(got, p, rtol=1e-5)
    assert np.isfinite(findings.arrays[f"{PATH}:q"]).all()


def test_the_kinds_of_planted_units(plants, tmp_path):
    config = dataclasses.replace(SMALL, effect=4.0, stimuli=200, fewest=20, most=30)
    planted = plant(config, seed=5)
    quiet = ~planted.truth_by_facet.any(axis=(0, 2))
    dead = int(np.flatnonzero(quiet)[0])
    knows = int(np.flatnonzero(quiet)[1])
    for m, activations in enumerate(planted.activations):
        activations[:, dead] = 7.0
        activations[:, knows] += 50.0 * m
    findings = detect(plants.write_planted(tmp_path, planted), QUICK)
    kinds = findings.content["spaces"][0]["kinds"]
    assert kinds["dead"] == 1
    assert kinds["modality-detector"] == 1
    assert abs(kinds["multimodal-same"] - config.planted) <= 1
    assert abs(kinds["unimodal"] - config.single) <= 2
    listed = {unit["index"]: unit for unit in findings.units()}
    assert dead not in listed
    assert knows not in listed
    for unit, concept in np.argwhere(planted.truth):
        told = listed[unit]
        assert told["kind"] == "multimodal-same"
        assert f"c{concept}" in [one["concept"] for one in told["concepts"]]
        assert told["label"] == f"thing{concept}"
        assert told["words"][0] == f"thing{concept}"
        first = told["concepts"][0]
        assert first["effect"] == min(first["auroc"].values())
        for facet, (low, high) in first["interval"].items():
            assert low <= first["auroc"][facet] <= high
        for histogram in told["histogram"].values():
            assert sum(histogram["counts"]) == config.stimuli
            assert sum(histogram["positives"]) == planted.labels[:, concept].sum()
        for facet, exemplars in told["top"].items():
            values = planted.activations[int(facet[-1])][:, unit].astype(np.float32)
            assert [one["value"] for one in exemplars] == sorted(values, reverse=True)[:10]
            assert all(one["positive"] == planted.labels[one["row"], concept] for one in exemplars)


def test_a_negative_direction_is_a_unit_of_its_own(plants, tmp_path):
    planted = plant(dataclasses.replace(SMALL, effect=4.0, rectified=0.0), seed=2)
    unit, concept = np.argwhere(planted.truth)[0]
    down = [-a for a in planted.activations]
    names = ["photo", "caption"]
    rows = {
        name: plants.rows_of(name, planted.labels, tower=tower)
        for name, tower in zip(names, ("image", "text"), strict=True)
    }
    scan = plants.write(
        tmp_path,
        rows,
        dict(zip(names, down, strict=True)),
        paths={"shared/embed": SMALL.units},
    )
    findings = detect(scan, QUICK)
    space = findings.content["spaces"][0]
    assert space["signed"]
    assert space["units"] == 2 * SMALL.units
    told = findings.show(f"shared/embed:{unit}-")
    assert told["concepts"][0]["concept"] == f"c{concept}"
    assert told["top"]["photo"][0]["value"] == pytest.approx(planted.activations[0][:, unit].max())
    with pytest.raises(UserError, match="not among"):
        findings.show(f"shared/embed:{unit}+")
    assert 0 < told["modality_score"] < 1
    # Above a ReLU only one direction is left.
    up = {name: np.maximum(a, 0) for name, a in zip(names, planted.activations, strict=True)}
    scan = plants.write(tmp_path / "relu", rows, up, paths={"shared/embed": SMALL.units})
    assert not detect(scan, QUICK).content["spaces"][0]["signed"]


def test_a_control_facet_is_scored_and_never_tested(plants, tmp_path):
    planted = plant(dataclasses.replace(SMALL, effect=4.0), seed=4)
    first, second = planted.activations
    rng = np.random.default_rng(0)
    units = np.flatnonzero(planted.truth.any(axis=1))
    scrambled = rng.normal(size=first.shape)
    reads = units[:3]
    scrambled[:, reads] = second[:, reads]  # these answer to the letters whatever their order
    rows = {name: plants.rows_of(name, planted.labels) for name in ("photo", "word")}
    rows["scrambled"] = plants.rows_of("scrambled", planted.labels, is_control=True)
    acts = {"photo": first, "word": second, "scrambled": scrambled}
    findings = detect(plants.write(tmp_path, rows, acts), QUICK)
    space = findings.content["spaces"][0]
    assert space["facets"] == ["photo", "word"]
    assert space["control_facets"] == ["scrambled"]
    badge = "reads letters, not the word"
    told = {unit["index"] for unit in findings.units("multimodal") if badge in unit["badges"]}
    assert told == set(reads.tolist())
    assert space["pairs_in_control_facets"] >= 3
    with pytest.raises(UserError, match="scrambled is a control"):
        detect(
            plants.write(tmp_path, rows, acts), dataclasses.replace(QUICK, facets=("scrambled",))
        )


def test_a_facet_that_is_too_small_for_a_test_must_still_agree(plants, tmp_path):
    planted = plant(dataclasses.replace(SMALL, effect=4.0), seed=6)
    concepts = SMALL.concepts
    words = np.zeros((concepts, SMALL.units))
    units, known = np.nonzero(planted.truth)
    words[known, units] = 1.0
    words[:, units[0]] = -words[:, units[0]]  # the word is the least of all for this one
    names = ("photo", "edges")
    rows = {name: plants.rows_of(name, planted.labels) for name in names}
    stimuli = [f"word{c}" for c in range(concepts)]
    rows["word"] = plants.rows_of("word", np.eye(concepts), stimuli=stimuli)
    acts = {**dict(zip(names, planted.activations, strict=True)), "word": words}
    findings = detect(plants.write(tmp_path, rows, acts, exemplars=4), QUICK)
    space = findings.content["spaces"][0]
    assert space["floor_only_facets"] == ["word"]
    found = found_in(findings)
    assert not found[units[0]].any()
    assert found[units[1:], known[1:]].mean() > 0.8
    told = findings.units("multimodal")[0]["concepts"][0]
    assert told["auroc"]["word"] == 1.0
    assert "word" not in told["p"]
    assert any("word: no concept has 5 positives" in line for line in _untested(findings))


def _untested(findings):
    return findings.content["data"]["untested"]


def test_without_activations_ranks_alone_decide_and_it_is_said(plants, tmp_path):
    planted = plant(SMALL, seed=7)
    exact = detect(plants.write_planted(tmp_path / "exact", planted), QUICK)
    bare = detect(plants.write_planted(tmp_path / "none", planted, store="none"), DetectSettings())
    np.testing.assert_allclose(
        bare.arrays[f"{PATH}:auroc"], exact.arrays[f"{PATH}:auroc"], atol=1e-6
    )
    # No concept is rare enough for the exact null, and bins hold the ties of a ReLU.
    np.testing.assert_allclose(
        bare.arrays[f"{PATH}:p"], exact.arrays[f"{PATH}:p"], rtol=1e-3, atol=1e-30
    )
    space = bare.content["spaces"][0]
    assert space["replicated_pairs"] is None
    assert space["cross_modal_ratio"] is None
    assert "rotated" not in space["controls"]
    assert f"{PATH}:replicated" not in bare.arrays
    assert any("kept no activations" in line for line in bare.content["proves"])
    assert bare.units("multimodal")[0]["histogram"]["facet0"] is None


def test_facets_that_share_no_concept_are_told(plants, tmp_path):
    planted = plant(SMALL, seed=8)
    labels = planted.labels.copy()
    labels[:, SMALL.concepts // 2 :] = False
    others = planted.labels & ~labels.any(axis=0)
    rows = {"photo": plants.rows_of("photo", labels), "word": plants.rows_of("word", others)}
    scan = plants.write(tmp_path, rows, dict(zip(rows, planted.activations, strict=True)))
    with pytest.raises(UserError, match="share no concept that can be tested"):
        detect(scan, QUICK)


def test_rare_concepts_are_not_tested_and_named(plants, tmp_path):
    planted = plant(SMALL, seed=9)
    planted.labels[:, 2] = False
    planted.labels[:4, 2] = True
    findings = detect(plants.write_planted(tmp_path, planted), QUICK)
    assert (
        "thing2: not tested in facet0; 4 of 120 stimuli are positive, 5 and"
        in (_untested(findings)[0])
    )
    assert np.isnan(findings.arrays[f"{PATH}:p"][:, :, 2]).all()


def test_an_activation_that_is_no_number_is_named(plants, tmp_path):
    planted = plant(SMALL, seed=0)
    planted.activations[1][17, 5] = np.nan
    with pytest.raises(UserError, match=f"{PATH}:5: its activation at stimulus s17 is NaN"):
        detect(plants.write_planted(tmp_path, planted), QUICK)


def test_misspelt_names(plants, tmp_path):
    scan = plants.write_planted(tmp_path, plant(SMALL, seed=0))
    with pytest.raises(UserError, match="Did you mean 'facet1'"):
        detect(scan, DetectSettings(facets=("facet0", "facetO")))
    with pytest.raises(UserError, match=f"Did you mean '{PATH}'"):
        detect(scan, DetectSettings(units=("image/blocks/0/mlp_akt",)))
    with pytest.raises(UserError, match="two or more are needed"):
        detect(scan, DetectSettings(facets=("facet0",)))


def test_a_seed_below_zero_is_refused():
    with pytest.raises(UsageError, match="seed is -1; expected 0 or more"):
        DetectSettings(seed=-1)


def test_several_paths_are_spaces_of_their_own(plants, tmp_path):
    planted = plant(SMALL, seed=11)
    paths = {"image/a": 10, "image/b": 14}
    findings = detect(plants.write_planted(tmp_path, planted, paths=paths), QUICK)
    whole = detect(plants.write_planted(tmp_path / "one", planted), QUICK)
    for path, part in (("image/a", slice(0, 10)), ("image/b", slice(10, 24))):
        np.testing.assert_array_equal(
            findings.arrays[f"{path}:auroc"], whole.arrays[f"{PATH}:auroc"][:, part]
        )
    listed = [(unit["path"], unit["index"]) for unit in findings.units("multimodal")]
    assert {path for path, _ in listed} == set(paths)
    few = detect(
        plants.write_planted(tmp_path, planted, paths=paths), dataclasses.replace(QUICK, most=3)
    )
    assert [unit["unit"] for unit in few.units()] == [u["unit"] for u in findings.units()][:3]


def test_json_holds_plain_values_only(plants, tmp_path):
    planted = plant(SMALL, seed=12)
    findings = detect(plants.write_planted(tmp_path, planted), DetectSettings(rotations=1))
    findings.to_json(tmp_path / "a.json")
    again = json.loads((tmp_path / "a.json").read_text())
    assert again == json.loads(json.dumps(findings.content))
    assert "nan" not in (tmp_path / "a.json").read_text()


@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 100), data=st.data())
def test_only_the_order_of_activations_and_no_order_of_stimuli_matters(
    plants, tmp_path_factory, seed, data
):
    rng = np.random.default_rng(seed)
    config = dataclasses.replace(SMALL, units=6, planted=3, single=1, divergent=1, stimuli=60)
    planted = plant(config, seed=seed)
    # Whole numbers have ties and survive what is done to them without rounding.
    acts = [np.rint(4 * a) for a in planted.activations]
    increasing = np.cumsum(rng.integers(1, 9, 400))
    shift = data.draw(st.integers(-50, 50))
    twisted = [(increasing[(a + 200).astype(int)] + shift).astype(float) for a in acts]
    rows = {
        f"facet{m}": plants.rows_of(f"facet{m}", planted.labels, planted.confounds) for m in (0, 1)
    }
    plain, other = (
        detect(
            plants.write(tmp_path_factory.mktemp("scan"), rows, dict(zip(rows, kept, strict=True))),
            QUICK,
        )
        for kept in (acts, twisted)
    )
    for name, array in plain.arrays.items():
        np.testing.assert_array_equal(array, other.arrays[name], err_msg=name)
    mixed_rows, mixed = {}, {}
    for m, name in enumerate(rows):
        order = rng.permutation(config.stimuli)
        mixed_rows[name] = plants.rows_of(
            name,
            planted.labels[order],
            planted.confounds[order],
            stimuli=[f"s{i}" for i in order],
        )
        mixed[name] = acts[m][order]
    moved = detect(plants.write(tmp_path_factory.mktemp("c"), mixed_rows, mixed), QUICK)
    for name, array in plain.arrays.items():
        np.testing.assert_allclose(array, moved.arrays[name], rtol=1e-6, err_msg=name)
    one, two = plain.content["spaces"][0], moved.content["spaces"][0]
    assert one["cross_modal_ratio"] == pytest.approx(two["cross_modal_ratio"], rel=1e-6)
