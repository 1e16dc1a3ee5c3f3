"""A run goes on with any number of hosts: every batch is put together as one process makes it."""

import json
import subprocess
import sys
import threading

import numpy as np
import pytest

from clipjax.config import DataConfig, MixtureConfig, ViTConfig, to_json_dict
from clipjax.data.opening import make_order, open_sources
from clipjax.data.pairs import TrainingPairs
from clipjax.data.pipeline import Batches
from clipjax.data.tokenizers import ByteTokenizer

_HOST = """
import json, sys
import numpy as np
from clipjax.config import DataConfig, ViTConfig, from_config_dict
from clipjax.data.opening import make_order, open_sources
from clipjax.data.pairs import TrainingPairs
from clipjax.data.pipeline import Batches
from clipjax.data.tokenizers import ByteTokenizer

job = json.loads(sys.argv[1])
out = {}
for name, fields in job["configs"].items():
    config = from_config_dict(DataConfig, fields)
    sources = open_sources(config)
    order = make_order(config, sources)
    tokenizer = ByteTokenizer(context_length=24, lowercase=True)
    pairs = TrainingPairs(
        sources, order, tokenizer, config, image=ViTConfig(image_size=8, patch_size=8)
    )
    size = config.global_batch_size // job["hosts"]
    rows = np.arange(job["host"] * size, (job["host"] + 1) * size)
    batches = Batches(
        lambda step: order.samples(step, rows), pairs.plan, pairs.row_spec,
        first_step=job["first"], threads=1,
    )
    for step in range(job["first"], job["stop"]):
        for field, array in next(batches).items():
            out[f"{name} {step} {field}"] = array.copy()
    batches.close()
np.savez(job["out"], **out)
"""


def write_pool(make_tar, folder, counts, png, first=0, incomplete=()):
    """Writes shards with so many samples; those of some shards have no caption."""
    folder.mkdir()
    number = first
    for shard, count in enumerate(counts):
        samples = {}
        for _ in range(count):
            pixels = np.random.default_rng(number).integers(0, 256, (10, 12, 3)).astype(np.uint8)
            samples[f"{number:06d}"] = {"png": png(pixels), "txt": f"number {number}".encode()}
            if shard in incomplete:
                del samples[f"{number:06d}"]["txt"]
            number += 1
        make_tar(folder / f"{shard:03d}.tar", samples)
    return folder


@pytest.fixture(scope="module")
def configs(make_tar, make_png, tmp_path_factory):
    """Three orders over 109 and 31 samples in uneven shards; lanes cut through shards."""
    root = tmp_path_factory.mktemp("elastic")
    counts = [9, 1, 14, 3, 7, 20, 2, 5, 11, 8, 13, 4, 12]
    write_pool(make_tar, root / "a", counts, make_png, incomplete=(3,))
    write_pool(make_tar, root / "b", [10, 1, 6, 14], make_png, first=1000)
    fields = {"root": str(root), "global_batch_size": 16, "shuffle_seed": 5}
    mixture = {
        "a": MixtureConfig(shards="a/*.tar", weight=2.0),
        "b": MixtureConfig(shards="b/*.tar", weight=1.0),
    }
    return {
        "full": DataConfig(shards="a/*.tar", **fields),
        "windowed": DataConfig(shards="a/*.tar", window_shards=2, lanes=8, **fields),
        "mixture": DataConfig(mixture=mixture, window_shards=2, lanes=8, **fields),
    }


def make_batches(config, *, rows, first_step=0):
    sources = open_sources(config)
    order = make_order(config, sources)
    tokenizer = ByteTokenizer(context_length=24, lowercase=True)
    image = ViTConfig(image_size=8, patch_size=8)
    pairs = TrainingPairs(sources, order, tokenizer, config, image=image)
    return Batches(
        lambda step: order.samples(step, rows),
        pairs.plan,
        pairs.row_spec,
        first_step=first_step,
        threads=1,
    )


def take(config, steps, *, rows, first_step=0):
    """Returns the rows of so many batches, by field."""
    batches = make_batches(config, rows=rows, first_step=first_step)
    try:
        taken = [{k: v.copy() for k, v in next(batches).items()} for _ in range(steps)]
    finally:
        batches.close()
    return {name: np.stack([batch[name] for batch in taken]) for name in taken[0]}


