import contextlib
import errno
import json
import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from clipjax.config import CheckpointConfig, UserError
from clipjax.core.checkpoint import (
    MANIFEST,
    CheckpointReader,
    CheckpointWriter,
    SaveError,
    find_checkpoints,
    state_bytes,
    write_atomically,
)

FILES = {"config.json": b'{"num_steps": 3}', "tokenizer.json": b"[]"}
SPECS = {"w": P("fsdp", "tensor"), "b": P(), "e": P(("data", "fsdp"))}


def host_state(step):
    rng = np.random.default_rng(step)
    w = rng.normal(size=(8, 4)).astype(np.float32)
    w[0] = [np.nan, -0.0, np.inf, 1e-40]  # all of which must come back as they are
    params = {"w": w, "b": rng.normal(size=4).astype(np.float32)}
    e = rng.normal(size=(16, 2)).astype(jnp.bfloat16)
    return {"step": np.int32(step), "params": params, "e": e, "none": {}}


def on(mesh, tree):
    """The state on a mesh, split by `SPECS`."""

    def place(path, leaf):
        return jax.device_put(leaf, NamedSharding(mesh, SPECS.get(path[-1].key, P())))

    return jax.tree_util.tree_map_with_path(place, tree)


def like(state):
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )


def assert_same_bits(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


@pytest.fixture
def writer(tmp_path):
    """Makes writers of one directory; all are closed at the end."""
    with contextlib.ExitStack() as stack:

        def make(directory=tmp_path / "checkpoints", **config):
            made = CheckpointWriter(directory, CheckpointConfig(**config), FILES)
            stack.callback(made.close)
            return made

        yield make


@pytest.fixture(scope="module")
def saved(tmp_path_factory, mesh):
    """A directory with verified checkpoints of steps 3 and 6; copy it before damaging it."""
    directory = tmp_path_factory.mktemp("saved") / "checkpoints"
    writer = CheckpointWriter(directory, CheckpointConfig(), FILES)
    for step in (3, 6):
        writer.save(step, on(mesh, host_state(step)))
    writer.close()
    return directory


@pytest.fixture
def copied(saved, tmp_path):
    return CheckpointReader(shutil.copytree(saved, tmp_path / "copied"))


def files_of(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


# Whole and exact


def test_every_bit_comes_back(saved, mesh):
    reader = CheckpointReader(saved)
    assert reader.steps() == [3, 6]
    for step in (3, 6):
        assert reader.problem(step) == ""
        expected = on(mesh, host_state(step))
        found = reader.restore(step, like(expected))
        assert_same_bits(found, expected)
        assert all(
            a.sharding == b.sharding
            for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
        )


def test_the_small_files_are_inside(saved):
    reader = CheckpointReader(saved)
    assert {name: reader.read(6, name) for name in FILES} == FILES


def test_another_mesh_restores_the_same_bits_and_back(saved, mesh, mesh_222, writer):
    there = on(mesh_222, host_state(6))
    moved = CheckpointReader(saved).restore(6, like(there))
    assert_same_bits(moved, there)
    assert moved["params"]["w"].sharding.spec == P("fsdp", "tensor")
    second = writer()
    second.save(6, moved)
    second.wait()
    back = on(mesh, host_state(6))
    assert_same_bits(second.restore(6, like(back)), back)


def test_a_part_is_restored_alone(saved, mesh):
    part = {"params": on(mesh, host_state(3))["params"]}
    assert_same_bits(CheckpointReader(saved).restore(3, like(part)), part)


def test_what_is_saved_is_the_state_at_that_moment(writer, mesh):
    """The step donates its state: the buffers are gone before the background has written them."""
    made = writer()
    state = on(mesh, host_state(1))
    made.save(1, state)
    consume = jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)
    jax.block_until_ready(consume(state))
    assert state["params"]["w"].is_deleted()
    made.wait()
    expected = on(mesh, host_state(1))
    assert_same_bits(made.restore(1, like(expected)), expected)


# Damage


def test_one_flipped_bit_in_any_file_is_found(copied):
    folder = copied.path(6)
    rng = np.random.default_rng(0)
    names = files_of(folder)
    assert len(names) > len(FILES) + 2
    for path in names:
        whole = path.read_bytes()
        bits = rng.integers(0, 8 * len(whole), 3) if whole else []
        if path.name == MANIFEST:  # what nothing but its own sense protects
            bits = [*range(8 * whole.index(b"[")), *rng.integers(0, 8 * len(whole), 200)]
        for bit in bits:
            damaged = bytearray(whole)
            damaged[bit // 8] ^= 1 << bit % 8
            path.write_bytes(damaged)
            assert copied.problem(6), f"bit {bit} of {path.name}"
        path.write_bytes(whole)
    assert copied.problem(6) == ""


@pytest.mark.parametrize("damage", ["one byte short", "one byte more", "missing", "empty"])
def test_a_file_of_another_length_is_found_and_named(copied, damage):
    for path in files_of(copied.path(6)):
        whole = path.read_bytes()
        if path.name == MANIFEST or not whole:
            continue
        if damage == "missing":
            path.unlink()
        else:
            path.write_bytes(
                {"one byte short": whole[:-1], "one byte more": whole + b"x", "empty": b""}[damage]
            )
        assert copied.problem(6).startswith(path.relative_to(copied.path(6)).as_posix())
        path.write_bytes(whole)


def test_the_older_checkpoint_is_used_and_that_is_said(copied, capsys):
    assert copied.newest_verified() == 6
    assert capsys.readouterr().err == ""
    damaged = copied.path(6) / "tokenizer.json"
    damaged.write_bytes(b"{}")
    assert copied.newest_verified() == 3
    err = capsys.readouterr().err
    assert f"checkpoint {copied.path(6)} is damaged: tokenizer.json" in err
    assert len(err.splitlines()) == 1
    assert damaged.read_bytes() == b"{}"  # left alone


def test_newest_verified_may_be_asked_for_an_earlier_one(copied):
    assert copied.newest_verified(before=6) == 3
    assert copied.newest_verified(before=3) is None


def test_when_all_are_damaged_there_is_none(copied):
    for step in (3, 6):
        (copied.path(step) / "config.json").unlink()
    assert copied.newest_verified() is None


def test_without_a_manifest_it_is_no_checkpoint(copied):
    (copied.path(6) / MANIFEST).unlink()
    assert copied.steps() == [3]
    assert copied.newest_verified() == 3


@pytest.mark.parametrize("content", ["", "{", "[]", "3", '{"step": 6}', '{"step": 6, "files": 3}'])
def test_a_manifest_that_is_none_is_damage(copied, content):
    (copied.path(6) / MANIFEST).write_text(content)
    assert MANIFEST in copied.problem(6)


def test_a_damaged_step_is_saved_again_when_the_run_comes_to_it(copied, writer, mesh):
    """A run that fell back to step 3 reaches step 6 for the second time."""
    (copied.path(6) / "tokenizer.json").write_bytes(b"{}")
    made = writer(copied.directory)
    made.save(6, on(mesh, host_state(6)))
    made.wait()
    assert made.problem(6) == ""


def test_a_good_step_is_not_written_twice(copied, writer, mesh):
    made = writer(copied.directory)
    made.save(6, on(mesh, host_state(999)))
    made.wait()
    expected = on(mesh, host_state(6))
    assert_same_bits(made.restore(6, like(expected)), expected)


def test_no_directory_means_no_checkpoints(tmp_path):
    reader = CheckpointReader(tmp_path / "nowhere")
    assert reader.steps() == []
    assert reader.newest_verified() is None
    with pytest.raises(UserError, match="no finished checkpoint"):
        find_checkpoints(tmp_path)


def test_find_checkpoints_takes_the_working_directory(saved):
    assert find_checkpoints(saved.parent).steps() == [3, 6]


# Leftovers and retention


def test_leftovers_of_interrupted_saves_are_removed_and_nothing_else(copied, writer):
    (copied.path(9) / "state.orbax-checkpoint-tmp").mkdir(parents=True)
    (copied.path(12) / "state").mkdir(parents=True)
    (copied.directory / "my copy").mkdir()
    (copied.directory / "notes.txt").write_text("mine")
    writer(copied.directory)
    names = sorted(entry.name for entry in copied.directory.iterdir())
    assert names == ["00000003", "00000006", "my copy", "notes.txt"]
    assert copied.newest_verified() == 6


@pytest.mark.parametrize(
    ("keep", "keep_every_steps", "left"), [(1, 0, [5]), (2, 0, [4, 5]), (1, 2, [2, 4, 5])]
)
def test_the_newest_are_kept_and_every_nth_for_ever(writer, mesh, keep, keep_every_steps, left):
    made = writer(keep=keep, keep_every_steps=keep_every_steps)
    for step in range(1, 6):
        made.save(step, {"x": jnp.full(2, step)})
    made.wait()
    assert made.steps() == left
    assert all(made.problem(step) == "" for step in left)


def poll_until(made, steps=10_000_000):
    """What the first poll that says something says."""
    for _ in range(steps):
        if (step := made.poll()) is not None:
            return step
    raise AssertionError("the save never ends")


def test_poll_reports_a_step_once_and_only_when_it_is_whole(writer):
    made = writer()
    assert made.poll() is None
    made.save(4, {"x": jnp.zeros(3)})
    assert poll_until(made) == 4
    assert made.problem(4) == ""
    assert made.poll() is None


def test_saving_waits_for_the_save_before(writer):
    made = writer()
    made.save(1, {"x": jnp.zeros(3)})
    made.save(2, {"x": jnp.ones(3)})
    assert made.steps() == [1]
    made.wait()
    assert made.steps() == [1, 2]


# Failing saves


def save(made, step, state, finish):
    made.save(step, state)
    finish()


def fail_with(monkeypatch, where):
    """Makes the storage fail as a full disk does, in the foreground, later, or in the manifest."""
    full = OSError(errno.ENOSPC, "No space left on device")

    wait = ocp.AsyncCheckpointer.wait_until_finished

    def fail(*_, **__):
        raise full

    def fail_later(saver):
        wait(saver)
        raise full

    if where == "start":
        monkeypatch.setattr("orbax.checkpoint.AsyncCheckpointer.save", fail)
    elif where == "background":
        monkeypatch.setattr("orbax.checkpoint.AsyncCheckpointer.check_for_errors", fail_later)
        monkeypatch.setattr("orbax.checkpoint.AsyncCheckpointer.wait_until_finished", fail_later)
    else:
        monkeypatch.setattr("clipjax.core.checkpoint.write_atomically", fail)


@pytest.mark.parametrize("where", ["start", "background", "manifest"])
@pytest.mark.parametrize("how", ["wait", "poll"])
def test_a_failed_save_is_told_and_leaves_the_older_checkpoint(writer, monkeypatch, where, how):
    made = writer()
    made.save(1, {"x": jnp.zeros(3)})
    made.wait()
    finish = made.wait if how == "wait" else lambda: poll_until(made)
    with monkeypatch.context() as patch:
        fail_with(patch, where)
        with pytest.raises(SaveError, match=r"step 2 could not be written: .*No space left"):
            save(made, 2, {"x": jnp.ones(3)}, finish)
        assert made.poll() is None  # told once
        assert [entry.name for entry in made.directory.iterdir()] == ["00000001"]
    assert made.newest_verified() == 1
    made.save(3, {"x": jnp.full(3, 3.0)})
    made.wait()
    assert made.newest_verified() == 3


def test_a_full_disk_never_costs_the_last_good_checkpoint(small_disk, writer):
    disk, resize = small_disk
    resize(1024)
    made = writer(disk / "checkpoints")
    noise = np.random.default_rng(0).normal(size=500_000).astype(np.float32)
    made.save(1, {"x": jnp.zeros(3)})
    made.wait()
    for step in (2, 3):
        state = {"x": jnp.asarray(noise)}
        assert "checkpoints has" in made.lack_of_space(state)
        with pytest.raises(SaveError, match=f"step {step} could not be written"):
            save(made, step, state, made.wait)
        assert made.steps() == [1]
        assert not made.path(step).exists()
    assert made.newest_verified() == 1
    made.save(4, {"x": jnp.ones(3)})
    made.wait()
    assert made.newest_verified() == 4


def test_lack_of_space_names_what_is_free_and_what_is_needed(writer, monkeypatch):
    made = writer()
    state = {"x": jnp.zeros(1_000_000, jnp.float32), "n": jnp.int32(1)}
    assert state_bytes(state) == 4_000_004
    need = 4_400_004 + (1 << 20)  # a tenth more, and the small files
    for free, enough in ((need, True), (need - 1, False)):
        usage = shutil._ntuple_diskusage(10**9, 10**9 - free, free)
        monkeypatch.setattr(shutil, "disk_usage", lambda _, usage=usage: usage)
        lack = made.lack_of_space(state)
        assert enough == (lack == "")
    assert "has 5.4 MB free, a checkpoint needs 5.4 MB" in lack


def test_copies_of_an_array_on_many_devices_are_counted_once(mesh, mesh_222):
    for each in (mesh, mesh_222):
        assert state_bytes(on(each, {"b": np.zeros(4, np.float32)})) == 16


# Small files


def test_a_small_file_is_replaced_whole(tmp_path):
    path = tmp_path / "results.json"
    write_atomically(path, b"old")
    write_atomically(path, b"new and longer")
    assert path.read_bytes() == b"new and longer"
    assert [entry.name for entry in tmp_path.iterdir()] == ["results.json"]


def test_a_small_file_stays_as_it_was_when_writing_fails(tmp_path, monkeypatch):
    path = tmp_path / "results.json"
    write_atomically(path, b"old")

    def fail(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["results.json"]


def test_the_manifest_lists_every_other_file_with_its_size(saved):
    folder = CheckpointReader(saved).path(6)
    manifest = json.loads((folder / MANIFEST).read_text())
    assert manifest["step"] == 6
    assert {name: size for name, (size, _) in manifest["files"].items()} == {
        path.relative_to(folder).as_posix(): path.stat().st_size
        for path in files_of(folder)
        if path.name != MANIFEST
    }
