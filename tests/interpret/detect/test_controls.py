"""What the controls say of planted units, of directions without a basis, and of noise."""

import dataclasses
import itertools

import numpy as np
import pytest

from clipjax.config import UserError
from clipjax.data.concepts import save_concepts
from clipjax.interpret.controls import ROTATED, random_rotation, unit_permutation
from clipjax.interpret.detect_settings import DetectSettings
from clipjax.interpret.detection import detect
from clipjax.interpret.evidence import gather
from clipjax.interpret.space_finds import find
from clipjax.interpret.spaces import spaces_of
from clipjax.interpret.statistics.planted import PlantConfig, plant

UNITS, CONCEPTS, STIMULI = 16, 8, 240
QUICK = DetectSettings(rotations=2, permutations=200)
SMALL = PlantConfig(
    units=24, concepts=6, stimuli=120, planted=8, single=4, divergent=2, fewest=10, most=20,
    effect=2.0,
)  # fmt: skip


def one_concept_each(rng):
    """Labels of stimuli that show one concept each."""
    return np.eye(CONCEPTS, dtype=bool)[np.arange(STIMULI) % CONCEPTS]


def world(plants, path, kind, seed=0):
    """A space of which the axes mean something, or only directions, or nothing."""
    rng = np.random.default_rng(seed)
    labels = one_concept_each(rng)
    code = np.zeros((CONCEPTS, UNITS))
    code[np.arange(CONCEPTS), np.arange(CONCEPTS)] = 3.0
    if kind == "directions":
        code = code @ random_rotation(UNITS, seed=(seed, 7))
    if kind == "noise":
        code[:] = 0
    acts = {}
    for name in ("photo", "word", "caption"):
        noise = rng.normal(size=(STIMULI, UNITS))
        acts[name] = labels @ code + (np.maximum(noise, 0) if kind == "axes" else noise)
    rows = {name: plants.rows_of(name, labels) for name in acts}
    return plants.write(path, rows, acts)


def space_of(findings):
    return findings.content["spaces"][0]


def test_axes_beat_their_rotation_and_directions_do_not(plants, tmp_path):
    axes = space_of(detect(world(plants, tmp_path / "a", "axes"), QUICK))
    assert axes["pairs"] >= CONCEPTS
    assert axes["cross_modal_found"] > 1.8 * axes["controls"][ROTATED]["cross_modal_found"]
    assert not axes["controls"][ROTATED]["failed"]
    findings = detect(world(plants, tmp_path / "d", "directions"), QUICK)
    directions = space_of(findings)
    # Counts mislead: a basis of nothing has more pairs than one of units.
    assert directions["pairs"] > axes["pairs"]
    assert directions["concepts_per_unit"] > axes["concepts_per_unit"]
    rotated = directions["controls"][ROTATED]
    assert rotated["failed"]
    ratio = directions["cross_modal_found"] / rotated["cross_modal_found"]
    assert 0.9 < ratio < 1.1
    assert all("rotated control equal" in unit["badges"] for unit in findings.units("multimodal"))
    assert any("directions, and not units" in line for line in findings.content["proves"])
    # That axes are no units does not make a find false: no control model found anything.
    assert findings.content["failed_controls"] == []


def test_a_control_that_finds_as_much_fails(plants, tmp_path):
    scan = world(plants, tmp_path, "axes")
    world(plants, tmp_path / "controls" / "shuffled", "noise", seed=1)
    findings = detect(scan, QUICK)
    control = space_of(findings)["controls"]["shuffled"]
    assert control["replicated_pairs"] == 0
    assert not control["failed"]
    assert findings.content["failed_controls"] == []
    world(plants, tmp_path / "controls" / "untrained", "axes", seed=2)
    findings = detect(scan, QUICK)
    (line,) = findings.content["failed_controls"]
    assert "untrained has" in line
    assert space_of(findings)["controls"]["untrained"]["failed"]
    badge = "control untrained finds as much"
    assert all(badge in unit["badges"] for unit in findings.units("multimodal"))


def test_a_tenth_of_the_finds_is_the_limit(plants, tmp_path):
    labels = one_concept_each(None)
    scan = world(plants, tmp_path, "axes")
    pairs = space_of(detect(scan, QUICK))["replicated_pairs"]
    assert pairs == CONCEPTS
    rng = np.random.default_rng(3)
    acts = {name: rng.normal(size=(STIMULI, UNITS)) for name in scan.facets}
    for array in acts.values():
        array[:, 2] += 4.0 * labels[:, 2]  # one pair of 8 is more than a tenth
    rows = {name: plants.rows_of(name, labels) for name in acts}
    plants.write(tmp_path / "controls" / "other", rows, acts)
    assert space_of(detect(scan, QUICK))["controls"]["other"]["failed"]


def test_a_control_of_other_stimuli_is_refused(plants, tmp_path):
    scan = world(plants, tmp_path, "axes")
    labels = one_concept_each(None)[:-1]
    rows = {name: plants.rows_of(name, labels) for name in scan.facets}
    acts = {name: np.zeros((STIMULI - 1, UNITS)) for name in rows}
    plants.write(tmp_path / "controls" / "other", rows, acts)
    with pytest.raises(UserError, match="not scanned with the stimuli"):
        detect(scan, QUICK)


