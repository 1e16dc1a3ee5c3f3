import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from clipjax.config import ComputeConfig
from clipjax.models import init_params, with_params
from clipjax.models.layers.reduction import reduce_in_float32

BF16 = jnp.dtype("bfloat16")


def layers():
    rngs = nnx.Rngs(0)
    return {
        "linear": (nnx.Linear(6, 5, dtype=BF16, rngs=rngs), (4, 3, 6)),
        "heads": (nnx.LinearGeneral(6, (3, 2, 4), dtype=BF16, rngs=rngs), (4, 3, 6)),
        "merged": (nnx.LinearGeneral((2, 4), 5, axis=(-2, -1), dtype=BF16, rngs=rngs), (4, 2, 4)),
        "conv": (
            nnx.Conv(3, 5, (2, 2), (2, 2), padding="VALID", dtype=BF16, rngs=rngs),
            (4, 4, 4, 3),
        ),
        "depthwise": (
            nnx.Conv(6, 6, (3, 3), feature_group_count=6, dtype=BF16, rngs=rngs),
            (4, 4, 4, 6),
        ),
    }


@pytest.mark.parametrize("name", layers())
def test_only_the_gradient_of_the_kernel_changes_and_it_is_not_rounded(name):
    """bfloat16 keeps 8 bits: its rounding of the kernel's gradient is up to 2^-9 of a number."""
    layer, shape = layers()[name]
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=shape), BF16)

    def run(layer):
        graph, state = nnx.split(layer)
        out, back = jax.vjp(lambda s, x: nnx.merge(graph, s)(x), state, x)
        weights = jnp.asarray(np.random.default_rng(1).normal(size=out.shape), BF16)
        grads, x_grad = back(weights)
        return out, x_grad, grads["bias"].get_value(), grads["kernel"].get_value()

    *expected, rounded = run(layer)
    reduce_in_float32(layer)
    *found, kernel_grad = run(layer)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)
    assert kernel_grad.dtype == jnp.float32
    assert np.array_equal(rounded, np.asarray(rounded, BF16))
    assert not np.array_equal(kernel_grad, np.asarray(kernel_grad, BF16))
    # The inputs of both are the same bfloat16 numbers, whose products float32 holds exactly.
    np.testing.assert_allclose(kernel_grad, rounded, rtol=2**-8, atol=2**-8)


def gradient_program(config, mesh):
    """StableHLO and optimised HLO of the gradient of a sum of squares over eight devices."""
    shapes = jax.eval_shape(lambda: init_params(config, 0))
    whole, split = (jax.NamedSharding(mesh, jax.P(*axis)) for axis in ((), ("data",)))
    params = {k: jax.ShapeDtypeStruct(v.shape, v.dtype, sharding=whole) for k, v in shapes.items()}
    text = config.text
    tokens = jax.ShapeDtypeStruct((16, text.context_length), jnp.int32, sharding=split)
    side = config.image.image_size
    images = jax.ShapeDtypeStruct((16, side, side, 3), jnp.uint8, sharding=split)

    def loss(params, images, tokens):
        model = with_params(config, params)
        return (model.encode_image(images) * model.encode_text(tokens)).sum()

    with jax.set_mesh(mesh):
        return jax.jit(jax.grad(loss), out_shardings=whole).lower(params, images, tokens)


def kernel_reduces(program, shapes):
    """Dtypes of what all devices of the compiled program add up, of the shapes of kernels."""
    found = []
    for line in program.splitlines():
        if re.search(r" all-reduce(-start)?\(", line):
            for dtype, dims in re.findall(
                r"(bf16|f32)\[([\d,]+)\]", line.partition("all-reduce(")[0]
            ):
                if dims in shapes:
                    found.append(dtype)
    return found


def dot_dtypes(lowered, sizes):
    """Dtypes in which products over the batch (weight gradients) end, before any optimisation."""
    found = re.findall(r"stablehlo\.dot_general .*-> tensor<([\dx]+)x(bf16|f32)>", lowered)
    return {dtype for shape, dtype in found if shape in sizes}


def test_weight_gradients_end_in_the_dtype_that_was_asked_for(tiny, mesh):
    """Before optimisation: XLA on CPU computes in float32 what is written in bfloat16.

    fc1 of the towers: [16, 24], which no activation of 6 or 10 tokens is.
    """
    found = {}
    for dtype in (None, "float32"):
        config = tiny.model(compute={"dtype": "bfloat16", "reduce_dtype": dtype})
        lowered = gradient_program(config, mesh)
        found[dtype] = dot_dtypes(lowered.as_text(), {"16x24", "24x16"})
    assert found == {None: {"bf16"}, "float32": {"f32"}}


def test_devices_add_float32(tiny, mesh):
    config = tiny.model(compute={"dtype": "bfloat16", "reduce_dtype": "float32"})
    program = gradient_program(config, mesh).compile().as_text()
    dtypes = kernel_reduces(program, {"16,24", "24,16"})
    assert dtypes
    assert set(dtypes) == {"f32"}


def test_a_model_that_reduces_in_float32_can_be_recomputed_like_any(tiny):
    """Both give the numbers of the plain way up to the roundings of its bfloat16 gradients."""
    base = {"dtype": "bfloat16"}
    config = tiny.model(compute=base)
    params = tiny.params(config)
    images = jnp.asarray(tiny.images(count=2))

    def grads(**compute):
        model = tiny.model(compute=base | compute)

        def loss(params):
            return with_params(model, params).encode_image(images).astype(jnp.float32)[:, 0].sum()

        return jax.jit(jax.grad(loss))(params)

    plain = grads()
    for compute in ({}, {"remat": "names"}, {"remat": "dots"}):
        found = grads(reduce_dtype="float32", **compute)
        for name, grad in found.items():
            largest = float(jnp.abs(plain[name]).max())
            np.testing.assert_allclose(grad, plain[name], atol=2**-6 * largest, err_msg=name)


def test_a_sum_in_bfloat16_of_float32_gradients_is_refused():
    with pytest.raises(ValueError, match=r"reduce_dtype='bfloat16' with dtype='float32'"):
        ComputeConfig(reduce_dtype="bfloat16")
