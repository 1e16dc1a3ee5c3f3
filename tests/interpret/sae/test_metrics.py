import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import r2_score

from clipjax.config import UserError
from clipjax.interpret.sae.evaluation import evaluate_sae
from clipjax.interpret.sae.features import FeaturePairs
from clipjax.interpret.sae.metrics import ModalityUseSums, bridge_scores
from clipjax.interpret.sae.model import Sae, centres, init_params
from clipjax.interpret.sae.options import SaeOptions


def test_hand_values():
    """Four pairs, four latents: both modalities, pictures only, texts only, dead."""
    image = np.array([[1, 2, 0, 0], [3, 0, 0, 0], [0, 0, 0, 0], [0, 2, 0, 0]], np.float32)
    text = np.array([[1, 0, 5, 0], [0, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]], np.float32)
    decoder = np.array([[1, 0], [0, 1], [0.6, 0.8], [1, 0]], np.float32)
    sums = ModalityUseSums(decoder, np.zeros(2, np.float32))
    inputs = (image @ decoder, text @ decoder + np.array([0.5, 0], np.float32))
    sums.update((image, text), inputs)
    found = sums.result()
    # Latent 0: means 1 and 0.5; squares 10/4 and 2/4.
    np.testing.assert_allclose(found.modality_score, [2 / 3, 1, 0, np.nan])
    np.testing.assert_allclose(found.energy_ratio, [5, np.inf, 0, np.nan])
    assert found.bimodal.tolist() == [True, False, False, False]
    assert found.live.tolist() == [True, True, True, False]
    assert (found.dead_share, found.bimodal_share) == (0.25, 1 / 3)
    assert found.l0 == (1.0, 0.75)
    # {0,1} and {0,2}: 1/3; {0} and {}: 0; {} and {0}: 0; {1} and {}: 0.
    assert found.jaccard == pytest.approx(1 / 12)
    assert found.bridge.tolist() == [0.25, 0, 0, 0]
    # Pair 0: (1, 2) . (1 + 3, 4) = 12; pairs 1 to 3 have one side only.
    assert found.bridge_total == pytest.approx(3)
    assert found.bridge_share == pytest.approx(1 / 12)
    assert found.r2[0] == 1
    between = inputs[0].mean(axis=0) - inputs[1].mean(axis=0)
    assert found.gap() == pytest.approx(np.linalg.norm(between))
    # Without latents 1, 2 and 3, pictures keep (1, 0) on average and texts (0.5 + 0.5, 0).
    assert found.gap(decoder) == pytest.approx(0, abs=1e-6)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(1, 3))
def test_batches_do_not_matter_and_all_equals_a_plain_reference(seed, cuts):
    rng = np.random.default_rng(seed)
    image, text = (rng.normal(size=(20, 6)).clip(0).astype(np.float32) for _ in range(2))
    decoder = rng.normal(size=(6, 4)).astype(np.float32)
    decoder /= np.linalg.norm(decoder, axis=1, keepdims=True)
    bias = rng.normal(size=4).astype(np.float32)
    inputs = tuple(10 + rng.normal(size=(20, 4)).astype(np.float32) for _ in range(2))
    sums = ModalityUseSums(decoder, bias)
    places = np.sort(rng.integers(0, 21, cuts))
    for rows in np.split(np.arange(20), places):
        sums.update((image[rows], text[rows]), tuple(x[rows] for x in inputs))
    found = sums.result()
    for m, z in enumerate((image, text)):
        expected = r2_score(inputs[m], z @ decoder + bias, multioutput="variance_weighted")
        # Spread 4 beside a mean of 10: float32 inputs, sums in float64.
        assert found.r2[m] == pytest.approx(expected, rel=1e-4, abs=1e-4)
    full = bridge_scores(image, text, decoder)
    assert found.bridge_total == pytest.approx(full.sum(), rel=1e-4, abs=1e-5)
    np.testing.assert_allclose(found.bridge, np.diag(full), rtol=1e-4, atol=1e-6)
    on_image, on_text = image > 0, text > 0
    each = [
        len({*np.flatnonzero(a)} & {*np.flatnonzero(b)})
        / max(1, len({*np.flatnonzero(a)} | {*np.flatnonzero(b)}))
        for a, b in zip(on_image, on_text, strict=True)
    ]
    assert found.jaccard == pytest.approx(np.mean(each))


