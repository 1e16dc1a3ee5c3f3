"""Planted columns: what they do is read from the network itself, by its own encode functions."""

import argparse
import dataclasses
import types

import numpy as np
import pytest

from clipjax.config import ConvNeXtConfig, ResNetConfig, UserError, ViTConfig
from clipjax.data.concepts import Concept
from clipjax.inference.load import Model
from clipjax.interpret.detect_settings import DetectSettings
from clipjax.interpret.facets import FacetRows
from clipjax.interpret.planted_finds import Selftest, _judged, selftest
from clipjax.interpret.planting import Plant, _kept, _Read, _strength, last_map, plant
from clipjax.interpret.statistics.ranks import facet_scores
from clipjax.interpret.stimuli import stimuli_of


def auroc(values, labels):
    return facet_scores(values, labels, min_positives=1, exact_below=0).auroc


@pytest.fixture(scope="module")
def world(lab):
    """64 things of 8 concepts in two facets of pictures and one of captions."""
    rng = np.random.default_rng(0)
    of = np.arange(64) % 8
    labels = of[:, None] == np.arange(8)

    def facets(side):
        out = []
        for name in ("photo", "edges"):
            # Things differ more than concepts do: clusters would coincide by chance.
            patterns = rng.integers(-25, 26, (8, side, side, 3))
            noise = rng.integers(28, 229, (64, side, side, 3))
            pictures = (patterns[of] + noise).astype(np.uint8)
            out.append(lab.facet(name, pictures, labels))
        texts = [
            f"{''.join(rng.choice(list('pqrstuvw'), 6))} {'abcdefgh'[c]}{v}"
            for c in of
            for v in "xy"
        ]
        out.append(lab.facet("caption", texts, labels, owner=np.repeat(np.arange(64), 2)))
        return {facet.rows.name: facet for facet in out}

    return types.SimpleNamespace(facets=facets, labels=labels, of=of)


IMAGES = {
    "vit": ViTConfig(image_size=8, patch_size=4, width=64, depth=1, num_heads=2, mlp_dim=64),
    "vit, residual around the map": ViTConfig(
        image_size=8,
        patch_size=4,
        width=32,
        depth=1,
        num_heads=2,
        mlp_dim=128,
        pool="map",
        projection=False,
    ),
    "resnet": ResNetConfig(image_size=32, width=8, depths=(1, 1, 1, 1), num_heads=4),
    "convnext": ConvNeXtConfig(image_size=32, widths=(16, 32, 64), depths=(1, 1, 1)),
}


@pytest.mark.parametrize("kind", IMAGES)
def test_planted_units_fire_for_their_concept_in_every_facet(lab, world, one_device, kind):
    config = lab.config(IMAGES[kind], embed_dim=32)
    model = lab.model(config, one_device, batch_size=64)
    facets = world.facets(config.image.image_size)
    planted = plant(model, facets, units=4, decoys=2, seed=1)
    assert len({*planted.units.tolist(), *planted.decoys.tolist()}) == 6
    changed = Model(config, planted.params, model.tokenizer, model.encoder, 0)
    embeds = {
        "photo": changed.encode_image(facets["photo"].samples),
        "edges": changed.encode_image(facets["edges"].samples),
        "caption": changed.encode_text(facets["caption"].samples).reshape(64, 2, -1).mean(axis=1),
    }
    for name, values in embeds.items():
        scores = auroc(values, world.labels)
        assert (scores[planted.units, planted.concepts] > 0.8).all(), name
        # A decoy fires for the one concept in pictures and for the other in texts.
        own, other = (
            planted.decoy_concepts.T if name != "caption" else planted.decoy_concepts.T[::-1]
        )
        assert (scores[planted.decoys, own] > 0.8).all(), name
        # Other than by chance: 8 positives of 64 have a standard deviation of 0.11.
        assert (scores[planted.decoys, other] < 0.8).all(), name
    # Nothing else was touched but the last maps.
    touched = {n for n in model.params if (planted.params[n] != model.params[n]).any()}
    maps = {last_map(config, "image"), last_map(config, "text")}
    assert maps <= touched <= maps | {m.replace("kernel", "bias") for m in maps}
    rest = np.setdiff1d(np.arange(32), [*planted.units, *planted.decoys])
    for name in maps:
        before, after = np.asarray(model.params[name]), np.asarray(planted.params[name])
        np.testing.assert_array_equal(after[..., rest], before[..., rest])


