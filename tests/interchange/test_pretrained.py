"""Which model it is, and what is said when it is none."""

import json
import shutil

import numpy as np
import pytest

import clipjax
from clipjax.config import DualEncoderConfig, TextConfig, UserError, ViTConfig
from clipjax.interchange.convert import tensor_specs
from clipjax.interchange.formats import layout_of
from clipjax.interchange.pretrained import open_pretrained
from clipjax.interchange.safetensors_file import SafetensorsFile, write_safetensors


@pytest.fixture(scope="module")
def folder(open_clip_folder, tmp_path_factory):
    return open_clip_folder(tmp_path_factory.mktemp("m") / "model")


@pytest.fixture
def copy(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "copy")
    return tmp_path / "copy"


def rewritten(path, change):
    """The tensors of a safetensors file, changed."""
    found = SafetensorsFile(path)
    write(path, change({name: np.array(found.read(name)) for name in found.shapes()}))


def write(path, tensors):
    specs = {name: (array.shape, array.dtype) for name, array in tensors.items()}
    write_safetensors(path, specs, tensors.items())


def drawn_for(format_name, config, draw):
    """The tensors of a model in a format, drawn by their names."""
    specs = tensor_specs(layout_of(format_name, config), config)
    return {name: draw(name, shape) for name, (shape, _) in specs.items()}


def test_a_folder_of_open_clip_is_a_model(folder, tiny_clip):
    model = clipjax.load(folder)
    assert model.config == tiny_clip
    assert model.step == 0
    image = model.encode_image(np.zeros((20, 16, 3), np.uint8))
    text = model.encode_text(["a cat", "a dog"])
    assert image.shape == (1, 24)
    assert text.shape == (2, 24)
    np.testing.assert_allclose(np.linalg.norm(text, axis=1), 1, rtol=1e-5)


def test_a_run_of_ours_is_a_model(trained):
    found = open_pretrained(trained[0])
    assert (found.format, found.step) == ("clipjax", 12)
    params = found.params()
    stacked = found.params(_rolled(found.config))
    for name, array in params.items():
        if "/stack/1/" in name:
            np.testing.assert_array_equal(stacked[name.replace("/1/", "/")][1], array)
        elif "/stack/" not in name:
            np.testing.assert_array_equal(stacked[name], array)


def _rolled(config):
    from clipjax.interchange.transfer import rolled

    return rolled(config)


def test_shards_are_found_through_their_index(copy, folder):
    path = copy / "open_clip_model.safetensors"
    found = SafetensorsFile(path)
    names = list(found.shapes())
    weight_map = {}
    for number in range(2):
        part = {name: np.array(found.read(name)) for name in names[number::2]}
        file = f"open_clip_model-{number + 1:05d}-of-00002.safetensors"
        specs = {name: (array.shape, array.dtype) for name, array in part.items()}
        write_safetensors(copy / file, specs, part.items())
        weight_map |= dict.fromkeys(part, file)
    path.unlink()
    (copy / "open_clip_model.safetensors.index.json").write_text(
        json.dumps({"weight_map": weight_map})
    )
    whole = open_pretrained(folder).params()
    for name, array in open_pretrained(copy).params().items():
        np.testing.assert_array_equal(array, whole[name])


def test_a_preset_is_untrained_and_says_so(capsys, monkeypatch, tiny_clip):
    monkeypatch.setitem(clipjax.config.PRESETS, "Tiny", tiny_clip)
    model = clipjax.load("Tiny")
    assert "a preset has no weights: untrained" in capsys.readouterr().err
    assert model.encode_image(np.zeros((16, 16, 3), np.uint8)).shape == (1, 24)
    with pytest.raises(UserError, match="'a cat' cannot be encoded: the preset Tiny has no voca"):
        model.encode_text("a cat")


@pytest.fixture
def few_presets(monkeypatch):
    """To look through all of them, under the checks of types of these tests, takes seconds."""
    names = ("ViT-B-32", "RN50", "ViT-B-16-SigLIP")
    some = {name: clipjax.config.PRESETS[name] for name in names}
    monkeypatch.setattr("clipjax.interchange.which_preset.PRESETS", some)


