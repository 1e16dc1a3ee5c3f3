"""What the backward pass finds saved, and in which dtype the delicate parts are computed."""

import re
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clipjax.config.fields import Remat
from clipjax.models import with_params

LADDER = ("none", "dots", "names", "qkv_attn", "attn", "full")


def image_loss(config, images):
    def loss(params):
        embeds = with_params(config, params).encode_image(images, jax.random.key(0))
        return (embeds * jnp.arange(embeds.shape[1])).sum()

    return loss


def saved_bytes(loss, params, capsys):
    """Bytes of what the forward pass leaves behind, arguments and constants apart."""
    capsys.readouterr()
    jax.ad_checkpoint.print_saved_residuals(loss, params)
    total = 0
    for line in capsys.readouterr().out.splitlines():
        found = re.match(r"(bf16|f32|bool|s32|i32)\[([\d,]*)\]", line)
        if found and "from the argument" not in line and "from a constant" not in line:
            size = {"bf16": 2, "bool": 1}.get(found[1], 4)
            total += size * int(np.prod([int(n) for n in found[2].split(",") if n] or [1]))
    return total


def test_the_ladder_is_all_there_is():
    assert set(LADDER) == set(get_args(Remat))


@pytest.mark.parametrize(
    ("scan", "dtype"), [(False, "float32"), (True, "bfloat16")], ids=["unrolled", "scanned"]
)
def test_each_step_of_the_ladder_saves_less_in_a_vit(scan, dtype, tiny, capsys):
    """A block of width w and MLP 4 w over t tokens: 9 w t, 8 w t, 4 w t, w t and nothing."""
    image = tiny.vit(image_size=32, mlp_dim=64)
    images = jnp.asarray(tiny.images(count=2, side=32))
    params, found = None, {}
    for remat in LADDER:
        config = tiny.model(image, compute={"remat": remat, "scan_layers": scan, "dtype": dtype})
        params = tiny.params(config) if params is None else params
        found[remat] = saved_bytes(image_loss(config, images), params, capsys)
    none, dots, names, qkv_attn, attn, full = found.values()
    assert none > dots >= names > qkv_attn > attn > full
    block = 2 * 2 * 65 * 16 * (2 if dtype == "bfloat16" else 4)  # one width of all blocks
    assert names - qkv_attn == 4 * block
    assert qkv_attn - attn == 3 * block
    assert attn - full == block


@pytest.mark.parametrize("kind", ["convnet", "efficientnet", "resnet", "eva"])
def test_every_family_saves_less_with_full_than_with_names_than_with_none(kind, tiny, capsys):
    from clipjax.config import EfficientNetConfig

    image = {
        "convnet": tiny.convnet(),
        "efficientnet": EfficientNetConfig(
            image_size=32, width_factor=0.1, depth_factor=0.1, projection=True
        ),
        "resnet": tiny.resnet(depths=(1, 1, 1, 1)),
        "eva": tiny.eva(),
    }[kind]
    images = jnp.asarray(tiny.images(count=1, side=image.image_size))
    found = []
    for remat in ("none", "names", "full"):
        config = tiny.model(image, compute={"remat": remat})
        shapes = jax.eval_shape(lambda config=config: tiny.params(config))
        found.append(saved_bytes(image_loss(config, images), shapes, capsys))
    none, names, full = found
    assert none > names > full


def test_recomputed_convolutions_change_no_gradient(tiny):
    """Recomputed numbers are those of the first time, up to what XLA fuses: a few roundings."""
    image = tiny.convnet(depths=(1, 1, 1))
    images = jnp.asarray(tiny.images(count=2, side=image.image_size))
    params = tiny.params(tiny.model(image))
    expected, found = (
        jax.jit(jax.grad(image_loss(tiny.model(image, compute={"remat": remat}), images)))(params)
        for remat in ("none", "full")
    )
    for name, grad in found.items():
        largest = float(jnp.abs(expected[name]).max())
        np.testing.assert_allclose(grad, expected[name], atol=1e-5 * largest, err_msg=name)


def equations(jaxpr):
    """All equations, those of inner programs too."""
    for equation in jaxpr.eqns:
        yield equation
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from equations(inner)


def dtypes_of(function, *arguments, names):
    found = set()
    for equation in equations(jax.make_jaxpr(function)(*arguments).jaxpr):
        if equation.primitive.name in names:
            found |= {(equation.primitive.name, str(v.aval.dtype)) for v in equation.invars}
    return found


# What softmax, log-sum-exp, norms and the logit scale are made of. Activations are computed in
# bfloat16, and the derivative of GELU has an exponential: the towers below have ReLU.
_DELICATE = ("exp", "exp2", "log", "log1p", "rsqrt", "sqrt", "reduce_max")


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_exponentials_logarithms_and_roots_are_float32_under_bfloat16(kind, tiny, mesh):
    from clipjax.config import BertConfig, LossConfig
    from clipjax.losses import LOSSES, make_loss

    bert = BertConfig(
        vocab_size=20,
        context_length=6,
        width=16,
        depth=2,
        num_heads=2,
        mlp_dim=24,
        activation="relu",
        projection="linear_bias",
    )
    for text in (tiny.text(activation="relu"), bert):
        config = tiny.model(tiny.vit(activation="relu"), text, compute={"dtype": "bfloat16"})
        params = tiny.params(config)
        images = jnp.asarray(tiny.images(count=8))
        tokens = jnp.ones((8, 6), jnp.int32)
        for loss in (LOSSES[kind][0], make_loss(LossConfig(kind=kind), mesh)):

            def value(params, loss=loss, config=config, images=images, tokens=tokens):
                model = with_params(config, params)
                embeds = model.encode_image(images), model.encode_text(tokens)
                scale = jnp.exp(params["log_logit_scale"])
                return loss(*embeds, scale, jnp.zeros(()), None)

            found = dtypes_of(jax.grad(value), params, names=_DELICATE)
            assert {"exp", "rsqrt"} <= {name for name, _ in found}
            assert {dtype for _, dtype in found} == {"float32"}, found
            products = dtypes_of(value, params, names=("dot_general",))
            assert ("dot_general", "bfloat16") in products  # of the towers