def test_a_control_of_other_labels_or_concepts_is_refused(plants, tmp_path):
    scan = world(plants, tmp_path, "axes")
    control = tmp_path / "controls" / "other"
    rows = {name: plants.rows_of(name, ~one_concept_each(None)) for name in scan.facets}
    acts = {name: np.zeros((STIMULI, UNITS)) for name in rows}
    plants.write(control, rows, acts)
    with pytest.raises(UserError, match="not scanned with the labels of photo"):
        detect(scan, QUICK)
    world(plants, control, "noise")
    save_concepts(control / "concepts.json", scan.concepts[::-1])
    with pytest.raises(UserError, match="not scanned with the concepts"):
        detect(scan, QUICK)


def test_without_activations_controls_are_judged_by_pairs(plants, tmp_path):
    planted = plant(SMALL, seed=0)
    scan = plants.write_planted(tmp_path, planted, store="none")
    plants.write_planted(tmp_path / "controls" / "same", planted, store="none")
    findings = detect(scan, QUICK)
    assert space_of(findings)["controls"]["same"]["failed"]
    assert "same has" in findings.content["failed_controls"][0]


@pytest.mark.parametrize("required", [None, 2])
@pytest.mark.parametrize("signed", [False, True])
def test_the_null_mean_is_that_of_all_permutations(plants, tmp_path, required, signed):
    """Counted again from p values and AUROCs, unit order by unit order."""
    width = 5
    config = PlantConfig(
        units=width, concepts=4, stimuli=90, facets=3, planted=3, single=1, divergent=0,
        fewest=15, most=30, effect=2.5, rectified=0.0,
    )  # fmt: skip
    planted = plant(config, seed=2)
    names = ["a", "b", "c"]
    rows = {name: plants.rows_of(name, planted.labels) for name in names}
    paths = {"shared/embed" if signed else "image/x": width}
    acts = dict(zip(names, planted.activations, strict=True))
    settings = DetectSettings(required=required, permutations=2000)
    scan = plants.write(tmp_path, rows, acts, paths=paths)
    (space,), _ = spaces_of(scan, settings)
    assert space.signed is signed
    finds = find(space, gather(space, settings), settings)
    told = unit_permutation(finds, settings)
    p, auroc = finds.evidence.p_value, finds.evidence.auroc
    needed = required or 3
    bar = np.sort(p, axis=0)[needed - 1][finds.found].max()
    means = {}
    for m, name in enumerate(names):
        counts = []
        for order in itertools.permutations(range(width)):
            order = np.array(order)
            whole = np.concatenate([order, order + width]) if signed else order
            q, a = p.copy(), auroc.copy()
            q[m], a[m] = q[m][whole], a[m][whole]
            sure = np.sort(q, axis=0)[needed - 1] <= bar
            strong = np.sort(a, axis=0)[len(a) - needed] >= settings.floor
            counts.append(int((sure & strong).sum()))
        means[name] = np.mean(counts)
        assert counts[0] == told["observed"]  # itertools begins with the order as it is
        if name == told["facet"]:
            share = np.mean(np.array(counts) >= counts[0])
            # 2,000 draws: four standard deviations of a share.
            assert told["p"] == pytest.approx(share, abs=4 * np.sqrt(0.25 / 2000))
    assert told["null_mean"] == pytest.approx(max(means.values()))
    assert told["enrichment"] == pytest.approx(told["observed"] / max(means.values()))


def test_permuted_units_tell_a_plant_from_coincidence(plants, tmp_path):
    scan = world(plants, tmp_path, "axes")
    told = space_of(detect(scan, QUICK))["permutation"]
    assert told["observed"] == CONCEPTS
    assert told["p"] == pytest.approx(1 / 201)
    assert told["enrichment"] > 5
    # Facets that know concepts, each by other units: what they share is chance.
    rng = np.random.default_rng(1)
    acts = {
        name: np.array(scan.activations(name, "image/blocks/0/mlp_act"))[:, rng.permutation(UNITS)]
        for name in ("photo", "word")
    }
    rows = {name: plants.rows_of(name, one_concept_each(None)) for name in acts}
    findings = detect(plants.write(tmp_path / "b", rows, acts), QUICK)
    told = space_of(findings)["permutation"]
    assert told is None or told["p"] > 0.02


def test_rotations_are_orthogonal_and_seeded():
    q = random_rotation(20, seed=(0, 1))
    np.testing.assert_allclose(q @ q.T, np.eye(20), atol=1e-12)
    np.testing.assert_array_equal(q, random_rotation(20, seed=(0, 1)))
    assert abs(q - random_rotation(20, seed=(0, 2))).max() > 0.1


def test_everything_follows_from_the_seed(plants, tmp_path):
    scan = plants.write_planted(tmp_path, plant(SMALL, seed=1))
    one, two = (detect(scan, QUICK).content for _ in range(2))
    for name in ("spaces", "units", "summary"):
        assert one[name] == two[name]
    other = detect(scan, dataclasses.replace(QUICK, seed=1)).content
    assert space_of_content(one) != space_of_content(other)


def space_of_content(content):
    return content["spaces"][0]["controls"][ROTATED]
