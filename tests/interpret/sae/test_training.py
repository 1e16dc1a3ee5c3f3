import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clipjax.config import UsageError, UserError
from clipjax.interpret.sae.evaluation import evaluate_sae
from clipjax.interpret.sae.features import FeaturePairs
from clipjax.interpret.sae.files import ARRAYS, RECORD, TRAINING, load_sae
from clipjax.interpret.sae.model import centres, init_params
from clipjax.interpret.sae.options import SaeOptions
from clipjax.interpret.sae.step import sae_loss
from clipjax.interpret.sae.training import SaeTraining, _seen, train_sae


def test_a_planted_dictionary_is_recovered(make_sae, pairs):
    features, atoms = pairs
    sae = make_sae()
    nearest = np.abs(sae.decoder @ atoms[:24].T).max(axis=0)
    # Random unit vectors: the best of 40 in 24 dimensions is at 0.5.
    assert nearest.mean() > 0.9
    np.testing.assert_allclose(np.linalg.norm(sae.decoder, axis=1), 1, rtol=1e-5)
    found = evaluate_sae(sae, features).use
    assert min(found.r2) > 0.8
    # A row with fewer than three latents above 0 keeps those.
    assert found.l0 == pytest.approx((3, 3), rel=0.01)


def test_groups_and_centring_make_latents_that_both_use(make_sae, pairs):
    features, _ = pairs
    group = evaluate_sae(make_sae(), features)
    plain = evaluate_sae(make_sae(objective="topk", centre=False), features)
    # Eight atoms belong to one modality, and need not be found.
    assert group.use.bimodal_share >= 0.75
    assert plain.use.bimodal_share <= group.use.bimodal_share - 0.1
    assert group.use.jaccard > plain.use.jaccard + 0.05
    assert group.gap == pytest.approx(plain.gap, rel=1e-5)
    assert group.gap_encoded < 1e-6 < 0.1 < plain.gap_encoded
    assert plain.gap_without_unimodal < 0.5 * plain.gap_encoded


def test_pairs_keep_the_same_latents_when_they_come_together(make_sae, pairs):
    image, text = pairs[0].take(np.arange(50))
    together = make_sae().encode_pairs(image, text)
    union = (together[0] > 0) | (together[1] > 0)
    assert (union.sum(axis=1) == 3).all()


def test_the_threshold_gives_the_sparsity_of_training(make_sae, pairs):
    sae = make_sae(objective="batchtopk")
    found = evaluate_sae(sae, pairs[0]).use
    assert np.mean(found.l0) == pytest.approx(3, rel=1e-3)
    image, text = pairs[0].take(np.arange(len(pairs[0])))
    before = [
        (sae.inputs(x, m) - sae.weights["bias"]) @ sae.weights["encoder"]
        + sae.weights["encoder_bias"]
        for x, m in ((image, "image"), (text, "text"))
    ]
    ordered = np.sort(np.concatenate(before).ravel())[::-1]
    assert sae.threshold == pytest.approx(ordered[2 * 3 * len(image) - 1], rel=1e-5)


def test_more_latents_of_a_matryoshka_reconstruct_better(make_sae, pairs):
    sae = make_sae(objective="matryoshka", k=4)
    image, _ = pairs[0].take(np.arange(len(pairs[0])))
    errors = []
    for k in sae.options.levels:
        codes = sae.encode(image, "image", k=k)
        assert ((codes > 0).sum(axis=1) <= k).all()
        errors.append(np.square(sae.decode(codes, "image") - image).sum())
    assert sae.options.levels == (1, 2, 4, 8)
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 2 * errors[2] > 2 * errors[3]


