"""torch, open_clip and transformers as fixtures, and the references that they recompute.

CLIPJAX_UPDATE_REFERENCES=1 bash launch/test.sh --parity    rewrites tests/golden/*.npz
"""

import json
import os
import runpy
import warnings
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
UPDATE = os.environ.get("CLIPJAX_UPDATE_REFERENCES") == "1"
MOST_BYTES = 200_000


@pytest.fixture(scope="session")
def torch():
    """The package torch; torchvision can be imported after it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what a foreign package warns of while it is imported
        import torch

        script = runpy.run_path(str(ROOT / "clipjax" / "cli" / "rivals" / "open_clip_step.py"))
        script["import_torchvision"](torch)
    return torch


@pytest.fixture(scope="session")
def open_clip(torch):
    """The package open_clip."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import open_clip
    return open_clip


@pytest.fixture(scope="session")
def transformers(torch):
    """The package transformers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import transformers
        from transformers import CLIPModel, SiglipModel  # noqa: F401 (lazy: imported here for real)
    return transformers


@pytest.fixture(scope="session")
def reference():
    """Compares what was recomputed with tests/golden/NAME.npz, or rewrites the file."""

    def check(name, arrays):
        arrays = {key: np.asarray(value) for key, value in arrays.items()}
        _check_reference(ROOT / "tests" / "golden" / f"{name}.npz", arrays)

    return check


# Sums in another order, by another build of torch: (relative, absolute) in each precision. In
# float32: thirty roundings of 6e-8.
ROUNDING = {"float64": (1e-9, 1e-12), "float32": (2e-6, 2e-6)}


def _check_reference(path, arrays, rounding="float64"):
    if UPDATE:
        np.savez_compressed(path, **arrays)
        assert path.stat().st_size < MOST_BYTES
    with np.load(path) as file:
        stored, arrays = _of_today(dict(file)), _of_today(arrays)
    assert set(stored) == set(arrays)
    for key, value in arrays.items():
        assert stored[key].dtype == value.dtype, key
        if value.dtype == np.float64:
            np.testing.assert_allclose(value, stored[key], *ROUNDING[rounding], err_msg=key)
        else:
            np.testing.assert_array_equal(value, stored[key], err_msg=key)


def _of_today(arrays):
    """The arrays of a reference with what has been added to the format since it was written.

    A config is compared with the defaults of fields that were added later.
    """
    from clipjax.config import DualEncoderConfig, from_config_dict, to_json_dict

    arrays = dict(arrays)
    for name in [name for name in arrays if name.rpartition("/")[2] == "config"]:
        config = from_config_dict(DualEncoderConfig, json.loads(str(arrays[name])))
        arrays[name] = np.array(json.dumps(to_json_dict(config)))
    return {"grad_images_every": np.array(1), **arrays} if "config" in arrays else arrays


@pytest.fixture(scope="session")
def drawn_by_name():
    """The function that draws a tensor by name and shape."""
    return runpy.run_path(str(ROOT / "tests" / "interchange" / "conftest.py"))["drawn"]


@pytest.fixture(scope="session")
def towers(torch):
    """What fills a torch model with drawn tensors and stores what it computes: see `Towers`."""
    script = runpy.run_path(str(ROOT / "tests" / "interchange" / "conftest.py"))
    return Towers(torch, script["drawn"])


class Towers:
    """Tiny models of another codebase as the references of tests/golden/towers.

    A reference holds the config, the inputs, unit-length embeddings, logits and gradients of the
    symmetric softmax loss with respect to the pixels (0 to 255) and to the parameters `grads`, by
    their names; the first MOST_GRADIENT numbers of each. All in float64. A model that captions has
    the mean cross-entropy of its captions in the loss too.
    """

    MOST_GRADIENT = 300

    def __init__(self, torch, drawn):
        self.torch, self._drawn = torch, drawn

    def fill(self, model):
        """Gives every parameter and running statistic numbers drawn by its name; in float64."""
        with self.torch.no_grad():
            for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
                if tensor.is_floating_point() and not name.endswith(("inv_freq", "attn_mask")):
                    numbers = self._drawn(name, tuple(tensor.shape))
                    tensor.copy_(self.torch.from_numpy(np.asarray(numbers)))
        return model.double().eval()

    def pixels(self, count, side, seed=7):
        """Images as bytes, and as a tensor that a gradient can be taken of."""
        images = (
            np.random.RandomState(seed).randint(0, 256, (count, side, side, 3)).astype(np.uint8)
        )
        return images, self.torch.from_numpy(np.float64(images)).requires_grad_()

    def normalised(self, pixels, config):
        """NCHW as the towers of torch take it."""
        mean, std = (
            self.torch.tensor(x, dtype=pixels.dtype) for x in (config.pixel_mean, config.pixel_std)
        )
        return ((pixels / 255 - mean) / std).permute(0, 3, 1, 2)

    def store(  # noqa: PLR0913
        self,
        name,
        config,
        model,
        *,
        format,
        options=None,
        inputs,
        pixels,
        embeds,
        scale,
        bias=0.0,
        grads,
        more=None,
        every=1,
        caption_logits=None,
        pad_id=0,
        rounding="float64",
    ):
        """Compares with the stored reference, or rewrites it (CLIPJAX_UPDATE_REFERENCES=1).

        `inputs` are arrays by name ("images" or "patches/...", and "tokens"), `embeds` the two
        embeddings before they are made unit length, `scale` the multiplier of the cosines. Of the
        gradient of the pixels, each `every`-th row and column is stored: of large images it is most
        of the file.
        `caption_logits` are those of the token behind each place; `pad_id` is not predicted.
        `rounding` is "float32" where the model computes a part of it in float32 whatever it is
        given: another processor rounds it otherwise.
        """
        from clipjax.config import to_json_dict

        torch = self.torch
        image, text = (torch.nn.functional.normalize(e, dim=-1) for e in embeds)
        logits = scale * image @ text.T + bias
        labels = torch.arange(len(logits))
        loss = (
            torch.nn.functional.cross_entropy(logits, labels)
            + torch.nn.functional.cross_entropy(logits.T, labels)
        ) / 2
        if caption_logits is not None:
            targets = torch.from_numpy(inputs["tokens"][:, 1:]).long()
            predicted = caption_logits[:, :-1].transpose(1, 2)
            loss = loss + torch.nn.functional.cross_entropy(predicted, targets, ignore_index=pad_id)
            more = {"caption_logits": caption_logits.detach().numpy(), **(more or {})}
        loss.backward()
        parameters = dict(model.named_parameters())
        arrays = {
            "config": np.array(json.dumps(to_json_dict(config))),
            "format": np.array(format),
            "options": np.array(json.dumps(options or {})),
            "image_embeds": image.detach().numpy(),
            "text_embeds": text.detach().numpy(),
            "logits": logits.detach().numpy(),
            "grad_images": pixels.grad.numpy()[:, ::every, ::every],
            **({"grad_images_every": np.array(every)} if every > 1 else {}),
            **{
                f"grad/{n}": parameters[n].grad.numpy().reshape(-1)[: self.MOST_GRADIENT]
                for n in grads
            },
            **inputs,
            **(more or {}),
        }
        path = ROOT / "tests" / "golden" / "towers" / f"{name}.npz"
        _check_reference(path, arrays, rounding)
