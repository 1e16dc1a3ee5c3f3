"""Training on images of several shapes: the step on any mesh, and whole runs on small shards."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from clipjax.config import CheckpointConfig, EvalsConfig, MeshConfig
from clipjax.core.mesh import make_mesh
from clipjax.models.cost import pair_forward_flops, trained_pair_forward_flops

STEPS = 12
SHAPES = ((32, 32), (20, 60), (70, 24), (9, 9))


@pytest.fixture(scope="module")
def naflex_config(step_config, replace_in):
    """Up to six patches of 8 x 8 pixels instead of 16 x 16 pixels."""
    data = dataclasses.replace(step_config.data, image_mode="naflex", max_patches=6)
    return replace_in(step_config, "data", data)


@pytest.fixture(scope="module")
def trainer(make_trainer, naflex_config):
    return make_trainer(naflex_config)


def test_the_batch_of_the_step_is_that_of_the_pairs(trainer):
    assert {name: (leaf.shape, str(leaf.dtype)) for name, leaf in trainer.spec.items()} == {
        "patches": ((16, 6, 192), "uint8"),
        "patch_positions": ((16, 6, 2), "int16"),
        "patch_mask": ((16, 6), "bool"),
        "patch_grid": ((16, 2), "int32"),
        "tokens": ((16, 16), "int32"),
    }


def test_the_number_of_patches_is_what_a_pair_costs(naflex_config):
    model = naflex_config.model
    assert trained_pair_forward_flops(naflex_config) == pair_forward_flops(model, 6)
    # Beside the towers, the positions of each image are resampled: 4 cells of 16 for each patch.
    resampling = 2 * 4 * 4 * model.image.width
    assert pair_forward_flops(model, 4) == pair_forward_flops(model) + resampling
    assert pair_forward_flops(model, 6) > pair_forward_flops(model, 4)


def test_eight_devices_give_the_losses_of_one(trainer, naflex_config, make_trainer, losses_of):
    _, expected = losses_of(trainer, 5)
    _, losses = losses_of(make_trainer(naflex_config, make_mesh(MeshConfig(data=4, fsdp=2))), 5)
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    assert trainer.compiled._cache_size() == 1


@pytest.fixture(scope="module")
def run_config(naflex_config, make_tar, tmp_path_factory):
    """Sixteen pairs of four shapes, one colour each, and a batch that holds them all."""
    import io

    from PIL import Image

    def png(pixels):
        out = io.BytesIO()
        Image.fromarray(pixels).save(out, "PNG")
        return out.getvalue()

    rng = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("shapes")
    samples = {
        f"{i:04d}": {
            "png": png((rng.integers(0, 256, 3) + np.zeros((*SHAPES[i % 4], 1))).astype(np.uint8)),
            "txt": f"{'abcd'[i // 4] * 3} {'wxyz'[i % 4] * 3}".encode(),
        }
        for i in range(16)
    }
    make_tar(folder / "0.tar", samples)
    data = dataclasses.replace(
        naflex_config.data, root=str(folder), shards="0.tar", crop_scale=(1.0, 1.0)
    )
    return dataclasses.replace(
        naflex_config,
        num_steps=STEPS,
        data=data,
        evals=EvalsConfig(),
        checkpoint=CheckpointConfig(every_steps=4, keep=3),
        log=dataclasses.replace(naflex_config.log, every_steps=1),
    )


@pytest.mark.slow
def test_a_run_learns_and_a_resumed_one_ends_bit_identical(
    run_config, tmp_path, run_here, resumed_state
):
    run_here(run_config, tmp_path / "run")
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    losses = [row["train/loss"] for row in map(json.loads, lines) if "train/loss" in row]
    assert len(losses) == STEPS
    assert losses[-1] < 0.9 * losses[0]
    resumed_state(run_config, tmp_path / "run", 4)


def test_the_batches_of_a_run_hold_its_images(run_config):
    """The first batch of the run itself: four shapes, and pixels of one colour an image."""
    from clipjax.data.pipeline import Batches
    from clipjax.train.setup import open_data, open_source

    data = open_data(run_config, open_source(run_config), None)
    batches = Batches(data.order.samples, data.pairs.plan, data.pairs.row_spec, threads=1)
    try:
        batch = jax.tree.map(np.copy, next(batches))
    finally:
        batches.close()
    grids = {tuple(grid) for grid in batch["patch_grid"].tolist()}
    assert len(grids) == 3  # two of the four shapes are square
    np.testing.assert_array_equal(batch["patch_grid"].prod(axis=1), batch["patch_mask"].sum(axis=1))
    for values, mask in zip(batch["patches"], batch["patch_mask"], strict=True):
        pixels = values[mask].reshape(-1, 3)
        assert (pixels == pixels[0]).all()
        assert not values[~mask].any()
