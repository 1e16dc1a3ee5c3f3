"""Plans of tiny runs on simulated devices, against what the trainer itself compiles."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import pytest

from clipjax.config import (
    ComputeConfig,
    DistillConfig,
    MeshConfig,
    StageConfig,
    UsageError,
    UserError,
    preset,
)
from clipjax.core.flops import program_flops
from clipjax.core.mesh import make_mesh
from clipjax.core.sharding_report import shard_bytes
from clipjax.core.topologies import parse_topology
from clipjax.losses import distillation_loss, softmax_loss
from clipjax.models import param_shapes
from clipjax.models.cost import pair_forward_flops
from clipjax.train import plan_memory, programs
from clipjax.train.flops import training_flops
from clipjax.train.plan import plan, planned_config
from clipjax.train.plan_cost import executed_flops, loss_flops, saved_bytes_of_pair
from clipjax.train.plan_memory import compile_for, loss_bytes, out_of_memory_bytes
from clipjax.train.plan_outline import outline
from clipjax.train.state import abstract_state, optimizer_of
from clipjax.train.teacher import Teacher

CPU = parse_topology("cpu:8")


MESHES = {
    "data, fsdp and tensor": MeshConfig(data=2, fsdp=2, tensor=2),
    "fsdp": MeshConfig(data=1, fsdp=8),
    "tensor": MeshConfig(data=4, fsdp=1, tensor=2),
    "replica and fsdp": MeshConfig(replica=2, data=1, fsdp=4),
    "copies only": MeshConfig(data=8, fsdp=1),
}
ONE_AND_ALL = [
    pytest.param(name, marks=() if name == "data, fsdp and tensor" else pytest.mark.slow)
    for name in MESHES
]


@pytest.fixture(scope="module")
def config(tiny_config):
    return dataclasses.replace(
        tiny_config,
        data=dataclasses.replace(tiny_config.data, root="/nowhere"),  # it is not opened
        mesh=MESHES["data, fsdp and tensor"],
    )


@pytest.fixture(scope="module")
def planned(config):
    """(config, figures) of each mesh."""
    made = {}

    def on(name):
        if name not in made:
            changed = dataclasses.replace(config, mesh=MESHES[name])
            made[name] = changed, plan(changed, CPU)
        return made[name]

    return on


@pytest.fixture(scope="module")
def figures(planned):
    return planned("data, fsdp and tensor")[1]


@pytest.fixture(scope="module")
def stage(figures):
    (one,) = figures["stages"]
    return one


def with_compute(config, **changes):
    compute = ComputeConfig(**changes)
    return dataclasses.replace(config, model=dataclasses.replace(config.model, compute=compute))


@pytest.mark.parametrize("name", ONE_AND_ALL)
def test_the_memory_is_that_of_the_step_that_is_trained_with(name, planned, make_trainer):
    config, figures = planned(name)
    trainer = make_trainer(config, make_mesh(config.mesh))
    with jax.set_mesh(trainer.mesh):
        stats = trainer.compiled.lower(trainer.like, trainer.spec).compile().memory_analysis()
    memory = figures["stages"][0]["memory"]
    held = stats.argument_size_in_bytes + stats.output_size_in_bytes - stats.alias_size_in_bytes
    assert memory["temporaries"] == stats.temp_size_in_bytes
    assert memory["needed"] == held + stats.temp_size_in_bytes
    # The step counter and the count of bad steps are in no class, nor is what XLA rounds up.
    exact = sum(memory[name] for name in ("parameters", "optimizer", "ema", "teacher", "batch"))
    assert 0 <= stats.argument_size_in_bytes - exact <= 64


@pytest.mark.parametrize("name", ONE_AND_ALL)
def test_the_state_is_counted_leaf_by_leaf(name, planned, make_trainer):
    """What the arrays of device 0 hold, of a state that was really made."""
    config, figures = planned(name)
    state = make_trainer(config, make_mesh(config.mesh)).init()

    def on_device(tree):
        return sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(tree))

    memory = figures["stages"][0]["memory"]
    assert memory["parameters"] == on_device((state.params, state.model_state))
    assert memory["optimizer"] == on_device(state.opt_state)
    assert memory["ema"] == on_device(state.ema)
    assert memory["ema"] == memory["parameters"] > 0


def test_classes_are_never_negative_and_cover_what_is_needed(figures, stage):
    memory = stage["memory"]
    names = ("parameters", "optimizer", "ema", "teacher", "batch", "activations", "loss", "other")
    assert all(memory[name] >= 0 for name in names)
    assert sum(memory[name] for name in names) >= memory["needed"]
    assert memory["fits"]
    assert figures["fits"]
    assert stage["roofline"] is None
    assert figures["total"] is None


def test_the_ring_of_the_loss_is_seen(stage):
    """Four parts of the batch travel around four places along `data` and `fsdp`."""
    ring = [row for row in stage["collectives"] if row["place"] == "loss"]
    assert {(row["kind"], tuple(row["axes"]), tuple(row["loops"])) for row in ring} == {
        ("collective-permute", ("data", "fsdp"), (4,))
    }
    kinds = {(row["kind"], axis) for row in stage["collectives"] for axis in row["axes"]}
    assert ("all-gather", "fsdp") in kinds
    assert ("all-reduce", "data") in kinds


@pytest.fixture(scope="module")
def staged(config):
    """Small images and short texts in a larger batch first."""
    stages = {
        "small": StageConfig(image_size=8, context_length=8, global_batch_size=32),
        "large": StageConfig(first_step=9),
    }
    return dataclasses.replace(config, stages=stages)


@pytest.mark.slow
def test_each_stage_has_the_program_that_the_run_compiles_for_it(staged, stage):
    found = plan(staged, CPU)
    small, large = found["stages"]
    mesh, optimizer = make_mesh(staged.mesh), optimizer_of(staged)
    state = abstract_state(staged, optimizer, mesh)
    for figures, part in zip((small, large), staged.parts, strict=True):
        (spec,) = programs.stage_specs(part, mesh)
        lowered = programs.lowered_step(staged, optimizer, mesh, state, part, spec)
        stats = lowered.compile().memory_analysis()
        assert figures["memory"]["temporaries"] == stats.temp_size_in_bytes
        assert figures["flops"]["model_per_pair"] == training_flops(part.config)
    told = [
        (one["name"], one["first_step"], one["stop_step"], one["global_batch_size"])
        for one in (small, large)
    ]
    assert told == [("small", 0, 9, 32), ("large", 9, 12, 16)]
    assert large["flops"] == stage["flops"]
    assert small["memory"]["parameters"] == large["memory"]["parameters"]
    tightest = max((small, large), key=lambda one: one["memory"]["needed"])
    assert found["tightest"] == tightest["name"]


def test_one_stage_that_does_not_fit_is_enough(staged, monkeypatch):
    def as_said(run, part, topology, *, quick):
        return dataclasses.replace(compiled, needed_bytes=part.stop_step, fits=part.name != "large")

    compiled = compile_for(outline(staged, jax.devices()), staged.parts[0], CPU)
    monkeypatch.setattr("clipjax.train.plan.compile_for", as_said)
    found = plan(staged, CPU)
    assert not found["fits"]
    assert found["tightest"] == "large"


def test_a_teacher_is_held_and_computed_forward(config, stage):
    """It is the preset that is named; no file of it is there."""
    teacher = preset("ViT-B-32")
    model = dataclasses.replace(
        config.model,
        image=dataclasses.replace(config.model.image, image_size=224),
        text=dataclasses.replace(config.model.text, context_length=77),
    )
    distill = DistillConfig(teacher="/nowhere", preset="ViT-B-32")
    alone = dataclasses.replace(config, model=model)
    taught = dataclasses.replace(alone, distill=distill)
    run = outline(taught, jax.devices())
    forward = config.data.global_batch_size * pair_forward_flops(teacher)
    assert executed_flops(taught, teacher=run.teacher) - executed_flops(alone) == forward
    held = sum(math.prod(shape) for shape in param_shapes(teacher).values()) * 4
    assert held / 8 < shard_bytes(run.teacher.params) < held / 2


@pytest.mark.slow
def test_a_teacher_is_an_argument_of_the_program_that_is_planned(config, figures, monkeypatch):
    wider = dataclasses.replace(config.model.image, width=64, mlp_dim=128)
    teacher = dataclasses.replace(config.model, image=wider)
    monkeypatch.setattr("clipjax.train.teacher.preset", lambda _: teacher)
    distill = DistillConfig(teacher="/nowhere", preset="wider")
    taught = plan(dataclasses.replace(config, distill=distill), CPU)
    with_it, without = (each["stages"][0]["memory"] for each in (taught, figures))
    assert with_it["teacher"] > without["parameters"]
    added = with_it["needed"] - with_it["temporaries"] - without["needed"] + without["temporaries"]
    assert 0 <= added - with_it["teacher"] <= 256  # what XLA rounds up, leaf by leaf
    assert taught["stages"][0]["flops"]["teacher_per_pair"] == pair_forward_flops(teacher)


def test_a_teacher_of_another_size_is_refused(config):
    distill = DistillConfig(teacher="/nowhere", preset="ViT-B-32")
    with pytest.raises(UserError, match="its images have 224 pixels a side"):
        outline(dataclasses.replace(config, distill=distill), jax.devices())


def test_flops_of_a_teachers_logits_are_those_of_their_trace(config):
    plain = dataclasses.replace(
        config,
        loss=dataclasses.replace(config.loss, form="plain", contrastive_weight=0.0),
        distill=DistillConfig(teacher="x"),
    )
    size = config.data.global_batch_size
    ours, theirs = jnp.ones((size, config.model.embed_dim)), jnp.ones((size, 24))
    wider = dataclasses.replace(config.model, embed_dim=24)
    teacher = Teacher(config=wider, params={}, loss=distillation_loss)

    def loss(x, y):
        return distillation_loss(x, y, jnp.array(10.0), theirs, theirs, jnp.array(20.0))

    both = jax.value_and_grad(loss, (0, 1))
    assert loss_flops(plain, teacher) == program_flops(both, ours, ours)


def test_saved_activations_of_a_block_are_by_hand(config):
    """With remat full a block saves its input, float32 [tokens, width]: 5 and 16 tokens of 32."""

    def deep(depth):
        model = config.model
        model = dataclasses.replace(
            model,
            image=dataclasses.replace(model.image, depth=depth),
            text=dataclasses.replace(model.text, depth=depth),
        )
        full = dataclasses.replace(config, model=model)
        return saved_bytes_of_pair(with_compute(full, remat="full", scan_layers=True))

    assert deep(4) - deep(2) == 2 * (5 + 16) * 32 * 4


def test_each_remat_saves_less_and_computes_more(config):
    changed = [with_compute(config, remat=r, scan_layers=True) for r in ("none", "names", "full")]
    none, names, full = map(saved_bytes_of_pair, changed)
    assert none > names > full > 0
    assert executed_flops(changed[0]) < executed_flops(changed[2])


def test_micro_batches_encode_once_more(config):
    size = config.data.global_batch_size
    parts = dataclasses.replace(config, micro_batches=2)
    again = executed_flops(parts) - executed_flops(config)
    assert again == size * pair_forward_flops(config.model)


def test_executed_flops_are_those_of_training_without_the_gradient_of_the_input(config):
    """The first layer of each tower has no gradient of its input: the patches; a look-up has no
    product at all."""
    image = config.model.image
    patches = 2 * image.num_patches * 3 * image.patch_size**2 * image.width
    size = config.data.global_batch_size
    assert executed_flops(config) == size * (training_flops(config) - patches)


def test_flops_of_the_loss_are_those_of_its_trace(config):
    plain = dataclasses.replace(config, loss=dataclasses.replace(config.loss, form="plain"))
    embeds = jnp.ones((config.data.global_batch_size, config.model.embed_dim))
    both = jax.value_and_grad(lambda x, y: softmax_loss(x, y, jnp.array(10.0)), (0, 1))
    assert loss_flops(plain) == program_flops(both, embeds, embeds)


def test_what_cannot_be_is_refused_before_anything_is_compiled(config, replace_in):
    """That an axis splits nothing: tests/core/test_sharding_report.py."""

    def refused(field, value):
        with pytest.raises(UsageError) as caught:
            outline(replace_in(config, field, value), jax.devices())
        return str(caught.value)

    assert "does not fill 8 devices" in refused("mesh", MeshConfig(data=3, fsdp=2))
    assert "Nearest sizes that can: 16 and 20" in refused("data.global_batch_size", 18)


def test_what_an_axis_does_not_divide_is_a_warning(config, replace_in):
    uneven = replace_in(config, "model.text.mlp_dim", 63)
    mesh = MeshConfig(data=2, fsdp=2, tensor=2)
    warnings = outline(replace_in(uneven, "mesh", mesh), jax.devices()).warnings
    assert any("does not divide the 63 of axis 'mlp'" in line for line in warnings)


def test_a_program_that_cannot_be_read_leaves_out_what_is_read_from_it(config, monkeypatch):
    """A compiler that is newer than jax: memory is known, messages and time are not."""

    def unreadable(_):
        raise jax.errors.JaxRuntimeError("INTERNAL: RET_CHECK failure")

    monkeypatch.setattr(jax.stages.Compiled, "as_text", unreadable)
    found = plan(config, CPU)
    assert found["stages"][0]["memory"]["needed"] > 0
    assert found["stages"][0]["collectives"] is None
    assert found["total"] is None
    assert any("newer than jax" in line for line in found["warnings"])


class Refusing:
    """A program whose compiler runs out of memory."""

    def compile(self, compiler_options=None):
        raise jax.errors.JaxRuntimeError(
            "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total "
            "memory required for HLO temporaries (18.51G) exceeds available HBM (15.75G)."
        )


def test_a_run_and_its_plan_are_one_program(config, monkeypatch):
    """Both ask `lowered_step`, and compile nothing else."""
    assert plan_memory.lowered_step is programs.lowered_step

    class AskedError(Exception):
        pass

    def asked(*_):
        raise AskedError

    monkeypatch.setattr(programs, "lowered_step", asked)
    monkeypatch.setattr(plan_memory, "lowered_step", asked)
    mesh, optimizer = make_mesh(config.mesh), optimizer_of(config)
    state = abstract_state(config, optimizer, mesh)
    with pytest.raises(AskedError):
        programs.Programs(config, optimizer, mesh, state, say=print)
    with pytest.raises(AskedError):
        compile_for(outline(config, jax.devices()), config.parts[0], CPU)


def test_what_of_a_run_is_not_planned_is_said(config, monkeypatch):
    assert planned_config(config, CPU) == (config, [])
    monkeypatch.setattr("clipjax.train.plan._has_cudnn", lambda: False)
    planned, (told,) = planned_config(config, parse_topology("h100:8"))
    assert planned.model.compute.attention == "xla"
    assert "nvidia-cudnn" in told
    with pytest.raises(UserError, match="plan with attention=xla"):
        planned_config(
            with_compute(config, attention="cudnn", dtype="bfloat16"), parse_topology("h100:8")
        )


def test_a_compiler_that_runs_out_of_memory_is_an_answer(config, monkeypatch):
    monkeypatch.setattr(
        "clipjax.train.plan_memory.compiled_on", lambda *_, **__: Refusing().compile()
    )
    run = outline(config, jax.devices())
    assert loss_bytes(config, CPU, run.mesh) == int(18.51 * 2**30)
    found = compile_for(run, config.parts[0], CPU)
    assert not found.fits
    assert found.text is None
    assert found.needed_bytes > 18.51 * 2**30


@pytest.mark.parametrize(
    ("message", "needed"),
    [
        ("RESOURCE_EXHAUSTED: x HLO temporaries (2.50G) exceeds available HBM (1.00G)", 2.5),
        ("RESOURCE_EXHAUSTED: total memory required (512.00M) exceeds available HBM (1.0G)", 0.5),
        ("RESOURCE_EXHAUSTED: Used 3.00G of 1.00G hbm. Exceeded hbm capacity by 2G", 3.0),
        ("RESOURCE_EXHAUSTED: (4.52T) exceeds available HBM (15.75G)", 4.52 * 1024),
        ("INVALID_ARGUMENT: something else (3.00G)", None),
    ],
)
def test_the_need_is_read_from_each_form_of_the_message(message, needed):
    found = out_of_memory_bytes(message, 0)
    assert found == (None if needed is None else int(needed * 2**30))
