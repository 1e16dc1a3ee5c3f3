"""From one codebase's files to another's and back, and what is not written."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

import clipjax
from clipjax.config import UserError
from clipjax.interchange.convert import convert, targets
from clipjax.interchange.pretrained import open_pretrained
from clipjax.interchange.safetensors_file import SafetensorsFile
from clipjax.interchange.same_model import model_differences, model_facts
from clipjax.interchange.transfer import rolled


@pytest.fixture(scope="module")
def source(open_clip_folder, tmp_path_factory):
    return open_clip_folder(tmp_path_factory.mktemp("s") / "source")


def left(folder):
    return sorted(path.name for path in folder.iterdir())


def test_there_and_back_every_bit_is_the_same(source, tmp_path):
    convert(open_pretrained(source), tmp_path / "ours", "clipjax")
    convert(open_pretrained(tmp_path / "ours"), tmp_path / "back", "open_clip")
    name = "open_clip_model.safetensors"
    assert (tmp_path / "back" / name).read_bytes() == (source / name).read_bytes()
    config = "open_clip_config.json"
    assert json.loads((tmp_path / "back" / config).read_text()) == json.loads(
        (source / config).read_text()
    )
    assert left(tmp_path) == ["back", "ours"]
    one, two = clipjax.load(source), clipjax.load(tmp_path / "ours")
    assert one.config == two.config
    assert one.tokenizer.digest() == two.tokenizer.digest()
    np.testing.assert_array_equal(one.encode_text("a cat"), two.encode_text("a cat"))


@pytest.mark.parametrize("to", ["clipjax", "open_clip"])
def test_a_trained_run_is_written_for_others(trained, tmp_path, to):
    found = open_pretrained(trained[0])
    convert(found, tmp_path / "copy", to)
    copied = open_pretrained(tmp_path / "copy")
    assert model_differences(model_facts(copied.config), model_facts(found.config)) == {}
    for name, array in copied.params().items():
        np.testing.assert_array_equal(array, found.params()[name])


def test_stacked_layers_are_written_one_by_one(source, tmp_path):
    import dataclasses

    found = open_pretrained(source)
    found = dataclasses.replace(found, config=rolled(found.config))
    convert(found, tmp_path / "ours", "clipjax")
    ours = open_pretrained(tmp_path / "ours")
    assert ours.config.compute.scan_layers
    convert(ours, tmp_path / "back", "open_clip")
    one = SafetensorsFile(source / "open_clip_model.safetensors")
    two = SafetensorsFile(tmp_path / "back" / "open_clip_model.safetensors")
    assert one.shapes() == two.shapes()
    for name in one.shapes():
        np.testing.assert_array_equal(one.read(name), two.read(name))


def test_what_is_there_is_not_overwritten_unless_asked(source, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine").touch()
    with pytest.raises(UserError, match="is there already"):
        convert(open_pretrained(source), tmp_path / "model", "open_clip")
    assert left(tmp_path / "model") == ["mine"]
    convert(open_pretrained(source), tmp_path / "model", "open_clip", force=True)
    assert left(tmp_path / "model") == [
        "certificate.json",
        "clipjax_tokenizer.json",
        "open_clip_config.json",
        "open_clip_model.safetensors",
    ]
    assert left(tmp_path) == ["model"]


def test_a_model_may_take_its_own_place(source, tmp_path):
    import shutil

    shutil.copytree(source, tmp_path / "model")
    before = (tmp_path / "model" / "open_clip_model.safetensors").read_bytes()
    convert(open_pretrained(tmp_path / "model"), tmp_path / "model", "open_clip", force=True)
    assert (tmp_path / "model" / "open_clip_model.safetensors").read_bytes() == before


def test_what_a_format_cannot_say_is_not_written(source, tmp_path, replace_in):
    import dataclasses

    found = open_pretrained(source)
    for field, value, why in (
        ("image.registers", 4, r"no way to say model\.image\.registers=4"),
        ("image.activation", "gelu_tanh", "one switch for quick GELU in both towers"),
    ):
        other = dataclasses.replace(
            found,
            config=replace_in(found.config, field, value),
            read=lambda config, mesh, c=found.config: _with_registers(found.read(c, mesh), config),
        )
        with pytest.raises(UserError, match=why):
            convert(other, tmp_path / "model", "open_clip")
    with pytest.raises(UserError, match=r"no format named 'open-clip'\. Did you mean 'open_clip'"):
        convert(found, tmp_path / "model", "open-clip")
    assert not list(tmp_path.iterdir())
    assert targets()[0] == "clipjax"


def _with_registers(params, config):
    import jax.numpy as jnp

    from clipjax.models import param_shapes

    shapes = param_shapes(config)
    return {name: params.get(name, jnp.zeros(shape)) for name, shape in shapes.items()}


def test_a_result_that_differs_is_not_written(source, tmp_path):
    """What another implementation makes of the inputs decides, where there is one."""
    found = open_pretrained(source)

    def rival(gap):
        def run(folder, format_name, config):
            from clipjax.interchange.certificate import outputs

            opened = open_pretrained(folder)
            made = outputs(opened.config, opened.params())
            return {**made, "text_embeds": made["text_embeds"] + gap}

        return run

    with pytest.raises(UserError, match=r"compared with source in open_clip.*differ by 0\.001"):
        convert(found, tmp_path / "model", "open_clip", rival=rival(1e-3))
    with pytest.raises(UserError, match="differ by nan"):
        convert(found, tmp_path / "model", "open_clip", rival=rival(np.nan))
    assert not list(tmp_path.iterdir())
    made = convert(found, tmp_path / "model", "open_clip", rival=rival(1e-6))
    assert set(made["differences"]) == {
        "source files, read by clipjax",
        "source in open_clip",
        "result in open_clip",
    }


def test_weights_under_another_gelu_do_not_pass_their_reference(source, tmp_path, replace_in):
    """The certificate holds what they gave, whatever a config that came later says."""
    import dataclasses

    convert(open_pretrained(source), tmp_path / "model", "open_clip")
    found = open_pretrained(tmp_path / "model")
    config = found.config
    for tower in ("image", "text"):
        config = replace_in(config, f"{tower}.activation", "gelu")
    with pytest.raises(UserError, match="reference in the source's certificate"):
        convert(dataclasses.replace(found, config=config), tmp_path / "wrong", "open_clip")
    assert left(tmp_path) == ["model"]


_KILLED = """
import os, signal, sys
from pathlib import Path
from clipjax.interchange import convert as module
from clipjax.interchange.pretrained import open_pretrained
real, count = module.written, [0]
def written(*args):
    for item in real(*args):
        count[0] += 1
        if count[0] == int(sys.argv[3]):
            os.kill(os.getpid(), signal.SIGKILL)
        yield item
module.written = written
module.convert(open_pretrained(sys.argv[1]), Path(sys.argv[2]), "open_clip", force=True)
"""


@pytest.mark.slow
def test_a_process_killed_while_it_writes_leaves_what_was_there(source, tmp_path, make_child_env):
    for number, there in ((1, False), (20, True)):
        target = tmp_path / f"model-{number}"
        if there:
            target.mkdir()
            (target / "old").touch()
        done = subprocess.run(
            [sys.executable, "-c", _KILLED, source, target, str(number)],
            env=make_child_env(1),
            cwd=os.getcwd(),
            check=False,
            timeout=200,
        )
        assert done.returncode == -9
        assert target.exists() == there
        assert not there or left(target) == ["old"]
