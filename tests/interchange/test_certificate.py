"""What a certificate says, and what it refuses."""

import json
import shutil

import numpy as np
import pytest

from clipjax.config import UserError
from clipjax.interchange.certificate import (
    CERTIFICATE,
    differences,
    fixed_inputs,
    outputs,
    reference_of,
)
from clipjax.interchange.convert import convert
from clipjax.interchange.pretrained import open_pretrained


@pytest.fixture(scope="module")
def certified(open_clip_folder, tmp_path_factory):
    """A folder that convert wrote."""
    base = tmp_path_factory.mktemp("c")
    convert(open_pretrained(open_clip_folder(base / "source")), base / "model", "open_clip")
    return base / "model"


@pytest.fixture
def copy(certified, tmp_path):
    shutil.copytree(certified, tmp_path / "model")
    return tmp_path / "model"


def change(path, edit):
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def test_inputs_are_the_same_for_ever(tiny_clip):
    inputs = fixed_inputs(tiny_clip)
    assert inputs["images"].dtype == np.uint8
    assert inputs["images"].shape == (4, 16, 16, 3)
    assert int(inputs["images"].astype(np.int64).sum()) == 384_217
    assert inputs["tokens"].dtype == np.int32
    # One end a text, where it stops; the last text fills its context.
    assert [row.tolist().index(257) for row in inputs["tokens"]] == [2, 4, 6, 9]
    for row in inputs["tokens"]:
        end = row.tolist().index(257)
        assert (row[end + 1 :] == 0).all()
        assert ((row[:end] > 0) & (row[:end] < 257)).all()


def test_it_says_what_the_weights_do_not_show(certified, tiny_clip):
    said = json.loads((certified / CERTIFICATE).read_text())
    assert said["activation"] == {
        "image.activation": "quick_gelu",
        "text.activation": "quick_gelu",
    }
    assert said["norm_eps"] == {"image.norm_eps": 1e-5, "text.norm_eps": 1e-5}
    assert said["ids"] == {"text.end_id": 257}
    assert said["preprocessing"]["pixel_mean"] == list(tiny_clip.pixel_mean)
    assert said["preprocessing"]["interpolation"] == "bicubic"
    assert said["dtype"] == "float32"
    assert len(said["tokenizer_sha256"]) == 64
    weights = certified / "open_clip_model.safetensors"
    assert said["weights"]["bytes"] == weights.stat().st_size
    report = said["differences"]["source files, read by clipjax"]
    assert report == {n: {"max": 0, "mean": 0} for n in ("image_embeds", "text_embeds", "logits")}
    assert said["source"] == {"format": "open_clip", "name": "source", "step": 0}


def test_the_reference_in_it_is_met_again(certified):
    found = open_pretrained(certified)
    report = differences(outputs(found.config, found.params()), found.certificate["reference"])
    assert max(part["max"] for part in report.values()) < 1e-6


@pytest.mark.parametrize(
    ("section", "field", "value", "named"),
    [
        ("model_cfg", "quick_gelu", False, r"image\.activation is 'gelu', certified 'quick_gelu'"),
        ("vision_cfg", "norm_kwargs", {"eps": 1e-6}, r"image\.norm_eps is 1e-06, certified 1e-05"),
        ("text_cfg", "norm_kwargs", {"eps": 1e-3}, r"text\.norm_eps is 0\.001"),
        ("preprocess_cfg", "mean", [0.5, 0.5, 0.5], r"pixel_mean is \[0\.5"),
        ("preprocess_cfg", "std", [0.5, 0.5, 0.5], r"pixel_std is \[0\.5"),
        ("preprocess_cfg", "interpolation", "bilinear", "interpolation is 'bilinear'"),
        ("preprocess_cfg", "resize_mode", "squash", "resize is 'squash', certified 'crop'"),
        ("text_cfg", "vocab_size", 259, r"text\.end_id is 258, certified 257"),
    ],
)
def test_a_config_of_another_model_is_refused(copy, section, field, value, named):
    def edit(content):
        model = content["model_cfg"]
        {**content, **model}[section][field] = value

    change(copy / "open_clip_config.json", edit)
    with pytest.raises(UserError, match=named) as raised:
        open_pretrained(copy)
    assert "the config is not that of the weights" in str(raised.value)


def test_another_tokenizer_is_refused(copy):
    change(copy / "clipjax_tokenizer.json", lambda saved: saved.update(lowercase=False))
    with pytest.raises(UserError, match="the tokenizer is not that of the weights"):
        open_pretrained(copy)
    (copy / "clipjax_tokenizer.json").unlink()  # images can still be encoded
    assert open_pretrained(copy).config.embed_dim == 24


def test_other_weights_are_refused(copy):
    change(copy / CERTIFICATE, lambda said: said["weights"].update(bytes=1))
    with pytest.raises(UserError, match=r"has [\d,]+ bytes, certified 1"):
        open_pretrained(copy)


@pytest.mark.parametrize(
    ("edit", "why"),
    [
        (lambda said: said.pop("config"), "no 'config' in it"),
        (lambda said: said.update(config=3), "damaged or of another version"),
        (lambda said: said["config"].update(colour=3), "damaged or of another version"),
        (lambda said: said.update(options=3), "damaged or of another version"),
    ],
)
def test_a_damaged_certificate_is_said(copy, edit, why):
    change(copy / CERTIFICATE, edit)
    with pytest.raises(UserError, match=why):
        open_pretrained(copy)
    (copy / CERTIFICATE).write_text("{")
    with pytest.raises(UserError, match="cannot be read as JSON"):
        open_pretrained(copy)


def test_differences_are_those_of_the_numbers_that_a_reference_keeps():
    draw = np.random.default_rng(0)
    found = {
        "image_embeds": draw.standard_normal((4, 50)).astype(np.float32),
        "text_embeds": draw.standard_normal((4, 50)).astype(np.float32),
        "logits": draw.standard_normal((4, 4)).astype(np.float32),
    }
    kept = reference_of(found)
    assert np.shape(kept["image_embeds"]) == (4, 32)
    kept["logits"][1][2] += 0.16
    report = differences(found, {name: np.array(part) for name, part in kept.items()})
    assert report["image_embeds"]["max"] < 1e-8
    assert report["logits"]["max"] == pytest.approx(0.16, abs=1e-7)
    assert report["logits"]["mean"] == pytest.approx(0.01, abs=1e-7)
