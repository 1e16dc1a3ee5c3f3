"""Every recipe in configs/: its parameters and FLOPs, and twenty steps of a miniature of it."""

import dataclasses
import json
import os
import re
from pathlib import Path

import jax
import numpy as np
import pytest

from clipjax.cli.configs import load_config
from clipjax.config import DistillConfig, InitConfig, StageConfig, TokenizerConfig
from clipjax.core.mesh import make_mesh
from clipjax.models import num_params
from clipjax.models.cost import pair_forward_flops
from clipjax.train.flops import run_flops
from clipjax.train.programs import Programs, stage_specs
from clipjax.train.state import abstract_state, init_state, optimizer_of

STORED = Path(__file__).parent / "recipes.json"
UPDATE = "CLIPJAX_UPDATE_GOLDEN"
CONFIGS = Path(__file__).parents[2] / "configs"
STEPS, BATCH, IDS = 20, 16, 300

RECIPES = (
    "clip:ViT-B-32",
    "clip:RN50",
    "laion400m",
    "align",
    "lit",
    "siglip",
    "siglip2",
    "clipa_v2",
    "flip",
    "datacomp:small",
    "datacomp:medium",
    "datacomp:large",
    "datacomp:xlarge",
    "metaclip",
    "coca",
    "cappa",
    "eva_clip",
)


def recipe(name):
    stem, _, argument = name.partition(":")
    return load_config(f"{CONFIGS / stem}.py{':' + argument if argument else ''}", [])


def stored(name):
    return json.loads(STORED.read_text()).get(name, {})


def store(name, **fields):
    found = json.loads(STORED.read_text()) if STORED.exists() else {}
    found.setdefault(name, {}).update(fields)
    STORED.write_text(json.dumps(dict(sorted(found.items())), indent=1) + "\n")


@pytest.mark.parametrize("name", RECIPES)
def test_the_size_and_the_cost_of_a_recipe(name):
    """Counted from shapes and traces; the published ones are compared in tests/models."""
    config = recipe(name)
    found = {
        "parameters": num_params(config.model),
        "forward_gflop": round(pair_forward_flops(config.model) / 1e9, 3),
        "train_flop": float(f"{run_flops(config):.4g}"),
        "samples_seen": config.samples_seen(config.num_steps),
    }
    if os.environ.get(UPDATE):
        store(name, **found)
    assert {key: stored(name)[key] for key in found} == found


