"""A step that minimises more than one loss: captions beside the contrast or alone."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clipjax.config import (
    CappaDecoderConfig,
    CocaDecoderConfig,
    LoraConfig,
    LossConfig,
    TrainConfig,
    UsageError,
)
from clipjax.core.mesh import make_mesh
from clipjax.losses import captioning_loss
from clipjax.models import with_params
from clipjax.models.cost import decoder_forward_flops, image_forward_flops, text_forward_flops
from clipjax.train.flops import training_flops
from clipjax.train.objectives import check_objectives

SIZES = {"width": 32, "depth": 1, "num_heads": 2, "mlp_dim": 64}
KINDS = ("coca", "cappa")
kinds = pytest.mark.parametrize("kind", KINDS)


def mesh_of(config, sizes):
    data, fsdp, tensor = sizes
    mesh = dataclasses.replace(config.mesh, data=data, fsdp=fsdp, tensor=tensor)
    return make_mesh(mesh, num_devices=data * fsdp * tensor)


@pytest.fixture(scope="module")
def caption_config(step_config, replace_in):
    """CoCa with weights 1 and 2, or CapPa without contrast; blocks that do not divide 300 ids."""

    def make(kind, **fields):
        if kind == "coca":
            decoder, weights = CocaDecoderConfig(**SIZES), {"caption_weight": 2.0}
        else:
            decoder = CappaDecoderConfig(vocab_size=300, context_length=16, **SIZES)
            weights = {"caption_weight": 1.0, "contrastive_weight": 0.0}
        optim = dataclasses.replace(step_config.optim, lock_text=None if kind == "coca" else 0)
        config = dataclasses.replace(
            step_config,
            model=dataclasses.replace(step_config.model, decoder=decoder),
            loss=LossConfig(caption_block=128, **weights),
            optim=optim,
        )
        for name, value in fields.items():
            config = replace_in(config, name, value)
        return config

    return make


@pytest.fixture(scope="module")
def first_steps(caption_config, make_trainer):
    """(state, metrics of three steps on three batches) on one device, by kind."""

    def run(config, mesh=None, steps=3):
        trainer = make_trainer(config, mesh)
        state, found = trainer.init(), []
        for number in range(steps):
            state, metrics = trainer.step(state, trainer.batch(number))
            found.append({name: float(value) for name, value in metrics.items()})
        return state, found

    return run


@pytest.fixture(scope="module")
def alone(caption_config, first_steps):
    return {kind: first_steps(caption_config(kind)) for kind in KINDS}


def equal_runs(found, expected):
    """Adam divides by the root of the second moment: of tiny gradients the sign counts."""
    for one, other in zip(found[1], expected[1], strict=True):
        assert set(one) == set(other)
        for name in [name for name in other if name.endswith("loss")]:
            np.testing.assert_allclose(one[name], other[name], rtol=2e-5, err_msg=name)
    for name, array in expected[0].params.items():
        np.testing.assert_allclose(found[0].params[name], array, atol=5e-5, err_msg=name)


@kinds
def test_captions_are_learnt(kind, caption_config, make_trainer, replace_in):
    config = replace_in(caption_config(kind), "optim.peak_learning_rate", 1e-2)
    trainer = make_trainer(config)
    state, batch, losses = trainer.init(), trainer.batch(0), []
    for _ in range(10):
        state, metrics = trainer.step(state, batch)
        losses.append(float(metrics["train/caption_loss"]))
    assert losses[-1] < losses[0] - 0.5
    # Before the first step all 300 ids are about as likely.
    assert abs(losses[0] - np.log(300)) < 1.0


@kinds
def test_no_step_forms_the_logits_of_its_captions(kind, caption_config, make_trainer):
    """They would be 16 captions of 15 or 16 places over 300 ids; blocks have 128."""
    trainer = make_trainer(caption_config(kind))
    program = trainer.compiled.lower(trainer.like, trainer.spec).as_text()
    places = 15 if kind == "coca" else 16
    assert f"16x{places}x128xf32" in program
    assert f"16x{places}x300x" not in program


@kinds
def test_the_loss_is_the_weighted_sum_of_its_parts(kind, alone):
    for metrics in alone[kind][1]:
        expected = metrics["train/caption_loss"]
        if kind == "coca":
            expected = metrics["train/contrastive_loss"] + 2 * expected
        np.testing.assert_allclose(metrics["train/loss"], expected, rtol=1e-6)
    assert ("train/contrastive_loss" in alone[kind][1][0]) == (kind == "coca")


def test_the_caption_loss_is_that_of_the_logits_of_the_model(alone, caption_config, make_trainer):
    config = caption_config("coca")
    trainer = make_trainer(config)
    state, batch = trainer.init(), trainer.batch(0)
    model = with_params(config.model, state.params)
    logits = jax.jit(model.caption_logits)(batch["images"], batch["tokens"])
    shown, targets, counted = model.caption_targets(logits, batch["tokens"])
    # Logits are the hidden states of a map that is the identity.
    same = jnp.eye(shown.shape[-1])
    expected = captioning_loss(shown, same, None, targets, counted)
    np.testing.assert_allclose(alone["coca"][1][0]["train/caption_loss"], expected, rtol=1e-5)


def test_a_sharded_step_is_that_of_one_device(caption_config, first_steps, alone):
    """CapPa's is asked together with micro-batches."""
    config = caption_config("coca")
    equal_runs(first_steps(config, mesh_of(config, (2, 2, 2))), alone["coca"])


