import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clipjax.config import ConvNeXtConfig
from clipjax.core.flops import program_flops
from clipjax.models import init_params, param_shapes, with_params


def patches(x, kernel, bias):
    """[height, width, in] in squares that do not overlap, by [k, k, in, out]."""
    size, side = kernel.shape[0], x.shape[0] // kernel.shape[0]
    out = np.empty((side, side, kernel.shape[3]))
    for i in range(side):
        for j in range(side):
            square = x[i * size : (i + 1) * size, j * size : (j + 1) * size]
            out[i, j] = np.tensordot(square, kernel, 3) + bias
    return out


def depthwise(x, kernel, bias):
    """Each channel by its own 7 x 7, zeros around."""
    padded = np.pad(x, [(3, 3), (3, 3), (0, 0)])
    out = np.empty_like(x)
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            out[i, j] = (padded[i : i + 7, j : j + 7] * kernel[:, :, 0]).sum((0, 1)) + bias
    return out


def definition(pixels, params, config, reference):
    """One image through the tower in float64."""
    p = reference.within(params, "image/")
    act = reference.activations[config.activation]

    def norm(name, x):
        return reference.layer_norm(x, p[f"{name}/scale"], p[f"{name}/bias"], config.norm_eps)

    def weights(name):
        return p[f"{name}/kernel"], p[f"{name}/bias"]

    def linear(name, x):
        return x @ p[f"{name}/kernel"] + p.get(f"{name}/bias", 0.0)

    x = norm("stem_norm", patches(pixels, *weights("stem")))
    for stage, depth in enumerate(config.depths):
        name = f"stages/{stage}"
        if stage:
            x = patches(norm(f"{name}/norm", x), *weights(f"{name}/down"))
        for i in range(depth):
            block = f"{name}/blocks/stack/{i}"
            y = norm(f"{block}/norm", depthwise(x, *weights(f"{block}/conv")))
            y = linear(f"{block}/mlp/fc2", act(linear(f"{block}/mlp/fc1", y)))
            x = x + y * p.get(f"{block}/scale/gain", 1.0)
    x = norm("norm", x.mean((0, 1)))
    if config.projection == "mlp":
        x = act(linear("head/fc1", x))
    return linear("head/fc2", x)


@pytest.mark.parametrize("side", [16, 32])
@pytest.mark.parametrize(
    "fields",
    [{}, {"projection": "mlp", "layer_scale": None}, {"norm_eps": 1e-1, "activation": "silu"}],
    ids=["linear", "mlp", "epsilon"],
)
def test_matches_the_float64_definition(side, fields, tiny, reference):
    config = tiny.model(tiny.convnext(image_size=side, **fields))
    params = tiny.params(config, size=0.2)
    pixels = np.random.default_rng(0).normal(size=(2, side, side, 3)).astype(np.float32)
    out = jax.jit(lambda p, x: with_params(config, p).image(x))(params, pixels)
    for example in range(2):
        expected = definition(reference.f64(pixels[example]), params, config.image, reference)
        np.testing.assert_allclose(out[example], expected, rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def value_and_grad(tiny):
    images = jnp.asarray(tiny.images(3, 16))

    def run(params, config):
        def loss(params):
            embeds = with_params(config, params).encode_image(images, jax.random.key(0))
            return (embeds * jnp.arange(embeds.size).reshape(embeds.shape)).mean()

        return jax.jit(jax.value_and_grad(loss))(params)

    return run


@pytest.fixture(scope="module")
def plain(tiny, value_and_grad):
    config = tiny.model(tiny.convnext(depths=(1, 3, 1), projection="mlp"))
    params = tiny.params(config, size=0.2)
    return config, params, value_and_grad(params, config)


@pytest.mark.slow
@pytest.mark.parametrize("scan", [False, True], ids=["unrolled", "scanned"])
@pytest.mark.parametrize("remat", ["none", "names", "dots", "full"])
def test_how_it_is_computed_changes_no_gradient(scan, remat, plain, value_and_grad):
    config, params, (value, grads) = plain
    compute = dataclasses.replace(config.compute, scan_layers=scan, remat=remat)
    config = dataclasses.replace(config, compute=compute)
    stack, arrays = "image/stages/1/blocks/stack", params
    if scan:
        arrays = {
            name: params[name]
            if name in params
            else jnp.stack([params[name.replace("stack/", f"stack/{i}/")] for i in range(shape[0])])
            for name, shape in param_shapes(config).items()
        }
    found, slopes = value_and_grad(arrays, config)
    np.testing.assert_allclose(found, value, rtol=1e-5)
    for rest in ("conv/kernel", "mlp/fc1/kernel", "scale/gain"):
        layers = [
            slopes[f"{stack}/{rest}"][i] if scan else slopes[f"{stack}/{i}/{rest}"]
            for i in range(3)
        ]
        for i, layer in enumerate(layers):
            expected = grads[f"{stack}/{i}/{rest}"]
            np.testing.assert_allclose(layer, expected, atol=1e-4 * np.abs(expected).max())


def test_a_gradient_reaches_every_parameter(plain):
    _, _, (_, grads) = plain
    for name, grad in grads.items():
        if name.startswith("image/"):
            assert np.abs(grad).max() > 0, name


def test_what_is_saved_for_the_backward_pass_is_what_remat_says(tiny):
    """Counted in the trace: what is computed a second time of the depthwise convolution and fc1."""
    image = tiny.convnext()

    def flops(remat):
        config = tiny.model(image, compute={"remat": remat})
        shapes = {n: jax.ShapeDtypeStruct(s, jnp.float32) for n, s in param_shapes(config).items()}
        return program_flops(
            jax.grad(lambda p, x: with_params(config, p).image(x).sum()),
            shapes,
            jax.ShapeDtypeStruct((1, 16, 16, 3), jnp.float32),
        )

    again = sum(
        depth * 2 * (4 // 2**stage) ** 2 * (49 * width + 4 * width**2)
        for stage, (width, depth) in enumerate(zip(image.widths, image.depths, strict=True))
    )
    assert flops("full") - flops("names") == again


def test_it_starts_as_in_the_paper(tiny):
    """Weights of deviation 0.02; gains of 1e-6."""
    config = tiny.model(tiny.convnext(widths=(32, 48, 64)))
    params = jax.jit(init_params, static_argnums=(0, 1))(config, 0)
    for name, count in {
        "stages/0/blocks/stack/0/conv": 7 * 7 * 32,
        "stages/2/down": 4 * 48 * 64,
    }.items():
        kernel = np.asarray(params[f"image/{name}/kernel"])
        assert kernel.size == count
        assert abs(kernel.std() / 0.02 - 1) < 5 / np.sqrt(2 * kernel.size)
    np.testing.assert_allclose(params["image/stages/1/blocks/stack/1/scale/gain"], 1e-6)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"image_size": 40}, "not a multiple of 32"),
        ({"depths": (1, 1)}, "differ in length"),
        ({"depths": (1, 0, 1, 1)}, "must be positive"),
        ({"widths": ()}, "must be positive"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        ConvNeXtConfig(**fields)
