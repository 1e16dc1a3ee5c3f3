"""Training with captions grouped by length: batches on the devices, programs and losses."""

import dataclasses

import jax
import numpy as np
import pytest

from clipjax.config import CheckpointConfig, EvalsConfig, MeshConfig
from clipjax.core.mesh import make_mesh
from clipjax.data.buckets import BucketedOrder
from clipjax.models.cost import pair_forward_flops, trained_pair_forward_flops
from clipjax.train.setup import device_batches, open_data, open_source, run_record

STEPS = 10
BUCKETS = (6, 10, 16)


@pytest.fixture(scope="module")
def bucket_config(step_config, make_tar, tmp_path_factory):
    """Ninety-six pairs whose captions have 3 to 14 tokens, and now and then more than 16."""
    folder = tmp_path_factory.mktemp("lengths")
    import io

    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(np.full((16, 16, 3), 90, np.uint8)).save(out, "PNG")
    samples = {
        f"{i:03d}": {"png": out.getvalue(), "txt": ("abcdefghijkl"[: 1 + i % 12]).encode()}
        for i in range(96)
    }
    samples["050"]["txt"] = b"far longer than the context is"
    samples["007"]["png"] = b"broken"
    make_tar(folder / "0.tar", samples)
    data = dataclasses.replace(
        step_config.data, root=str(folder), shards="0.tar", text_buckets=BUCKETS, bucket_group=4
    )
    return dataclasses.replace(
        step_config,
        data=data,
        tokenizer=dataclasses.replace(step_config.tokenizer, kind="byte"),
        model=dataclasses.replace(
            step_config.model, text=dataclasses.replace(step_config.model.text, vocab_size=258)
        ),
    )


def read(config, first=0, steps=STEPS, devices=1):
    """Batches of a run as they are on the devices, as NumPy, and the data."""
    mesh = make_mesh(MeshConfig(), num_devices=devices)
    data = open_data(config, open_source(config), None)
    batches = device_batches(config, data, mesh, first_step=first)
    try:
        return [jax.tree.map(np.asarray, next(batches)) for _ in range(steps - first)], data
    finally:
        batches.close()


@pytest.fixture(scope="module")
def straight(bucket_config):
    return read(bucket_config)


def test_the_texts_of_a_batch_have_the_length_of_its_bucket(straight):
    batches, data = straight
    assert isinstance(data.order, BucketedOrder)
    lengths = [batch["tokens"].shape[1] for batch in batches]
    assert lengths == [data.order.bucket(step) for step in range(STEPS)]
    assert set(lengths) == set(BUCKETS)
    for batch in batches:
        assert ((batch["tokens"] == 257).sum(axis=1) == 1).all()


def test_texts_are_those_of_the_samples_cut_to_the_bucket(straight, bucket_config):
    """Against batches in the plain order, found again by sample number."""
    batches, data = straight
    row = {k: np.zeros(shape, kind) for k, (shape, kind) in data.pairs.row_spec.items()}
    for step in (0, 5, 9):
        for place, sample in enumerate(data.order.samples(step)):
            data.pairs(int(sample), row)
            length = batches[step]["tokens"].shape[1]
            np.testing.assert_array_equal(batches[step]["tokens"][place], row["tokens"][:length])
            assert not row["tokens"][length:].any()
            np.testing.assert_array_equal(batches[step]["images"][place], row["images"])


@pytest.mark.parametrize("first", [1, 4, 6])
def test_a_run_goes_on_in_the_middle_of_a_group_with_the_same_batches(
    straight, bucket_config, first
):
    again, _ = read(bucket_config, first, devices=4)
    for one, other in zip(again, straight[0][first:], strict=True):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


def test_captions_of_others_have_the_lengths_of_those(bucket_config, replace_in):
    config = replace_in(bucket_config, "data.shuffled_captions", True)
    batches, data = read(config)
    assert {b["tokens"].shape[1] for b in batches} == set(BUCKETS)
    for step, batch in enumerate(batches):
        longest = data.order.lengths[data.order.examples(data.order.samples(step))].max()
        found = (np.argmax(batch["tokens"] == 257, axis=1) + 1).max()
        if 7 not in data.order.examples(data.order.samples(step)):  # whose picture is broken
            assert found == longest


@pytest.mark.slow
def test_one_program_a_bucket_and_the_losses_of_padded_texts(straight, bucket_config, make_trainer):
    """The same batches padded to the whole context: equal losses, on one device and on eight."""
    batches, _ = straight
    trainer = make_trainer(bucket_config)
    wide = make_trainer(bucket_config, make_mesh(MeshConfig(data=4, fsdp=2)))
    states = [trainer.init(), trainer.init(), wide.init()]
    for batch in batches[:6]:
        tokens = batch["tokens"]
        padded = np.pad(tokens, ((0, 0), (0, 16 - tokens.shape[1])))
        losses = []
        for i, (which, own) in enumerate(((trainer, tokens), (trainer, padded), (wide, tokens))):
            on_device = {
                k: jax.device_put(v, which.spec[k].sharding)
                for k, v in (batch | {"tokens": own}).items()
            }
            states[i], metrics = which.step(states[i], on_device)
            losses.append(float(metrics["train/loss"]))
        np.testing.assert_allclose(losses[1:], losses[0], rtol=1e-5)
    seen = {batch["tokens"].shape[1] for batch in batches[:6]}
    assert trainer.compiled._cache_size() == len(seen | {16})
    assert wide.compiled._cache_size() == len(seen)


def test_a_shorter_text_costs_less(bucket_config):
    model = bucket_config.model
    assert trained_pair_forward_flops(bucket_config, 6) == pair_forward_flops(model, None, 6)
    assert pair_forward_flops(model, None, 6) < pair_forward_flops(model)
    assert pair_forward_flops(model, None, 16) == pair_forward_flops(model)


def test_another_grouping_is_another_order(bucket_config, replace_in):
    source = open_source(bucket_config)
    records = [
        run_record(replace_in(bucket_config, f"data.{name}", value), source)
        for name, value in (("bucket_group", 4), ("bucket_group", 5), ("text_buckets", ()))
    ]
    found = records[0]["order"]
    assert (found["text_buckets"], found["bucket_group"]) == ([6, 10, 16], 4)
    assert records[1] != records[0]
    assert "order" not in records[2]


@pytest.mark.slow
def test_a_run_that_is_resumed_within_a_group_ends_bit_identical(
    bucket_config, tmp_path, run_here, resumed_state
):
    config = dataclasses.replace(
        bucket_config,
        num_steps=9,
        checkpoint=CheckpointConfig(every_steps=3, keep=3),
        evals=EvalsConfig(),
        log=dataclasses.replace(bucket_config.log, every_steps=1),
    )
    figures = run_here(config, tmp_path / "run")
    assert figures["metrics"]["train/loss"] > 0
    assert figures["metrics"]["time/mfu"] > 0
    resumed_state(config, tmp_path / "run", 6)