def test_no_concept_loses_more_than_its_share_to_the_held_out(lab, world, one_device):
    model = lab.model(lab.config(IMAGES["vit"], embed_dim=32), one_device, batch_size=64)
    facets = world.facets(8)
    planted = plant(model, facets, units=2, decoys=0, seed=3, held_out=0.25)
    out = ~planted.fitted["photo"]
    assert out.sum() == 16
    assert (world.labels[out].sum(axis=0) == 2).all()
    np.testing.assert_array_equal(planted.fitted["photo"], planted.fitted["caption"])


def test_what_alone_shows_a_concept_in_a_facet_is_fitted_on(lab):
    """As a word that is written once, beside many photographs of what it means."""
    labels = np.arange(40)[:, None] % 4 == np.arange(4)
    rng = np.random.default_rng(0)
    photo = lab.facet("photo", rng.integers(0, 256, (40, 8, 8, 3)), labels)
    word = lab.facet("word", rng.integers(0, 256, (4, 8, 8, 3)), np.eye(4, dtype=bool))
    names = tuple(f"word:{i}" for i in range(4))
    word.rows = dataclasses.replace(word.rows, stimuli=names)
    for seed in range(20):
        kept = _kept({"photo": photo, "word": word}, np.random.default_rng(seed), 0.2)
        assert kept >= set(names)
        assert len(kept - set(names)) == 32


def _reads(labels, seen, brightness, rows=400):
    """What a tower sees of one facet, all of it fitted on."""
    of_facet = FacetRows(
        name="photo",
        tower="image",
        stimuli=tuple(f"s{i}" for i in range(rows)),
        samples=rows,
        texts=("",) * rows,
        labels=labels,
        confounds=brightness[:, None],
        confound_names=("luminance",),
    )
    return [_Read(seen, np.zeros((rows, 1)), of_facet, np.ones(rows, bool))]


def test_a_concept_of_which_only_the_brightness_shows_is_chosen_last():
    """Its column has the larger AUROC, and nothing of it is left among pictures as bright."""
    rng = np.random.default_rng(0)
    brightness = rng.normal(size=400)
    bright = brightness + 0.3 * rng.normal(size=400) > 1.3
    other = rng.random(400) < 0.1
    seen = np.stack([brightness, 2 * other + rng.normal(size=400)], axis=1)
    labels = np.stack([bright, other], axis=1)
    scores = auroc(seen, labels)
    assert scores[0, 0] > scores[1, 1] > 0.8
    held = _strength(_reads(labels, seen, brightness), DetectSettings())
    assert held[0] < -np.log(0.01) < -np.log(1e-6) < held[1]
    # It is the confound that does it.
    free = _strength(_reads(labels, seen, np.zeros(400)), DetectSettings())
    assert free[0] > free[1]


def test_a_facet_that_is_too_small_for_a_test_has_no_say_in_the_choice():
    rng = np.random.default_rng(1)
    labels = rng.random((400, 2)) < 0.1
    seen = np.stack([2 * labels[:, 0], labels[:, 1]], axis=1) + rng.normal(size=(400, 2))
    large = _reads(labels, seen, np.zeros(400))
    small = _reads(np.eye(2, dtype=bool), np.zeros((2, 2)), np.zeros(2), rows=2)
    alone = _strength(large, DetectSettings())
    assert alone[0] > alone[1] > -np.log(0.01)
    both = _strength([*large, *small], DetectSettings())
    np.testing.assert_allclose(both, alone, rtol=0.5)  # its rows do have a part in the fit


def test_what_cannot_be_planted_is_refused(lab, world, one_device):
    bare = ViTConfig(
        image_size=8, patch_size=4, width=32, depth=1, num_heads=2, mlp_dim=64, projection=False
    )
    with pytest.raises(UserError, match=r"the image tower \(vit\) ends in no linear map"):
        last_map(lab.config(bare, embed_dim=32), "image")
    model = lab.model(lab.config(IMAGES["vit"], embed_dim=32), one_device, batch_size=64)
    facets = world.facets(8)
    with pytest.raises(UserError, match="9 units are to be planted, but there are 8 concepts"):
        plant(model, facets, units=9, decoys=0, seed=0)
    with pytest.raises(UserError, match="more than half of the 32 coordinates"):
        plant(model, facets, units=8, decoys=9, seed=0)
    with pytest.raises(UserError, match="no facet shows the text tower anything"):
        plant(model, {"photo": facets["photo"]}, units=2, decoys=0, seed=0)