STOPS = {8: (0, 5), 4: (5, 11), 2: (11, 17), 1: (17, 24)}
"""Hosts: first and last + 1 step. An epoch of `a` ends within step 6."""


@pytest.mark.slow
def test_batches_of_8_4_2_and_1_processes_are_those_of_one(configs, make_child_env, tmp_path):
    described = {name: to_json_dict(config) for name, config in configs.items()}
    found = {}
    for hosts, (first, stop) in STOPS.items():
        children = []
        for host in range(hosts):
            job = {"configs": described, "host": host, "hosts": hosts, "first": first, "stop": stop}
            job["out"] = str(tmp_path / f"{hosts}-{host}.npz")
            command = [sys.executable, "-c", _HOST, json.dumps(job)]
            children.append((job["out"], subprocess.Popen(command, env=make_child_env())))
        try:
            assert [child.wait(60) for _, child in children] == [0] * hosts
        finally:
            for _, child in children:
                child.kill()
        parts = [dict(np.load(out)) for out, _ in children]
        found |= {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    for name, config in configs.items():
        for field, expected in take(config, 24, rows=np.arange(16)).items():
            ours = np.stack([found[f"{name} {step} {field}"] for step in range(24)])
            np.testing.assert_array_equal(ours, expected, err_msg=f"{name} {field}")


@pytest.mark.parametrize("kind", ["full", "windowed", "mixture"])
def test_a_run_begins_again_at_any_step(configs, kind):
    """In the middle of an epoch and of a window, and where they end."""
    whole = take(configs[kind], 15, rows=np.arange(16))
    for first in (1, 4, 6, 7, 11):
        part = take(configs[kind], 3, rows=np.arange(4, 12), first_step=first)
        for field, array in part.items():
            np.testing.assert_array_equal(array, whole[field][first : first + 3, 4:12])


def at_once(*tasks, timeout=60):
    """Runs tasks in threads of their own; none may hang or fail."""
    errors = []

    def guarded(task):
        try:
            task()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(task,), daemon=True) for task in tasks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout)
    assert not any(thread.is_alive() for thread in threads)
    assert not errors


@pytest.mark.parametrize("fields", [{}, {"window_shards": 1, "lanes": 32}], ids=["full", "lanes"])
def test_one_shard_on_64_hosts(make_tar, make_png, tmp_path, fields):
    write_pool(make_tar, tmp_path / "a", [40], make_png)
    config = DataConfig(root=str(tmp_path), shards="a/*.tar", global_batch_size=64, **fields)
    expected = take(config, 4, rows=np.arange(64))
    parts = [None] * 64

    def host(i):
        parts[i] = take(config, 4, rows=np.arange(i, i + 1))

    at_once(*(lambda i=i: host(i) for i in range(64)))
    for field, array in expected.items():
        np.testing.assert_array_equal(np.concatenate([p[field] for p in parts], 1), array)


@pytest.mark.parametrize("lanes", [0, 4, 16])
def test_uneven_shards_give_all_hosts_the_same_number_of_steps(make_tar, make_png, tmp_path, lanes):
    """Of 1, 7, 500 and no complete sample; two epochs, in which each is seen twice."""
    write_pool(make_tar, tmp_path / "a", [1, 7, 500, 3], make_png, incomplete=(3,))
    window = {"window_shards": 1, "lanes": lanes} if lanes else {}
    config = DataConfig(root=str(tmp_path), shards="a/*.tar", global_batch_size=16, **window)
    parts = [None] * 4

    def host(i):
        parts[i] = take(config, 64, rows=np.arange(4 * i, 4 * i + 4))["tokens"]

    at_once(*(lambda i=i: host(i) for i in range(4)))
    assert {part.shape for part in parts} == {(64, 4, 24)}
    tokens = np.concatenate(parts, 1)
    np.testing.assert_array_equal(tokens, take(config, 64, rows=np.arange(16))["tokens"])
    _, counts = np.unique(tokens.reshape(-1, 24), axis=0, return_counts=True)
    # 1,024 rows are two epochs of 508 and 8 more; a lane may be a place further than another.
    assert len(counts) == 508
    assert counts.sum() == 1024
    assert set(counts.tolist()) <= {1, 2, 3}
