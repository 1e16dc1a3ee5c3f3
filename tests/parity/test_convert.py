"""Folders of open_clip itself, read here, and folders written here, read by open_clip."""

import json
import shlex
import subprocess
import sys

import numpy as np
import pytest

from clipjax.cli.reference_outputs import installed_outputs
from clipjax.config import UserError
from clipjax.interchange.convert import convert
from clipjax.interchange.pretrained import open_pretrained
from clipjax.interchange.weights_file import open_tensors, pickle_refusal

pytestmark = pytest.mark.parity

CONFIG = {
    "embed_dim": 24,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 16, "layers": 2, "width": 64, "patch_size": 8},
    "text_cfg": {"context_length": 10, "vocab_size": 64, "width": 64, "heads": 2, "layers": 2},
}
PREPARE = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4], "interpolation": "bicubic"}


@pytest.fixture
def folder(tmp_path, torch, open_clip, towers):
    from safetensors.torch import save_file

    arguments = {
        name: dict(value) if isinstance(value, dict) else value for name, value in CONFIG.items()
    }
    model = towers.fill(open_clip.CLIP(**arguments)).float()
    path = tmp_path / "source"
    path.mkdir()
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(state, path / "open_clip_model.safetensors", {"format": "pt"})
    config = {"model_cfg": CONFIG, "preprocess_cfg": {**PREPARE, "resize_mode": "shortest"}}
    (path / "open_clip_config.json").write_text(json.dumps(config))
    return path


def test_open_clip_makes_the_same_of_what_is_written(folder, tmp_path):
    found = open_pretrained(folder)
    convert(found, tmp_path / "ours", "clipjax", rival=installed_outputs)
    made = convert(
        open_pretrained(tmp_path / "ours"), tmp_path / "back", "open_clip", rival=installed_outputs
    )
    for name in ("image_embeds", "text_embeds", "logits"):
        assert made["differences"]["result in open_clip"][name]["max"] < 2e-6
    one, two = (
        open_tensors(path / "open_clip_model.safetensors") for path in (folder, tmp_path / "back")
    )
    for name in two.shapes():
        np.testing.assert_array_equal(one.read(name), two.read(name))


def test_weights_under_another_gelu_are_not_converted(folder, tmp_path):
    """Here both sides read the same wrong config: only the certificate of before can tell."""
    convert(open_pretrained(folder), tmp_path / "good", "open_clip")
    path = tmp_path / "good" / "open_clip_config.json"
    path.write_text(path.read_text().replace('"quick_gelu": true', '"quick_gelu": false'))
    with pytest.raises(UserError, match=r"image\.activation is 'gelu', certified 'quick_gelu'"):
        open_pretrained(tmp_path / "good")


def test_the_command_that_a_pickle_is_answered_with_works(tmp_path, torch):
    state = {"a": torch.arange(3.0), "b": torch.arange(4.0).reshape(2, 2).t()}
    for name, content in (("model.bin", state), ("epoch.pt", {"state_dict": state, "epoch": 3})):
        torch.save(content, tmp_path / name)
        with pytest.raises(UserError, match="is a pickle"):
            open_tensors(tmp_path / name)
        command = shlex.split(pickle_refusal(name).partition("into safetensors: ")[2])
        subprocess.run([sys.executable, *command[1:]], cwd=tmp_path, check=True)
        found = open_tensors((tmp_path / name).with_suffix(".safetensors"))
        np.testing.assert_array_equal(found.read("a"), [0, 1, 2])
        np.testing.assert_array_equal(found.read("b"), [[0, 2], [1, 3]])