def test_the_gradient_equals_a_reference_in_float64():
    options = SaeOptions(objective="topk", latents=20, k=3, steps=1, aux=0.0)
    rng = np.random.default_rng(5)
    sides = [rng.normal(size=(6, 8)).astype(np.float32) for _ in range(2)]
    params = {name: np.asarray(value) for name, value in init_params(options, 8).items()}
    params["bias"] = rng.normal(size=8).astype(np.float32) / 10
    batch = {
        "image": jnp.asarray(sides[0]),
        "text": jnp.asarray(sides[1]),
        "seen": jnp.ones((6, 2), bool),
    }
    energies, dead = (2.0, 3.0), jnp.zeros(20, bool)

    def loss(params):
        return sae_loss(options, energies, params, batch, dead)[0]

    value, found = jax.value_and_grad(loss)({n: jnp.asarray(p) for n, p in params.items()})
    wide = {name: array.astype(np.float64) for name, array in params.items()}
    expected = {name: np.zeros(array.shape) for name, array in wide.items()}
    total = 0.0
    for x, energy in zip(sides, energies, strict=True):
        x = x.astype(np.float64)
        before = (x - wide["bias"]) @ wide["encoder"] + wide["encoder_bias"]
        kept = (before > 0) & (np.argsort(np.argsort(-before, axis=1), axis=1) < 3)
        z = before * kept
        left = x - z @ wide["decoder"] - wide["bias"]
        weight = 1 / (2 * len(x) * energy)
        total += weight * np.square(left).sum()
        to_z = -2 * weight * left @ wide["decoder"].T * kept
        expected["decoder"] -= 2 * weight * z.T @ left
        expected["encoder"] += (x - wide["bias"]).T @ to_z
        expected["encoder_bias"] += to_z.sum(axis=0)
        expected["bias"] -= 2 * weight * left.sum(axis=0) + (to_z @ wide["encoder"].T).sum(axis=0)
    assert float(value) == pytest.approx(total, rel=1e-5)
    for name in expected:
        # float32 products of 20 terms: some 1e-6 of the largest.
        scale = np.abs(expected[name]).max()
        np.testing.assert_allclose(found[name], expected[name], atol=5e-6 * scale, err_msg=name)


def test_dead_latents_come_back(pairs, one_device):
    options = SaeOptions(
        objective="topk", latents=40, k=3, steps=150, batch_size=64, dead_steps=5, aux=0.5
    )
    training = SaeTraining(pairs[0], options, one_device)
    params = dict(training.state.params)
    params["encoder_bias"] = params["encoder_bias"].at[:20].set(-0.5)
    training.restore(dataclasses.replace(training.state, params=params))
    shares = []
    for step in range(100):
        training.advance(step)
        shares.append(float(training.metrics["dead"]))
    assert max(shares) > 0.3
    assert shares[-1] < 0.5 * max(shares)


def test_eight_devices_equal_one(pairs, one_device, mesh, options):
    for objective in ("batchtopk", "group"):
        asked = dataclasses.replace(options, objective=objective, mask=0.3)
        ends = []
        for devices in (one_device, mesh):
            training = SaeTraining(pairs[0], asked, devices)
            for step in range(3):
                training.advance(step)
            ends.append((training.result(), float(training.metrics["loss"])))
        (one, loss), (eight, other) = ends
        assert other == pytest.approx(loss, rel=1e-5)
        for name, weight in one.weights.items():
            # Adam divides by the gradient's own size, so rounding moves a weight by some of the
            # learning rate, 4e-3 at the peak and a tenth of it here.
            np.testing.assert_allclose(eight.weights[name], weight, atol=2e-5, err_msg=name)


class _KilledError(Exception):
    pass


