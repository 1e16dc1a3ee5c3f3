"""Tensors drawn by name, and files in memory."""

import hashlib
import json

import numpy as np
import pytest

PIXEL_SEED = 7


def drawn(name, shape):
    """Float32 numbers that depend on the name and the shape of a tensor only.

    No leaf keeps its usual start: gains, biases, layer scales and statistics would hide mistakes.
    """
    key = int.from_bytes(hashlib.sha256(f"{name}{tuple(shape)}".encode()).digest()[:8], "little")
    noise = np.random.Generator(np.random.Philox(key)).standard_normal(shape)
    last = name.rpartition(".")[2].rpartition("/")[2]
    if last in ("logit_scale", "t") or name == "temperature":
        value = np.full(shape, 1.5) + 0.1 * noise
    elif last in ("logit_bias", "b") and len(shape) <= 1 and np.prod(shape) == 1:
        value = np.full(shape, -1.0) + 0.1 * noise
    elif last in ("running_var", "variance"):
        value = np.exp(0.3 * noise)
    elif len(shape) >= 2:
        fan_in = np.prod(shape[1:]) if last != "kernel" else np.prod(shape[:-1])
        value = noise * fan_in**-0.5
    elif last in ("gamma", "gain") or "lambda" in last or "layer_scale" in last:
        value = 0.5 + 0.1 * noise
    elif last in ("weight", "scale"):
        value = 1 + 0.2 * noise
    else:
        value = 0.2 * noise
    return np.asarray(value, np.float32)


class DrawnTensors:
    """What a layout expects, every tensor drawn by its name."""

    source = "drawn"

    def __init__(self, layout, our_shapes):
        self._shapes = {
            theirs: entry.their_shape(our_shapes[entry.ours])
            for entry in layout.entries
            for theirs in entry.theirs
        }

    def shapes(self):
        return self._shapes

    def read(self, name):
        return drawn(name, self._shapes[name])


@pytest.fixture(scope="session")
def draw():
    """The function that draws a tensor by name and shape."""
    return drawn


@pytest.fixture(scope="session")
def drawn_tensors():
    """The class of tensors drawn by what a layout expects."""
    return DrawnTensors


@pytest.fixture(scope="session")
def tiny_clip():
    """CLIP of two blocks a tower, with heads of 64 as open_clip has them, and the fast GELU."""
    from clipjax.config import DualEncoderConfig, TextConfig, ViTConfig

    tower = {"width": 64, "depth": 2, "num_heads": 1, "mlp_dim": 160, "activation": "quick_gelu"}
    return DualEncoderConfig(
        image=ViTConfig(image_size=16, patch_size=8, **tower),
        text=TextConfig(vocab_size=258, context_length=10, **tower),
        embed_dim=24,
    )


@pytest.fixture(scope="session")
def open_clip_folder(tiny_clip):
    """Writes a folder as open_clip has them, drawn tensors under their names; returns it."""
    from clipjax.config import preset
    from clipjax.data.tokenizers import ByteTokenizer
    from clipjax.interchange import formats
    from clipjax.interchange.convert import tensor_specs
    from clipjax.interchange.safetensors_file import write_safetensors
    from clipjax.interchange.tokenizer_files import write_tokenizer

    def write(path, config=tiny_clip, name="open_clip_model.safetensors"):
        config = preset(config) if isinstance(config, str) else config
        path.mkdir(exist_ok=True)
        for file, content in formats.FORMATS["open_clip"].write_config(config).items():
            (path / file).write_text(json.dumps(content))
        specs = tensor_specs(formats.layout_of("open_clip", config, custom_text=False), config)
        tensors = ((name, drawn(name, shape)) for name, (shape, _) in specs.items())
        write_safetensors(path / name, specs, tensors, metadata={"format": "pt"})
        if config.text.vocab_size == 258:
            length = config.text.context_length
            tokenizer = ByteTokenizer(context_length=length, lowercase=True)
            write_tokenizer(path, tokenizer, config, "open_clip")
        return path

    return write
