"""Manifests: what is written is what is read, and what is damaged is not read."""

import json
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipjax.config.errors import UserError
from clipjax.data.manifest import FILE, Manifest, is_manifest, make_manifest


def unsaved(rows, needs=("txt",), prefix="shard-"):
    urls = [f"{prefix}{number}.tar" for number in range(len(rows))]
    indexes = [(len(used), bytes([number % 256] * 16)) for number, used in enumerate(rows)]
    counts = [int(np.count_nonzero(used)) for used in rows]
    return make_manifest(urls, indexes, counts, needs, {"incomplete": 2})


def as_rows(bits):
    return [np.array(of_shard, bool) for of_shard in bits]


BITS = [[1, 0, 1], [1] * 9, [], [0] * 20, [1, 1, 1, 1, 1, 1, 1, 1, 0], [1]]


@settings(max_examples=60, deadline=None)
@given(bits=st.lists(st.lists(st.booleans(), max_size=20), min_size=1, max_size=8))
def test_rows_are_those_that_were_saved(tmp_path_factory, bits):
    folder = tmp_path_factory.mktemp("manifest")
    rows = as_rows(bits)
    saved = unsaved(rows).save(folder, iter(rows), {"made_by": "a test"})
    loaded = Manifest.load(folder)
    assert loaded.digest == saved.digest
    assert loaded.needs == ("txt",)
    assert loaded.num_incomplete == 2
    for shard, used in enumerate(bits):
        assert loaded.rows(shard).tolist() == [row for row, bit in enumerate(used) if bit]
        assert loaded.url(shard) == f"shard-{shard}.tar"
    about = json.loads((folder / FILE).read_text())
    assert about["made_by"] == "a test"
    assert about["samples"] == sum(map(sum, bits))


def test_a_manifest_of_everything_has_no_file_of_rows(tmp_path):
    rows = as_rows([[1] * 5, [1] * 9])
    lazy = unsaved(rows).save(tmp_path / "a", None, {})
    given_ = unsaved(rows).save(tmp_path / "b", rows, {})
    assert lazy.digest == given_.digest == Manifest.load(tmp_path / "a").digest
    for folder in ("a", "b"):
        assert sorted(os.listdir(tmp_path / folder)) == ["manifest.json", "shards.npz"]
        assert Manifest.load(tmp_path / folder).rows(1).tolist() == list(range(9))


def test_the_rows_of_an_earlier_manifest_are_gone(tmp_path):
    unsaved(as_rows(BITS)).save(tmp_path, as_rows(BITS), {})
    assert (tmp_path / "rows.bin").exists()
    unsaved(as_rows([[1, 1]])).save(tmp_path, None, {})
    assert not (tmp_path / "rows.bin").exists()
    assert len(Manifest.load(tmp_path)) == 1


def test_a_run_under_way_keeps_the_rows_it_opened(tmp_path):
    unsaved(as_rows(BITS)).save(tmp_path, as_rows(BITS), {})
    old = Manifest.load(tmp_path)
    assert old.rows(0).tolist() == [0, 2]
    unsaved(as_rows([[0, 1]])).save(tmp_path, as_rows([[0, 1]]), {})
    assert old.rows(4).tolist() == list(range(8))


def test_the_digest_tells_which_samples_are_used(tmp_path):
    digests = set()
    for number, bits in enumerate(([[1, 0, 1]], [[1, 1, 0]], [[1, 1, 1]], [[1, 0, 1], [1]])):
        rows = as_rows(bits)
        digests.add(unsaved(rows).save(tmp_path / str(number), rows, {}).digest)
    assert len(digests) == 4
    moved = unsaved(as_rows([[1, 0, 1]]), prefix="elsewhere/")
    assert moved.save(tmp_path / "m", as_rows([[1, 0, 1]]), {"when": 3}).digest in digests


@pytest.mark.parametrize(
    "rows",
    [None, [], as_rows(BITS[:-1]), as_rows([*BITS[:-1], [0]]), as_rows([*BITS, [1]])],
    ids=["none", "empty", "too few", "another count", "too many"],
)
def test_rows_that_do_not_fit_are_refused_and_leave_no_manifest(tmp_path, rows):
    with pytest.raises(ValueError, match=r"rows|zip"):
        unsaved(as_rows(BITS)).save(tmp_path, rows, {})
    assert not is_manifest(str(tmp_path))


