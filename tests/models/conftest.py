"""Tiny towers, and the parts of a transformer in NumPy float64, written from the papers."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf, expit

from clipjax.config import (
    ComputeConfig,
    ConvNetConfig,
    ConvNeXtConfig,
    DualEncoderConfig,
    EvaConfig,
    ResNetConfig,
    TextConfig,
    ViTConfig,
)
from clipjax.models import init_model_state, init_params


def f64(x):
    return np.asarray(x, np.float64)


def gelu(x):
    return x * (1 + erf(x / np.sqrt(2))) / 2


def gelu_tanh(x):
    return x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def quick_gelu(x):
    return x * expit(1.702 * x)


def layer_norm(x, scale, bias, eps):
    mean = x.mean(-1, keepdims=True)
    variance = ((x - mean) ** 2).mean(-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + eps) * scale + bias


def attend(query, key, value, *, causal=False):
    """[queries, heads, dim] by [keys, heads, dim]: loops over heads, queries see what they may."""
    out = np.empty_like(query)
    for head in range(query.shape[1]):
        for i, q in enumerate(query[:, head]):
            seen = slice(0, i + 1 if causal else None)
            scores = key[seen, head] @ q / np.sqrt(query.shape[2])
            weights = np.exp(scores - scores.max())
            out[i, head] = weights @ value[seen, head] / weights.sum()
    return out


def turned(x, angles):
    """[tokens, heads, channels]: neighbouring channels as a complex number, turned by an angle."""
    z = (x[..., 0::2] + 1j * x[..., 1::2]) * np.exp(1j * angles)[:, None, :]
    return np.stack([z.real, z.imag], axis=-1).reshape(x.shape)


def attention(x, params, *, causal, angles=None):
    """One example [tokens, width] through the fused projection, heads and output projection."""
    qkv = np.einsum("td,dshe->tshe", x, params["qkv/kernel"]) + params.get("qkv/bias", 0.0)
    query, key, value = qkv[:, 0], qkv[:, 1], qkv[:, 2]
    if angles is not None:
        query, key = turned(query, angles), turned(key, angles)
    mixed = attend(query, key, value, causal=causal)
    return np.einsum("the,hed->td", mixed, params["out/kernel"]) + params["out/bias"]


def block(x, params, *, causal, activation, eps, angles=None):
    """x + gain * attention(norm(x)), then x + gain * mlp(norm(x))."""
    y = layer_norm(x, params["ln_1/scale"], params["ln_1/bias"], eps)
    mixed = attention(y, within(params, "attn/"), causal=causal, angles=angles)
    x = x + params.get("ls_1/gain", 1.0) * mixed
    y = layer_norm(x, params["ln_2/scale"], params["ln_2/bias"], eps)
    y = activation(y @ params["mlp/fc1/kernel"] + params["mlp/fc1/bias"])
    y = y @ params["mlp/fc2/kernel"] + params["mlp/fc2/bias"]
    return x + params.get("ls_2/gain", 1.0) * y


def within(params, prefix):
    """The parameters below a prefix, in float64, by the rest of their names."""
    return {k[len(prefix) :]: f64(v) for k, v in params.items() if k.startswith(prefix)}


@pytest.fixture(scope="session")
def reference():
    """The float64 functions of this file."""
    return types.SimpleNamespace(
        f64=f64,
        layer_norm=layer_norm,
        attend=attend,
        attention=attention,
        block=block,
        within=within,
        activations={
            "gelu": gelu,
            "gelu_tanh": gelu_tanh,
            "quick_gelu": quick_gelu,
            "silu": lambda x: x * expit(x),
            "relu": lambda x: np.maximum(x, 0),
        },
    )


def tiny_vit(**fields):
    return ViTConfig(
        **(dict(image_size=12, patch_size=4, width=16, depth=2, num_heads=2, mlp_dim=24) | fields)
    )


def tiny_text(**fields):
    return TextConfig(
        **(
            dict(vocab_size=20, context_length=6, width=16, depth=2, num_heads=2, mlp_dim=24)
            | fields
        )
    )


def tiny_convnet(**fields):
    return ConvNetConfig(**(dict(image_size=16, widths=(4, 8, 12), depths=(1, 2, 1)) | fields))


def tiny_eva(**fields):
    return EvaConfig(
        **(
            dict(
                image_size=16,
                patch_size=4,
                width=16,
                depth=2,
                num_heads=2,
                mlp_dim=24,
                rope_grid=2,
            )
            | fields
        )
    )


def tiny_resnet(**fields):
    return ResNetConfig(**(dict(image_size=32, width=4, depths=(1, 2, 1, 1), num_heads=4) | fields))


def tiny_convnext(**fields):
    return ConvNeXtConfig(**(dict(image_size=16, widths=(4, 8, 12), depths=(1, 2, 1)) | fields))


def tiny_model(image=None, text=None, compute=None, **fields):
    return DualEncoderConfig(
        image=image or tiny_vit(),
        text=text or tiny_text(),
        compute=ComputeConfig(**(compute or {})),
        **({"embed_dim": 8} | fields),
    )


def moved_params(config, seed=0, size=0.3):
    """Parameters near the initial ones: zeros of biases and ones of gains would hide mistakes.

    The statistics of batch norm are among them.

    Drawn here, since compiling the initialisers takes longer than most of the tests.
    """
    shapes = jax.eval_shape(lambda: {**init_params(config, seed), **init_model_state(config)})
    rng = np.random.default_rng(seed)
    params = {}
    for name, leaf in sorted(shapes.items()):
        p = size * rng.normal(size=leaf.shape)
        if name == "log_logit_scale":
            p += np.log(config.init_logit_scale)
        elif name == "logit_bias":
            p += config.init_logit_bias
        elif name.endswith("/scale"):
            p += 1
        elif name.endswith("/variance"):
            p = np.exp(p)
        elif name.endswith("kernel"):
            p += rng.normal(size=leaf.shape) / np.sqrt(np.prod(leaf.shape[:-1]))
        params[name] = jnp.asarray(p, leaf.dtype)
    return params


@pytest.fixture(scope="session")
def tiny():
    """Makers of tiny configs (vit, text, model, ...), parameters, images and tokens."""

    def images(count=3, side=12, seed=0):
        rng = np.random.default_rng(seed)
        return rng.integers(0, 256, (count, side, side, 3)).astype(np.uint8)

    def tokens(*rows):
        return np.asarray(rows, np.int32)

    return types.SimpleNamespace(
        vit=tiny_vit,
        text=tiny_text,
        convnet=tiny_convnet,
        eva=tiny_eva,
        resnet=tiny_resnet,
        convnext=tiny_convnext,
        model=tiny_model,
        params=moved_params,
        images=images,
        tokens=tokens,
    )
