"""A run that goes on from the weights of another."""

import dataclasses

import numpy as np
import pytest

from clipjax.config import InitConfig, TokenizerConfig, UserError
from clipjax.core.checkpoint import CheckpointReader
from clipjax.core.mesh import make_mesh
from clipjax.data.tokenizers import AbsentTokenizer
from clipjax.interchange.convert import convert
from clipjax.interchange.pretrained import open_pretrained
from clipjax.interchange.run_directory import write_run
from clipjax.interchange.transfer import rolled
from clipjax.optim import make_optimizer
from clipjax.train.setup import create_or_restore, open_data, open_source
from clipjax.train.starting_point import starting_tokenizer


def begun(config, mesh=None):
    optimizer = make_optimizer(config.optim, config.num_steps)
    mesh = mesh or make_mesh(config.mesh)
    return create_or_restore(config, optimizer, mesh, CheckpointReader("nowhere"), 0)


@pytest.fixture
def from_run(trained, tiny_config):
    return dataclasses.replace(tiny_config, init=InitConfig(from_=str(trained[0])))


@pytest.mark.parametrize("scanned", [False, True])
def test_parameters_are_those_of_the_weights_and_moments_are_new(
    trained, from_run, mesh_222, scanned
):
    model = rolled(from_run.model) if scanned else from_run.model
    state = begun(dataclasses.replace(from_run, model=model), mesh_222)
    expected = open_pretrained(trained[0]).params(model)
    assert state.params.keys() == state.ema.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(state.params[name], array)
        np.testing.assert_array_equal(state.ema[name], array)
    assert int(state.step) == 0
    fresh = begun(dataclasses.replace(from_run, model=model, init=InitConfig()), mesh_222)
    for one, two in zip(_leaves(state.opt_state), _leaves(fresh.opt_state), strict=True):
        np.testing.assert_array_equal(one, two)
        assert one.sharding == two.sharding
    assert any((state.params[name] != fresh.params[name]).any() for name in expected)


def _leaves(tree):
    import jax

    return jax.tree.leaves(tree)


def test_the_state_may_be_donated(from_run, make_trainer):
    trainer = make_trainer(from_run)
    state = begun(from_run, make_mesh(from_run.mesh, num_devices=1))
    before = {name: np.array(array) for name, array in state.params.items()}
    state, metrics = trainer.step(state, trainer.batch(0))
    assert np.isfinite(float(metrics["train/loss"]))
    found = open_pretrained(from_run.init.from_).params()
    for name, array in before.items():
        np.testing.assert_array_equal(found[name], array)


def test_another_model_is_refused_by_its_fields(from_run, replace_in):
    config = replace_in(from_run, "model.image.depth", 3)
    config = replace_in(config, "model.pixel_mean", (0.5, 0.5, 0.5))
    with pytest.raises(UserError, match=r"config\.model\.image\.depth=3, there 2") as raised:
        begun(config)
    assert "config.model.pixel_mean=[0.5, 0.5, 0.5], there [0.48" in str(raised.value)
    allowed = replace_in(from_run, "model.image.patch_dropout", 0.5)
    assert begun(allowed).params.keys() == begun(from_run).params.keys()


def test_a_preset_holds_no_weights(tiny_config):
    config = dataclasses.replace(tiny_config, init=InitConfig(from_="ViT-B-32"))
    with pytest.raises(UserError, match="a preset has no weights to begin with"):
        begun(config)


def test_the_tokenizer_comes_with_the_weights(from_run, trained, tiny_config):
    source = open_source(from_run)
    found = open_data(from_run, source, None).tokenizer
    assert found.digest() == open_pretrained(trained[0]).tokenizer.digest()
    assert starting_tokenizer(tiny_config) is None


def test_without_its_tokenizer_a_new_one_is_not_trained(trained, tmp_path, tiny_config):
    found = open_pretrained(trained[0])
    absent = AbsentTokenizer(context_length=16, vocab_size=300, reason="it was lost.")
    write_run(tmp_path / "run", found.config, found.params(), absent, {})
    config = dataclasses.replace(tiny_config, init=InitConfig(from_=str(tmp_path / "run")))
    with pytest.raises(UserError, match=r"it was lost\..*kind='bpe' trains a new one"):
        starting_tokenizer(config)
    config = dataclasses.replace(config, tokenizer=TokenizerConfig(kind="clip"))
    assert starting_tokenizer(config) is None


@pytest.mark.slow
def test_a_run_begins_at_the_weights_and_resumes_without_them(
    trained, config_file, clipjax_command, tmp_path
):
    convert(open_pretrained(trained[0]), tmp_path / "start", "clipjax")
    command = (
        "train", "--config", config_file, "--workdir", tmp_path / "run",
        f"--config.init.from={tmp_path / 'start'}", "--config.num_steps=4",
    )  # fmt: skip
    done = clipjax_command(*command, devices=8)
    assert done.returncode == 0, done.stderr
    assert f"arrays read from {tmp_path / 'start'}" in done.stderr
    (tmp_path / "start").rename(tmp_path / "gone")
    done = clipjax_command(*command, "--config.num_steps=8", devices=8)
    assert done.returncode == 0, done.stderr
    assert "resumed at step 4" in done.stderr
    done = clipjax_command(*command, "--workdir", tmp_path / "other", devices=8)
    assert done.returncode == 1
    assert "no such file or folder" in done.stderr