def small_image(image):
    if image.kind in ("vit", "eva"):
        grid = max(image.image_size // image.patch_size // 2, 2)
        sizes = {"patch_size": 4, "image_size": 4 * grid}
        sizes |= {"width": 32, "depth": 1, "num_heads": 2, "mlp_dim": 64}
        if image.kind == "eva":
            # Of two blocks one learns more slowly.
            return dataclasses.replace(image, rope_grid=grid, **sizes | {"depth": 2})
        return dataclasses.replace(image, pooler_queries=4, pooler_heads=2, **sizes)
    if image.kind == "resnet":
        return dataclasses.replace(image, image_size=32, depths=(1, 1, 1, 1), width=8, num_heads=2)
    return dataclasses.replace(image, image_size=33, width_factor=0.1, depth_factor=0.1)


def small_text(text):
    fields = {"vocab_size": IDS, "width": 32, "depth": 1, "num_heads": 2, "mlp_dim": 64}
    if text.kind == "bert":
        fields["max_positions"] = text.context_length + text.first_position
    return dataclasses.replace(text, **fields)


def small_decoder(decoder):
    if decoder is None:
        return None
    ids = IDS if decoder.vocab_size else None
    return dataclasses.replace(decoder, vocab_size=ids, width=32, depth=1, num_heads=2, mlp_dim=64)


def small_heads(heads):
    if heads is None:
        return None
    return dataclasses.replace(heads, prototypes=64, hidden=32, bottleneck=16)


def small_crops(found, old, new):
    side = found.crop_size * new.image_size // old.image_size // 4 * 4
    return dataclasses.replace(found, crops=2, crop_size=side) if found.is_on else found


def small_stage(stage, old, new, number, count):
    """The stages share the twenty steps; images keep their share of the largest."""
    side = stage.image_size
    if side is not None:
        side = max(4, side * new.model.image.image_size // old.model.image.image_size // 4 * 4)
    halved = stage.global_batch_size and stage.global_batch_size < old.data.global_batch_size
    return StageConfig(
        first_step=number * STEPS // count if stage.first_step else 0,
        image_size=side,
        context_length=stage.context_length,
        patch_dropout=stage.patch_dropout,
        global_batch_size=BATCH // 2 if halved else None,
        crop_weight=stage.crop_weight,
        patch_weight=stage.patch_weight,
        peak_learning_rate=stage.peak_learning_rate,
        warmup_steps=1 if stage.peak_learning_rate else None,
    )


def miniature(config):
    """The recipe with tiny towers and 20 steps; its constants, losses and stages stay."""
    model = config.model
    image = small_image(model.image)
    resnet = {"embed_dim": 32}
    if model.image.kind == "efficientnet":
        resnet["embed_dim"] = image.out_channels
    compute = dataclasses.replace(model.compute, dtype="float32", scan_layers=False)
    model = dataclasses.replace(
        model,
        image=image,
        text=small_text(model.text),
        decoder=small_decoder(model.decoder),
        self_distill=small_heads(model.self_distill),
        resize_side=None,
        compute=compute,
        **resnet,
    )
    new = dataclasses.replace(
        config,
        num_steps=STEPS,
        stages={},
        model=model,
        init=InitConfig(),
        distill=DistillConfig(),
        tokenizer=TokenizerConfig(),
        data=dataclasses.replace(config.data, global_batch_size=BATCH),
        optim=dataclasses.replace(config.optim, warmup_steps=3),
        self_distill=small_crops(config.self_distill, config.model.image, image),
    )
    ordered = sorted(config.stages.items(), key=lambda item: item[1].first_step)
    pieces = len(config.parts)
    stages = {
        name: small_stage(stage, config, new, number, pieces)
        for number, (name, stage) in enumerate(ordered, pieces - len(ordered))
    }
    return dataclasses.replace(new, stages=stages)


def losses_of(config):
    """The losses of 20 batches of random numbers, on one device."""
    mesh = make_mesh(config.mesh, num_devices=1)
    optimizer = optimizer_of(config)
    like = abstract_state(config, optimizer, mesh)
    places = jax.tree.map(lambda leaf: leaf.sharding, like)
    programs = Programs(config, optimizer, mesh, like, say=lambda _: None)
    state = jax.jit(lambda: init_state(config, optimizer), out_shardings=places)()
    losses = []
    for step in range(STEPS):
        stage = next(part for part in config.parts if step < part.stop_step)
        (spec,) = stage_specs(stage, mesh)
        rng = np.random.default_rng(step)
        images = rng.integers(0, 256, spec["images"].shape).astype(np.uint8)
        tokens = rng.integers(3, IDS - 1, spec["tokens"].shape).astype(np.int32)
        tokens[:, -1] = IDS - 1
        batch = {"images": images, "tokens": tokens}
        batch = {name: jax.device_put(array, spec[name].sharding) for name, array in batch.items()}
        state, metrics = programs(step, state, batch)
        losses.append(float(metrics["train/loss"]))
    return losses


# Of those that are CLIP in another size one stands for all.
_CLIPS = ("datacomp", "laion400m", "metaclip")


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in RECIPES if not name.startswith(_CLIPS)])
def test_twenty_steps_of_a_miniature(name):
    """Golden. Batches are random: the curve shows the arithmetic and not learning.

    1e-3 is what another processor's order of summation may change in 20 steps of optimizers that
    scale every gradient to one size, whatever its own.
    """
    losses = losses_of(miniature(recipe(name)))
    assert np.isfinite(losses).all()
    if os.environ.get(UPDATE):
        store(name, losses=[round(loss, 5) for loss in losses])
    np.testing.assert_allclose(losses, stored(name)["losses"], rtol=1e-3)


def test_every_config_is_a_recipe_or_small():
    stems = {name.partition(":")[0] for name in RECIPES}
    others = {path.stem for path in CONFIGS.glob("*.py")} - stems
    assert others == {"quickstart", "quickstart_digits", "emoji_neurons"}


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_planned_for_a_tpu_and_a_gpu(name):
    """In the table of README, which `clipjax plan --table` printed; all stages of a run fit."""
    table = (CONFIGS.parent / "README.md").read_text().partition("Recipes at full size")[2]
    rows = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| ")]
    mine = [row for row in rows if re.fullmatch(rf"{name}(, \S+)?( `.*`)?", row[0])]
    parts = [part.config.data.global_batch_size for part in recipe(name).parts]
    for family in ("v", "h"):
        fits = [row for row in mine if row[1].startswith(family) and "does not" not in row[3]]
        assert [int(row[2].replace(",", "")) for row in fits if row[2]] == parts
