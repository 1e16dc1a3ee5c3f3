import dataclasses

import numpy as np
import pytest

from clipjax.config import (
    BertConfig,
    ComputeConfig,
    ConvNetConfig,
    ConvNeXtConfig,
    DualEncoderConfig,
    EfficientNetConfig,
    EvaConfig,
    LoraConfig,
    ModernTextConfig,
    OptimConfig,
    ResNetConfig,
    TextConfig,
    UsageError,
    ViTConfig,
)
from clipjax.models import param_shapes
from clipjax.optim import along_layers, trained

MODEL = DualEncoderConfig(
    image=ViTConfig(image_size=16, patch_size=8, width=16, depth=3, num_heads=2, mlp_dim=32),
    text=TextConfig(vocab_size=30, context_length=8, width=16, depth=2, num_heads=2, mlp_dim=32),
    embed_dim=8,
)
SCANNED = dataclasses.replace(MODEL, compute=ComputeConfig(scan_layers=True))


def which(model=MODEL, shapes=None, **fields):
    return trained(OptimConfig(**fields), model, shapes or param_shapes(model))


def frozen(model=MODEL, **fields):
    return {name for name, on in which(model, **fields).items() if on is False}


def test_everything_is_trained_by_default():
    assert set(which().values()) == {True}
    assert list(which()) == list(param_shapes(MODEL))


def test_a_locked_tower_is_frozen_whole():
    """LiT: the other tower, the scale and nothing else are trained."""
    assert frozen(lock_image=0) == {n for n in param_shapes(MODEL) if n.startswith("image/")}
    assert frozen(lock_text=0) == {n for n in param_shapes(MODEL) if n.startswith("text/")}


def test_the_last_blocks_and_what_stands_behind_them_stay_unlocked():
    off = frozen(lock_image=1)
    on = {n for n in param_shapes(MODEL) if n.startswith("image/")} - off
    assert {name.split("/")[1] for name in off} == {
        "blocks",
        "class_token",
        "patchify",
        "positions",
        "pre_norm",
    }
    assert {n.split("/")[3] for n in off if "/blocks/" in n} == {"0", "1"}
    assert {name.split("/")[1] for name in on} == {"blocks", "norm", "project"}
    assert {n.split("/")[3] for n in on if "/blocks/" in n} == {"2"}


def test_all_blocks_unlocked_leave_what_stands_before_them_locked():
    assert {n.split("/")[1] for n in frozen(lock_text=2)} == {"embedding", "positions"}


def test_more_blocks_than_there_are_is_told():
    with pytest.raises(UsageError, match="lock_text=3: the text tower has 2 blocks"):
        which(lock_text=3)


def test_a_negative_number_of_blocks_is_refused():
    with pytest.raises(ValueError, match="lock_image=-1 must not be negative"):
        OptimConfig(lock_image=-1)


def test_of_a_scanned_stack_some_layers_are_trained():
    found = which(SCANNED, lock_image=1)
    assert found["image/blocks/stack/attn/qkv/kernel"] == (False, False, True)
    assert found["image/patchify/kernel"] is False
    assert found["image/project/kernel"] is True
    assert found["text/blocks/stack/attn/qkv/kernel"] is True
    assert which(SCANNED, lock_image=0)["image/blocks/stack/attn/qkv/kernel"] is False


@pytest.mark.parametrize(
    "fields",
    [
        {"lock_image": 2},
        {"lock_text": 1, "lock_image": 0},
        {"freeze": ("*/attn/*", "!text/blocks/stack/1/*")},
    ],
)
def test_scanned_or_unrolled_the_same_layers_are_trained(fields):
    unrolled, scanned = which(**fields), which(SCANNED, **fields)
    for name, found in scanned.items():
        head, stack, rest = name.partition("/stack/")
        count = param_shapes(SCANNED)[name][0] if stack else 0
        layers = [unrolled[f"{head}/stack/{i}/{rest}"] for i in range(count)] or [unrolled[name]]
        expected = list(found) if isinstance(found, tuple) else [found] * len(layers)
        assert layers == expected, name