def test_bridges_find_the_partners_of_a_split_dictionary():
    """Concept c is latent c of pictures and latent n + c of texts, in nearly the same direction."""
    rng = np.random.default_rng(3)
    n, pairs = 12, 400
    shown = rng.random((pairs, n)) < 0.2
    image, text = np.zeros((2, pairs, 2 * n))
    image[:, :n] = shown * rng.uniform(0.5, 1.5, shown.shape)
    text[:, n:] = shown * rng.uniform(0.5, 1.5, shown.shape)
    atoms = rng.normal(size=(n, 32))
    decoder = np.concatenate([atoms, atoms + 0.3 * rng.normal(size=atoms.shape)])
    decoder /= np.linalg.norm(decoder, axis=1, keepdims=True)
    scores = bridge_scores(image, text, decoder)
    assert (scores[:n, n:].argmax(axis=1) == np.arange(n)).all()
    sums = ModalityUseSums(decoder, np.zeros(32))
    sums.update((image, text), (image @ decoder, text @ decoder))
    assert sums.result().bridge_share == 0


def _untrained(features, **fields):
    options = SaeOptions(latents=40, k=3, **fields)
    image, text, scale = centres(options, features.moments)
    weights = {name: np.asarray(p) for name, p in init_params(options, features.dim).items()}
    return Sae(options=options, weights=weights, image_mean=image, text_mean=text, scale=scale)


def test_evaluation_is_in_the_coordinates_of_the_embeddings(pairs):
    features, _ = pairs
    image, text = features.take(np.arange(len(features)))
    sae = _untrained(features, objective="topk", centre=False)
    found = evaluate_sae(sae, features)
    given_back = sae.decode(sae.encode(image, "image"), "image")
    expected = r2_score(image, given_back, multioutput="variance_weighted")
    assert found.use.r2[0] == pytest.approx(expected, rel=1e-4)
    gap = np.linalg.norm(image.mean(axis=0) - text.mean(axis=0))
    assert found.gap == pytest.approx(gap, rel=1e-5)
    assert found.gap_encoded == pytest.approx(gap, rel=1e-5)
    removed = ~found.use.bimodal
    cleaned = [
        (x - z[:, removed] @ sae.decoder[removed] / sae.scale).mean(axis=0)
        for x, z in (
            (image, sae.encode(image, "image")),
            (text, sae.encode(text, "text")),
        )
    ]
    assert found.gap_without_unimodal == pytest.approx(
        np.linalg.norm(cleaned[0] - cleaned[1]), rel=1e-4
    )


def test_meanings_decide_the_cross_modal_score(pairs):
    features, _ = pairs
    sae = _untrained(features)
    rng = np.random.default_rng(0)
    noise = np.abs(rng.normal(size=(len(features), 12)))
    by_texts, by_noise = evaluate_sae(sae, features), evaluate_sae(sae, features, noise)
    live = by_noise.use.live
    assert np.nanmean(by_noise.cross_modal.ratio[live]) == pytest.approx(1, abs=0.02)
    assert np.nanmean(by_texts.cross_modal.ratio[live]) > 1.02
    with pytest.raises(UserError, match="one of each"):
        evaluate_sae(sae, features, noise[:-1])
    short = FeaturePairs(*(x[:, :5] for x in features.take(np.arange(9))))
    with pytest.raises(UserError, match="5 numbers"):
        evaluate_sae(sae, short)


def test_an_encoder_without_a_life_is_told(pairs):
    features, _ = pairs
    sae = _untrained(features)
    weights = {**sae.weights, "encoder_bias": np.full(40, -100, np.float32)}
    found = evaluate_sae(dataclasses.replace(sae, weights=weights), features).summary()
    assert found["dead_share"] == 1
    assert found["l0"] == {"image": 0, "text": 0}
    assert found["cross_modal_ratio"]["mean"] is None
    assert np.isnan(found["bimodal_share"])
