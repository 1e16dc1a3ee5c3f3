"""What `clipjax bench load` measures with."""

import mmap

import numpy as np
import pytest

from clipjax.cli.bench_load import load_ours, load_plainly, peak_of, write_random_weights


def test_memory_counts_and_a_mapped_file_does_not(tmp_path):
    size = 64 << 20
    (tmp_path / "file").write_bytes(bytes(size))

    def read_mapped():
        with open(tmp_path / "file", "rb") as file:
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return int(np.frombuffer(content, np.uint8).sum(dtype=np.int64))

    held = []
    seconds, peak = peak_of(lambda: held.append(np.ones(size, np.uint8)))
    assert seconds > 0
    assert 0.9 * size < peak < 1.5 * size
    _, peak = peak_of(read_mapped)
    assert peak < 0.5 * size


def test_both_read_the_same_numbers(tmp_path, tiny_config):
    pytest.importorskip("safetensors")
    path = tmp_path / "w.safetensors"
    write_random_weights(path, tiny_config.model)
    ours, plain = load_ours(path, tiny_config.model), load_plainly(path)
    np.testing.assert_array_equal(
        ours["text/blocks/stack/0/mlp/fc1/kernel"],
        plain["transformer.resblocks.0.mlp.c_fc.weight"],
    )
    first = path.read_bytes()
    write_random_weights(path, tiny_config.model)
    assert path.read_bytes() == first