def test_the_last_pattern_that_matches_decides():
    off = frozen(freeze=("text/*", "!text/blocks/*", "text/blocks/stack/0/*"))
    assert not any(n.startswith("text/blocks/stack/1/") for n in off)
    assert "text/blocks/stack/0/ln_1/scale" in off
    assert "text/embedding" in off
    assert not any(n.startswith("image/") for n in off)


def test_patterns_overrule_a_lock():
    on = {n for n in which(lock_image=0) if n.startswith("image/")} - frozen(
        lock_image=0, freeze=("!image/project/*",)
    )
    assert on == {"image/project/kernel"}


@pytest.mark.parametrize(
    ("pattern", "near"), [("image/patchfy/kernel", "image/patchify/kernel"), ("zzzzzzzz", None)]
)
def test_a_pattern_without_a_match_names_the_nearest(pattern, near):
    with pytest.raises(UsageError) as error:
        which(freeze=("image/*", f"!{pattern}"))
    message = str(error.value)
    assert message.startswith(f"config.optim.freeze: '!{pattern}' matches no parameter.")
    assert (f"Did you mean '{near}'?" in message) == (near is not None)
    assert "\n" not in message


def test_a_run_that_trains_nothing_is_refused():
    with pytest.raises(UsageError, match="leave no parameter to train"):
        which(freeze=("*",))


def test_with_lora_only_the_factors_are_trained():
    shapes = {**param_shapes(MODEL), "lora/image/blocks/stack/0/attn/q/a": (16, 2)}
    lora = LoraConfig(rank=2)
    found = which(shapes=shapes, lora=lora)
    assert [name for name, on in found.items() if on] == ["lora/image/blocks/stack/0/attn/q/a"]
    found = which(shapes=shapes, lora=lora, freeze=("!log_logit_scale",))
    assert found["log_logit_scale"] is True
    assert sum(map(bool, found.values())) == 2


def test_blocks_of_a_convnet_are_counted_through_its_stages():
    """The halving before a stage and its norm belong to the first block of the stage."""
    image = ConvNetConfig(image_size=16, widths=(4, 8, 12), depths=(1, 2, 1))
    model = dataclasses.replace(MODEL, image=image)
    off = frozen(model, lock_image=1)
    assert not any(n.startswith(("image/stages/2", "image/downs/1", "image/norms/1")) for n in off)
    assert {n.split("/")[1] for n in off} == {"stem", "stages", "downs", "norms"}
    off = frozen(model, lock_image=2)
    middle = {n for n in param_shapes(model) if n.startswith("image/stages/1/")}
    assert off & middle == {n for n in middle if n.startswith("image/stages/1/0/")}
    with pytest.raises(UsageError, match="the image tower has 4 blocks"):
        which(model, lock_image=5)


def names(*found):
    return dict.fromkeys(found, (4,))


def test_a_resnets_first_block_and_a_convnexts_halving_open_their_stage():
    """The names of those families, whatever towers this version has."""
    resnet = names(
        "image/stem/0/kernel",
        "image/stem_norms/0/scale",
        "image/stages/0/first/conv_1/kernel",
        "image/stages/0/blocks/stack/0/conv_1/kernel",
        "image/stages/1/first/conv_1/kernel",
        "image/stages/1/blocks/stack/0/conv_1/kernel",
        "image/pool/query/kernel",
        "text/embedding",
    )
    off = {n for n, on in which(shapes=resnet, lock_image=2).items() if not on}
    assert off == {n for n in resnet if "stem" in n or "stages/0" in n}
    off = {n for n, on in which(shapes=resnet, lock_image=3).items() if not on}
    assert off == {n for n in resnet if "stem" in n or "stages/0/first" in n}
    convnext = names(
        "image/stem/kernel",
        "image/stages/0/blocks/stack/0/conv/kernel",
        "image/stages/1/norm/scale",
        "image/stages/1/down/kernel",
        "image/stages/1/blocks/stack/0/conv/kernel",
        "image/stages/1/blocks/stack/1/conv/kernel",
        "image/norm/scale",
        "image/head/fc2/kernel",
    )
    off = {n for n, on in which(shapes=convnext, lock_image=2).items() if not on}
    assert off == {"image/stem/kernel", "image/stages/0/blocks/stack/0/conv/kernel"}
    off = {n for n, on in which(shapes=convnext, lock_image=1).items() if not on}
    assert off == {n for n in convnext if "norm/scale" not in n and "head" not in n} - {
        "image/stages/1/blocks/stack/1/conv/kernel"
    } | {"image/stages/1/norm/scale"}


