"""A run that learns from a teacher read from a folder."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clipjax.config import (
    DistillConfig,
    EvalsConfig,
    MeshConfig,
    TokenizerConfig,
    TrainConfig,
    UserError,
)
from clipjax.core.checkpoint import CheckpointReader
from clipjax.core.mesh import make_mesh
from clipjax.data.tokenizers import ByteTokenizer
from clipjax.interchange.run_directory import write_run
from clipjax.losses import distillation_loss, feature_loss
from clipjax.models import init_params, with_params
from clipjax.train.teacher import open_teacher

WEIGHTS = {"logit_weight": 0.5, "feature_weight": 2.0}


@pytest.fixture(scope="module")
def byte_config(step_config):
    """One block a tower, so that the tokenizer of the teacher can be that of the student."""
    model = step_config.model
    return dataclasses.replace(
        step_config,
        tokenizer=TokenizerConfig(kind="byte"),
        model=dataclasses.replace(
            model,
            image=dataclasses.replace(model.image, depth=1),
            text=dataclasses.replace(model.text, depth=1, vocab_size=258),
        ),
        evals=EvalsConfig(),
    )


@pytest.fixture(scope="module")
def tokenizer(byte_config):
    return ByteTokenizer(context_length=16, lowercase=byte_config.tokenizer.lowercase)


@pytest.fixture(scope="module")
def write_teacher(tmp_path_factory, tokenizer):
    """Writes a model as a run would; returns (folder, parameters)."""

    def write(model, tokenizer=tokenizer):
        folder = tmp_path_factory.mktemp("teacher")
        params = jax.jit(lambda: init_params(model, 7))()
        write_run(folder, model, params, tokenizer, {})
        return folder, params

    return write


@pytest.fixture(scope="module")
def teacher(byte_config, write_teacher):
    """Wider than the student, of the same embeddings."""
    model = byte_config.model
    image = dataclasses.replace(model.image, width=48, mlp_dim=96)
    model = dataclasses.replace(model, image=image)
    return *write_teacher(model), model


def distilled(config, folder, **fields):
    return dataclasses.replace(config, distill=DistillConfig(teacher=str(folder), **fields))


@pytest.fixture(scope="module")
def first_steps(byte_config, teacher, tokenizer, make_trainer):
    """(trainer, state, metrics) after two steps, on one device or a mesh."""

    def run(sizes=(1, 1, 1), **fields):
        config = distilled(byte_config, teacher[0], **WEIGHTS)
        config = dataclasses.replace(config, **fields)
        data, fsdp, tensor = sizes
        mesh = make_mesh(
            MeshConfig(data=data, fsdp=fsdp, tensor=tensor), num_devices=data * fsdp * tensor
        )
        made = make_trainer(config, mesh, teacher=open_teacher(config, tokenizer, mesh))
        state, found = made.init(), []
        for number in range(2):
            state, metrics = made.step(state, made.batch(number))
            found.append({name: float(value) for name, value in metrics.items()})
        return made, state, found

    return run


@pytest.fixture(scope="module")
def alone(first_steps):
    return first_steps()


def test_the_loss_is_that_of_the_embeddings_of_both(alone, teacher):
    made, _, (metrics, _) = alone
    state, batch = made.init(), made.batch(0)

    @jax.jit
    def encode(ours, theirs, images, tokens):
        models = with_params(made.config.model, ours), with_params(teacher[2], theirs)
        return [(m.encode_image(images), m.encode_text(tokens)) for m in models]

    student, taught = encode(state.params, teacher[1], batch["images"], batch["tokens"])
    scales = (jnp.exp(p["log_logit_scale"]) for p in (state.params, teacher[1]))
    scale, their_scale = scales
    logit = distillation_loss(*student, scale, *taught, their_scale)
    feature = sum(feature_loss(*pair) for pair in zip(student, taught, strict=True)) / 2
    np.testing.assert_allclose(metrics["train/distillation_loss"], logit, rtol=1e-5)
    np.testing.assert_allclose(metrics["train/feature_loss"], feature, rtol=1e-5)
    total = metrics["train/contrastive_loss"] + 0.5 * logit + 2 * feature
    np.testing.assert_allclose(metrics["train/loss"], total, rtol=1e-5)


@pytest.mark.parametrize(
    ("sizes", "parts"), [((2, 2, 2), 1), ((2, 1, 1), 4)], ids=["sharded", "in parts"]
)
def test_split_and_in_parts_it_is_the_same(sizes, parts, first_steps, alone):
    _, state, metrics = first_steps(sizes, micro_batches=parts)
    for one, other in zip(metrics, alone[2], strict=True):
        for name in [name for name in other if name.endswith("loss")]:
            np.testing.assert_allclose(one[name], other[name], rtol=2e-5, err_msg=name)
    for name, array in alone[1].params.items():
        # Adam divides by the root of the second moment: of tiny gradients the sign counts.
        np.testing.assert_allclose(state.params[name], array, atol=5e-5, err_msg=name)


def test_the_teacher_is_split_over_the_mesh_and_not_part_of_the_state(
    byte_config, teacher, tokenizer, mesh_222, make_trainer
):
    found = open_teacher(distilled(byte_config, teacher[0]), tokenizer, mesh_222)
    kernel = found.params["image/blocks/stack/0/mlp/fc1/kernel"]
    assert not kernel.sharding.is_fully_replicated
    np.testing.assert_array_equal(kernel, teacher[1]["image/blocks/stack/0/mlp/fc1/kernel"])
    without = make_trainer(byte_config, mesh_222).like
    taught = make_trainer(distilled(byte_config, teacher[0]), mesh_222, teacher=found).like
    assert jax.tree.structure(without) == jax.tree.structure(taught)


def test_a_run_reads_its_teacher(byte_config, teacher, run_here, tmp_path):
    config = distilled(byte_config, teacher[0], feature_weight=1.0)
    config = dataclasses.replace(config, num_steps=2, mesh=MeshConfig(data=4, fsdp=2))
    figures = run_here(config, tmp_path / "run")
    assert figures["metrics"]["train/distillation_loss"] > 0
    like = CheckpointReader(tmp_path / "run" / "checkpoints")
    assert like.steps() == [2]


# ---- what is refused


def test_without_a_teacher_there_is_none(byte_config, tokenizer, mesh):
    assert open_teacher(byte_config, tokenizer, mesh) is None


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("image", {"image_size": 24}, r"24 pixels a side, those of the student 16\. Set config"),
        ("text", {"context_length": 12}, r"12 tokens, those of the student 16"),
    ],
)
def test_a_teacher_of_other_inputs_is_refused(
    field, value, message, byte_config, write_teacher, tokenizer, mesh
):
    model = byte_config.model
    section = dataclasses.replace(getattr(model, field), **value)
    folder, _ = write_teacher(dataclasses.replace(model, **{field: section}))
    with pytest.raises(UserError, match=message):
        open_teacher(distilled(byte_config, folder), tokenizer, mesh)


def test_a_teacher_of_other_words_or_width_is_refused(
    byte_config, write_teacher, teacher, tokenizer, mesh
):
    other = ByteTokenizer(context_length=16, lowercase=not byte_config.tokenizer.lowercase)
    with pytest.raises(UserError, match="tokenizer is another one than the student's"):
        open_teacher(distilled(byte_config, teacher[0]), other, mesh)
    model = dataclasses.replace(byte_config.model, embed_dim=8)
    folder, _ = write_teacher(model)
    open_teacher(distilled(byte_config, folder), tokenizer, mesh)
    with pytest.raises(UserError, match=r"8 coordinates, those of the student 16"):
        open_teacher(distilled(byte_config, folder, feature_weight=1.0), tokenizer, mesh)


def test_a_preset_teaches_nothing(byte_config, tokenizer, mesh):
    with pytest.raises(UserError, match="a preset has no weights"):
        open_teacher(distilled(byte_config, "ViT-B-32"), tokenizer, mesh)


def test_weights_that_say_nothing_are_refused(byte_config, replace_in):
    with pytest.raises(ValueError, match="nothing is learnt from it"):
        DistillConfig(teacher="x", logit_weight=0.0)
    with pytest.raises(ValueError, match=r"feature_weight=1\.0 is about the model of `teacher`"):
        DistillConfig(feature_weight=1.0)
    with pytest.raises(ValueError, match=r"logit_weight=-1\.0 must not be negative"):
        DistillConfig(logit_weight=-1.0)
    taught = distilled(byte_config, "x")
    alone = replace_in(taught, "loss.contrastive_weight", 0.0)
    with pytest.raises(ValueError, match="there is nothing to minimise"):
        dataclasses.replace(alone, distill=TrainConfig().distill)
