"""A trained model as a person uses it."""

import dataclasses
import io
import shutil
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import clipjax
from clipjax.config import UserError
from clipjax.inference.load import Model
from clipjax.models import with_params


@pytest.fixture(scope="module")
def model(trained):
    return clipjax.load(trained[0])


@pytest.fixture(scope="module")
def pictures():
    return np.random.default_rng(0).integers(0, 256, (33, 16, 16, 3)).astype(np.uint8)


def direct(model, images):
    return np.asarray(with_params(model.config, model.params).encode_image(jnp.asarray(images)))


def test_embeddings_equal_those_of_the_bare_module(model, pictures):
    embeds = model.encode_image(pictures)
    assert embeds.shape == (33, 16)
    np.testing.assert_allclose(np.linalg.norm(embeds, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(embeds, direct(model, pictures), atol=2e-6)
    tokens = np.stack([model.tokenizer(text) for text in ("a red square", "blue")])
    expected = with_params(model.config, model.params).encode_text(jnp.asarray(tokens))
    np.testing.assert_allclose(model.encode_text(["a red square", "blue"]), expected, atol=2e-6)


@pytest.mark.parametrize("count", [0, 1, 31, 32])
def test_the_number_of_pictures_does_not_matter(model, pictures, count):
    # 32 is one whole batch: padding must not leak.
    whole = model.encode_image(pictures)
    some = model.encode_image(pictures[:count])
    assert some.shape == (count, 16)
    np.testing.assert_allclose(some, whole[:count], atol=2e-6)


def test_a_picture_may_be_a_path_bytes_an_array_or_of_pillow(model, pictures, tmp_path):
    image = Image.fromarray(pictures[0])
    path = tmp_path / "picture.png"
    image.save(path)
    expected = model.encode_image(pictures[:1])
    for one in (path, str(path), path.read_bytes(), image, pictures[0]):
        np.testing.assert_allclose(model.encode_image(one), expected, atol=1e-6)
        np.testing.assert_allclose(model.encode_image([one]), expected, atol=1e-6)
    mixed = model.encode_image(x for x in (path, image))
    np.testing.assert_allclose(mixed, expected.repeat(2, axis=0), atol=1e-6)


def test_a_transparent_picture_lies_on_white_however_it_comes(model, tmp_path):
    image = Image.new("RGBA", (16, 16), (200, 0, 0, 0))
    image.save(tmp_path / "clear.png")
    white = model.encode_image(np.full((16, 16, 3), 255, np.uint8))
    np.testing.assert_allclose(model.encode_image(tmp_path / "clear.png"), white, atol=1e-6)
    np.testing.assert_allclose(model.encode_image(image), white, atol=1e-6)


def test_one_text_is_a_list_of_one(model):
    np.testing.assert_array_equal(model.encode_text("blue"), model.encode_text(["blue"]))
    assert model.similarity(np.zeros((16, 16, 3), np.uint8), ["a", "b", "c"]).shape == (1, 3)


def test_an_unreadable_picture_is_named(model, pictures, tmp_path):
    (tmp_path / "page.png").write_text("<html>")
    with pytest.raises(UserError, match="image 1"):
        model.encode_image([pictures[0], tmp_path / "page.png"])
    with pytest.raises(UserError, match=r"image 0.*No such file"):
        model.encode_image(tmp_path / "nowhere.png")
    with pytest.raises(UserError, match=r"float64 array.*expected uint8"):
        model.encode_image(pictures[0] / 255)


def test_a_run_with_a_moving_average_gives_the_average(trained, model, tiny_config):
    from clipjax.core.checkpoint import CheckpointReader
    from clipjax.core.mesh import make_mesh
    from clipjax.optim import make_optimizer
    from clipjax.train.state import abstract_state, as_dict

    mesh = make_mesh(tiny_config.mesh, num_devices=1)
    like = abstract_state(tiny_config, make_optimizer(tiny_config.optim, 12), mesh)
    state = CheckpointReader(trained[0] / "checkpoints").restore(12, as_dict(like))
    for name, array in model.params.items():
        np.testing.assert_array_equal(array, state["ema"][name])
    assert any((state["ema"][name] != state["params"][name]).any() for name in model.params)


def test_what_cannot_be_loaded_is_said(trained, tmp_path):
    with pytest.raises(UserError, match="no finished checkpoint"):
        clipjax.load(tmp_path)
    with pytest.raises(UserError, match=r"no checkpoint of step 3\. There are \[8, 12\]"):
        clipjax.load(trained[0], step=3)
    shutil.copytree(trained[0], tmp_path / "copy")
    newest = tmp_path / "copy" / "checkpoints" / "00000012"
    largest = max(newest.rglob("*"), key=lambda path: path.stat().st_size * path.is_file())
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 4
    largest.write_bytes(content)
    assert clipjax.load(tmp_path / "copy").step == 8
    with pytest.raises(UserError, match="damaged"):
        clipjax.load(tmp_path / "copy", step=12)


def test_png_bytes_in_memory(model, pictures):
    out = io.BytesIO()
    Image.fromarray(pictures[0]).save(out, "WEBP", lossless=True)
    np.testing.assert_allclose(
        model.encode_image(out.getvalue()), model.encode_image(pictures[0]), atol=1e-6
    )


_WRONG = """
import sys, clipjax
model = clipjax.load(sys.argv[1])
for call in (
    lambda: model.encode_image(3),
    lambda: model.encode_image([None]),
    lambda: model.encode_text(3),
    lambda: model.encode_text([b"a cat"]),
):
    try:
        call()
    except Exception as error:
        print(type(error).__name__, error)
"""


@pytest.mark.slow
def test_what_is_neither_picture_nor_text_is_named(trained, make_child_env):
    """In a process of its own, where types are not checked at every call as in these tests."""
    done = subprocess.run(
        [sys.executable, "-c", _WRONG, trained[0]],
        env=make_child_env(1),
        capture_output=True,
        text=True,
        check=True,
    )
    kinds = "expected a path, encoded bytes, a PIL image or a uint8 array."
    assert done.stdout.splitlines() == [
        f"UserError image 0 is a int; {kinds}",
        f"UserError image 0 is a NoneType; {kinds}",
        "UserError expected a text or a sequence of texts, found 3.",
        "UserError expected a text or a sequence of texts, found [b'a cat'].",
    ]


def test_pictures_are_resized_as_the_config_of_the_model_says(model):
    """A picture of another shape embeds like the square that its transform makes of it."""
    wide = np.random.default_rng(3).integers(0, 256, (16, 40, 3)).astype(np.uint8)
    config = dataclasses.replace(model.config, resize="squash", interpolation="bilinear")
    squashing = Model(config, model.params, model.tokenizer, model.encoder, model.step)
    square = np.asarray(Image.fromarray(wide).resize((16, 16), Image.Resampling.BILINEAR))
    np.testing.assert_allclose(
        squashing.encode_image(wide), model.encode_image(square[None]), atol=2e-6
    )
    assert np.abs(squashing.encode_image(wide) - model.encode_image(wide)).max() > 1e-3
