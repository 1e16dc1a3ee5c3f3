import numpy as np
import pytest
from scipy import stats

from clipjax.config import UserError
from clipjax.interpret.dissect import (
    active_stimuli,
    given_similarity,
    iou_names,
    wpmi_names,
)
from clipjax.interpret.summaries import summarise

CONCEPTS, STIMULI = 12, 600


def labelled(seed=0):
    """Concepts of 20 to 60 stimuli, and embeddings near those of their concepts."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((STIMULI, CONCEPTS), bool)
    for concept in range(CONCEPTS):
        labels[rng.choice(STIMULI, rng.integers(20, 60), replace=False), concept] = True
    texts = rng.normal(size=(CONCEPTS, 32))
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    pictures = labels @ texts + 0.1 * rng.normal(size=(STIMULI, 32)) + 0.02
    pictures /= np.linalg.norm(pictures, axis=1, keepdims=True)
    return labels, pictures, texts


def planted(labels, effect, noise_units, seed=0):
    """One unit for each concept, then units that answer to nothing."""
    rng = np.random.default_rng(seed)
    units = labels.shape[1] + noise_units
    activations = rng.normal(size=(STIMULI, units))
    activations[:, : labels.shape[1]] += effect * labels
    return np.maximum(activations, 0).astype(np.float32)


def active_of(activations):
    kept = summarise(activations)
    return kept, active_stimuli(kept.top_rows, kept.top_values, len(activations))


def test_planted_units_are_named_and_noise_is_not():
    labels, pictures, texts = labelled()
    activations = planted(labels, 4.0, 200)
    kept, active = active_of(activations)
    given = given_similarity(pictures, texts)
    for names in (iou_names(active, labels), wpmi_names(kept.top_rows, given, draws=1999)):
        assert names.concept[:CONCEPTS].tolist() == list(range(CONCEPTS))
        assert names.labelled()[:CONCEPTS].all()
        # At most 5 % of the names are false on average; a plain argmax would name all 200.
        assert names.labelled()[CONCEPTS:].sum() <= 3


def test_of_noise_alone_nothing_has_a_name():
    named = []
    for seed in range(6):
        labels, pictures, texts = labelled(seed)
        kept, active = active_of(planted(labels[:, :0], 0, 100, seed))
        given = given_similarity(pictures, texts)
        named.append(int(iou_names(active, labels).labelled().sum()))
        named.append(int(wpmi_names(kept.top_rows, given, draws=999).labelled().sum()))
    # Each of the twelve runs may find any with 5 %: three or more of them, with 2 %.
    assert sum(count > 0 for count in named) <= 2


def test_p_values_of_random_exemplars_are_uniform():
    _, pictures, texts = labelled()
    rng = np.random.default_rng(5)
    rows = np.stack([rng.choice(STIMULI, 25, replace=False) for _ in range(400)])
    names = wpmi_names(rows, given_similarity(pictures, texts), draws=999)
    assert stats.kstest(names.p_value, "uniform").pvalue > 1e-3


def test_overlap_is_that_of_sets_and_its_p_value_that_of_fisher():
    labels, _, _ = labelled(3)
    _, active = active_of(planted(labels, 1.0, 5))
    names = iou_names(active, labels)
    for unit, rows in enumerate(active.tolist()):
        fires = {row for row in rows if row >= 0}
        for concept in range(CONCEPTS):
            has = set(np.flatnonzero(labels[:, concept]).tolist())
            overlap = len(fires & has) / len(fires | has)
            assert names.scores[unit, concept] == pytest.approx(overlap)
        has = set(np.flatnonzero(labels[:, names.concept[unit]]).tolist())
        both = len(fires & has)
        table = [
            [both, len(fires) - both],
            [len(has) - both, STIMULI - len(fires | has)],
        ]
        p_value = min(1, CONCEPTS * stats.fisher_exact(table, "greater").pvalue)
        assert names.p_value[unit] == pytest.approx(p_value, rel=1e-6)


def test_soft_wpmi_is_its_definition():
    _, pictures, texts = labelled()
    given = given_similarity(pictures, texts)
    np.testing.assert_allclose(given.sum(axis=1), 1)
    rows = np.random.default_rng(0).integers(0, STIMULI, (3, 4))
    member = [0.998, 0.998 - 0.028 / 3, 0.998 - 0.056 / 3, 0.97]
    wanted = np.array(
        [
            [
                sum(np.log(1 + s * (given[x, c] - 1)) for s, x in zip(member, unit, strict=True))
                for c in range(CONCEPTS)
            ]
            for unit in rows
        ]
    )
    found = wpmi_names(rows, given, draws=4000, weight=0.0)
    plain = wpmi_names(rows, given, draws=4000)
    # Scores are over the spread of draws; the ratio of differences is free of it.
    ratio = (found.scores[0] - found.scores[1]) / (found.scores[0] - found.scores[2])
    np.testing.assert_allclose(ratio, (wanted[0] - wanted[1]) / (wanted[0] - wanted[2]), rtol=1e-6)
    shift = found.scores - plain.scores
    np.testing.assert_allclose(shift, np.broadcast_to(shift[0], shift.shape), rtol=1e-9)


def test_active_are_half_a_percent_or_ten_and_none_by_ties():
    rng = np.random.default_rng(0)
    many = rng.normal(size=(4000, 3)).astype(np.float32)
    many[:, 1] = 0
    many[:7, 2] = 9
    many[7:, 2] = 0
    _, active = active_of(many)
    assert active.shape == (3, 20)
    assert set(active[0].tolist()) == set(np.argsort(-many[:, 0])[:20].tolist())
    assert (active[1] == -1).all()
    assert sorted(active[2].tolist()) == [-1] * 13 + list(range(7))
    assert active_of(many[:300])[1].shape == (3, 10)
    names = iou_names(active, rng.random((4000, 2)) < 0.1)
    assert names.p_value[1] == 1  # nothing is active: nothing to name


def test_no_exemplar_is_an_error():
    with pytest.raises(UserError, match="no exemplar"):
        wpmi_names(np.full((2, 3), -1), np.full((5, 2), 0.5))
