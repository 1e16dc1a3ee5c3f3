"""The searches, with a compiler that is a formula."""

import dataclasses
import types

import jax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipjax.config import MeshConfig, ResNetConfig, StageConfig, UsageError
from clipjax.core.mesh import batch_devices, make_mesh
from clipjax.core.topologies import parse_topology
from clipjax.train import plan_search
from clipjax.train.plan_memory import Compilation
from clipjax.train.plan_search import largest_batch, remedies

# 15.75 GiB for a program on each of eight devices.
MACHINE = parse_topology("v5e:2x4")


@pytest.fixture
def compiler(monkeypatch, tiny_config):
    """Sets how many bytes a config needs; returns the configs that were compiled."""
    compiled = []

    def use(needed_bytes):
        def compile_for(run, stage, topology, *, quick):
            assert quick
            compiled.append(stage.config)
            needed = int(needed_bytes(stage.config, run.mesh))
            return Compilation(
                needed_bytes=needed,
                fits=needed <= topology.chip.usable_bytes,
                temporary_bytes=None,
                text=None,
                lower_seconds=0.0,
                compile_seconds=0.0,
            )

        compiled.clear()
        monkeypatch.setattr(plan_search, "compile_for", compile_for)
        monkeypatch.setattr(plan_search, "devices_of", lambda _: jax.devices())
        return compiled

    return use


def silent(_):
    pass


