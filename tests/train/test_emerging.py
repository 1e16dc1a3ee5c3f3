"""Looks at units while a run trains: they change nothing, and go on where the run does."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

from clipjax.config import HeadConfig, NeuronsConfig, UserError
from clipjax.core.distributed import Cluster, joined
from clipjax.core.mesh import make_mesh
from clipjax.data.tokenizers.byte import ByteTokenizer
from clipjax.interchange.pretrained import open_pretrained
from clipjax.interpret.emergence import Emergence, open_for_run, picture_and_text
from clipjax.interpret.emergence_scores import unit_counts
from clipjax.interpret.facet_samples import facet_embeds
from clipjax.models import init_params, tapped, with_params
from clipjax.train.emerging import emergence_actions
from clipjax.train.run import run
from clipjax.train.state import init_state, optimizer_of

NEURONS = NeuronsConfig(every_steps=6, batch_size=64, units=("image/*/mlp_act", "shared/embed"))
NAMES = {
    "multimodal_units",
    "replicated_pairs",
    "strict_units",
    "cross_modal_ratio",
    "cross_modal_ratio_rotated",
    "bimodal_share",
    "live_axes",
    "modality_gap",
    "reading_accuracy",
}


@pytest.fixture(scope="module")
def looking(tiny_config):
    """`tiny_config` with a sparse head, whose units are looked at at 0, 6 and 12."""
    head = HeadConfig(kind="sparse_relu")
    model = dataclasses.replace(tiny_config.model, head=head)
    data = dataclasses.replace(tiny_config.data)
    checkpoint = dataclasses.replace(tiny_config.checkpoint, every_steps=4, keep=3)
    return dataclasses.replace(
        tiny_config, model=model, data=data, checkpoint=checkpoint, neurons=NEURONS
    )


@pytest.fixture(scope="module")
def looked(looking, tmp_path_factory):
    """(workdir, figures) of `looking`."""
    workdir = tmp_path_factory.mktemp("looked")
    with joined(Cluster()) as lifeline:
        return workdir, run(looking, workdir, lifeline)


def curves_of(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return {
        line["step"]: {n.removeprefix("neurons/"): v for n, v in line.items() if "neurons/" in n}
        for line in lines
        if any("neurons/" in name for name in line)
    }


def saved(workdir, step):
    """The parameters of the newest checkpoint, which is that of a step."""
    assert (workdir / "checkpoints" / f"{step:08d}").is_dir()
    found = open_pretrained(workdir)
    return {name: np.asarray(array) for name, array in found.params().items()}


def test_curves_begin_at_the_untrained_model_and_are_in_the_log(looked):
    workdir, figures = looked
    curves = curves_of(workdir)
    assert list(curves) == [0, 6, 12]
    assert all(set(scores) == NAMES for scores in curves.values())
    for name, value in curves[12].items():
        assert figures["metrics"][f"neurons/{name}"] == value
    assert curves[0]["modality_gap"] != curves[12]["modality_gap"]


def test_a_run_that_looks_is_the_run_that_does_not(looked, looking, run_here, tmp_path):
    blind = dataclasses.replace(looking, neurons=NeuronsConfig())
    run_here(blind, tmp_path / "blind")
    expected, found = saved(tmp_path / "blind", 12), saved(looked[0], 12)
    assert expected.keys() == found.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def test_a_resumed_run_draws_the_same_curves(looked, looking, run_here, tmp_path):
    again = tmp_path / "again"
    shutil.copytree(looked[0], again)
    for step in (8, 12):
        shutil.rmtree(again / "checkpoints" / f"{step:08d}")
    assert run_here(looking, again)["resumed_from"] == 4
    assert curves_of(again) == curves_of(looked[0])


def test_what_cannot_be_looked_at_ends_a_run_before_it_trains(looking, tmp_path):
    for fields, said in (
        ({"stimuli": "emoji-wrld"}, "emoji-wrld"),
        ({"units": ("image/blocks/7/mlp_act",)}, r"Did you mean 'image/blocks/0/mlp_act'"),
    ):
        config = dataclasses.replace(looking, neurons=dataclasses.replace(NEURONS, **fields))
        with pytest.raises(UserError, match=said), joined(Cluster()) as lifeline:
            run(config, tmp_path / "run", lifeline)
        assert not (tmp_path / "run").exists()
    for fields in ({"every_steps": -1}, {"units": ()}, {"batch_size": 0}):
        with pytest.raises(ValueError, match=next(iter(fields))):
            NeuronsConfig(**fields)


def test_a_look_equals_taps_by_hand_on_any_mesh(looking, mesh_222):
    """Activations of one facet, and counts, from the model alone, on one device and on eight."""
    config = looking.model
    text = dataclasses.replace(config.text, vocab_size=258)
    config = dataclasses.replace(config, text=text)
    tokenizer = ByteTokenizer(context_length=16, lowercase=True)
    stimuli = open_for_run(NEURONS, config, ".")
    params = init_params(config, 0)
    looks = [
        Emergence(config, tokenizer, mesh, stimuli, NEURONS)
        for mesh in (make_mesh(looking.mesh, num_devices=1), mesh_222)
    ]
    one, eight = (look.run(params) for look in looks)
    assert one.keys() == eight.keys()
    for name, value in one.items():
        np.testing.assert_allclose(eight[name], value, rtol=1e-4, atol=1e-4, err_msg=name)
    path = "image/blocks/0/mlp_act"

    @jax.jit
    def encode(params, pixels):
        return tapped(with_params(config, params).encode_image, read={path: "max"})(pixels)[1]

    values = {}
    for name in ("photo", "edges", "word"):
        facet = stimuli.facets[name]
        pixels = np.zeros((facet.rows.samples, 16, 16, 3), np.uint8)
        for sample, out in enumerate(pixels):
            facet.fill(sample, out)
        found = np.asarray(encode(params, pixels)[path], np.float64)
        values[name] = np.stack(
            [found[facet.owner == row].mean(axis=0) for row in range(len(facet.rows.stimuli))]
        )
        seen = looks[1]._facet(params, facet)[path]
        np.testing.assert_allclose(seen, values[name], atol=1e-5)
    rows = [stimuli.facets[name].rows for name in values]
    only = dataclasses.replace(NEURONS, units=(path,))
    counts = unit_counts(rows, list(values.values()))
    look = Emergence(config, tokenizer, mesh_222, stimuli, only).run(params)
    for field in dataclasses.fields(counts):
        assert look[f"neurons/{field.name}"] == getattr(counts, field.name)


def test_the_pictures_and_texts_that_are_compared_share_stimuli(looking):
    rows = {n: f.rows for n, f in open_for_run(NEURONS, looking.model, ".").facets.items()}
    assert picture_and_text(rows) == ("photo", "caption")
    del rows["photo"]
    assert picture_and_text(rows) == ("edges", "caption")
    del rows["caption"]
    assert picture_and_text(rows) is None


def test_an_activation_that_is_no_number_is_named_and_ends_no_run(looking, capsys):
    config = dataclasses.replace(
        looking,
        model=dataclasses.replace(
            looking.model, text=dataclasses.replace(looking.model.text, vocab_size=258)
        ),
    )
    stimuli = open_for_run(NEURONS, config.model, ".")
    state = init_state(config, optimizer_of(config))
    name = next(n for n in state.params if n.startswith("image/") and n.endswith("fc1/kernel"))
    spoilt = {**state.ema, name: state.params[name].at[..., 3].set(np.nan)}
    state = dataclasses.replace(state, ema=spoilt)
    tokenizer, written = ByteTokenizer(context_length=16, lowercase=True), []
    [(every, look)] = emergence_actions(
        config,
        tokenizer,
        make_mesh(config.mesh, num_devices=1),
        stimuli,
        state,
        lambda step, metrics: written.append(metrics),
    )
    look(6, state)
    assert every == 6
    assert not written
    told = capsys.readouterr().err
    assert "warning: neurons at step 6: image/blocks/0/mlp_act:3: its activation" in told
    assert "of facet photo is" in told


def test_embeddings_of_a_facet_are_means_over_views(looked):
    from clipjax.inference.load import load

    model = load(looked[0])
    facet = open_for_run(NEURONS, model.config, ".").facets["caption"]
    views = np.flatnonzero(facet.owner == 5)
    texts = [facet.text(int(sample)) for sample in views]
    assert len(texts) > 1
    expected = model.encode_text(texts).mean(axis=0)
    np.testing.assert_allclose(facet_embeds(model, facet)[5], expected, atol=1e-6)