class TestFile:
    @pytest.fixture
    def tiny(self, monkeypatch, tiny_clip):
        monkeypatch.setitem(clipjax.config.PRESETS, "Tiny", tiny_clip)
        return "Tiny"

    def test_needs_the_name_of_its_model(self, folder):
        with pytest.raises(UserError, match="Name it with --preset"):
            open_pretrained(folder / "open_clip_model.safetensors")

    def test_of_openai_says_itself_what_it_is(self, tmp_path, draw):
        """open_clip's does not: the same names without OpenAI's marks leave the GELU open."""
        tower = {"width": 64, "num_heads": 1, "depth": 1, "mlp_dim": 80, "activation": "quick_gelu"}
        config = DualEncoderConfig(
            image=ViTConfig(image_size=16, patch_size=8, **tower),
            text=TextConfig(vocab_size=30, context_length=5, **tower),
            embed_dim=24,
        )
        path, tensors = tmp_path / "clip.safetensors", drawn_for("openai", config, draw)
        marks = ("input_resolution", "context_length", "vocab_size")
        write(path, tensors | dict.fromkeys(marks, np.array(5)))
        found = open_pretrained(path)
        assert (found.format, found.config) == ("openai", config)
        np.testing.assert_array_equal(
            found.params()["text/embedding"], tensors["token_embedding.weight"]
        )
        write(path, tensors)
        with pytest.raises(UserError, match="Name it with --preset"):
            open_pretrained(path)

    def test_of_big_vision_says_itself_what_it_is(self, tmp_path, draw):
        tower = {"width": 64, "num_heads": 1, "depth": 1, "mlp_dim": 80}
        tower |= {"activation": "gelu_tanh", "norm_eps": 1e-6}
        config = DualEncoderConfig(
            image=ViTConfig(
                image_size=16,
                patch_size=8,
                pool="map",
                pre_norm=False,
                patch_bias=True,
                projection=False,
                **tower,
            ),
            text=TextConfig(
                vocab_size=30,
                context_length=5,
                causal=False,
                pool="last",
                projection_bias=True,
                **tower,
            ),
            embed_dim=64,
            init_logit_scale=10.0,
            init_logit_bias=-10.0,
            pixel_mean=(0.5, 0.5, 0.5),
            pixel_std=(0.5, 0.5, 0.5),
        )
        tensors = drawn_for("big_vision", config, draw)
        np.savez(tmp_path / "siglip.npz", **tensors)
        found = open_pretrained(tmp_path / "siglip.npz")
        assert found.format == "big_vision"
        assert (found.config.image, found.config.text) == (config.image, config.text)
        assert found.params()["log_logit_scale"] == tensors["params/t"].reshape(())

    def test_is_of_any_layout_that_fits(self, copy, tiny):
        path = copy / "open_clip_model.safetensors"
        before = open_pretrained(path, preset_name=tiny)
        assert before.options == {"custom_text": False}

        def custom(tensors):
            top = ("visual.", "logit_scale")
            return {(n if n.startswith(top) else f"text.{n}"): a for n, a in tensors.items()}

        expected = before.params()
        copied = {name: np.array(array) for name, array in expected.items()}
        rewritten(path, custom)
        after = open_pretrained(path, preset_name=tiny)
        assert after.options == {"custom_text": True}
        for name, array in after.params().items():
            np.testing.assert_array_equal(array, copied[name])

    def test_alone_in_a_folder_is_found(self, copy, tiny):
        (copy / "open_clip_config.json").unlink()
        assert open_pretrained(copy, preset_name=tiny).format == "open_clip"

    def test_of_an_unknown_name_gets_the_nearest(self, folder):
        with pytest.raises(UserError, match="Did you mean 'ViT-B-32'"):
            open_pretrained(folder / "open_clip_model.safetensors", preset_name="ViT-B32")

    def test_of_no_known_model_lists_what_differs(self, folder, few_presets):
        with pytest.raises(UserError) as raised:
            open_pretrained(folder / "open_clip_model.safetensors", preset_name="ViT-B-32")
        message = str(raised.value)
        assert "240 missing" in message
        assert "positional_embedding is [10, 64], expected [77, 512]" in message


def test_weights_of_another_model_are_named(copy, few_presets):
    def other(tensors):
        tensors["positional_embedding"] = np.zeros((11, 64), np.float32)
        tensors["extra"] = np.zeros(1, np.float32)
        del tensors["text_projection"]
        return tensors

    rewritten(copy / "open_clip_model.safetensors", other)
    with pytest.raises(UserError) as raised:
        clipjax.load(copy)
    message = str(raised.value)
    assert "1 missing:\n  text_projection" in message
    assert "1 unexpected:\n  extra" in message
    assert "positional_embedding is [11, 64], expected [10, 64]" in message


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda c: c.pop("model_cfg"), "no model_cfg"),
        (lambda c: c["model_cfg"].pop("vision_cfg"), "describes no model"),
        (lambda c: c["model_cfg"].pop("embed_dim"), "describes no model"),
        (lambda c: c["model_cfg"]["vision_cfg"].update(patch_size=7), "patch_size=7"),
        (lambda c: c["model_cfg"]["vision_cfg"].update(width="x"), "width='x' must be int"),
        (
            lambda c: c["model_cfg"]["vision_cfg"].update(head_width=0),
            "head_width=0 does not divide",
        ),
        (lambda c: c["model_cfg"]["vision_cfg"].update(timm_model_name="x"), "timm_model_name"),
        (lambda c: c["preprocess_cfg"].update(mean=[1, 2]), "must be three numbers"),
        (lambda c: c["preprocess_cfg"].update(resize_mode="stretch"), "resize_mode='stretch'"),
        (lambda c: c["preprocess_cfg"].update(interpolation="random"), "interpolation='random'"),
    ],
)
def test_a_config_that_cannot_be_used_is_named(copy, change, why):
    config = json.loads((copy / "open_clip_config.json").read_text())
    change(config)
    (copy / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=why) as raised:
        open_pretrained(copy)
    assert str(copy) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_what_is_no_model_is_said(copy, tmp_path):
    (copy / "open_clip_model.safetensors").rename(copy / "other.safetensors")
    with pytest.raises(UserError, match=r"no weights in it: expected open_clip_model\.saf"):
        open_pretrained(copy)
    (copy / "open_clip_pytorch_model.bin").write_bytes(b"\x80\x02")
    with pytest.raises(UserError, match="is a pickle"):
        open_pretrained(copy)
    (copy / "open_clip_config.json").unlink()
    with pytest.raises(UserError, match="is a pickle"):
        open_pretrained(copy)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"holds no model.*open_clip_config\.json"):
        open_pretrained(tmp_path / "empty")
    with pytest.raises(UserError, match=r"no such file or folder.*Did you mean 'ViT-B-32'"):
        open_pretrained("ViT-B32")


def test_a_truncated_file_is_said_before_the_model_is_made(copy):
    path = copy / "open_clip_model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="is cut off"):
        open_pretrained(copy)
