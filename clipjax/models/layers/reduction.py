"""Weight gradients that leave their product in float32, so that devices add them up in float32.

A layer that computes in bfloat16 rounds its kernel first, and what comes back through that cast is
a bfloat16 gradient: XLA splits the sum over the batch between the devices before the cast, and its
all-reduce adds numbers of eight bits. Here the cast is inside, with a derivative of its own whose
product over the batch accumulates and ends in float32.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

DotDims = tuple[tuple[tuple[int, ...], tuple[int, ...]], tuple[tuple[int, ...], tuple[int, ...]]]


def reduce_in_float32(model: nnx.Module) -> None:
    """Makes all linear maps and convolutions of a model give float32 gradients of their kernels.

    Values and gradients of activations stay what they are. Biases and norms are left alone: they
    are less than a hundredth of the bytes.

    Args:
        model: is changed.
    """
    dots = {"promote_dtype": _kernel_as_it_is, "dot_general": _dot_general}
    convolutions = {"promote_dtype": _kernel_as_it_is, "conv_general_dilated": _convolution}
    for _, module in nnx.iter_modules(model):
        if isinstance(module, nnx.Linear | nnx.LinearGeneral | nnx.Conv):
            for name, hook in (convolutions if isinstance(module, nnx.Conv) else dots).items():
                setattr(module, name, hook)


def _kernel_as_it_is(
    arrays: tuple[Array, Array, Array | None], /, *, dtype: Any = None, **_: Any
) -> tuple[Array, Array, Array | None]:
    inputs, kernel, bias = arrays
    return inputs.astype(dtype), kernel, None if bias is None else bias.astype(dtype)


def _dot_general(x: Array, kernel: Array, dims: DotDims, **_: Any) -> Array:
    return product(x, kernel, len(dims[0][0]))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def product(x: Float[Array, "..."], kernel: Float[Array, "..."], axes: int) -> Float[Array, "..."]:
    """Returns x times kernel in the dtype of x; the gradient of the kernel is a float32 sum.

    Args:
        x: [..., inputs].
        kernel: [inputs, outputs], float32.
        axes: how many axes the inputs have.
    """
    return jnp.tensordot(x, kernel.astype(x.dtype), axes)


def _product_gradients(
    axes: int, saved: tuple[Array, Array], gradient: Array
) -> tuple[Array, Array]:
    x, kernel = saved
    outputs = tuple(range(axes, kernel.ndim))
    behind = tuple(range(gradient.ndim - len(outputs), gradient.ndim))
    x_gradient = jnp.tensordot(gradient, kernel.astype(x.dtype), (behind, outputs))
    batch = tuple(range(x.ndim - axes))
    kernel_gradient = jnp.tensordot(x, gradient, (batch, batch), preferred_element_type=jnp.float32)
    return x_gradient, kernel_gradient.astype(kernel.dtype)


product.defvjp(lambda x, kernel, axes: (product(x, kernel, axes), (x, kernel)), _product_gradients)


def _convolution(x: Array, kernel: Array, strides: Any, padding: Any, **options: Any) -> Array:
    def convolve(x: Array, kernel: Array) -> Array:
        return lax.conv_general_dilated(x, kernel, strides, padding, **options)

    @jax.custom_vjp
    def rounded(x: Array, kernel: Array) -> Array:
        return convolve(x, kernel.astype(x.dtype))

    def gradients(saved: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
        x, kernel = saved
        (x_gradient,) = jax.vjp(lambda x: convolve(x, kernel.astype(x.dtype)), x)[1](gradient)
        # JAX has no derivative of a convolution of bfloat16 that ends in float32.
        whole, wide = x.astype(jnp.float32), gradient.astype(jnp.float32)
        (kernel_gradient,) = jax.vjp(lambda kernel: convolve(whole, kernel), kernel)[1](wide)
        return x_gradient, kernel_gradient

    rounded.defvjp(lambda x, kernel: (rounded(x, kernel), (x, kernel)), gradients)
    return rounded(x, kernel)
