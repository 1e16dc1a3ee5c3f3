"""What evidence is made of: halves that do not know each other, thresholds, meaning."""

import dataclasses

import numpy as np
import pytest
from scipy import stats

from clipjax.interpret.detect_settings import DetectSettings
from clipjax.interpret.detection import detect
from clipjax.interpret.meaning import compared_facets, concept_vectors
from clipjax.interpret.statistics.conjunction import confirmation_half
from clipjax.interpret.statistics.planted import PlantConfig, plant

PATH = "image/blocks/0/mlp_act"
QUICK = DetectSettings(rotations=0, permutations=0)
SMALL = PlantConfig(
    units=24, concepts=6, stimuli=200, planted=8, single=4, divergent=2, fewest=20, most=40,
    effect=2.0,
)  # fmt: skip


@pytest.mark.parametrize("discovers", [True, False])
def test_what_one_half_alone_shows_is_found_and_not_replicated(plants, tmp_path, discovers):
    rng = np.random.default_rng(0)
    labels = np.eye(4, dtype=bool)[np.arange(240) % 4]
    rows = {name: plants.rows_of(name, labels) for name in ("a", "b")}
    silent = confirmation_half(rows["a"].stimuli) == discovers
    acts = {name: rng.normal(size=(240, 4)) for name in rows}
    for array in acts.values():
        array += 8.0 * (labels & ~silent[:, None])  # the other half shows no effect
    findings = detect(plants.write(tmp_path, rows, acts), dataclasses.replace(QUICK, floor=0.6))
    space = findings.content["spaces"][0]
    assert space["pairs"] == 4
    assert space["replicated_pairs"] == 0
    assert all("not replicated" in unit["badges"] for unit in findings.units("multimodal"))
    for array in acts.values():
        array += 8.0 * (labels & silent[:, None])
    findings = detect(plants.write(tmp_path, rows, acts), QUICK)
    assert findings.content["spaces"][0]["replicated_pairs"] == 4


def test_a_concept_that_one_half_lacks_cannot_be_replicated(plants, tmp_path):
    rng = np.random.default_rng(0)
    labels = np.zeros((240, 2), bool)
    labels[:60, 0] = True
    rows = plants.rows_of("a", labels)
    confirms = confirmation_half(rows.stimuli)
    labels[np.flatnonzero(~confirms)[-20:], 1] = True
    rows = {name: plants.rows_of(name, labels) for name in ("a", "b")}
    acts = {name: rng.normal(size=(240, 2)) + 9.0 * labels for name in rows}
    space = detect(plants.write(tmp_path, rows, acts), QUICK).content["spaces"][0]
    assert space["pairs"] == 2
    assert space["replicated_pairs"] == 1
    assert space["not_replicable_concepts"] == 1


@pytest.mark.parametrize("method", ["bh", "by"])
def test_held_out_concepts_meet_a_threshold_that_they_did_not_set(plants, tmp_path, method):
    planted = plant(SMALL, seed=3)
    settings = dataclasses.replace(QUICK, method=method)
    scan = plants.write_planted(tmp_path, planted)
    findings = detect(scan, settings)
    p = findings.arrays[f"{PATH}:p"].astype(np.float64).max(axis=0)
    effect = findings.arrays[f"{PATH}:auroc"].min(axis=0)
    kept = confirmation_half([c.id for c in scan.concepts], salt="concepts")
    assert 0 < kept.sum() < len(kept)
    seen = p[:, ~kept]
    adjusted = stats.false_discovery_control(seen.ravel(), method=method).reshape(seen.shape)
    threshold = seen[(adjusted <= 0.05) & (effect[:, ~kept] >= 0.75)].max()
    expected = (p[:, kept] <= threshold) & (effect[:, kept] >= 0.75)
    told = findings.content["spaces"][0]["held_out_concepts"]
    assert told["concepts"] == kept.sum()
    assert told["pairs"] == expected.sum() > 0
    assert told["units"] == expected.any(axis=1).sum()
    assert told["threshold"] == pytest.approx(threshold, rel=1e-6)
    whole = findings.content["spaces"][0]["counts"]
    assert findings.content["spaces"][0]["pairs"] == whole[method]


