"""A run that goes on from the weights of another."""

import dataclasses
import json
import runpy
from pathlib import Path

import numpy as np
import pytest

from clipjax.config import (
    DualEncoderConfig,
    InitConfig,
    TokenizerConfig,
    UserError,
    from_config_dict,
)
from clipjax.core.checkpoint import CheckpointReader
from clipjax.core.mesh import make_mesh
from clipjax.data.tokenizers import AbsentTokenizer, ByteTokenizer
from clipjax.interchange.convert import convert
from clipjax.interchange.pretrained import open_pretrained
from clipjax.interchange.run_directory import write_run
from clipjax.interchange.single_tower import tower_from
from clipjax.interchange.tokenizer_files import OURS
from clipjax.interchange.transfer import rolled
from clipjax.interchange.weights_file import open_tensors
from clipjax.models.surgery import resize_context, resize_image
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
    with pytest.raises(UserError, match=r"config\.model\.image\.depth=3, there 1") as raised:
        begun(config)
    assert "config.model.pixel_mean=[0.5, 0.5, 0.5], there [0.48" in str(raised.value)
    allowed = replace_in(from_run, "model.image.patch_dropout", 0.5)
    assert begun(allowed).params.keys() == begun(from_run).params.keys()


@pytest.mark.parametrize("how", ["interpolate", "truncate"])
def test_positions_of_other_sizes_are_resampled(trained, from_run, mesh_222, replace_in, how):
    found = open_pretrained(trained[0])
    side, length = 2 * found.config.image.image_size, found.config.text.context_length // 2
    config = replace_in(from_run, "model.image.image_size", side)
    config = replace_in(config, "model.text.context_length", length)
    config = replace_in(config, "init.text_positions", how)
    state = begun(config, mesh_222)
    model, params = resize_image(found.config, found.params(), side)
    model, params = resize_context(model, params, length, how=how)
    assert state.params.keys() == params.keys()
    for name, array in params.items():
        assert state.params[name].shape == array.shape
        np.testing.assert_array_equal(state.params[name], array, err_msg=name)
    tokenizer = starting_tokenizer(config)
    assert tokenizer.context_length == len(tokenizer("a")) == length
    assert tokenizer("a")[:2].tolist() == found.tokenizer("a")[:2].tolist()


def test_longer_texts_cannot_have_truncated_positions(from_run, replace_in):
    config = replace_in(from_run, "model.text.context_length", 99)
    config = replace_in(config, "init.text_positions", "truncate")
    with pytest.raises(UserError, match=r"context_length=99: text/positions has \d+ rows"):
        begun(config)


# ---- one tower by itself


GOLDEN = Path(__file__).parents[1] / "golden"
DRAWN = runpy.run_path(str(Path(__file__).parents[1] / "interchange" / "conftest.py"))["drawn"]


@pytest.fixture
def tower_file(tmp_path, tiny_config, replace_in):
    """Writes a stored single tower as its source would; returns the config and the file."""
    from safetensors.numpy import save_file

    def write(part, name):
        with np.load(GOLDEN / f"single_{part}_towers.npz") as stored:
            model = json.loads(str(stored[f"{name}/config"]))
            shapes = json.loads(str(stored[f"{name}/shapes"]))
        model = from_config_dict(DualEncoderConfig, model)
        (tmp_path / part).mkdir()
        path = tmp_path / part / "model.safetensors"
        save_file({n: DRAWN(n, tuple(shape)) for n, shape in shapes.items()}, path)
        config = replace_in(tiny_config, "model", model)
        return replace_in(config, f"init.{part}_from", str(path.parent)), path

    return write


@pytest.mark.parametrize(("part", "name"), [("image", "timm_cls"), ("text", "bert_mean")])
def test_one_tower_begins_at_its_weights_and_the_other_at_random(
    tower_file, mesh_222, part, name, replace_in
):
    config, path = tower_file(part, name)
    state = begun(config, mesh_222)
    fresh = begun(replace_in(config, f"init.{part}_from", ""), mesh_222)
    tower = tower_from(open_tensors(path), config.model, part)
    assert tower
    for key, array in state.params.items():
        expected = tower.get(key, fresh.params[key])
        np.testing.assert_array_equal(array, expected, err_msg=key)
        assert array.sharding == fresh.params[key].sharding
    assert any((tower[key] != fresh.params[key]).any() for key in tower)


def test_a_tower_takes_its_place_in_a_whole_model(tower_file, replace_in):
    config, path = tower_file("image", "timm_cls")
    state = begun(replace_in(config, "init.image_from", ""))
    absent = AbsentTokenizer(context_length=16, vocab_size=300, reason="none.")
    write_run(path.parents[1] / "run", config.model, state.params, absent, {})
    found = begun(replace_in(config, "init.from_", str(path.parents[1] / "run"))).params
    tower = tower_from(open_tensors(path), config.model, "image")
    for key, array in found.items():
        np.testing.assert_array_equal(array, tower.get(key, state.params[key]), err_msg=key)


def test_what_stands_beside_a_tower_must_be_so_in_the_config(tower_file):
    config, path = tower_file("text", "bert_mean")
    heads = config.model.text.num_heads
    beside = path.with_name("config.json")
    beside.write_text(json.dumps({"num_attention_heads": heads, "hidden_act": "gelu"}))
    begun(config)
    beside.write_text(json.dumps({"num_attention_heads": heads + 1}))
    with pytest.raises(UserError, match=rf"is {heads + 1}, and config.model.text.num_heads is"):
        begun(config)
    beside.write_text(json.dumps({"hidden_act": "gelu_new"}))
    with pytest.raises(UserError, match=r"hidden_act is 'gelu_new', and config\.model\.text\.a"):
        begun(config)


def test_other_pixels_of_a_tower_are_refused(tower_file):
    config, path = tower_file("image", "timm_cls")
    told = {"pretrained_cfg": {"mean": [0.1, 0.2, 0.3]}}
    path.with_name("config.json").write_text(json.dumps(told))
    with pytest.raises(UserError, match=r"mean is \[0.1, 0.2, 0.3\], and config.model.pixel_mean"):
        begun(config)


def test_a_folder_with_several_towers_or_a_pickle_is_refused(tower_file, replace_in):
    config, path = tower_file("image", "timm_cls")
    path.with_name("other.npz").write_bytes(b"")
    with pytest.raises(UserError, match=r"found model.safetensors, other.npz. Give the file"):
        begun(config)
    assert begun(replace_in(config, "init.image_from", str(path)))
    path.with_name("other.npz").unlink()
    path.rename(path.with_name("pytorch_model.bin"))
    with pytest.raises(UserError, match="is a pickle, which runs code"):
        begun(config)


def test_the_vocabulary_of_a_text_tower_comes_with_it(tower_file, replace_in):
    config, path = tower_file("text", "bert_mean")
    config = replace_in(config, "tokenizer.kind", "bpe")
    with pytest.raises(UserError, match=r"init.text_from=.*came without its tokenizer"):
        starting_tokenizer(config)
    text = config.model.text
    tokenizer = ByteTokenizer(context_length=text.context_length, lowercase=True)
    (path.parent / OURS).write_text(json.dumps(tokenizer.to_json()))
    assert starting_tokenizer(config).digest() == tokenizer.digest()


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