@given(
    fixed=st.floats(0, 15e9),
    of_row=st.floats(1e5, 3e9),
    bend=st.floats(0.9, 1.15),
    start=st.sampled_from([8, 64, 1024, 32768]),
)
@settings(max_examples=60, deadline=None)
def test_the_batch_found_fits_and_one_a_sixteenth_larger_does_not(
    fixed, of_row, bend, start, tiny_config
):
    """Memory grows with the rows of a device, not quite in proportion."""
    with pytest.MonkeyPatch.context() as patch:
        tried = {}

        def compile_for(run, stage, topology, *, quick):
            size = stage.config.data.global_batch_size
            needed = int(fixed + of_row * (size / batch_devices(run.mesh)) ** bend)
            tried[size] = needed <= topology.chip.usable_bytes
            return types.SimpleNamespace(needed_bytes=needed, fits=tried[size])

        patch.setattr(plan_search, "compile_for", compile_for)
        patch.setattr(plan_search, "devices_of", lambda _: jax.devices())
        mesh = make_mesh(MeshConfig())
        patch.setattr(
            plan_search,
            "outline",
            lambda config, _: types.SimpleNamespace(config=config, mesh=mesh),
        )
        data = dataclasses.replace(tiny_config.data, global_batch_size=start)
        found = largest_batch(dataclasses.replace(tiny_config, data=data), MACHINE, silent)
    best, limit = found["global_batch_size"], MACHINE.chip.usable_bytes
    assert all(size % 8 == 0 for size in tried)
    if best:
        assert fixed + of_row * (best / 8) ** bend <= limit + 1
    else:
        assert fixed + of_row > limit - 1
    larger = best + max(8, best // 16 // 8 * 8)
    assert fixed + of_row * (larger / 8) ** bend > limit - 1
    assert len(found["tried"]) == len(tried) < 40


def test_few_programs_are_compiled_where_memory_grows_in_proportion(
    compiler, replace_in, tiny_config
):
    config = replace_in(tiny_config, "data.global_batch_size", 32768)
    compiled = compiler(lambda c, mesh: 1e9 + 3e5 * c.data.global_batch_size / 8)
    found = largest_batch(config, MACHINE, silent)
    exact = (MACHINE.chip.usable_bytes - 1e9) / 3e5 * 8
    assert exact * 15 / 16 <= found["global_batch_size"] <= exact
    assert len(compiled) <= 9


def test_a_machine_of_unknown_memory_has_no_largest_batch(tiny_config):
    with pytest.raises(UsageError, match="how much memory cpu:8 has"):
        largest_batch(tiny_config, parse_topology("cpu:8"), silent)


def test_remat_comes_first_then_parts_then_shards(compiler, tiny_config, replace_in):
    config = replace_in(tiny_config, "data.global_batch_size", 64)
    config = replace_in(config, "model.compute.remat", "attn")
    config = replace_in(config, "mesh.fsdp", 2)

    def needed(c, mesh):
        saved = {"attn": 32e9, "full": 24e9}[c.model.compute.remat] / c.micro_batches
        return saved + 16e9 * 2 / mesh.shape["fsdp"]

    compiler(needed)
    tried = remedies(config, MACHINE, silent, state_bytes=0, stages=[""])
    remat, fsdp = "--config.model.compute.remat=full", "--config.mesh.fsdp=4"
    assert [row["overrides"] for row in tried] == [
        [remat],
        *[[remat, f"--config.micro_batches={parts}"] for parts in (2, 4, 8)],
        [remat, "--config.micro_batches=8", fsdp],
    ]
    assert [row["fits"] for row in tried] == [False, False, False, False, True]


def test_a_large_state_is_split_before_anything_else(compiler, tiny_config, replace_in):
    config = replace_in(tiny_config, "mesh.fsdp", 1)
    compiler(lambda c, mesh: 40e9 / mesh.shape["fsdp"])
    tried = remedies(config, MACHINE, silent, state_bytes=14 << 30, stages=[""])
    assert [row["overrides"] for row in tried] == [
        ["--config.mesh.fsdp=2"],
        ["--config.mesh.fsdp=4"],
    ]
    assert tried[-1]["fits"]


def test_changes_that_the_batch_cannot_take_are_left_out(compiler, tiny_config, replace_in):
    """Two rows a device are at most two parts."""
    config = replace_in(tiny_config, "model.compute.remat", "full")
    compiler(lambda c, mesh: 1e12)
    tried = remedies(config, MACHINE, silent, state_bytes=0, stages=[""])
    parts = {flag for row in tried for flag in row["overrides"] if "micro" in flag}
    assert parts == {"--config.micro_batches=2"}
    assert not any(row["fits"] for row in tried)


@pytest.fixture
def staged(tiny_config):
    stages = {"large": StageConfig(first_step=6, global_batch_size=64)}
    return dataclasses.replace(tiny_config, stages=stages)


def test_the_batch_of_a_stage_is_searched_and_the_others_stay(compiler, staged):
    compiled = compiler(lambda c, mesh: 1e9 * c.data.global_batch_size / 8)
    found = largest_batch(staged, MACHINE, silent, "large")
    assert found["stage"] == "large"
    assert 112 <= found["global_batch_size"] <= 128
    assert min(c.data.global_batch_size for c in compiled) >= 64


def test_a_change_must_fit_all_stages_that_did_not(compiler, staged):
    """The large stage decides; the small one is compiled where that fits."""
    compiled = compiler(
        lambda c, mesh: (
            {"names": 20e9}.get(c.model.compute.remat, 12e9)
            * (1 if c.data.global_batch_size == 64 else 1.1)
        )
    )
    tried = remedies(staged, MACHINE, silent, state_bytes=0, stages=["large", ""])
    assert [row["fits"] for row in tried] == [False, True]
    assert [c.data.global_batch_size for c in compiled] == [64, 64, 16]
    assert tried[-1]["needed"] == int(12e9 * 1.1)


def test_a_change_that_the_model_refuses_is_left_out_and_those_before_it_stay(
    compiler, tiny_config
):
    """Batch norms and micro-batches exclude each other."""
    image = ResNetConfig(image_size=32, depths=(1, 1, 1, 1), width=8, num_heads=2)
    model = dataclasses.replace(tiny_config.model, image=image)
    config = dataclasses.replace(tiny_config, model=model, mesh=MeshConfig(fsdp=2))
    compiler(lambda c, mesh: 1e12)
    tried = remedies(config, MACHINE, silent, state_bytes=0, stages=[""])
    assert not any("micro_batches" in flag for row in tried for flag in row["overrides"])
    assert tried[-1]["overrides"] == ["--config.model.compute.remat=full", "--config.mesh.fsdp=8"]
