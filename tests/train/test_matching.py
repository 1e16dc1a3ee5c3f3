"""Right pairs against hard wrong ones: what is compared, on any mesh, whole and in parts."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clipjax.config import (
    CappaDecoderConfig,
    LossConfig,
    MatchingConfig,
    MeshConfig,
    StageConfig,
    UsageError,
)
from clipjax.core.mesh import make_mesh
from clipjax.interchange.pretrained import open_pretrained
from clipjax.losses import hard_partners, make_walk, matching_loss, taken_rows
from clipjax.models import init_params, with_params
from clipjax.models.cost import (
    image_forward_flops,
    matching_forward_flops,
    text_forward_flops,
)
from clipjax.train.flops import training_flops
from clipjax.train.matching import matching_term
from clipjax.train.objectives import check_objectives

SIZES = {"width": 32, "depth": 1, "num_heads": 2, "mlp_dim": 64}
BATCH = 16


@pytest.fixture(scope="module")
def config(step_config):
    """One block a tower and a head; with captions too, so that both read the same tokens."""
    model = step_config.model
    model = dataclasses.replace(
        model,
        image=dataclasses.replace(model.image, depth=1),
        text=dataclasses.replace(model.text, depth=1),
        decoder=CappaDecoderConfig(vocab_size=300, context_length=16, **SIZES),
        matching=MatchingConfig(vocab_size=300, context_length=16, **SIZES),
    )
    loss = LossConfig(matching_weight=0.5, caption_weight=1.0)
    return dataclasses.replace(step_config, model=model, loss=loss, num_steps=4)


@pytest.fixture(scope="module")
def params(config):
    return jax.jit(lambda: init_params(config.model, 3))()


@pytest.fixture(scope="module")
def texts():
    """Two with padding behind them."""
    tokens = np.random.default_rng(0).integers(1, 300, (3, 16)).astype(np.int32)
    tokens[0, 5:] = tokens[1, 9:] = 0
    return tokens


def test_every_token_and_patch_counts_and_padding_does_not(config, params, texts):
    images = np.random.default_rng(1).integers(0, 256, (3, 16, 16, 3)).astype(np.uint8)
    logits = jax.jit(lambda *x: with_params(config.model, params).matching_logits(*x))
    before = np.asarray(logits(images, texts))
    assert before.shape == (3,)
    assert before.dtype == np.float32
    np.testing.assert_allclose(logits(images[:1], texts[:1, :9])[0], before[0], rtol=1e-4)
    for place in (0, 4):  # the first is seen by itself only where attention is causal
        other = texts.copy()
        other[0, place] = 299 - other[0, place] // 2
        changed = np.abs(logits(images, other) - before)
        assert changed[0] > 1e-4
        assert not changed[1:].any()
    other = images.copy()
    other[1, -1, -1] ^= 255
    changed = np.abs(logits(other, texts) - before)
    assert changed[1] > 1e-6
    assert not changed[[0, 2]].any()


@pytest.mark.parametrize("shape", [(BATCH,), (BATCH, 3), (BATCH, 3, 2)])
def test_rows_come_by_in_a_ring(shape, mesh_222):
    rng = np.random.default_rng(0)
    x = rng.normal(size=shape).astype(np.float32)
    places = rng.integers(0, BATCH, BATCH).astype(np.int32)
    weights = rng.normal(size=shape).astype(np.float32)

    def total(walk):
        return lambda x, places: (taken_rows(x, places, walk) * weights).sum()

    walk = make_walk(LossConfig(form="ring"), mesh_222)
    expected = np.zeros_like(x)
    np.add.at(expected, places, weights)
    for each in (None, walk):
        with jax.set_mesh(mesh_222):
            step = jax.jit(jax.value_and_grad(total(each)))
            value, grad = step(jnp.asarray(x), jnp.asarray(places))
        np.testing.assert_allclose(value, (x[places] * weights).sum(), rtol=1e-5)
        np.testing.assert_allclose(grad, expected, atol=1e-5)


def test_no_device_holds_the_rows_of_all():
    """Beside its rows and those that pass; XLA by itself gathers them all."""
    shape = (64, 1024)

    def temporaries(devices, form):
        mesh = make_mesh(MeshConfig(data=devices), num_devices=devices)
        walk = make_walk(LossConfig(form=form), mesh)
        rows = jax.NamedSharding(mesh, jax.P(("replica", "data", "fsdp")))
        structs = [
            jax.ShapeDtypeStruct(size, dtype, sharding=rows)
            for size, dtype in (
                ((devices * shape[0], shape[1]), jnp.float32),
                ((devices * shape[0],), jnp.int32),
            )
        ]
        with jax.set_mesh(mesh):
            step = jax.jit(lambda *x: taken_rows(*x, walk), out_shardings=rows)
            return step.lower(*structs).compile().memory_analysis().temp_size_in_bytes

    found = {devices: temporaries(devices, "ring") for devices in (2, 8)}
    assert found[8] <= found[2] + 4096, found
    assert temporaries(8, "plain") > 1.5 * found[8]


def test_the_loss_is_that_of_right_pairs_and_of_drawn_ones(config, params, texts):
    """With two pairs, each the only wrong partner of the other."""
    images = np.random.default_rng(1).integers(0, 256, (2, 16, 16, 3)).astype(np.uint8)
    tokens = jnp.asarray(texts[1:])

    @jax.jit
    def both(params, images, tokens):
        model = with_params(config.model, params)
        image, text, read = model.matching_inputs(images, tokens)
        rows = {"images": image, "texts": text, "image_tokens": read.tokens, "tokens": tokens}
        key = jax.random.key(0)
        alone = matching_term(config, params, rows, None, key)
        one_group = matching_term(config, params, rows, jnp.zeros(2, jnp.int32), key)
        right, wrong = (model.matching_logits(images, t) for t in (tokens, tokens[::-1]))
        return alone, one_group, right, wrong

    alone, one_group, right, wrong = both(params, images, tokens)
    right, wrong = (np.asarray(x, np.float64) for x in (right, wrong))
    of_right, of_wrong = np.logaddexp(0, -right).sum(), np.logaddexp(0, wrong).sum()
    np.testing.assert_allclose(alone, (of_right + 2 * of_wrong) / 6, rtol=1e-5)
    np.testing.assert_allclose(one_group, of_right / 2, rtol=1e-5)


@pytest.fixture(scope="module")
def steps_of():
    """State and metrics after two steps."""

    def run(trainer):
        state, found = trainer.init(), []
        for number in range(2):
            state, metrics = trainer.step(state, trainer.batch(number))
            found.append({name: float(value) for name, value in metrics.items()})
        return jax.tree.map(np.asarray, state), found

    return run


@pytest.fixture(scope="module")
def alone(config, make_trainer, steps_of):
    return steps_of(make_trainer(config))


def test_the_loss_is_the_weighted_sum_and_all_of_it_is_trained(config, alone):
    state, metrics = alone
    weights = {"contrastive": 1, "caption": 1, "matching": 0.5}
    total = sum(weight * metrics[0][f"train/{name}_loss"] for name, weight in weights.items())
    np.testing.assert_allclose(metrics[0]["train/loss"], total, rtol=1e-6)
    start = jax.jit(lambda: init_params(config.model, config.seed))()
    for name, before in start.items():
        assert np.abs(state.params[name] - before).max() > 0, name


def test_split_it_is_the_same(config, mesh_222, make_trainer, steps_of, alone):
    state, metrics = steps_of(make_trainer(config, mesh_222))
    for one, other in zip(metrics, alone[1], strict=True):
        for name in [name for name in other if name.endswith("loss")]:
            np.testing.assert_allclose(one[name], other[name], rtol=5e-5, err_msg=name)
    for name, array in alone[0].params.items():
        # Adam divides by the root of the second moment: of tiny gradients the sign counts.
        np.testing.assert_allclose(state.params[name], array, atol=2e-4, err_msg=name)


def test_each_step_draws_other_partners(config, replace_in, make_trainer):
    model = dataclasses.replace(config.model, decoder=None)
    config = dataclasses.replace(config, model=model, loss=LossConfig(matching_weight=1.0))
    trainer = make_trainer(replace_in(config, "optim.peak_learning_rate", 1e-30))
    state, found = trainer.init(), []
    for _ in range(2):
        state, metrics = trainer.step(state, trainer.batch(0))
        found.append(metrics)
    one, other = found
    assert one["train/contrastive_loss"] == other["train/contrastive_loss"]
    assert one["train/matching_loss"] != other["train/matching_loss"]


def test_in_parts_partners_are_drawn_in_the_part(config, make_trainer, steps_of):
    loss = LossConfig(matching_weight=1.0, over="micro_batch")
    model = dataclasses.replace(config.model, decoder=None)
    config = dataclasses.replace(config, model=model, micro_batches=8, loss=loss)
    trainer = make_trainer(config)
    batch, params = trainer.batch(0), trainer.init().params
    # Parts of two pairs: each is the only wrong partner of the other.
    other = np.arange(BATCH) ^ 1

    @jax.jit
    def both(params, images, tokens):
        model = with_params(config.model, params)
        return [model.matching_logits(images, t) for t in (tokens, tokens[other])]

    found = both(params, batch["images"], batch["tokens"])
    right, wrong = (np.asarray(x, np.float64) for x in found)
    total = np.logaddexp(0, -right).sum() + 2 * np.logaddexp(0, wrong).sum()
    _, metrics = steps_of(trainer)
    np.testing.assert_allclose(metrics[0]["train/matching_loss"], total / (3 * BATCH), rtol=1e-5)


def test_a_run_matches_pairs_and_its_head_is_left_out_where_there_is_no_place(
    config, run_here, tmp_path
):
    """With shorter texts first: the learned token behind them keeps its position."""
    model = dataclasses.replace(config.model, decoder=None)
    config = dataclasses.replace(
        config,
        model=model,
        loss=LossConfig(matching_weight=1.0),
        stages={"short": StageConfig(context_length=8), "long": StageConfig(first_step=2)},
        mesh=MeshConfig(data=4, fsdp=2),
    )
    run_here(config, tmp_path / "run")
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert any(np.isfinite(json.loads(line).get("train/matching_loss", np.nan)) for line in lines)
    found = open_pretrained(tmp_path / "run")
    assert any(name.startswith("matching/") for name in found.params())
    without = dataclasses.replace(found.config, matching=None)
    assert not any(name.startswith("matching/") for name in found.params(without))


def test_the_head_counts_for_right_and_wrong_pairs(config):
    loss = LossConfig(matching_weight=1.0)
    config = dataclasses.replace(
        config, model=dataclasses.replace(config.model, decoder=None), loss=loss
    )
    towers = image_forward_flops(config.model) + text_forward_flops(config.model)
    head = matching_forward_flops(config.model)
    # Two attentions (of 17 tokens to themselves, and to 4 patches), an MLP and the logit.
    tokens, patches, width = 17, 4, 32
    products = 4 * tokens * width**2 + 2 * (tokens + patches) * width**2 + 4 * tokens * width**2
    scores = 2 * tokens * (tokens + patches) * width
    assert head == 2 * (products + scores + width)
    assert training_flops(config) == 3 * towers + 9 * head


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("model.matching", None, r"needs model\.matching"),
        ("model.matching.vocab_size", 9, r"matching\.vocab_size=9 must be text\.vocab_size=300"),
        ("model.matching.pad_id", 1, r"matching\.pad_id=1 must be text\.pad_id=0"),
        ("loss.matching_weight", -1.0, "must not be negative"),
        ("micro_batches", 2, "over='micro_batch', which draws partners in the part itself"),
    ],
)
def test_what_cannot_be_is_refused(config, replace_in, name, value, message):
    with pytest.raises(ValueError, match=message):
        replace_in(config, name, value)


def test_a_head_that_nothing_trains_is_refused(config):
    idle = dataclasses.replace(config, loss=LossConfig(caption_weight=1.0))
    with pytest.raises(UsageError, match=r"train[s ]*nothing of model\.matching"):
        check_objectives(idle)


def test_partners_are_hard_of_other_groups_and_seen_with_their_own_mask(config, params):
    rng = np.random.default_rng(5)
    images, texts = rng.normal(size=(2, 6, config.model.embed_dim)).astype(np.float32)
    rows = {
        "images": jnp.asarray(images),
        "texts": jnp.asarray(texts),
        "image_tokens": jnp.asarray(rng.normal(size=(6, 4, 32)), jnp.float32),
        "image_mask": jnp.asarray(np.arange(4) < rng.integers(1, 5, (6, 1))),
        "tokens": jnp.asarray(rng.integers(1, 300, (6, 16)), jnp.int32),
    }
    groups, key = jnp.asarray([0, 0, 1, 1, 2, 2], jnp.int32), jax.random.key(0)

    @jax.jit
    def both(params, rows):
        scale = jnp.exp(params["log_logit_scale"])
        drawn = hard_partners(rows["images"], rows["texts"], scale, groups, key)
        head = with_params(config.model, params).matching
        seen, mask, tokens = rows["image_tokens"], rows["image_mask"], rows["tokens"]
        expected = matching_loss(
            head(tokens, seen, mask),
            head(tokens[drawn[0]], seen, mask),
            head(tokens, seen[drawn[1]], mask[drawn[1]]),
            drawn,
        )
        return matching_term(config, params, rows, groups, key), expected

    found, expected = both(params, rows)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
