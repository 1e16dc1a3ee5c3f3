import dataclasses

import numpy as np
import pytest

from clipjax.config import DualEncoderConfig, EvaConfig, TextConfig, UserError
from clipjax.interchange.formats import layout_of
from clipjax.interchange.transfer import check_tensors, read_params
from clipjax.models import param_shapes

IMAGE = EvaConfig(image_size=16, patch_size=8, width=16, depth=2, num_heads=2, mlp_dim=24)
CONFIG = DualEncoderConfig(
    image=IMAGE,
    text=TextConfig(vocab_size=20, context_length=6, width=16, depth=1, num_heads=2, mlp_dim=24),
    embed_dim=8,
)


def file_of(config, drawn_tensors, **more):
    """Tensors of a model as open_clip would save it, and others beside them."""
    layout = layout_of("open_clip", config, custom_text=True)
    tensors = drawn_tensors(layout, param_shapes(config))
    tensors.shapes().update(more)
    return layout, tensors


def test_buffers_are_no_parameters(drawn_tensors):
    layout, tensors = file_of(
        CONFIG,
        drawn_tensors,
        **{
            "visual.trunk.rope.pos_embed_sin": (4, 8),
            "visual.trunk.blocks.1.attn.k_bias": (16,),
        },
    )
    check_tensors(layout, CONFIG, tensors)
    tensors.shapes()["visual.trunk.blocks.0.attn.k_norm.weight"] = (8,)
    with pytest.raises(UserError, match=r"1 unexpected:\n.*attn\.k_norm\.weight"):
        check_tensors(layout, CONFIG, tensors)


def test_matrices_in_one_and_apart_are_told_from_each_other(drawn_tensors):
    fused = dataclasses.replace(CONFIG, image=dataclasses.replace(IMAGE, fused_qkv=True))
    _, tensors = file_of(fused, drawn_tensors)
    layout = layout_of("open_clip", CONFIG, custom_text=True)
    with pytest.raises(UserError, match=r"10 missing:\n(.*\n)+6 unexpected:\n.*attn\.q_bias"):
        check_tensors(layout, CONFIG, tensors)


def test_the_parts_of_a_stacked_matrix_come_in_their_order(drawn_tensors):
    layout, tensors = file_of(CONFIG, drawn_tensors)
    params = dict(read_params(layout, CONFIG, tensors))
    block, theirs = "image/blocks/stack/1", "visual.trunk.blocks.1"
    for place, part in enumerate("qkv"):
        kernel = params[f"{block}/attn/qkv/kernel"][:, place].reshape(16, 16)
        expected = tensors.read(f"{theirs}.attn.{part}_proj.weight")
        np.testing.assert_array_equal(kernel.T, expected)
    for place, part in enumerate("qv"):
        bias = params[f"{block}/attn/qv_bias"][place].reshape(-1)
        np.testing.assert_array_equal(bias, tensors.read(f"{theirs}.attn.{part}_proj.bias"))
    for place, part in enumerate("gx"):
        kernel = params[f"{block}/mlp/fc1/kernel"][:, place]
        np.testing.assert_array_equal(kernel.T, tensors.read(f"{theirs}.mlp.fc1_{part}.weight"))