@kinds
def test_micro_batches_are_the_whole_batch(kind, caption_config, first_steps, alone):
    """Also on a mesh; which captions CapPa predicts in parallel does not depend on the parts."""
    config = caption_config(kind, micro_batches=2)
    equal_runs(first_steps(config, mesh_of(config, (2, 2, 2))), alone[kind])


def test_accumulation_is_the_mean_of_its_parts(caption_config, first_steps):
    config = caption_config("coca", micro_batches=2, **{"loss.over": "micro_batch"})
    _, (metrics,) = first_steps(config, steps=1)
    expected = metrics["train/contrastive_loss"] + 2 * metrics["train/caption_loss"]
    np.testing.assert_allclose(metrics["train/loss"], expected, rtol=1e-6)
    assert metrics["train/contrastive_loss"] < np.log(8) + 1  # of 8 pairs, not of 16


def test_another_step_predicts_other_captions_in_parallel(caption_config, make_trainer):
    """The same batch and the same parameters (a learning rate of zero), two steps."""
    trainer = make_trainer(caption_config("cappa", **{"optim.warmup_steps": 1}))
    state, batch, losses = trainer.init(), trainer.batch(0), []
    params = state.params
    # The map to the vocabulary is zero at first: draws could not be told apart.
    params = {n: p + 0.1 if n == "decoder/project/kernel" else p for n, p in params.items()}
    rng = np.random.default_rng(0)
    kernel = params["decoder/project/kernel"]
    params["decoder/project/kernel"] = kernel + rng.normal(size=kernel.shape).astype(np.float32)
    for step in (0, 1):
        copies = jax.tree.map(lambda x: x.copy(), dataclasses.replace(state, params=params))
        copies = dataclasses.replace(copies, step=copies.step + step)
        losses.append(float(trainer.step(copies, batch)[1]["train/caption_loss"]))
    assert losses[0] != losses[1]


LOCKED = {
    "locked image": {"optim.lock_image": 0},
    "LoRA": {"optim.lora": LoraConfig(rank=2, matrices=("decoder/*", "image/*/attn/q"))},
    "scan and remat": {"model.compute.scan_layers": True, "model.compute.remat": "full"},
}


@pytest.mark.parametrize("name", LOCKED)
def test_works_with_what_else_a_run_may_do(name, caption_config, make_trainer):
    trainer = make_trainer(caption_config("coca", **LOCKED[name]))
    state, batch = trainer.init(), trainer.batch(0)
    before = {name: np.asarray(array) for name, array in state.params.items()}
    for _ in range(3):
        state, metrics = trainer.step(state, batch)
    moved = {n for n, array in state.params.items() if not np.array_equal(array, before[n])}
    assert np.isfinite(metrics["train/loss"])
    if name == "locked image":
        assert not [n for n in moved if n.startswith("image/")]
        assert [n for n in moved if n.startswith("decoder/")]
    if name == "LoRA":
        assert moved
        assert all(n.startswith("lora/") for n in moved)


# ---- what is refused, and what it costs


def test_captions_need_a_decoder_and_a_decoder_captions(caption_config, step_config, replace_in):
    with pytest.raises(ValueError, match=r"loss\.caption_weight=2\.0 needs model\.decoder"):
        replace_in(step_config, "loss.caption_weight", 2.0)
    idle = caption_config("coca", **{"loss.caption_weight": 0.0})
    with pytest.raises(UsageError, match=r"caption_weight=0 trains nothing of model\.decoder"):
        check_objectives(idle)
    check_objectives(replace_in(idle, "optim.freeze", ("decoder/*",)))


def test_cappa_without_contrast_locks_the_text_tower(caption_config, replace_in):
    config = caption_config("cappa")
    with pytest.raises(ValueError, match=r"set optim\.lock_text=0"):
        replace_in(config, "optim.lock_text", None)


def test_weights_that_say_nothing_are_refused():
    with pytest.raises(ValueError, match=r"contrastive_weight=-1\.0 must not be negative"):
        LossConfig(contrastive_weight=-1.0)
    with pytest.raises(ValueError, match="there is nothing to minimise"):
        TrainConfig(loss=LossConfig(contrastive_weight=0.0))


@kinds
def test_the_decoder_is_counted(kind, caption_config):
    config = caption_config(kind)
    model = config.model
    text = 3 * text_forward_flops(model) if kind == "coca" else 0
    expected = 3 * image_forward_flops(model) + text + 3 * decoder_forward_flops(model)
    assert training_flops(config) == expected