def test_meaning_is_the_mean_over_all_pairs_of_different_things(plants, tmp_path):
    rng = np.random.default_rng(5)
    labels = rng.random((40, 5)) < 0.3
    other = rng.permutation(40)[:30]  # the second facet lacks some things and is in another order
    rows = {
        "photo": plants.rows_of("photo", labels),
        "caption": plants.rows_of(
            "caption", labels[other], tower="text", stimuli=[f"s{i}" for i in other]
        ),
    }
    acts = {"photo": rng.normal(size=(40, 3)), "caption": rng.normal(size=(30, 3))}
    acts = {name: a.astype(np.float32).astype(np.float64) for name, a in acts.items()}
    settings = dataclasses.replace(QUICK, floor=0.0, rate=0.999, least=2, most=100)
    findings = detect(plants.write(tmp_path, rows, acts), settings)
    first, second = (concept_vectors(one.labels) for one in rows.values())
    total = [np.zeros(3), np.zeros(3), 0.0, 0]
    # The scale is that of stimuli with a concept: the others say nothing.
    shown = [np.flatnonzero(one.labels.any(axis=1)) for one in rows.values()]
    scaled = [
        (a - a[s].min(axis=0)) / np.ptp(a[s], axis=0)
        for a, s in zip(acts.values(), shown, strict=True)
    ]
    for i in shown[0]:
        for j in shown[1]:
            if i == other[j]:
                continue
            cosine = first[i] @ second[j] / np.linalg.norm(first[i]) / np.linalg.norm(second[j])
            weight = scaled[0][i] * scaled[1][j]
            total[0] += weight * cosine
            total[1] += weight
            total[2] += cosine
            total[3] += 1
    expected = (total[0] / total[1]) / (total[2] / total[3])
    told = findings.content["spaces"][0]["cross_modal_ratio"]
    assert told["mean"] == pytest.approx(expected.mean(), rel=1e-9)
    assert told["max"] == pytest.approx(expected.max(), rel=1e-9)
    size = [abs(a).mean(axis=0) for a in acts.values()]
    for unit in findings.units():
        share = size[0][unit["index"]] / (size[0] + size[1])[unit["index"]]
        assert unit["modality_score"] == pytest.approx(share)
        assert unit["cross_modal_ratio"] == pytest.approx(expected[unit["index"]])
    assert findings.units()


def test_facets_of_different_towers_are_compared_where_there_are_two(plants):
    labels = np.zeros((3, 1), bool)
    image, edges = (plants.rows_of(name, labels) for name in ("photo", "edges"))
    text = plants.rows_of("caption", labels, tower="text")
    assert compared_facets([image, edges, text]) == ((0, 2), (1, 2))
    assert compared_facets([image, edges]) == ((0, 1),)


def test_strata_have_ten_stimuli_or_more(plants, tmp_path):
    """A confound that explains all of a unit leaves nothing; one that says nothing takes little."""
    rng = np.random.default_rng(1)
    labels = np.eye(2, dtype=bool)[np.arange(150) % 2]
    light = rng.normal(size=(150, 1)) + labels[:, :1]
    acts = {}
    rows = {}
    for name in ("a", "b"):
        acts[name] = np.stack(
            [
                3 * light[:, 0] + 0.1 * rng.normal(size=150),
                3.0 * labels[:, 0] + rng.normal(size=150),
            ],
            axis=1,
        )
        rows[name] = plants.rows_of(name, labels, light)
    scan = plants.write(tmp_path, rows, acts)
    findings = detect(scan, dataclasses.replace(QUICK, floor=0.5))
    bare = detect(scan, dataclasses.replace(QUICK, floor=0.5, strata=0))
    assert bare.arrays[f"{PATH}:found"][:, 0].tolist() == [1, 1]
    assert findings.arrays[f"{PATH}:found"][:, 0].tolist() == [0, 1]
    assert findings.content["spaces"][0]["pairs_without_strata"] == 2
