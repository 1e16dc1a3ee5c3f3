import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from clipjax.config import ResNetConfig
from clipjax.models import init_model_state, model_state_of, param_shapes, with_params
from clipjax.models.resnet import Bottleneck, average_pool

EPS = 1e-5


def conv(x, kernel, stride=1):
    """[height, width, in] by [k, k, in, out] with k // 2 zeros around."""
    size = kernel.shape[0]
    side = (x.shape[0] - 1) // stride + 1
    x = np.pad(x, [(size // 2, size // 2)] * 2 + [(0, 0)])
    out = np.empty((side, side, kernel.shape[3]))
    for i in range(side):
        for j in range(side):
            window = x[i * stride : i * stride + size, j * stride : j * stride + size]
            out[i, j] = np.tensordot(window, kernel, 3)
    return out


def pool(x, size):
    out = np.zeros((x.shape[0] // size, x.shape[1] // size, x.shape[2]))
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            out[i, j] = x[i * size : (i + 1) * size, j * size : (j + 1) * size].mean((0, 1))
    return out


def definition(pixels, params, config, reference):
    """One image through the tower in float64, by running statistics."""
    p = reference.within(params, "image/")

    def norm(name, x):
        x = (x - p[f"{name}/mean"]) / np.sqrt(p[f"{name}/variance"] + EPS)
        return x * p[f"{name}/scale"] + p[f"{name}/bias"]

    def relu(x):
        return np.maximum(x, 0)

    def block(name, x, stride, *, projected):
        y = relu(norm(f"{name}/norm_1", conv(x, p[f"{name}/conv_1/kernel"])))
        y = relu(norm(f"{name}/norm_2", conv(y, p[f"{name}/conv_2/kernel"])))
        y = norm(f"{name}/norm_3", conv(pool(y, stride), p[f"{name}/conv_3/kernel"]))
        if projected:
            shortcut = conv(pool(x, stride), p[f"{name}/shortcut/kernel"])
            x = norm(f"{name}/shortcut_norm", shortcut)
        return relu(x + y)

    x = pixels
    for i in range(3):
        kernel = p[f"stem/{i}/kernel"]
        x = relu(norm(f"stem_norms/{i}", conv(x, kernel, 1 if i else 2)))
    x = pool(x, 2)
    for stage, depth in enumerate(config.depths):
        x = block(f"stages/{stage}/first", x, 2 if stage else 1, projected=True)
        for i in range(depth - 1):
            x = block(f"stages/{stage}/blocks/stack/{i}", x, 1, projected=False)
    x = x.reshape(-1, x.shape[-1])
    x = np.concatenate([x.mean(0, keepdims=True), x]) + p["pool/positions"]
    query = np.einsum("w,whd->hd", x[0], p["pool/query/kernel"]) + p["pool/query/bias"]
    pair = np.einsum("tw,wphd->tphd", x, p["pool/key_value/kernel"]) + p["pool/key_value/bias"]
    read = reference.attend(query[None], pair[:, 0], pair[:, 1])[0]
    return np.einsum("hd,hde->e", read, p["pool/out/kernel"]) + p["pool/out/bias"]


@pytest.mark.parametrize("side", [32, 64])
def test_matches_the_float64_definition(side, tiny, reference):
    config = tiny.model(tiny.resnet(image_size=side))
    params = tiny.params(config, size=0.1)
    pixels = np.random.default_rng(0).normal(size=(2, side, side, 3)).astype(np.float32)
    out = jax.jit(lambda p, x: with_params(config, p).image(x))(params, pixels)
    for example in range(2):
        expected = definition(reference.f64(pixels[example]), params, config.image, reference)
        np.testing.assert_allclose(out[example], expected, rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def in_training(tiny):
    """Embeddings, statistics and gradients of a batch in training, for a way of computing."""
    images = jnp.asarray(tiny.images(4, 32))

    def run(params, config):
        def loss(params):
            model = with_params(config, params)
            embeds = model.encode_image(images, jax.random.key(0))
            return (embeds * jnp.arange(embeds.size).reshape(embeds.shape)).mean(), (
                embeds,
                model_state_of(model),
            )

        grads, (embeds, state) = jax.jit(jax.grad(loss, has_aux=True))(params)
        return embeds, state, grads

    return run


DEPTHS = (1, 3, 1, 1)


@pytest.fixture(scope="module")
def plain(tiny, in_training):
    config = tiny.model(tiny.resnet(depths=DEPTHS))
    params = tiny.params(config, size=0.1)
    return config, params, in_training(params, config)


def unrolled(arrays):
    """Stacked arrays of scanned layers by the names of unrolled ones."""
    out = {}
    for name, value in arrays.items():
        before, stack, rest = name.partition("blocks/stack/")
        if stack and before.startswith("image/"):
            out |= {f"{before}{stack}{i}/{rest}": layer for i, layer in enumerate(value)}
        else:
            out[name] = value
    return out


def stacked(arrays, names):
    """The other way round, for the names of scanned layers."""
    out = {}
    for name in names:
        before, stack, rest = name.partition("blocks/stack/")
        layers = [arrays[n] for n in sorted(arrays) if stack and _is_layer(n, before + stack, rest)]
        out[name] = jnp.stack(layers) if layers else arrays[name]
    return out


def _is_layer(name, start, rest):
    number = name.removeprefix(start).removesuffix(rest)
    return name == f"{start}{number}{rest}" and number.strip("/").isdigit()


@pytest.mark.slow
@pytest.mark.parametrize("scan", [False, True], ids=["unrolled", "scanned"])
@pytest.mark.parametrize("remat", ["none", "names", "dots", "full"])
def test_how_it_is_computed_changes_no_embedding_no_statistic_and_no_gradient(
    scan, remat, plain, tiny, in_training
):
    """Statistics that move inside a loop or a recomputed block must come out of it."""
    config, params, (embeds, state, grads) = plain
    compute = dataclasses.replace(config.compute, scan_layers=scan, remat=remat)
    config = dataclasses.replace(config, compute=compute)
    arrays = stacked(params, param_shapes(config)) if scan else params
    found, moved, slopes = in_training(arrays, config)
    np.testing.assert_allclose(found, embeds, atol=1e-5)
    if scan:
        moved, slopes = unrolled(moved), unrolled(slopes)
        slopes = {n: g for n, g in slopes.items() if n.startswith("image/")}
    assert set(moved) == set(state)
    for name, value in moved.items():
        np.testing.assert_allclose(value, state[name], rtol=1e-4, atol=1e-5, err_msg=name)
        assert np.abs(value - params[name]).max() > 1e-6, name
    for name, slope in slopes.items():
        most = np.abs(grads[name]).max()
        np.testing.assert_allclose(slope, grads[name], atol=1e-3 * most + 1e-7, err_msg=name)


@pytest.mark.slow
def test_a_gradient_reaches_every_parameter_and_no_statistic(plain):
    _, _, (_, state, grads) = plain
    for name, grad in grads.items():
        if not name.startswith("image/"):
            continue
        if name == "image/pool/key_value/bias":  # softmax does not see a bias of all keys
            assert np.abs(grad[1]).max() > 0
        elif name in state:
            assert np.abs(grad).max() == 0, name  # the batch's own were used
        else:
            assert np.abs(grad).max() > 0, name


def test_every_stage_has_its_parameters(tiny):
    shapes = {
        name.removeprefix("image/").removesuffix("/kernel"): shape
        for name, shape in param_shapes(tiny.model(tiny.resnet())).items()
        if name.startswith("image/stages/1") and name.endswith("kernel")
    }
    assert shapes == {
        "stages/1/first/conv_1": (1, 1, 16, 8),
        "stages/1/first/conv_2": (3, 3, 8, 8),
        "stages/1/first/conv_3": (1, 1, 8, 32),
        "stages/1/first/shortcut": (1, 1, 16, 32),
        "stages/1/blocks/stack/0/conv_1": (1, 1, 32, 8),
        "stages/1/blocks/stack/0/conv_2": (3, 3, 8, 8),
        "stages/1/blocks/stack/0/conv_3": (1, 1, 8, 32),
    }


def test_it_starts_as_in_clip(tiny):
    """Convolutions uniform within fan_in^-0.5; the last gain of each block zero, others one."""
    block = Bottleneck(32, 32, 2, tiny.resnet(), jnp.dtype("float32"), rngs=nnx.Rngs(0))
    for conv_of, fan_in in ((block.conv_2, 9 * 32), (block.conv_3, 32), (block.shortcut, 32)):
        kernel = np.asarray(conv_of.kernel[...])
        assert 0.99 * fan_in**-0.5 < np.abs(kernel).max() <= fan_in**-0.5
        np.testing.assert_allclose(kernel.std(), (3 * fan_in) ** -0.5, rtol=0.05)
    for norm, gain in (
        (block.norm_1, 1),
        (block.norm_2, 1),
        (block.norm_3, 0),
        (block.shortcut_norm, 1),
    ):
        np.testing.assert_array_equal(norm.scale[...], gain)
    state = jax.jit(init_model_state, static_argnums=0)(tiny.model(tiny.resnet()))
    for name, value in state.items():
        np.testing.assert_array_equal(value, 1.0 if name.endswith("variance") else 0.0)


def test_average_pool_by_hand():
    x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    np.testing.assert_array_equal(average_pool(x, 2)[0, :, :, 0], [[2.5, 4.5], [10.5, 12.5]])
    np.testing.assert_array_equal(average_pool(x, 1), x)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"image_size": 48}, "not a multiple of 32"),
        ({"depths": (1, 1, 1)}, "four stages"),
        ({"num_heads": 24}, "num_heads=24 does not divide width=2048"),
        ({"width": 0}, "width=0 must be positive"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        ResNetConfig(**fields)
