"""Counts of finds and scores of a space, against planted truths and plain loops."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipjax.interpret.controls import random_rotation
from clipjax.interpret.emergence_scores import (
    both_signs,
    cross_modal_ratio,
    curves,
    reading_accuracy,
    space_scores,
    unit_counts,
)
from clipjax.interpret.facets import FacetRows

CONCEPTS, STIMULI = 6, 120


def rows(name="photo", tower="image", *, labels=None, confounds=None, control=False, first=0):
    """Stimulus i shows concept i modulo CONCEPTS."""
    if labels is None:
        labels = np.arange(STIMULI)[:, None] % CONCEPTS == np.arange(CONCEPTS)
    count = len(labels)
    confounds = np.zeros((count, 0)) if confounds is None else confounds[:, None]
    return FacetRows(
        name=name,
        tower=tower,
        is_control=control,
        stimuli=tuple(f"s{i + first}" for i in range(count)),
        samples=count,
        texts=("",) * count,
        labels=labels,
        confounds=confounds,
        confound_names=("luminance",) * confounds.shape[1],
    )


def planted(rng, labels, of, effect=4.0):
    """Noise, and in column u the concept of[u] where that is not None."""
    values = rng.normal(size=(len(labels), len(of)))
    for unit, concept in enumerate(of):
        if concept is not None:
            values[:, unit] += effect * labels[:, concept]
    return values


def test_planted_units_are_counted_and_noise_is_not():
    rng = np.random.default_rng(0)
    facets = [rows("photo"), rows("edges")]
    truth = [0, 1, 2, None, None, None, None, None]
    counts = unit_counts(facets, [planted(rng, f.labels, truth) for f in facets])
    assert (counts.multimodal_units, counts.replicated_pairs, counts.strict_units) == (3, 3, 3)
    other = [3, 4, 5, None, None, None, None, None]  # another concept in the other facet
    apart = [planted(rng, f.labels, t) for f, t in zip(facets, (truth, other), strict=True)]
    assert unit_counts(facets, apart) == unit_counts(facets, [0 * x for x in apart])
    assert unit_counts(facets, apart).strict_units == 0


def test_noise_is_hardly_ever_found():
    rng = np.random.default_rng(1)
    facets = [rows("photo"), rows("edges"), rows("caption")]
    found = [
        unit_counts(facets, [rng.normal(size=(STIMULI, 100)) for _ in facets]) for _ in range(5)
    ]
    assert sum(f.multimodal_units + f.replicated_pairs + f.strict_units for f in found) == 0


def test_what_a_confound_explains_is_not_found():
    """The unit follows luminance, and so does the concept."""
    rng = np.random.default_rng(2)
    luminance = rng.permutation(STIMULI).astype(float)
    labels = (luminance >= STIMULI * 3 // 4)[:, None]
    values = [luminance[:, None] + rng.normal(size=(STIMULI, 1)) for _ in range(2)]
    blind = [rows(n, labels=labels) for n in ("photo", "edges")]
    seeing = [rows(n, labels=labels, confounds=luminance) for n in ("photo", "edges")]
    assert unit_counts(blind, values).multimodal_units == 1
    assert unit_counts(seeing, values).multimodal_units == 0


def test_a_facet_of_single_words_makes_no_test_but_holds_the_floor():
    rng = np.random.default_rng(3)
    facets = [rows("photo"), rows("edges")]
    words = rows("word", labels=np.eye(CONCEPTS, dtype=bool))
    truth = [0, 1, None, None]
    values = [planted(rng, f.labels, truth) for f in facets]
    read = np.zeros((CONCEPTS, 4))
    read[0, 0], read[1, 1] = 1, -1  # unit 0 reads its word, unit 1 every word but its own
    counts = unit_counts([*facets, words], [*values, read])
    assert (counts.multimodal_units, counts.replicated_pairs, counts.strict_units) == (1, 1, 1)
    alone = unit_counts([facets[0], words], [values[0], read])
    assert (alone.multimodal_units, alone.replicated_pairs, alone.strict_units) == (0, 0, 1)


@given(seed=st.integers(0, 1000))
@settings(max_examples=5, deadline=None)
def test_counts_know_ranks_only(seed):
    rng = np.random.default_rng(seed)
    facets = [rows("photo"), rows("edges")]
    values = [planted(rng, f.labels, [0, 1, None], effect=1.5) for f in facets]
    order = rng.permutation(3)
    moved = [np.exp(3 * x)[:, order] for x in values]
    assert unit_counts(facets, moved) == unit_counts(facets, values)


def test_controls_and_signs():
    rng = np.random.default_rng(4)
    facets = {"photo": rows("photo"), "edges": rows("edges"), "scrambled": rows(control=True)}
    values = {n: -planted(rng, f.labels, [0, None]) for n, f in facets.items()}
    values["scrambled"] *= np.nan  # it is not looked at
    for signed, expected in ((True, 1), (False, 0)):
        found = curves(facets, {"shared/embed": values}, {"shared/embed": signed})
        assert found["multimodal_units"] == expected
    np.testing.assert_array_equal(both_signs(np.array([[1.0, -2.0]])), [[1, -2, -1, 2]])


def loop_ratio(first, second):
    """Mean cosine of pairs of different stimuli, weighted by scaled activations, over all pairs."""
    (left, a), (right, b) = first, second
    meaning = [
        f.labels / np.maximum(np.linalg.norm(f.labels, axis=1, keepdims=True), 1)
        for f in (left, right)
    ]
    kept = [np.flatnonzero(f.labels.any(axis=1)) for f in (left, right)]
    a, b = ((x - x[k].min(0)) / np.ptp(x[k], axis=0) for x, k in zip((a, b), kept, strict=True))
    out = []
    for unit in range(a.shape[1]):
        above = below = total = count = 0.0
        for i in kept[0]:
            for j in kept[1]:
                if left.stimuli[i] == right.stimuli[j]:
                    continue
                cosine, weight = meaning[0][i] @ meaning[1][j], a[i, unit] * b[j, unit]
                above, below = above + weight * cosine, below + weight
                total, count = total + cosine, count + 1
        out.append(above / below / (total / count))
    return out


def test_the_ratio_is_that_of_the_definition_and_leaves_out_what_shows_nothing():
    rng = np.random.default_rng(5)
    labels = rng.random((20, 4)) < 0.3
    first = rows("photo", labels=labels), rng.random((20, 5))
    second = rows("caption", "text", labels=rng.random((17, 4)) < 0.3, first=8), rng.random((17, 5))
    assert not all(f.labels.any(axis=1).all() for f, _ in (first, second))
    np.testing.assert_allclose(cross_modal_ratio(first, second), loop_ratio(first, second), 1e-9)


def test_axes_of_concepts_are_told_from_their_rotation():
    facets = rows("photo"), rows("caption", "text")
    own = facets[0].labels.astype(float)
    scores = space_scores((facets[0], own), (facets[1], own))
    assert scores["cross_modal_ratio"] > 5
    assert 0.8 < scores["cross_modal_ratio_rotated"] < 1.6
    assert scores["modality_gap"] == 0
    assert scores["bimodal_share"] == 1
    assert scores["live_axes"] == CONCEPTS
    # Three axes for pictures alone, three for texts alone, one dead.
    pictures, texts = (np.zeros((STIMULI, 7)) for _ in range(2))
    pictures[:, :3], texts[:, 3:6] = own[:, :3], own[:, 3:]
    scores = space_scores((facets[0], pictures), (facets[1], texts))
    assert scores["bimodal_share"] == 0
    assert scores["live_axes"] == 6
    assert "cross_modal_ratio" not in scores  # no axis has a pair
    assert scores["modality_gap"] == pytest.approx(np.sqrt(6) / CONCEPTS)


def test_a_rotation_keeps_lengths_and_is_a_function_of_its_seed():
    turn = random_rotation(9, seed=1)
    np.testing.assert_allclose(turn @ turn.T, np.eye(9), atol=1e-12)
    np.testing.assert_array_equal(turn, random_rotation(9, seed=1))
    assert not np.allclose(turn, random_rotation(9, seed=2))


def test_reading_by_hand():
    labels = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 0]], bool)
    words, classes = rows("word", labels=labels), np.eye(3)
    values = np.array([[0.9, 0.1, 0], [0.5, 0.4, 0.7], [0, 0, 1]])  # third: shows nothing
    # Concept 2 is nobody's, so that row 1 says 0 and is wrong.
    assert reading_accuracy(words, values, classes) == 0.5
    assert reading_accuracy(rows(labels=labels & False), values, classes) is None