def test_a_killed_training_ends_with_the_same_weights(
    pairs, one_device, options, tmp_path, monkeypatch
):
    asked = dataclasses.replace(options, objective="batchtopk", mask=0.2, steps=30)
    whole = train_sae(pairs[0], asked, one_device)
    advance, steps = SaeTraining.advance, []

    def until(self, step):
        if step == 17 and 17 not in steps:
            steps.append(step)
            raise _KilledError
        steps.append(step)
        advance(self, step)

    monkeypatch.setattr(SaeTraining, "advance", until)
    folder = tmp_path / "sae"

    def train(seed=0):
        return train_sae(
            pairs[0],
            dataclasses.replace(asked, seed=seed),
            one_device,
            folder=folder,
            save_every=10,
            about={"model": "planted"},
        )

    with pytest.raises(_KilledError):
        train()
    with pytest.raises(UserError, match="not ended"):
        load_sae(folder)
    with pytest.raises(UserError, match="other options"):
        train(seed=1)
    gone_on = train()
    assert steps == [*range(18), *range(10, 30)]
    for name, weight in whole.weights.items():
        np.testing.assert_array_equal(gone_on.weights[name], weight, err_msg=name)
    assert gone_on.threshold == whole.threshold
    assert {path.name for path in folder.iterdir()} == {RECORD, ARRAYS}
    read = load_sae(folder)
    assert read.options == asked
    assert read.features["model"] == "planted"
    image, _ = pairs[0].take(np.arange(9))
    np.testing.assert_array_equal(read.encode(image, "image"), whole.encode(image, "image"))
    with pytest.raises(UserError, match="--force"):
        train(seed=1)
    (folder / TRAINING).write_bytes(b"cut")
    with pytest.raises(UserError, match=TRAINING):
        train()


def test_centring_takes_the_gap_away_and_a_common_mean_does_not(pairs):
    features, _ = pairs
    image, text = features.take(np.arange(len(features)))
    for centre in (True, False):
        mean_image, mean_text, scale = centres(SaeOptions(centre=centre), features.moments)
        inputs = scale * (image - mean_image), scale * (text - mean_text)
        gap = np.linalg.norm(inputs[0].mean(axis=0) - inputs[1].mean(axis=0))
        assert gap < 1e-5 if centre else gap > 0.3
        energy = np.mean([np.square(x).sum(axis=1).mean() for x in inputs])
        assert energy == pytest.approx(1, rel=1e-5)
        assert np.abs(inputs[0].mean(axis=0) + inputs[1].mean(axis=0)).max() < 1e-5


def test_masks_hide_one_modality_of_the_share_that_was_asked_for():
    seen = _seen(SaeOptions(mask=0.3, seed=4), np.arange(20_000))
    assert seen.any(axis=1).all()
    # Three standard deviations of shares of 20,000 draws are 0.01.
    assert (~seen).mean(axis=0) == pytest.approx([0.15, 0.15], abs=0.01)
    np.testing.assert_array_equal(_seen(SaeOptions(mask=0.3, seed=4), np.arange(7, 9)), seen[7:9])
    assert _seen(SaeOptions(mask=0.0), np.arange(100)).all()


def test_a_batch_that_devices_cannot_share_is_refused(pairs, mesh):
    with pytest.raises(UsageError, match="8 devices"):
        SaeTraining(pairs[0], SaeOptions(batch_size=12), mesh)


def test_pairs_that_cannot_be_used_are_left_out(pairs, tmp_path):
    image, text = (x.copy() for x in pairs[0].take(np.arange(20)))
    image[3], text[7, 0] = 0, np.nan
    features = FeaturePairs(image, text)
    assert len(features) == 18
    kept = np.delete(np.arange(20), [3, 7])
    np.testing.assert_array_equal(features.rows, kept)
    np.testing.assert_array_equal(features.take(np.array([17, 0, 0]))[0], image[[19, 0, 0]])
    moments = features.moments
    np.testing.assert_allclose(moments.text_mean, text[kept].astype(np.float64).mean(axis=0))
    spread = text[kept].astype(np.float64).var(axis=0).sum()
    assert moments.text_variance == pytest.approx(spread, rel=1e-9)
    with pytest.raises(UserError, match="row by row"):
        FeaturePairs(image, text[:-1])
    with pytest.raises(UserError, match="0 pairs"):
        FeaturePairs(0 * image, text)
    with pytest.raises(UserError, match="the same"):
        _ = FeaturePairs(np.ones_like(image), np.ones_like(text)).moments
