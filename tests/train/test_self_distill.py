"""The image tower learns from its own average: what is seen, what moves, on any mesh."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clipjax.config import (
    EvalsConfig,
    LoraConfig,
    MeshConfig,
    PrototypeHeadsConfig,
    SelfDistillConfig,
    StageConfig,
    UsageError,
)
from clipjax.core.mesh import make_mesh
from clipjax.interchange.pretrained import open_pretrained
from clipjax.losses import Prototypes, prototype_losses
from clipjax.models import init_params, with_params
from clipjax.models.cost import image_forward_flops, text_forward_flops
from clipjax.models.surgery import resize_image
from clipjax.train.flops import training_flops
from clipjax.train.objectives import check_objectives
from clipjax.train.self_distill import drawn_views, first_average, self_distillation

SIDE, PATCH, CROP = 32, 8, 16
PATCHES = (SIDE // PATCH) ** 2
HEADS = PrototypeHeadsConfig(prototypes=50, depth=2, hidden=24, bottleneck=8)
BOTH = SelfDistillConfig(
    crop_weight=1.0, patch_weight=0.25, crops=2, crop_size=CROP, prototype_block=16, momentum=0.9
)
OFF = {"crop_weight": 0.0, "patch_weight": 0.0}


@pytest.fixture(scope="module")
def config(step_config):
    """One block a tower; images of 16 patches, of which a crop has the size of four."""
    model = step_config.model
    model = dataclasses.replace(
        model,
        self_distill=HEADS,
        image=dataclasses.replace(model.image, image_size=SIDE, depth=1),
        text=dataclasses.replace(model.text, depth=1),
    )
    return dataclasses.replace(
        step_config, model=model, self_distill=BOTH, evals=EvalsConfig(), num_steps=4
    )


@pytest.fixture(scope="module")
def params(config):
    return jax.jit(lambda: init_params(config.model, 3))()


@pytest.fixture(scope="module")
def average(config, params):
    """As if it had gone another way than the parameters."""
    found = first_average(config, params)
    rng = np.random.default_rng(0)
    moved = {
        name: array + 0.05 * rng.normal(size=array.shape).astype(np.float32)
        for name, array in found["params"].items()
    }
    centers = {
        name: jnp.asarray(0.1 * rng.normal(size=c.shape), jnp.float32)
        for name, c in found["centers"].items()
    }
    return {"params": moved, "centers": centers}


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(1).integers(0, 256, (3, SIDE, SIDE, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def views(images):
    """Crops that lie on whole pixels, so that nothing is resampled; the second ones mirrored."""
    corners = np.random.default_rng(2).integers(0, SIDE - CROP + 1, (len(images), 2, 2))
    return {
        "boxes": jnp.asarray(np.concatenate([corners, corners + CROP], axis=-1), jnp.float32),
        "mirrored": jnp.asarray([[False, True]] * len(images)),
        "hidden": jnp.asarray([[0, 5, 6], [15, 2, 1], [7, 8, 9]], jnp.int32),
    }


@pytest.fixture(scope="module")
def rows(config, params, average, images, views):
    call = jax.jit(lambda *arrays: self_distillation(config, *arrays))
    return call(params, average, images, views)


def expected_losses(params, average, head, seen, target):
    """Place by place, by the readable reference."""
    name = f"self_distill/{head}/prototypes"
    kernels = [of[name] / np.linalg.norm(of[name], axis=0) for of in (params, average["params"])]
    return prototype_losses(
        jnp.asarray(seen),
        jnp.asarray(target),
        Prototypes(kernels[0], BOTH.student_temperature),
        Prototypes(kernels[1], BOTH.teacher_temperature),
        average["centers"][head],
    ).mean(axis=1)


def test_crops_are_compared_with_what_the_average_sees_of_the_image(
    config, params, average, images, views, rows
):
    cut = np.empty((len(images), 2, CROP, CROP, 3), np.uint8)
    for image, crop in np.ndindex(len(images), 2):
        left, top = np.asarray(views["boxes"][image, crop, :2], int)
        part = images[image, top : top + CROP, left : left + CROP]
        cut[image, crop] = part[:, ::-1] if crop else part
    small = dataclasses.replace(
        config.model, image=dataclasses.replace(config.model.image, image_size=CROP)
    )
    # The grid of 4 x 4 positions is resampled to 2 x 2: here by the function that does it to files.
    _, resized = resize_image(config.model, params, CROP)

    @jax.jit
    def features(resized, teacher, cut, images):
        student, teacher = with_params(small, resized), with_params(config.model, teacher)
        seen = student.image_features(cut)[0]
        return (
            student.self_distill.crops(seen),
            teacher.self_distill.crops(teacher.image_features(images)[0]),
        )

    teacher = {**params, **average["params"]}
    seen, target = features(resized, teacher, cut.reshape(-1, CROP, CROP, 3), images)
    seen = seen.reshape(len(images), 2, -1)
    target = np.broadcast_to(np.asarray(target)[:, None], seen.shape)
    expected = expected_losses(params, average, "crops", seen, target)
    np.testing.assert_allclose(rows["crop_losses"], expected, rtol=2e-5)
    np.testing.assert_allclose(rows["crops"], target[:, 0], atol=1e-6)


def test_hidden_patches_are_compared_with_what_the_average_sees_there(
    config, params, average, images, views, rows
):
    @jax.jit
    def features(params, teacher, images, hidden):
        student, teacher = with_params(config.model, params), with_params(config.model, teacher)
        seen, target = student.image_features(images, hidden)[1], teacher.image_features(images)[1]
        return student.self_distill.patches(seen), teacher.self_distill.patches(target)

    places, at = np.asarray(views["hidden"]), np.arange(len(images))[:, None]
    hidden = np.zeros((len(images), PATCHES), bool)
    hidden[at, places] = True
    teacher = {**params, **average["params"]}
    seen, target = (np.asarray(x)[at, places] for x in features(params, teacher, images, hidden))
    expected = expected_losses(params, average, "patches", seen, target)
    np.testing.assert_allclose(rows["patch_losses"], expected, rtol=2e-5)
    np.testing.assert_allclose(rows["patches"], target.mean(axis=1), atol=1e-6)


def test_nothing_of_a_hidden_patch_is_seen(config, params, images):
    encode = jax.jit(lambda *x: with_params(config.model, x[0]).image_features(*x[1:]))
    hidden = np.zeros((len(images), PATCHES), bool)
    hidden[:, 5] = True
    inside, outside = images.copy(), images.copy()
    inside[:, PATCH : 2 * PATCH, PATCH : 2 * PATCH] ^= 255  # the sixth of 4 x 4
    outside[:, :PATCH, :PATCH] ^= 255
    before = encode(params, images, hidden)
    for same, other in zip(before, encode(params, inside, hidden), strict=True):
        np.testing.assert_array_equal(same, other)
    assert np.abs(before[0] - encode(params, outside, hidden)[0]).min() > 0
    assert np.abs(before[0] - encode(params, images)[0]).min() > 0


@pytest.mark.parametrize("block", [1, 2, 3])
def test_views_are_parts_of_the_image_and_rows_do_not_depend_on_the_batch(config, block):
    found = dataclasses.replace(BOTH, mask_block=block, crops=50, crop_area=(0.1, 0.3))
    config = dataclasses.replace(config, self_distill=found)
    views = drawn_views(config, 40, jax.random.key(0))
    left, top, right, bottom = np.moveaxis(np.asarray(views["boxes"]), -1, 0)
    for low, high in ((left, right), (top, bottom)):
        assert low.min() >= 0
        assert high.max() <= SIDE + 1e-4
    area = (right - left) * (bottom - top) / SIDE**2
    assert 0.1 - 1e-6 < area.min() < 0.11
    assert 0.29 < area.max() < 0.3 + 1e-6
    aspect = (right - left) / (bottom - top)
    assert 3 / 4 - 1e-4 <= aspect.min() < 0.77
    assert 1.3 < aspect.max() <= 4 / 3 + 1e-4
    # 2,000 draws: five deviations of a share are 0.056.
    assert abs(np.asarray(views["mirrored"]).mean() - 0.5) < 0.056
    hidden = np.zeros((40, PATCHES), bool)
    hidden[np.arange(40)[:, None], views["hidden"]] = True
    assert (hidden.sum(axis=1) == PATCHES // 2).all()
    together = hidden.reshape(40, 4, 4)
    neighbours = (together[:, 1:] == together[:, :-1]).mean()
    assert neighbours > (0.6 if block > 1 else 0.3)
    assert len({row.tobytes() for row in hidden}) > 10
    for name, array in drawn_views(config, 3, jax.random.key(0)).items():
        np.testing.assert_array_equal(array, views[name][:3], err_msg=name)


@pytest.fixture(scope="module")
def steps_of():
    """[state before, after each step], metrics of the steps."""

    def run(trainer):
        state, found = trainer.init(), []
        states = [jax.tree.map(np.asarray, state)]
        for number in range(2):
            state, metrics = trainer.step(state, trainer.batch(number))
            states.append(jax.tree.map(np.asarray, state))
            found.append({name: float(value) for name, value in metrics.items()})
        return states, found

    return run


@pytest.fixture(scope="module")
def trainer(config, make_trainer):
    return make_trainer(config)


@pytest.fixture(scope="module")
def alone(trainer, steps_of):
    return steps_of(trainer)


def test_the_loss_is_the_weighted_sum_and_all_of_it_is_trained(alone):
    states, metrics = alone
    total = sum(
        weight * metrics[0][f"train/{name}_loss"]
        for name, weight in (("contrastive", 1), ("crop", 1), ("patch", 0.25))
    )
    np.testing.assert_allclose(metrics[0]["train/loss"], total, rtol=1e-6)
    for name, before in states[0].params.items():
        assert np.abs(states[2].params[name] - before).max() > 0, name


def test_the_average_follows_the_parameters_and_the_centers_what_it_has_seen(alone):
    (first, second, third), _ = alone
    for name, before in first.self_teacher["params"].items():
        np.testing.assert_array_equal(before, first.params[name])
        expected = 0.9 * before + 0.1 * second.params[name]
        found = second.self_teacher["params"][name]
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7, err_msg=name)
    followed = set(first.self_teacher["params"])
    assert "image/positions" in followed
    assert not any(name.startswith(("text/", "log_logit")) for name in followed)
    for name, center in second.self_teacher["centers"].items():
        assert np.abs(center).max() > 0
        assert np.abs(third.self_teacher["centers"][name] - center).max() > 0, name


def test_a_step_that_is_skipped_moves_nothing(trainer):
    state = trainer.init()
    broken = {**state.params, "log_logit_scale": jnp.float32(jnp.nan)}
    state = dataclasses.replace(state, params=broken)
    before = jax.tree.map(np.asarray, state.self_teacher)
    after, _ = trainer.step(state, trainer.batch(0))
    assert int(after.bad_steps) == 1
    jax.tree.map(np.testing.assert_array_equal, after.self_teacher, before)


@pytest.mark.parametrize(
    ("sizes", "fields"),
    [
        ((2, 2, 2), {}),
        ((2, 1, 1), {"micro_batches": 4}),
    ],
    ids=["sharded", "in parts"],
)
def test_split_and_in_parts_it_is_the_same(sizes, fields, config, make_trainer, steps_of, alone):
    mesh = MeshConfig(**dict(zip(("data", "fsdp", "tensor"), sizes, strict=True)))
    mesh = make_mesh(mesh, num_devices=int(np.prod(sizes)))
    states, metrics = steps_of(make_trainer(dataclasses.replace(config, **fields), mesh))
    for one, other in zip(metrics, alone[1], strict=True):
        for name in [name for name in other if name.endswith("loss")]:
            np.testing.assert_allclose(one[name], other[name], rtol=5e-5, err_msg=name)
    for field in ("params", "self_teacher"):
        found, expected = getattr(states[2], field), getattr(alone[0][2], field)
        # Adam divides by the root of the second moment: of tiny gradients the sign counts.
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4), found, expected)


def test_heads_wait_until_their_stage_and_the_average_begins_at_the_tower(
    config, run_here, resumed_state, tmp_path
):
    """A real run: two steps without, two with; taken up again in the middle it ends the same."""
    stages = {
        "pairs": StageConfig(**OFF, image_size=16),
        "self_distillation": StageConfig(first_step=2),
    }
    config = dataclasses.replace(
        config,
        stages=stages,
        mesh=MeshConfig(data=4, fsdp=2),
        self_distill=dataclasses.replace(BOTH, momentum=1.0),
        checkpoint=dataclasses.replace(config.checkpoint, every_steps=1, keep=4),
    )
    run_here(config, tmp_path / "run")
    start, before, after = (
        restored(config, tmp_path / "run", step) if step else first_state(config)
        for step in (0, 2, 4)
    )
    for name, array in before["params"].items():
        idle = name.startswith("self_distill/")
        assert np.array_equal(array, start["params"][name]) == idle, name
        assert not np.array_equal(array, after["params"][name]), name
    for name, array in before["self_teacher"]["params"].items():
        np.testing.assert_array_equal(array, before["params"][name])
        np.testing.assert_array_equal(array, after["self_teacher"]["params"][name])  # momentum 1
    resumed_state(config, tmp_path / "run", 2)
    found = open_pretrained(tmp_path / "run")
    assert any(name.startswith("self_distill/") for name in found.params())
    without = dataclasses.replace(found.config, self_distill=None)
    assert not any(name.startswith("self_distill/") for name in found.params(without))


def restored(config, workdir, step):
    from clipjax.core.checkpoint import CheckpointReader
    from clipjax.train.state import abstract_state, as_dict, optimizer_of

    like = as_dict(abstract_state(config, optimizer_of(config), make_mesh(config.mesh)))
    state = CheckpointReader(workdir / "checkpoints").restore(step, like)
    return jax.tree.map(np.asarray, state)


def first_state(config):
    from clipjax.train.state import as_dict, init_state, optimizer_of

    return as_dict(jax.jit(lambda: init_state(config, optimizer_of(config)))())


def test_every_pass_counts_as_arithmetic(config, replace_in):
    image, text = image_forward_flops(config.model), text_forward_flops(config.model)
    small = replace_in(config.model, "image.image_size", CROP)
    heads = {
        name: 2 * (width * 24 + 24 * 8 + 8 * 50) for name, width in (("crops", 16), ("patches", 32))
    }
    expected = 3 * (image + text)  # the pair
    expected += image  # the average
    expected += 3 * 2 * image_forward_flops(small) + (3 * 2 + 1) * heads["crops"]
    expected += 3 * image + (3 + 1) * PATCHES // 2 * heads["patches"]
    assert training_flops(config) == expected


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model.self_distill": None}, r"need the heads of model\.self_distill"),
        ({"self_distill.crop_size": 20}, r"crop_size=20 is no multiple .*: set 16 or 24"),
        ({"self_distill.crop_size": 40}, r"crop_size=40 is more than model\.image\.image_size=32"),
        ({"self_distill.masked_share": 0.01}, "of 16 patches are 0: some must be hidden"),
        ({"self_distill.masked_share": 1.0}, r"masked_share=1\.0 must be in \(0, 1\)"),
        ({"self_distill.crop_area": (0.4, 0.2)}, "0 < least <= most <= 1"),
        ({"self_distill.teacher_temperature": 0.0}, "teacher_temperature=0.0 must be positive"),
        ({"self_distill.momentum": 1.1}, r"momentum=1\.1 must be in \[0, 1\]"),
        ({"self_distill.patch_weight": -1.0}, "patch_weight=-1.0 must not be negative"),
        ({"optim.lora": LoraConfig(rank=2)}, r"optim\.lora\.rank=2: the image tower"),
        ({"optim.lock_image": 0}, r"optim\.lock_image=0: the image tower"),
        ({"optim.freeze": ("image/*",)}, r"freeze=\('image/\*',\): the image tower"),
        ({"data.image_mode": "naflex"}, "cuts its crops out of square images"),
        ({"model.image.pool": "coca"}, "stands for no patch"),
    ],
)
def test_what_cannot_be_is_refused(config, replace_in, fields, message):
    (name, value), *_ = fields.items()
    with pytest.raises(ValueError, match=message):
        replace_in(config, name, value)


def test_heads_that_nothing_trains_are_refused(config):
    idle = dataclasses.replace(config, self_distill=SelfDistillConfig())
    with pytest.raises(UsageError, match=r"SigLIP 2: 1 and 0\.25"):
        check_objectives(idle)