def cut(path, size=1):
    content = path.read_bytes()
    path.write_bytes(content[:-size])


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        ("rows.bin", cut),
        ("rows.bin", lambda path: path.write_bytes(path.read_bytes() + b"x")),
        ("rows.bin", lambda path: path.unlink()),
        ("shards.npz", cut),
        ("shards.npz", lambda path: path.write_bytes(b"")),
        ("shards.npz", lambda path: path.write_bytes(b"PK\x03\x04" + bytes(99))),
        ("shards.npz", lambda path: path.unlink()),
        ("manifest.json", cut),
        ("manifest.json", lambda path: path.write_text("[]")),
        ("manifest.json", lambda path: path.write_text('{"format": 1}')),
        ("manifest.json", lambda path: path.write_text('{"format": 99}')),
        ("manifest.json", lambda path: path.unlink()),
    ],
)
def test_a_damaged_manifest_is_one_line(tmp_path, name, spoil):
    unsaved(as_rows(BITS)).save(tmp_path, as_rows(BITS), {})
    if spoil is cut and name == "manifest.json":
        cut(tmp_path / name, 5)
    else:
        spoil(tmp_path / name)
    with pytest.raises(UserError, match="clipjax data index") as caught:
        Manifest.load(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_flipped_rows_are_found_when_they_are_read(tmp_path):
    unsaved(as_rows(BITS)).save(tmp_path, as_rows(BITS), {})
    path = tmp_path / "rows.bin"
    content = bytearray(path.read_bytes())
    content[0] ^= 0b01000000
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"rows\.bin is damaged \(3 samples of shard 0"):
        Manifest.load(tmp_path).rows(0)


_LOAD = """
    import json, sys, time
    from pathlib import Path

    import numpy as np
    from clipjax.data.manifest import Manifest
    from clipjax.data.batch_schedule import every_step
    from clipjax.data.order import Order
    from clipjax.data.streams import WindowedShuffle

    start = time.monotonic()
    manifest = Manifest.load(sys.argv[1])
    stream = WindowedShuffle(manifest.counts, seed=3, lanes=64, window=8)
    order = Order(streams=(stream,), batches=every_step(32_768), seed=3, lanes=64)
    examples = order.examples(order.samples(41_235))
    seconds = time.monotonic() - start
    ends = np.cumsum(manifest.counts)
    shard = int(np.searchsorted(ends, examples[7], side="right"))
    print(json.dumps({
        "seconds": seconds,
        "shards": len(manifest),
        "examples": len(set(examples.tolist())),
        "highest": int(examples.max()),
        "url": manifest.url(1_299_999),
        "rows": manifest.rows(shard).tolist() == list(range(9_846)),
        "kib": int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]),
        "jax": "jax" in sys.modules,
    }))
"""


@pytest.mark.slow
def test_a_manifest_of_1_3_million_shards_is_small_and_quick(tmp_path, make_child_env):
    """12.8 billion samples, all used: no file of rows, and a batch late in the run within seconds.

    The child runs without instrumented annotations, as users do.
    """
    shards = 1_300_000
    rng = np.random.default_rng(0)
    digests = rng.integers(0, 256, (shards, 16), dtype=np.uint8)
    urls = [f"s3://some-bucket/pool/{number:08d}.tar" for number in range(shards)]
    indexes = [(9_846, digest.tobytes()) for digest in digests]
    manifest = make_manifest(urls, indexes, [9_846] * shards, ("txt",), {})
    manifest.save(tmp_path, None, {"made_by": "a test"})
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 150_000_000

    child = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(_LOAD), str(tmp_path)],
        env=make_child_env(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert child.returncode == 0, child.stderr
    found = json.loads(child.stdout)
    assert found["seconds"] < 10
    assert found["kib"] < 1 << 20
    assert found["shards"] == shards
    assert found["examples"] == 32_768
    assert found["highest"] < shards * 9_846
    assert found["url"] == urls[-1]
    assert found["rows"] is True
    assert found["jax"] is False
