"""The formulas of `clipjax.core.flops` against XLA's own count of the towers' programs."""

import jax
import jax.numpy as jnp
import pytest

from clipjax.config import ConvNetConfig
from clipjax.core.flops import image_forward_flops, text_forward_flops
from clipjax.models import init_params, with_params


def counted(config, method, *inputs):
    """FLOPs of the lowered, unoptimised program; nothing is compiled or run."""
    shapes = jax.eval_shape(lambda: init_params(config, 0))
    lowered = jax.jit(lambda p, *x: getattr(with_params(config, p), method)(*x)).lower(
        shapes, *inputs
    )
    return lowered.cost_analysis()["flops"]


@pytest.mark.parametrize("pool", ["cls", "mean", "map"])
def test_vit(pool, tiny):
    """At width 1024 what is left out (norms, activations, softmax) is about one per cent."""
    vit = tiny.vit(
        image_size=112, patch_size=14, width=1024, depth=2, num_heads=8, mlp_dim=4096, pool=pool
    )
    config = tiny.model(vit, embed_dim=128)
    images = jax.ShapeDtypeStruct((1, 112, 112, 3), jnp.float32)
    assert image_forward_flops(vit, 128) == pytest.approx(
        counted(config, "image", images), rel=0.02
    )


def test_convnet(tiny):
    """Zeros around the image are counted by the formula and not by XLA: a small image differs.

    So do norms and activations the other way round, the more the narrower the stages.
    """
    convnet = ConvNetConfig(image_size=192, stem_stride=2, widths=(64, 128, 256), depths=(1, 2, 1))
    config = tiny.model(convnet, embed_dim=128)
    images = jax.ShapeDtypeStruct((1, 192, 192, 3), jnp.float32)
    assert image_forward_flops(convnet, 128) == pytest.approx(
        counted(config, "image", images), rel=0.04
    )


def test_text(tiny):
    text = tiny.text(context_length=64, width=1024, depth=2, num_heads=8, mlp_dim=4096)
    config = tiny.model(text=text, embed_dim=128)
    tokens = jax.ShapeDtypeStruct((1, 64), jnp.int32)
    assert text_forward_flops(text, 128) == pytest.approx(counted(config, "text", tokens), rel=0.02)
