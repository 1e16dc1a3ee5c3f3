"""Towers read from checkpoints of one modality, against what timm and transformers pool."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clipjax.config import DualEncoderConfig, UserError, from_config_dict
from clipjax.interchange.single_tower import tower_from
from clipjax.interchange.transfer import Tensors
from clipjax.models import init_params, param_shapes, with_params
from clipjax.models.surgery import replace_tower, resampled_positions

GOLDEN = Path(__file__).parents[1] / "golden"
IMAGE = ("timm_cls", "timm_mean", "timm_registers", "timm_map", "augreg", "big_vision")
TEXT = ("bert_pooler", "bert_mean")


class Drawn:
    """Tensors drawn by names and shapes."""

    source = "weights.safetensors"

    def __init__(self, shapes, draw):
        self._shapes, self._draw = shapes, draw

    def shapes(self):
        return self._shapes

    def read(self, name):
        return self._draw(name, self._shapes[name])


@pytest.fixture(scope="module")
def case(draw):
    """Returns config, part, tensors, inputs and what was pooled, of a stored case."""

    def load(name):
        file = "single_image_towers" if name in IMAGE else "single_text_towers"
        with np.load(GOLDEN / f"{file}.npz") as stored:
            found = {k.partition("/")[2]: stored[k] for k in stored if k.startswith(f"{name}/")}
        config = from_config_dict(DualEncoderConfig, json.loads(str(found["config"])))
        shapes = {n: tuple(s) for n, s in json.loads(str(found["shapes"])).items()}
        return config, str(found["part"]), Drawn(shapes, draw), found["inputs"], found["pooled"]

    return load


def with_tower(config, part, tower):
    rng = np.random.default_rng(0)
    params = {
        name: rng.normal(size=shape).astype(np.float32)
        for name, shape in param_shapes(config).items()
    }
    return {n: jnp.asarray(p) for n, p in replace_tower(config, params, part, tower).items()}


@pytest.mark.parametrize("scan", [False, True], ids=["unrolled", "scanned"])
@pytest.mark.parametrize("name", [*IMAGE, *TEXT])
def test_pools_what_the_source_pools(case, name, scan):
    config, part, tensors, inputs, pooled = case(name)
    compute = dataclasses.replace(config.compute, scan_layers=scan)
    config = dataclasses.replace(config, compute=compute)
    assert isinstance(tensors, Tensors)
    params = with_tower(config, part, tower_from(tensors, config, part))

    def run(params, inputs):
        model = with_params(config, params)
        return model.image(model._normalised(inputs)) if part == "image" else model.text(inputs)

    found = jax.jit(run)(params, jnp.asarray(inputs))
    np.testing.assert_allclose(found, pooled, rtol=0, atol=3e-5 * np.abs(pooled).max())


@pytest.mark.parametrize("name", [*IMAGE, *TEXT])
def test_every_parameter_of_the_tower_comes_from_the_file(case, name):
    config, part, tensors, _, _ = case(name)
    tower = tower_from(tensors, config, part)
    assert tower.keys() == {n for n in param_shapes(config) if n.startswith(f"{part}/")}
    assert {array.dtype for array in tower.values()} == {np.dtype(np.float32)}


def test_norms_may_have_the_names_of_tensorflow(case):
    """bert-base-uncased as its authors gave it."""
    config, part, tensors, _, _ = case("bert_mean")
    ends = (("LayerNorm.weight", "LayerNorm.gamma"), ("LayerNorm.bias", "LayerNorm.beta"))
    old = {}
    for name in tensors.shapes():
        other = name
        for ours, theirs in ends:
            other = other.replace(ours, theirs)
        old[other] = name

    class Old:
        source = "model.safetensors"

        def shapes(self):
            return {other: tensors.shapes()[name] for other, name in old.items()}

        def read(self, name):
            return tensors.read(old[name])

    assert any(name.endswith("gamma") for name in old)
    expected, found = tower_from(tensors, config, part), tower_from(Old(), config, part)
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)


def test_a_projection_stays_as_the_model_has_it(case):
    config, _, tensors, _, _ = case("timm_cls")
    image = dataclasses.replace(config.image, projection=True)
    config = dataclasses.replace(config, image=image)
    tower = tower_from(tensors, config, "image")
    assert "image/project/kernel" not in tower
    before = init_params(config, 3)
    after = replace_tower(config, before, "image", tower)
    assert after.keys() == before.keys()
    for name in ("image/project/kernel", "text/embedding", "log_logit_scale"):
        np.testing.assert_array_equal(after[name], before[name])
    assert np.abs(after["image/positions"] - before["image/positions"]).max() > 0


@pytest.mark.parametrize("name", ["timm_cls", "timm_mean", "augreg"])
def test_positions_of_another_image_size_are_resampled(case, name, draw):
    config, _, tensors, _, _ = case(name)
    large = dataclasses.replace(config, image=dataclasses.replace(config.image, image_size=32))
    here, there = (tower_from(tensors, c, "image") for c in (config, large))
    expected = resampled_positions(here["image/positions"], 16 + (name != "timm_mean"))
    np.testing.assert_array_equal(there["image/positions"], expected)
    others = here.keys() - {"image/positions"}
    assert all(here[n].tobytes() == there[n].tobytes() for n in others)


def test_positions_without_a_row_for_the_class_token_add_nothing_to_it(case):
    config, _, tensors, _, _ = case("timm_registers")
    assert tensors.shapes()["pos_embed"][1] == 4
    table = tower_from(tensors, config, "image")["image/positions"]
    assert table.shape[0] == 5
    assert not table[0].any()


def changed(tensors, draw, add=(), drop=()):
    shapes = {n: s for n, s in tensors.shapes().items() if n not in drop}
    return Drawn(shapes | dict(add), draw)


@pytest.mark.parametrize("prefix", ["bert.", "roberta.", "model.encoder."])
def test_bert_below_a_prefix_with_its_heads(case, draw, prefix):
    config, part, tensors, _, _ = case("bert_mean")
    heads = {
        "cls.predictions.bias": (40,),
        "lm_head.bias": (40,),
        f"{prefix}embeddings.position_ids": (1, 12),
    }
    below = {prefix + n: s for n, s in tensors.shapes().items()}
    found = tower_from(Drawn(below | heads, draw), config, part)
    assert found.keys() == tower_from(tensors, config, part).keys()


def test_missing_and_unexpected_tensors_are_told(case, draw):
    config, _, tensors, _, _ = case("timm_cls")
    broken = changed(tensors, draw, {"blocks.0.extra": (3,)}, ["blocks.1.norm1.weight"])
    with pytest.raises(UserError) as error:
        tower_from(broken, config, "image")
    message = str(error.value)
    assert "weights.safetensors" in message
    assert "blocks.1.norm1.weight" in message
    assert "blocks.0.extra" in message


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({"pre_norm": True}, "norm_pre"),
        ({"depth": 3}, "blocks.2"),
        ({"layer_scale": 0.1}, "ls1.gamma"),
        ({"width": 48}, "48"),
    ],
)
def test_a_config_of_another_tower_is_refused(case, fields, found):
    config, _, tensors, _, _ = case("timm_cls")
    image = dataclasses.replace(config.image, **fields)
    other = dataclasses.replace(config, image=image, embed_dim=image.width)
    with pytest.raises(UserError, match=found):
        tower_from(tensors, other, "image")


def test_what_a_format_never_holds_is_refused(case):
    config, _, tensors, _, _ = case("augreg")
    image = dataclasses.replace(config.image, pre_norm=True)
    with pytest.raises(UserError, match=r"has image/pre_norm/bias, which a .* big_vision has not"):
        tower_from(tensors, dataclasses.replace(config, image=image), "image")
    image = dataclasses.replace(config.image, pool="mean")
    with pytest.raises(UserError, match="norm_before_pool=True"):
        tower_from(tensors, dataclasses.replace(config, image=image), "image")


def test_other_files_and_other_towers_are_refused(case, draw, tiny_image_config):
    config, _, tensors, _, _ = case("timm_cls")
    with pytest.raises(UserError, match="holds no Vision Transformer by itself"):
        tower_from(Drawn({"visual.proj": (3, 3)}, draw), config, "image")
    with pytest.raises(UserError, match=r"model.text.kind='transformer' cannot begin with it"):
        tower_from(tensors, config, "text")
    bert_config, _, _, _, _ = case("bert_mean")
    with pytest.raises(UserError, match="holds no transformers' BertModel"):
        tower_from(tensors, bert_config, "text")
    other = dataclasses.replace(config, image=tiny_image_config)
    with pytest.raises(UserError, match=r"model.image.kind='convnet' cannot begin with it"):
        tower_from(tensors, other, "image")


def test_positions_of_no_square_are_refused(case, draw):
    config, _, tensors, _, _ = case("timm_cls")
    broken = changed(tensors, draw, {"pos_embed": (1, 7, 24)})
    with pytest.raises(UserError, match=r"pos_embed is \[1, 7, 24\]; expected the positions of"):
        tower_from(broken, config, "image")
    with pytest.raises(UserError, match="pos_embed is missing"):
        tower_from(changed(tensors, draw, drop=["pos_embed"]), config, "image")


@pytest.fixture
def tiny_image_config():
    from clipjax.config import ConvNetConfig

    return ConvNetConfig()
