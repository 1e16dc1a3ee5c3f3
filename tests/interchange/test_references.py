"""Our towers, filled with tensors drawn by their names, against what the other codebase computed.

`tests/golden/towers/NAME.npz` holds the config, the inputs and what torch made of them in float64,
see tests/parity/conftest.py. Here nothing of torch is needed.
"""

import ast
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clipjax.config import DualEncoderConfig, from_config_dict
from clipjax.interchange.formats import layout_of
from clipjax.interchange.transfer import read_params, rolled, written
from clipjax.models import Patches, param_shapes, with_params

FILES = sorted((Path(__file__).parents[1] / "golden" / "towers").glob("*.npz"))
CAPTIONING = [path for path in FILES if "caption_logits" in np.load(path).files]

# The references are of float64. A sum of up to 192 products in float32 is off by about sqrt(192)
# roundings of 6e-8; some tens of them in a row by 5e-6 of a vector of length 1.
EMBEDS, GRADIENT = 5e-6, 1e-4


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

    def logits(self, params, images, tokens, config=None):
        """Logits, and the embeddings that they are made of."""
        model = with_params(config or self.config, params)
        image, text = model.encode_image(images), model.encode_text(tokens)
        logits = jnp.exp(params["log_logit_scale"]) * image @ text.T
        return logits + params.get("logit_bias", 0.0), (image, text)

    def caption_loss(self, params, images, tokens):
        """Mean cross-entropy of the tokens that are not padding; 0 for a model without captions."""
        if "caption_logits" not in self.stored:
            return 0.0
        model = with_params(self.config, params)
        logits, targets, counted = model.caption_targets(
            model.caption_logits(images, tokens), tokens
        )
        scores = jnp.take_along_axis(jax.nn.log_softmax(logits), targets[..., None], axis=2)
        return -scores[..., 0].mean(where=counted)


@pytest.fixture(scope="module", params=FILES, ids=lambda path: path.stem)
def case(request, drawn_tensors):
    return Case(request.param, drawn_tensors)


def test_embeddings_and_logits_are_those_of_the_other_codebase(case):
    logits, (image, text) = jax.jit(case.logits)(case.params, *case.inputs())
    np.testing.assert_allclose(image, case.stored["image_embeds"], rtol=0, atol=EMBEDS)
    np.testing.assert_allclose(text, case.stored["text_embeds"], rtol=0, atol=EMBEDS)
    scale = float(np.exp(case.params["log_logit_scale"]))
    np.testing.assert_allclose(logits, case.stored["logits"], rtol=0, atol=EMBEDS * scale)


@pytest.mark.parametrize("case", CAPTIONING, indirect=True, ids=lambda path: path.stem)
def test_caption_logits_are_those_of_the_other_codebase(case):
    image, text, logits = jax.jit(
        lambda params, *inputs: with_params(case.config, params).forward_captioning(*inputs)
    )(case.params, *case.inputs())
    wanted = case.stored["caption_logits"]
    np.testing.assert_allclose(logits, wanted, rtol=0, atol=EMBEDS * np.abs(wanted).max())
    np.testing.assert_allclose(image, case.stored["image_embeds"], rtol=0, atol=EMBEDS)
    np.testing.assert_allclose(text, case.stored["text_embeds"], rtol=0, atol=EMBEDS)


def test_gradients_are_those_of_the_other_codebase(case):
    """Of the losses, with respect to the pixels and to some parameters by their names."""

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
        contrastive = -(rows[n, n].mean() + columns[n, n].mean()) / 2
        return contrastive + case.caption_loss(params, images, tokens)

    images, _ = case.inputs()
    values = images.values if isinstance(images, Patches) else images
    gradient = jax.jit(jax.grad(loss, argnums=(0, 1)))
    by_params, by_values = gradient(case.params, values)
    nearby, values_nearby = gradient(*rounded(case.params, values))
    every = int(case.stored.get("grad_images_every", 1))
    noise = (by_values - values_nearby)[:, ::every, ::every]
    close(by_values[:, ::every, ::every], case.stored["grad_images"], noise)
    wanted = {n.removeprefix("grad/"): g for n, g in case.stored.items() if n.startswith("grad/")}
    assert len(wanted) >= 2
    for entry in case.layout.entries:
        if set(entry.theirs) & wanted.keys():
            found, moved = (
                dict(zip(entry.theirs, entry.write(np.asarray(of[entry.ours])), strict=True))
                for of in (by_params, nearby)
            )
            for name in found.keys() & wanted.keys():
                expected = wanted.pop(name)
                ours, near = (of[name].reshape(-1)[: expected.size] for of in (found, moved))
                close(ours, expected, ours - near)
    assert not wanted


