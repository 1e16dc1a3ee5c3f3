"""Our towers, filled with tensors drawn by their names, against what the other codebase computed.

`tests/golden/towers/NAME.npz` holds the config, the inputs and what torch made of them in float64,
see tests/parity/conftest.py. Here nothing of torch is needed.
"""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clipjax.config import DualEncoderConfig, from_config_dict
from clipjax.interchange.formats import layout_of
from clipjax.interchange.transfer import read_params, written
from clipjax.models import Patches, param_shapes, with_params

FILES = sorted((Path(__file__).parents[1] / "golden" / "towers").glob("*.npz"))

# The references are of float64. In float32 each of the some thirty sums in a row is off by a few
# roundings of 6e-8 of a vector of length 1.
EMBEDS, GRADIENT = 2e-5, 1e-4


class Case:
    def __init__(self, path, drawn_tensors):
        with np.load(path) as stored:
            self.stored = dict(stored)
        self.config = from_config_dict(DualEncoderConfig, json.loads(str(self.stored["config"])))
        self.layout = layout_of(
            str(self.stored["format"]), self.config, **json.loads(str(self.stored["options"]))
        )
        self.tensors = drawn_tensors(self.layout, param_shapes(self.config))
        self.params = dict(read_params(self.layout, self.config, self.tensors))
        self.params = {name: jnp.asarray(array) for name, array in self.params.items()}

    def inputs(self):
        if "images" in self.stored:
            images = jnp.asarray(self.stored["images"], jnp.float32)
        else:
            images = Patches(
                **{
                    f: jnp.asarray(self.stored[f"patches/{f}"])
                    for f in ("values", "positions", "mask", "grid")
                }
            )
        return images, jnp.asarray(self.stored["tokens"])

    def logits(self, params, images, tokens):
        """Logits, and the embeddings that they are made of."""
        model = with_params(self.config, params)
        image, text = model.encode_image(images), model.encode_text(tokens)
        logits = jnp.exp(params["log_logit_scale"]) * image @ text.T
        return logits + params.get("logit_bias", 0.0), (image, text)


@pytest.fixture(scope="module", params=FILES, ids=lambda path: path.stem)
def case(request, drawn_tensors):
    return Case(request.param, drawn_tensors)


def test_embeddings_and_logits_are_those_of_the_other_codebase(case):
    logits, (image, text) = jax.jit(case.logits)(case.params, *case.inputs())
    np.testing.assert_allclose(image, case.stored["image_embeds"], rtol=0, atol=EMBEDS)
    np.testing.assert_allclose(text, case.stored["text_embeds"], rtol=0, atol=EMBEDS)
    scale = float(np.exp(case.params["log_logit_scale"]))
    np.testing.assert_allclose(logits, case.stored["logits"], rtol=0, atol=EMBEDS * scale)


def test_gradients_are_those_of_the_other_codebase(case):
    """Of the contrastive loss, with respect to the pixels and to some parameters by their names."""

    def loss(params, values):
        images, tokens = case.inputs()
        if isinstance(images, Patches):
            images = Patches(
                values=values, positions=images.positions, mask=images.mask, grid=images.grid
            )
        else:
            images = values
        logits, _ = case.logits(params, images, tokens)
        n = jnp.arange(len(logits))
        rows, columns = jax.nn.log_softmax(logits, axis=1), jax.nn.log_softmax(logits, axis=0)
        return -(rows[n, n].mean() + columns[n, n].mean()) / 2

    images, _ = case.inputs()
    values = images.values if isinstance(images, Patches) else images
    by_params, by_values = jax.jit(jax.grad(loss, argnums=(0, 1)))(case.params, values)
    close(by_values, case.stored["grad_images"])
    wanted = {n.removeprefix("grad/"): g for n, g in case.stored.items() if n.startswith("grad/")}
    assert len(wanted) >= 2
    for entry in case.layout.entries:
        if set(entry.theirs) & wanted.keys():
            ours = dict(
                zip(entry.theirs, entry.write(np.asarray(by_params[entry.ours])), strict=True)
            )
            for name in ours.keys() & wanted.keys():
                close(ours[name].reshape(-1)[: wanted[name].size], wanted.pop(name))
    assert not wanted


def close(actual, expected):
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert np.abs(actual - expected).max() <= GRADIENT * np.abs(expected).max()


def test_what_is_written_is_what_was_read(case):
    for name, array in written(
        case.layout, case.config, {n: np.asarray(p) for n, p in case.params.items()}
    ):
        if name in case.layout.fixed:
            continue
        assert array.shape == case.tensors.shapes()[name], name
        np.testing.assert_array_equal(array, case.tensors.read(name), err_msg=name)


def test_every_parameter_has_one_place(case):
    ours = [entry.ours for entry in case.layout.entries]
    assert sorted(ours) == sorted(param_shapes(case.config))
    theirs = [(name, entry.piece) for entry in case.layout.entries for name in entry.theirs]
    assert len(theirs) == len(set(theirs))