FAMILIES = {
    "resnet": ResNetConfig(image_size=32, depths=(1, 2, 1, 2), width=4, num_heads=2),
    "convnext": ConvNeXtConfig(image_size=32, widths=(4, 8, 8, 8), depths=(1, 1, 2, 1)),
    "efficientnet": EfficientNetConfig(
        image_size=32, width_factor=0.25, depth_factor=0.5, projection=True
    ),
    "eva": EvaConfig(image_size=16, patch_size=8, width=16, depth=3, num_heads=2, mlp_dim=32),
    "map": dataclasses.replace(MODEL.image, pool="map", pre_norm=False),
    "registers": dataclasses.replace(MODEL.image, registers=2),
}
TEXTS = {
    "bert": BertConfig(vocab_size=30, width=16, num_heads=2, depth=3, mlp_dim=32),
    "modern": ModernTextConfig(vocab_size=30, width=16, num_heads=2, depth=3, mlp_dim=32),
    "class": dataclasses.replace(MODEL.text, pool="class"),
}
FRONT = {"patchify", "class_token", "positions", "registers", "pre_norm", "stem", "stem_norm"}
FRONT |= {"stem_norms", "embedding", "types"}
BEHIND = {"norm", "pool", "project", "head", "hidden", "pooler"}


def count_of(found, shape, name):
    """How many layers of a parameter are trained."""
    if isinstance(found, tuple):
        return sum(found)
    scanned = "/stack/" in name and not name.partition("/stack/")[2][0].isdigit()
    return found * (shape[0] if scanned else 1)


@pytest.mark.parametrize("family", [*FAMILIES, *TEXTS])
@pytest.mark.parametrize("scan", [False, True], ids=["unrolled", "scanned"])
def test_every_family_unlocks_from_behind(family, scan):
    """Each block more frees parameters, the front never; what stands behind is free from 1 on."""
    part = "text" if family in TEXTS else "image"
    model = dataclasses.replace(MODEL, **{part: (FAMILIES | TEXTS)[family]})
    model = dataclasses.replace(model, compute=ComputeConfig(scan_layers=scan))
    names = [n for n in param_shapes(model) if n.startswith(f"{part}/")]
    with pytest.raises(UsageError) as error:
        which(model, **{f"lock_{part}": 99})
    blocks = int(str(error.value).partition("tower has ")[2].split()[0])
    assert blocks >= 2
    before = -1
    for unlocked in range(1, blocks + 1):
        found = which(model, **{f"lock_{part}": unlocked})
        free = sum(count_of(found[name], param_shapes(model)[name], name) for name in names)
        assert free > before
        before = free
    for name in names:
        first = name.split("/")[1]
        front = first in FRONT or (family == "bert" and first == "norm")
        assert found[name] is not front, name
        if first in BEHIND - {"norm"}:
            assert which(model, **{f"lock_{part}": 1})[name] is True, name


def test_the_norm_of_berts_embeddings_stands_before_its_blocks():
    bert = names(
        "text/embedding", "text/norm/scale", "text/blocks/stack/0/ln_1/scale", "text/project/kernel"
    )
    model = dataclasses.replace(MODEL, text=BertConfig(width=16, num_heads=2, depth=1))
    off = {n for n, on in which(model, shapes=bert, lock_text=1).items() if not on}
    assert off == {"text/embedding", "text/norm/scale"}
    off = {n for n, on in which(MODEL, shapes=bert, lock_text=1).items() if not on}
    assert off == {"text/embedding"}


def test_a_mask_of_layers_is_broadcast_over_the_rest():
    mask = np.asarray(along_layers((False, True, True), (3, 4, 5)))
    assert mask.shape == (3, 1, 1)
    np.testing.assert_array_equal(np.broadcast_to(mask, (3, 4, 5))[:, 2, 1], [False, True, True])