@pytest.fixture(scope="module")
def tried(lab, world, one_device):
    """The network, its stimuli, and what its self-test says."""
    model = lab.model(lab.config(IMAGES["vit"], embed_dim=32), one_device, batch_size=64)
    concepts = [Concept(f"c{i}", f"c{i}", (f"c{i}",)) for i in range(8)]
    stimuli = stimuli_of("toy", list(world.facets(8).values()), concepts)
    return model, stimuli, selftest(model, stimuli, units=6, decoys=2, seed=0)


def test_what_is_planted_is_found_and_nothing_else(tried):
    _, _, found = tried
    assert (found.planted, found.decoys, found.unplanted) == (6, 2, 0)
    assert (found.recall, found.precision, found.decoys_found) == (1.0, 1.0, 0)
    assert found.right_concept == 1.0
    assert found.passed
    assert found.facets == ("photo", "edges", "caption")
    assert min(found.auroc.values()) > 0.85
    assert set(found.auroc_held_out) == {"photo", "edges", "caption"}
    assert None not in found.auroc_held_out.values()


@pytest.mark.parametrize("how", ["finds nothing", "finds all"])
def test_a_broken_detector_fails_the_test_with_status_3(tried, monkeypatch, capsys, how):
    """The whole command, with a detector that is blind, or that calls everything a find."""
    import clipjax.cli.neurons_planted as command
    import clipjax.interpret.planted_finds as module

    model, stimuli, _ = tried
    real = module.detect

    def broken(*args, **kwargs):
        findings = real(*args, **kwargs)
        arrays = dict(findings.arrays)
        arrays["shared/embed:found"] = np.full_like(
            arrays["shared/embed:found"], how == "finds all"
        )
        return dataclasses.replace(findings, arrays=arrays)

    monkeypatch.setattr(module, "detect", broken)
    monkeypatch.setattr(module, "random_network", lambda *_, **__: model)
    monkeypatch.setattr(command, "_opened", lambda args: (model.config, model.tokenizer, stimuli))
    args = argparse.Namespace(
        model="x", config=None, overrides=[], units=6, decoys=2, seed=0, stimuli="toy"
    )
    figures = command.run(args)
    assert args.exit_status == command.EXIT_FAILED == 3
    assert not figures["passed"]
    assert "FAILED" in capsys.readouterr().out
    if how == "finds nothing":
        assert (figures["recall"], figures["found"]) == (0.0, 0)
    else:
        assert (figures["recall"], figures["found"], figures["decoys_found"]) == (1.0, 64, 4)


def test_shares_by_hand():
    """4 coordinates, both directions: planted 1 and 2; found 1+ (right), 3+ and 1- (wrong)."""
    found = np.zeros((8, 3), bool)
    found[1, [0, 2]] = found[3, 1] = found[5, 1] = True
    effect = np.where(found, 0.8, 0.5)
    effect[1, 2] = 0.9
    plant_ = Plant(
        params={},
        units=np.array([1, 2]),
        concepts=np.array([2, 0]),
        decoys=np.array([3]),
        decoy_concepts=np.array([[0, 1]]),
        fitted={"photo": np.array([True, True, False, False, True])},
    )
    rng = np.random.default_rng(0)
    labels = np.array([[1, 0, 0], [0, 1, 0], [1, 0, 1], [0, 0, 1], [0, 0, 0]], bool)
    scanned = {"photo": (rng.random((5, 4)), labels)}
    every = dataclasses.replace(plant_, fitted={"photo": np.ones(5, bool)})
    all_fitted = _judged(found, effect, np.zeros((8, 3), bool), every, scanned, 0)
    told = _judged(found, effect, np.zeros((8, 3), bool), plant_, scanned, 0)
    assert told.auroc_held_out["photo"] is not None
    assert all_fitted.auroc_held_out["photo"] is None
    assert isinstance(told, Selftest)
    assert (told.recall, told.precision, told.right_concept) == (0.5, 1 / 3, 1.0)
    assert told.missed == ("shared/embed:2+",)
    assert told.wrong == ("shared/embed:3+", "shared/embed:1-")
    assert (told.decoys_found, told.unplanted, told.passed) == (1, 0, False)
