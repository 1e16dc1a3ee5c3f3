"""OpenAI's files: what open_clip builds from one, and what we do."""

import dataclasses

import numpy as np
import pytest

from clipjax.config import DualEncoderConfig, ResNetConfig, TextConfig, ViTConfig
from clipjax.interchange import openai

pytestmark = pytest.mark.parity

SIZES = {"width": 64, "num_heads": 1, "depth": 2, "activation": "quick_gelu"}
CONFIG = DualEncoderConfig(
    image=ViTConfig(image_size=16, patch_size=8, mlp_dim=256, **SIZES),
    text=TextConfig(vocab_size=30, context_length=6, mlp_dim=256, **SIZES),
    embed_dim=24,
)


def test_a_vit_in_half_precision(torch, open_clip, drawn_by_name):
    """open_clip's reader of OpenAI's files finds the same sizes and computes the same."""
    import jax.numpy as jnp

    from clipjax.interchange.transfer import read_params
    from clipjax.models import param_shapes, with_params

    layout, ours = openai.layout(CONFIG), param_shapes(CONFIG)

    class Halves:
        source = "drawn"

        def __init__(self):
            self.arrays = {
                name: np.asarray(drawn_by_name(name, entry.their_shape(ours[entry.ours])), "f2")
                for entry in layout.entries
                for name in entry.theirs
            }

        def shapes(self):
            return {name: array.shape for name, array in self.arrays.items()}

        def read(self, name):
            return self.arrays[name]

    file = Halves()
    assert openai.config_from_shapes(file.shapes()) == CONFIG
    state = {name: torch.tensor(array) for name, array in file.arrays.items()}
    theirs = open_clip.model.build_model_from_openai_state_dict(state).float()
    images = np.random.RandomState(0).randint(0, 256, (3, 16, 16, 3)).astype(np.uint8)
    tokens = np.array([[28, 3, 29, 0, 0, 0], [28, 29, 0, 0, 0, 0], [28, 1, 2, 3, 4, 29]], np.int32)
    normal = (np.float32(images) / 255 - CONFIG.pixel_mean) / CONFIG.pixel_std
    pixels = torch.from_numpy(np.float32(normal.transpose(0, 3, 1, 2).copy()))
    with torch.no_grad():
        image = theirs.encode_image(pixels, normalize=True).numpy()
        text = theirs.encode_text(torch.from_numpy(tokens).long(), normalize=True).numpy()
    params = {n: jnp.asarray(a) for n, a in read_params(layout, CONFIG, file)}
    model = with_params(CONFIG, params)
    np.testing.assert_allclose(model.encode_image(jnp.asarray(images)), image, rtol=0, atol=2e-5)
    np.testing.assert_allclose(model.encode_text(jnp.asarray(tokens)), text, rtol=0, atol=2e-5)


def test_the_sizes_of_a_resnet(open_clip):
    """Read off the state dict of open_clip's own class."""
    model = open_clip.CLIP(
        embed_dim=24,
        vision_cfg={"image_size": 64, "layers": [1, 2, 3, 1], "width": 8, "head_width": 64},
        text_cfg={"context_length": 6, "vocab_size": 30, "width": 64, "heads": 1, "layers": 2},
        quick_gelu=True,
    )
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    image = ResNetConfig(image_size=64, width=8, depths=(1, 2, 3, 1), num_heads=4)
    assert openai.config_from_shapes(shapes) == dataclasses.replace(CONFIG, image=image)
