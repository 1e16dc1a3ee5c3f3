"""The network against a float64 one written from the paper; its sizes; batch norm in training."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit

from clipjax.config import EfficientNetConfig
from clipjax.config.presets_text import EFFICIENTNETS
from clipjax.core.partition import tree_shardings
from clipjax.models import (
    init_model_state,
    init_params,
    model_state_of,
    param_axes,
    param_shapes,
    with_params,
)
from clipjax.models.efficientnet import mbconvs


def network(**fields):
    """Eight blocks of 8 to 80 channels; the stride of block 3 meets a map of three."""
    return EfficientNetConfig(
        **{
            "image_size": 24,
            "width_factor": 0.25,
            "depth_factor": 0.3,
            "symmetric_padding": (3,),
            "projection": True,
            **fields,
        }
    )


@pytest.fixture
def arrays(tiny):
    """Parameters and statistics away from their start."""

    def make(config, size=0.3):
        drawn = tiny.params(config, size=size)
        rng = np.random.default_rng(1)
        for name, shape in param_shapes(config).items():
            if name.endswith("/variance"):
                drawn[name] = jnp.asarray(np.exp(0.3 * rng.normal(size=shape)), jnp.float32)
            elif name not in drawn:
                drawn[name] = jnp.asarray(0.2 * rng.normal(size=shape), jnp.float32)
        return drawn

    return make


def swish(x):
    return x * expit(x)


def convolve(x, kernel, stride, before, behind, groups=1):
    """[height, width, channels] in loops over the places of the kernel."""
    size, inputs = kernel.shape[0], x.shape[-1]
    x = np.pad(x, ((before, behind), (before, behind), (0, 0)))
    side = (x.shape[0] - size) // stride + 1
    out = np.zeros((side, side, kernel.shape[-1]))
    for i in range(size):
        for j in range(size):
            seen = x[i : i + stride * side : stride, j : j + stride * side : stride]
            seen = seen[:side, :side]
            if groups == 1:
                out += seen @ kernel[i, j]
            else:
                assert groups == inputs
                out += seen * kernel[i, j, 0]
    return out


def conv_norm(x, p, eps, stride=1, before=0, behind=0, groups=1):
    x = convolve(x, p["conv/kernel"], stride, before, behind, groups)
    x = (x - p["norm/mean"]) / np.sqrt(p["norm/variance"] + eps)
    return x * p["norm/scale"] + p["norm/bias"]


# Table 1 of the paper for `network()`: channels by 0.25 to a multiple of 8, one block a stage but
# two of the sixth.
ROWS = (  # expansion, kernel, stride, input channels, output channels
    (1, 3, 1, 8, 8),
    (6, 3, 2, 8, 8),
    (6, 5, 2, 8, 16),
    (6, 3, 2, 16, 24),
    (6, 5, 1, 24, 32),
    (6, 5, 2, 32, 48),
    (6, 5, 1, 48, 48),
    (6, 3, 1, 48, 80),
)


def definition(pixels, params, config, reference):
    p, eps = reference.within(params, "image/"), config.batch_norm_eps
    x = swish(conv_norm(pixels, reference.within(p, "stem/"), eps, 2, 0, 1))
    for i, (expansion, kernel, stride, inputs, _outputs) in enumerate(ROWS):
        q, start = reference.within(p, f"blocks/{i}/"), x
        assert x.shape[-1] == inputs
        if expansion > 1:
            x = swish(conv_norm(x, reference.within(q, "expand/"), eps))
        # As much padding as TensorFlow gives, the odd zero at the end.
        side = x.shape[0]
        total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
        before, behind = total // 2, total - total // 2
        depthwise = reference.within(q, "depthwise/")
        x = swish(conv_norm(x, depthwise, eps, stride, before, behind, expansion * inputs))
        means = x.mean((0, 1))
        gate = swish(means @ q["gate/reduce/kernel"][0, 0] + q["gate/reduce/bias"])
        x = x * expit(gate @ q["gate/expand/kernel"][0, 0] + q["gate/expand/bias"])
        x = conv_norm(x, reference.within(q, "project/"), eps)
        x = x + start if i == 6 else x
    if config.head:
        x = swish(conv_norm(x, reference.within(p, "head/"), eps))
    x = x.mean((0, 1))
    return x @ p["project/kernel"] if config.projection else x


@pytest.mark.parametrize(
    ("fields", "embed_dim"),
    [({}, 8), ({"head": True}, 8), ({"projection": False}, 80)],
    ids=["projection", "head", "bare"],
)
def test_matches_the_float64_definition(fields, embed_dim, tiny, arrays, reference):
    config = tiny.model(network(**fields), embed_dim=embed_dim)
    params = arrays(config)
    pixels = np.random.default_rng(0).normal(size=(2, 24, 24, 3)).astype(np.float32)
    out = jax.jit(lambda p, x: with_params(config, p).image(x))(params, pixels)
    for example in range(2):
        expected = definition(reference.f64(pixels[example]), params, config.image, reference)
        # Some tens of sums in float32, each off by a few roundings of the largest number.
        atol = 1e-5 * np.abs(expected).max()
        np.testing.assert_allclose(out[example], expected, rtol=0, atol=atol)


def test_where_a_stride_meets_an_odd_side_is_where_tensorflow_pads_both_sides():
    for name, config in EFFICIENTNETS.items():
        side, odd = -(-config.image_size // 2), []
        for i, block in enumerate(mbconvs(config)):
            if block.stride == 2:
                odd += [i] if side % 2 else []
                side = -(-side // 2)
        assert config.symmetric_padding == tuple(odd), name


def test_blocks_are_those_of_the_paper():
    blocks = mbconvs(EFFICIENTNETS["B0"])
    assert [b.outputs for b in blocks if b.inputs != b.outputs] == [16, 24, 40, 80, 112, 192, 320]
    assert [b.stride for b in blocks].count(2) == 4
    assert len(blocks) == 16
    assert [b.kernel for b in blocks].count(5) == 2 + 3 + 4
    assert sum(b.residual for b in blocks) == 9
    assert EFFICIENTNETS["B0"].out_channels == 1280
    assert EFFICIENTNETS["B7"].out_channels == 2560
    assert EfficientNetConfig().out_channels == 640


@pytest.mark.parametrize(
    ("name", "parameters"), [("B0", 5.3e6), ("B3", 12e6), ("B7", 66e6), ("L2", 480e6)]
)
def test_parameters_are_those_of_the_published_networks(name, parameters, tiny):
    """With 1000 classes; table 2 of the paper, and table 7 of Xie et al. 2019 for L2."""
    shapes = param_shapes(tiny.model(EFFICIENTNETS[name], embed_dim=1000))
    ours = sum(
        np.prod(shape)
        for name, shape in shapes.items()
        if name.startswith("image/") and not name.endswith(("/mean", "/variance"))
    )
    assert ours == pytest.approx(parameters, rel=0.02)


def trained(config, images):
    """A function from arrays to embeddings and the statistics that training leaves."""

    def run(arrays):
        model = with_params(config, arrays)
        embeds = model.encode_image(jnp.asarray(images), jax.random.key(0))
        return embeds, model_state_of(model)

    return run


def test_training_normalises_by_the_batch_and_moves_the_statistics(tiny, arrays):
    config = tiny.model(network())
    params, images = arrays(config, 0.1), tiny.images(4, 24)
    embeds, moved = jax.jit(trained(config, images))(params)
    assert set(moved) == {n for n in param_shapes(config) if n.endswith(("/mean", "/variance"))}
    for name, value in moved.items():
        assert np.isfinite(value).all()
        assert np.abs(value - params[name]).max() > 0, name
    evaluated = with_params(config, params).encode_image(jnp.asarray(images))
    assert np.abs(embeds - evaluated).max() > 1e-3
    # By hand for the stem: 0.99 of what was, 0.01 of the batch.
    pixels = (images / 255 - config.pixel_mean) / np.array(config.pixel_std)
    kernel = np.asarray(params["image/stem/conv/kernel"], np.float64)
    maps = np.stack([convolve(x, kernel, 2, 0, 1) for x in pixels]).reshape(-1, 8)
    old = {n: np.asarray(params[f"image/stem/norm/{n}"]) for n in ("mean", "variance")}
    new = {n: moved[f"image/stem/norm/{n}"] for n in ("mean", "variance")}
    mean, variance = maps.mean(0), maps.var(0, ddof=1)
    np.testing.assert_allclose(new["mean"], 0.99 * old["mean"] + 0.01 * mean, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(new["variance"], 0.99 * old["variance"] + 0.01 * variance, rtol=1e-4)


def test_frozen_statistics_stay_and_are_what_training_normalises_by(tiny, arrays):
    config = tiny.model(network(frozen_batch_norm=True))
    params, images = arrays(config, 0.1), tiny.images(3, 24)
    embeds, moved = jax.jit(trained(config, images))(params)
    for name, value in moved.items():
        np.testing.assert_array_equal(value, params[name])
    evaluated = jax.jit(lambda p: with_params(config, p).encode_image(jnp.asarray(images)))(params)
    np.testing.assert_allclose(embeds, evaluated, atol=1e-6)


def test_gradients_reach_every_parameter(tiny, arrays):
    config = tiny.model(network(head=True))
    params, images = arrays(config, 0.1), tiny.images(3, 24)
    state = init_model_state(config)
    learned = {n: p for n, p in params.items() if n not in state}

    def loss(learned):
        embeds, _ = trained(config, images)({**params, **learned})
        return embeds[:, 0].sum()

    grads = jax.jit(jax.grad(loss))(learned)
    still = {n for n, g in grads.items() if n.startswith("image/") and not np.abs(g).max() > 0}
    assert not still
    assert all(np.isfinite(g).all() for g in grads.values())


def test_bfloat16_stays_near_and_sharded_gives_the_same(tiny, arrays, mesh_222):
    """In training, so that the statistics are those of the whole batch on every device."""
    config = tiny.model(network())
    params, images = arrays(config, 0.1), tiny.images(8, 24)

    def run(config):
        def encode(params, images):
            model = with_params(config, params)
            return model.encode_image(images, jax.random.key(0)), model_state_of(model)

        return jax.jit(encode)

    exact, moved = run(config)(params, images)
    half = dataclasses.replace(
        config, compute=dataclasses.replace(config.compute, dtype="bfloat16")
    )
    rounded, _ = run(half)(params, images)
    assert rounded.dtype == jnp.float32
    assert 1e-4 < np.abs(rounded - exact).max() < 0.3
    split = jax.device_put(params, tree_shardings(params, param_axes(config), mesh_222))
    rows = jax.NamedSharding(mesh_222, jax.P(("data", "fsdp")))
    with jax.set_mesh(mesh_222):
        sharded, state = run(config)(split, jax.device_put(images, rows))
    np.testing.assert_allclose(sharded, exact, atol=2e-5)
    for name, value in moved.items():
        np.testing.assert_allclose(state[name], value, rtol=1e-4, atol=1e-6, err_msg=name)


def test_initial_deviations_are_those_of_the_reference_implementation(tiny):
    config = tiny.model(network())
    params = jax.jit(init_params, static_argnums=(0, 1))(config, 0)
    documented = {  # sqrt(2 / (places of the kernel x output channels)), of one channel where apart
        "image/stem/conv/kernel": (2 / (9 * 8)) ** 0.5,
        "image/blocks/5/expand/conv/kernel": (2 / 192) ** 0.5,
        "image/blocks/5/depthwise/conv/kernel": (2 / 25) ** 0.5,
        "image/blocks/5/gate/expand/kernel": (2 / 192) ** 0.5,
    }
    for name, std in documented.items():
        value = np.asarray(params[name])
        assert abs(value.std() / std - 1) < 5 / np.sqrt(2 * value.size), name


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"width_factor": 0.0}, "must be positive"),
        ({"depth_factor": -1.0}, "must be positive"),
        ({"image_size": 0}, "image_size=0 must be positive"),
        ({"channels_divisor": 0}, "channels_divisor=0 must be positive"),
    ],
)
def test_a_config_that_cannot_be_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        network(**fields)


def test_without_projection_the_space_has_the_last_channels(tiny):
    with pytest.raises(ValueError, match="embed_dim=8 to be the 80 channels"):
        tiny.model(network(projection=False))
