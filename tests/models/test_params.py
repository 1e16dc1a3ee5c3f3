import json
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from clipjax.config import PRESETS
from clipjax.models import (
    DualEncoder,
    abstract_model,
    init_model_state,
    init_params,
    num_params,
    param_axes,
    param_shapes,
    with_params,
)
from clipjax.models.params import shape_rngs

GOLDEN = Path(__file__).parents[1] / "golden"
UPDATE = "CLIPJAX_UPDATE_GOLDEN"
NAMES = ("vit", "vit_scanned", "siglip", "convnet", "resnet", "resnet_scanned", "convnext")


@pytest.fixture(scope="module")
def configs(tiny):
    """The models whose parameter names are golden."""
    return {
        "vit": tiny.model(),
        "vit_scanned": tiny.model(compute={"scan_layers": True}),
        "siglip": tiny.model(
            tiny.vit(pool="map", pre_norm=False, patch_bias=True, projection=False),
            tiny.text(causal=False, pool="last", projection_bias=True),
            embed_dim=16,
            init_logit_bias=-10.0,
        ),
        "convnet": tiny.model(tiny.convnet()),
        "resnet": tiny.model(tiny.resnet()),
        "resnet_scanned": tiny.model(tiny.resnet(), compute={"scan_layers": True}),
        "convnext": tiny.model(tiny.convnext(projection="mlp")),
    }


@pytest.mark.parametrize("name", NAMES)
def test_names_shapes_and_axes_do_not_change_between_versions(name, configs):
    """Golden: other names break every checkpoint. CLIPJAX_UPDATE_GOLDEN=1 rewrites the file."""
    config = configs[name]
    axes = param_axes(config)
    shapes = jax.eval_shape(lambda: {**init_params(config, 0), **init_model_state(config)})
    lines = [
        json.dumps([name, list(leaf.shape), list(axes[name])])
        for name, leaf in sorted(shapes.items())
    ]
    file = GOLDEN / f"params_{name}.txt"
    if os.environ.get(UPDATE):
        file.write_text("\n".join(lines) + "\n")
    assert file.read_text().splitlines() == lines


@pytest.mark.parametrize("name", NAMES)
def test_axes_have_one_entry_a_parameter_with_the_right_rank(name, configs):
    config = configs[name]
    shapes = jax.eval_shape(lambda: {**init_params(config, 0), **init_model_state(config)})
    axes = param_axes(config)
    assert set(axes) == set(shapes)
    for parameter, leaf in shapes.items():
        # A scanned stack has one leading axis, that of the layers, more.
        stacked = config.compute.scan_layers and "/blocks/stack/" in parameter
        assert len(axes[parameter]) == leaf.ndim - stacked, parameter
        assert set(axes[parameter]) <= {None, "embed", "vocab", "heads", "mlp"}


def test_scanned_names_are_the_unrolled_ones_without_the_number(configs):
    unrolled = jax.eval_shape(lambda: init_params(configs["vit"], 0))
    scanned = jax.eval_shape(lambda: init_params(configs["vit_scanned"], 0))
    expected = {
        name.replace("/stack/0/", "/stack/"): (
            (2, *leaf.shape) if "/stack/0/" in name else leaf.shape
        )
        for name, leaf in unrolled.items()
        if "/stack/1/" not in name
    }
    assert {name: leaf.shape for name, leaf in scanned.items()} == expected


@pytest.mark.parametrize("name", ["vit", "convnet"])
def test_with_params_equals_the_module_called_directly(name, configs, tiny):
    config = configs[name]
    module = DualEncoder(config, rngs=nnx.Rngs(5))
    images = tiny.images(2, config.image.image_size)
    tokens = tiny.tokens([18, 3, 19, 0, 0, 0], [18, 4, 5, 19, 0, 0])
    model = with_params(config, init_params(config, 5))
    np.testing.assert_array_equal(
        model.encode_image(jnp.asarray(images)), module.encode_image(jnp.asarray(images))
    )
    np.testing.assert_array_equal(
        model.encode_text(jnp.asarray(tokens)), module.encode_text(jnp.asarray(tokens))
    )


def test_with_params_does_not_change_what_the_next_call_sees(configs, tiny):
    """The structure is cached; the arrays must not be."""
    config = configs["vit"]
    first, second = (tiny.params(config, seed) for seed in (0, 1))
    encode = jax.jit(lambda p, x: with_params(config, p).encode_image(x))
    before = np.asarray(encode(first, tiny.images()))
    assert np.abs(encode(second, tiny.images()) - before).max() > 1e-3
    np.testing.assert_array_equal(encode(first, tiny.images()), before)
    assert all(
        isinstance(leaf, jax.ShapeDtypeStruct)
        for leaf in jax.tree.leaves(nnx.state(abstract_model(config), nnx.Param))
    )


def test_a_missing_parameter_is_named(configs, tiny):
    params = tiny.params(configs["vit"])
    del params["image/class_token"]
    with pytest.raises(KeyError, match="image/class_token"):
        with_params(configs["vit"], params)


def test_the_seed_decides_the_initial_parameters(configs):
    init = jax.jit(init_params, static_argnums=(0, 1))
    one, same, other = (init(configs["vit"], seed) for seed in (0, 0, 1))
    assert {p.dtype for p in one.values()} == {jnp.dtype("float32")}
    for name, value in one.items():
        np.testing.assert_array_equal(value, same[name])
    assert np.abs(one["image/positions"] - other["image/positions"]).max() > 0.01
    kernels = [np.asarray(one[f"image/blocks/stack/{i}/attn/qkv/kernel"]) for i in range(2)]
    assert np.abs(kernels[0] - kernels[1]).max() > 0.01


@pytest.mark.parametrize("name", NAMES)
def test_the_number_of_parameters_is_the_sum_of_their_sizes(name, configs):
    shapes = jax.eval_shape(lambda: init_params(configs[name], 0))
    assert num_params(configs[name]) == sum(leaf.size for leaf in shapes.values())


@pytest.mark.parametrize(
    ("name", "millions"),
    [("ViT-B-32", 151.28), ("ViT-B-16", 149.62), ("ViT-L-14", 427.62), ("ViT-B-16-SigLIP", 203.16)],
)
def test_presets_have_the_published_number_of_parameters(name, millions):
    """open_clip's profile, in millions to two decimals."""
    assert round(num_params(PRESETS[name]) / 1e6, 2) == millions


@pytest.mark.parametrize("scan", [False, True], ids=["unrolled", "scanned"])
def test_shapes_without_counted_keys_are_those_of_the_real_model(tiny, scan):
    """The keys of an abstract model are all the same; those of a real one are not."""
    config = tiny.model(compute={"scan_layers": scan})
    real = init_params(config, 0)
    assert {n: p.shape for n, p in real.items()} == {
        n: s for n, s in param_shapes(config).items() if n in real
    }
    drawn = [p for n, p in real.items() if n.endswith("attn/qkv/kernel")]
    assert len({np.asarray(p).tobytes() for p in drawn}) == len(drawn)
    rngs = shape_rngs()
    assert rngs.params() == rngs.params() == shape_rngs().params()
