import csv
from pathlib import Path

import pytest

import clipjax
from clipjax.config import (
    PRESETS,
    BertConfig,
    DualEncoderConfig,
    TextConfig,
    UsageError,
    ViTConfig,
)
from clipjax.models import IMAGE_TOWERS, num_params, num_tower_params, param_shapes
from clipjax.models.cost import _flops, pair_forward_flops
from clipjax.models.listing import describe, list_models, matching
from clipjax.models.params import abstract_tower

with open(Path(__file__).parents[1] / "golden" / "published_profile.csv") as file:
    PROFILE = {row["model"]: row for row in csv.DictReader(file)}

KEYS = [
    "name",
    "image_size",
    "embed_dim",
    "context_length",
    "params",
    "image_params",
    "text_params",
    "flops",
    "image_flops",
    "text_flops",
]


def test_rows_are_those_of_the_published_profile():
    rows = list_models("ViT-?-32")
    assert [row["name"] for row in rows] == ["ViT-S-32", "ViT-M-32", "ViT-B-32"]
    for row in rows:
        assert list(row) == KEYS
        published = PROFILE[row["name"]]
        for ours, theirs, unit in (
            ("params", "mparams", 1e6),
            ("image_params", "image_mparams", 1e6),
            ("text_params", "text_mparams", 1e6),
            ("flops", "gflops", 1e9),
            ("image_flops", "image_gflops", 1e9),
            ("text_flops", "text_gflops", 1e9),
            ("image_size", "image_size", 1),
        ):
            # The file counts the logit scale to neither tower, and rounds to two decimals.
            assert row[ours] / unit == pytest.approx(float(published[theirs]), abs=0.0051), ours


@pytest.mark.parametrize("name", ["ViT-B-32", "ViT-B-16-SigLIP"])
def test_the_sum_of_the_parts_is_the_whole(name):
    """With a bias of the logits and without one."""
    row = describe(PRESETS[name])
    assert row["params"] == num_params(PRESETS[name])
    shapes = param_shapes(PRESETS[name])
    outside = [shape for name, shape in shapes.items() if "/" not in name]
    assert row["params"] - row["image_params"] - row["text_params"] == len(outside)
    assert set(outside) == {()}
    assert (
        row["flops"] == row["image_flops"] + row["text_flops"] == pair_forward_flops(PRESETS[name])
    )


def test_a_shared_tower_is_traced_once(monkeypatch):
    traced = []
    vit = IMAGE_TOWERS["vit"]

    def counted(*args, **kwargs):
        traced.append(args[0])
        return vit(*args, **kwargs)

    monkeypatch.setitem(IMAGE_TOWERS, "vit", counted)
    abstract_tower.cache_clear()
    num_tower_params.cache_clear()
    _flops.cache_clear()
    image = ViTConfig(image_size=32, patch_size=16, width=32, depth=2, num_heads=2, mlp_dim=64)
    for vocab_size in (50, 60):
        text = TextConfig(vocab_size=vocab_size, width=32, num_heads=2, mlp_dim=64, depth=1)
        describe(DualEncoderConfig(image=image, text=text, embed_dim=8))
    assert traced == [image]


@pytest.mark.parametrize("filter", ["*b-16-siglip*", "*B-16-SIGLIP*", "vit-b-16-siglip*"])
def test_names_match_whatever_the_case(filter):
    names = matching(filter)
    assert names == [name for name in PRESETS if "B-16-SigLIP" in name]
    assert len(names) >= 4


def test_no_filter_is_every_preset():
    assert matching(None) == list(PRESETS)


@pytest.mark.parametrize(
    ("filter", "near"), [("ViT-B-33", "ViT-B-32"), ("*vit-l-114*", "ViT-L-14")]
)
def test_no_match_names_the_nearest(filter, near):
    with pytest.raises(UsageError, match=f"no preset matches .* Did you mean '{near}'"):
        list_models(filter)


def test_a_name_like_no_other_has_no_nearest():
    with pytest.raises(UsageError) as error:
        list_models("zzzzzz")
    assert "Did you mean" not in str(error.value)


def test_the_package_offers_it_without_importing_jax(make_child_env):
    import subprocess
    import sys

    assert clipjax.list_models is list_models
    assert "list_models" in clipjax.__all__
    code = "import sys, clipjax; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env=make_child_env(1)).returncode == 0


@pytest.mark.slow
def test_every_preset_counts_its_parameters_like_the_whole_model():
    for row in list_models():
        assert row["params"] == num_params(PRESETS[row["name"]]), row["name"]
        assert not isinstance(PRESETS[row["name"]].text, BertConfig) or row["text_params"] > 1e6
