import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clipjax.models import abstract_model, init_params, tapped, with_params


def conv(x, kernel, bias, stride):
    """[height, width, in] by [k, k, in, out], zeros around as in SAME: the odd one at the end."""
    size, side = kernel.shape[0], -(-x.shape[0] // stride)
    pad = max((side - 1) * stride + size - x.shape[0], 0)
    x = np.pad(x, [(pad // 2, pad - pad // 2)] * 2 + [(0, 0)])
    out = np.empty((side, side, kernel.shape[3]))
    for i in range(side):
        for j in range(side):
            window = x[i * stride : i * stride + size, j * stride : j * stride + size]
            out[i, j] = np.tensordot(window, kernel, 3) + bias
    return out


def definition(pixels, params, config, reference):
    """One image through the tower in float64."""
    p = reference.within(params, "image/")
    act = reference.activations[config.activation]

    def convolve(name, x, stride=1):
        return conv(x, p[f"{name}/kernel"], p[f"{name}/bias"], stride)

    def norm(name, x):
        return reference.layer_norm(x, p[f"{name}/scale"], p[f"{name}/bias"], config.norm_eps)

    x = convolve("stem", pixels, config.stem_stride)
    for stage, depth in enumerate(config.depths):
        if stage:
            x = convolve(f"downs/{stage - 1}", act(norm(f"norms/{stage - 1}", x)), 2)
        for block in range(depth):
            name = f"stages/{stage}/{block}"
            y = convolve(f"{name}/conv_1", act(norm(f"{name}/norm_1", x)))
            x = x + convolve(f"{name}/conv_2", act(norm(f"{name}/norm_2", y)))
    x = norm("norm", x.mean(axis=(0, 1)))
    if config.hidden:
        x = act(x @ p["hidden/kernel"] + p["hidden/bias"])
    return x @ p["project/kernel"]


@pytest.mark.parametrize(("stride", "hidden"), [(1, 0), (2, 0), (2, 20), (4, 0)])
def test_matches_the_float64_definition(stride, hidden, tiny, reference):
    config = tiny.model(tiny.convnet(stem_stride=stride, hidden=hidden))
    params = tiny.params(config, size=0.1)
    pixels = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype(np.float32)
    out = jax.jit(lambda p, x: with_params(config, p).image(x))(params, pixels)
    for example in range(2):
        expected = definition(reference.f64(pixels[example]), params, config.image, reference)
        np.testing.assert_allclose(out[example], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_stages_halve_the_resolution(stride, tiny):
    """Read off the traced program: the feature maps of the last stage."""
    config = tiny.model(tiny.convnet(stem_stride=stride))
    pixels = jax.ShapeDtypeStruct((2, 16, 16, 3), jnp.float32)
    program = str(jax.make_jaxpr(lambda x: forward_of_zeros(config, x))(pixels))
    last = 16 // stride // 4
    assert f"f32[2,{last},{last},12]" in program
    assert f"f32[2,{2 * last},{2 * last},8]" in program


def forward_of_zeros(config, pixels):
    zeros = jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape, leaf.dtype),
        jax.eval_shape(lambda: init_params(config, 0)),
    )
    return with_params(config, zeros).image(pixels)


def test_every_stage_and_block_has_its_parameters(tiny):
    shapes = jax.eval_shape(lambda: init_params(tiny.model(tiny.convnet()), 0))
    kernels = {
        name.removeprefix("image/").removesuffix("/kernel"): leaf.shape
        for name, leaf in shapes.items()
        if name.startswith("image/") and name.endswith("kernel")
    }
    assert kernels == {
        "stem": (3, 3, 3, 4),
        "stages/0/0/conv_1": (3, 3, 4, 4),
        "stages/0/0/conv_2": (3, 3, 4, 4),
        "downs/0": (2, 2, 4, 8),
        "stages/1/0/conv_1": (3, 3, 8, 8),
        "stages/1/0/conv_2": (3, 3, 8, 8),
        "stages/1/1/conv_1": (3, 3, 8, 8),
        "stages/1/1/conv_2": (3, 3, 8, 8),
        "downs/1": (2, 2, 8, 12),
        "stages/2/0/conv_1": (3, 3, 12, 12),
        "stages/2/0/conv_2": (3, 3, 12, 12),
        "project": (12, 8),
    }


def test_units_of_the_hidden_layer_feed_the_projection(tiny):
    config = tiny.model(tiny.convnet(hidden=20, activation="relu"))
    params = tiny.params(config, size=0.1)
    pixels = np.random.default_rng(0).integers(256, size=(2, 16, 16, 3), dtype=np.uint8)
    before, units = "image/hidden/mlp_pre", "image/hidden/mlp_act"
    run = tapped(
        lambda p, x: with_params(config, p).encode_image(x), read={before: "max", units: "max"}
    )
    out, reads = jax.jit(run)(params, pixels)
    np.testing.assert_array_equal(reads[units], np.maximum(reads[before], 0))
    embeds = reads[units] @ params["image/project/kernel"]
    expected = embeds / np.linalg.norm(embeds, axis=1, keepdims=True)
    np.testing.assert_allclose(out, expected, atol=1e-5)
    with pytest.raises(ValueError, match="hidden=-1"):
        tiny.convnet(hidden=-1)


def test_initial_deviation_of_convolutions_is_that_of_he(tiny):
    """sqrt(2 / fan_in), fan_in = 9 x channels."""
    config = tiny.model(tiny.convnet(widths=(32, 48), depths=(1, 1)))
    params = jax.jit(init_params, static_argnums=(0, 1))(config, 0)
    for name, fan_in in {
        "image/stem/kernel": 27,
        "image/stages/0/0/conv_1/kernel": 9 * 32,
        "image/stages/1/0/conv_2/kernel": 9 * 48,
        "image/downs/0/kernel": 4 * 32,
    }.items():
        value = np.asarray(params[name])
        assert abs(value.std() / np.sqrt(2 / fan_in) - 1) < 5 / np.sqrt(2 * value.size), name


def test_the_model_can_be_described_without_numbers(tiny):
    model = abstract_model(tiny.model(tiny.convnet()))
    assert isinstance(model.log_logit_scale.get_value(), jax.ShapeDtypeStruct)