def rounded(params, values):
    """Numbers that another rounding might have given: each moved by at most one unit of 2^-23."""
    rng = np.random.default_rng(0)

    def moved(x):
        x = np.asarray(x)
        shift = 1 + rng.uniform(-1, 1, x.shape) * np.finfo(np.float32).eps
        return jnp.asarray((x * shift).astype(x.dtype))

    return jax.tree.map(moved, (params, values))


def close(actual, expected, noise):
    """Where terms cancel, a gradient is as exact as its inputs make it, whoever computes it.

    Rounding on the way adds as much again as that of the inputs.
    """
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    least = 2 * float(np.abs(noise).max())
    error, size = np.abs(actual - expected).max(), np.abs(expected).max()
    assert error <= max(GRADIENT * size, least), f"{error / size:.1e}, noise {least / size:.1e}"


def test_scanned_layers_embed_the_same(case):
    config = rolled(case.config)
    params = dict(read_params(case.layout, config, case.tensors))
    model = jax.jit(lambda params, *inputs: case.logits(params, *inputs, config=config)[1])
    for actual, tower in zip(model(params, *case.inputs()), ("image", "text"), strict=True):
        np.testing.assert_allclose(actual, case.stored[f"{tower}_embeds"], rtol=0, atol=EMBEDS)


# What shapes do not show: with any of these the file still loads, and the model is another one.
WRONG = {
    "open_clip_vit_gelu": [
        "pixel_mean=(0.5, 0.4578275, 0.40821073)",
        "pixel_std=(0.26862954, 0.26130258, 0.25)",
        "image.activation=quick_gelu",
        "image.activation=gelu_tanh",
        "text.activation=quick_gelu",
        "text.activation=gelu_tanh",
        "image.norm_eps=1e-3",
        "text.norm_eps=1e-3",
        "text.pool=last",
        "text.causal=False",
        "text.end_id=5",
    ],
    "open_clip_vit_quick_gelu": ["image.activation=gelu", "text.activation=gelu"],
    "open_clip_clipa": ["image.norm_before_pool=True", "text.pool=mean"],
    "open_clip_siglip": ["image.activation=quick_gelu", "text.pool=eot", "image.norm_eps=1e-3"],
    "open_clip_siglip2": ["text.activation=quick_gelu", "text.causal=True"],
    "open_clip_resnet": ["image.batch_norm_eps=1e-5"],
    "open_clip_convnext_linear": ["image.activation=quick_gelu", "image.activation=gelu_tanh"],
    "open_clip_convnext_mlp": [
        "image.norm_eps=1e-3",
        "image.activation=quick_gelu",
        "image.activation=gelu_tanh",
    ],
    "open_clip_eva01": ["image.activation=gelu_tanh", "image.norm_eps=1e-3"],
    "open_clip_eva02": ["image.rope=False", "image.rope_grid=4", "image.norm_eps=1e-3"],
    "open_clip_eva02_e": ["image.post_norm=False"],
    "open_clip_roberta": ["text.pool=max", "text.activation=quick_gelu"],
    "open_clip_bert": ["text.norm_eps=1e-3", "text.pad_id=3"],
    "open_clip_coca": ["text.class_mask=exact", "text.pad_id=1"],
    "transformers_clip": ["image.activation=gelu", "text.norm_eps=1e-3"],
    "transformers_siglip": ["image.activation=gelu", "text.activation=quick_gelu"],
    "transformers_siglip2_naflex": ["image.norm_eps=1e-3", "pixel_std=(0.5, 0.4, 0.5)"],
    "transformers_align": ["image.batch_norm_eps=1e-5", "text.pool=mean"],
}


@pytest.mark.parametrize(
    ("stem", "setting"), [(stem, setting) for stem, group in WRONG.items() for setting in group]
)
def test_a_wrong_setting_is_seen(stem, setting, drawn_tensors, replace_in):
    case = Case(FILES[0].with_name(f"{stem}.npz"), drawn_tensors)
    name, _, value = setting.partition("=")
    if not name.endswith((".activation", ".pool", ".class_mask")):
        value = ast.literal_eval(value)
    config = replace_in(case.config, name, value)
    assert config != case.config
    tower = "text" if name.startswith("text.") else "image"
    inputs = case.inputs()[tower == "text"]
    encode = jax.jit(lambda p, x: getattr(with_params(config, p), f"encode_{tower}")(x))
    embeds = np.asarray(encode(case.params, inputs))
    assert np.abs(embeds - case.stored[f"{tower}_embeds"]).max() > EMBEDS


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
    ours += [entry.rest for entry in case.layout.entries if entry.rest is not None]
    assert sorted(ours) == sorted(param_shapes(case.config))
    theirs = [(name, entry.piece) for entry in case.layout.entries for name in entry.theirs]
    assert len(theirs) == len(set(theirs))
