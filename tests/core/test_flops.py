import jax
import jax.numpy as jnp
import pytest

from clipjax.core.flops import program_flops

X, Y = jnp.ones((2, 3)), jnp.ones((3, 4))
PRODUCT = 2 * 2 * 3 * 4


def test_a_product_of_several_axes():
    """[2, 3, 4, 5] with [2, 3, 5, 6]: a batch of 2 and 3, 4 x 5 x 6 multiply-adds each."""
    x, y = jnp.ones((2, 3, 4, 5)), jnp.ones((2, 3, 5, 6))
    assert program_flops(jnp.matmul, x, y) == 2 * 6 * 4 * 5 * 6


@pytest.mark.parametrize(("groups", "per_output"), [(1, 4 * 9), (2, 2 * 9), (4, 9)])
def test_a_convolution_counts_the_channels_of_its_group(groups, per_output):
    image, kernel = jnp.ones((2, 6, 6, 4)), jnp.ones((3, 3, 4 // groups, 8))

    def conv(image, kernel):
        return jax.lax.conv_general_dilated(
            image,
            kernel,
            (2, 2),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )

    assert program_flops(conv, image, kernel) == 2 * (2 * 3 * 3 * 8) * per_output


@pytest.mark.parametrize(
    ("function", "times"),
    [
        (jax.jit(jnp.dot), 1),
        (jax.checkpoint(jnp.dot), 1),
        (lambda x, y: jax.lax.scan(lambda c, _: (c, x @ y), 0.0, None, length=5)[1], 5),
        (lambda x, y: jax.lax.fori_loop(0, 3, lambda _, c: c + x @ y, jnp.zeros((2, 4))), 3),
        (lambda x, y: jax.lax.cond(x[0, 0] > 0, lambda: x @ y, lambda: jnp.zeros((2, 4))), 1),
        (lambda x, y: jax.vmap(jnp.dot, (0, None))(x, y), 1),
    ],
    ids=["jit", "checkpoint", "scan", "fori_loop", "cond", "vmap"],
)
def test_products_inside_other_programs_count_as_often_as_they_run(function, times):
    assert program_flops(function, X, Y) == times * PRODUCT


def test_a_function_with_its_own_derivative_counts_once():
    @jax.custom_vjp
    def product(x, y):
        return x @ y

    product.defvjp(lambda x, y: (x @ y, (x, y)), lambda kept, g: (g @ kept[1].T, kept[0].T @ g))
    assert program_flops(product, X, Y) == PRODUCT


def test_a_loop_of_unknown_length_is_refused():
    def until(x):
        return jax.lax.while_loop(lambda x: x[0, 0] < 9, lambda x: x @ x, x)

    with pytest.raises(ValueError, match="unknown length"):
        program_flops(until, jnp.ones((2, 2)))
