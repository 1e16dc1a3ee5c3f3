"""The cache of blocks on disk: between processes, damaged, and without a disk."""

import subprocess
import sys
import time

import pytest

pytestmark = pytest.mark.usefixtures("quick")


def test_the_cache_survives_the_process(server, opened, content):
    url = server.add("0.tar", content)
    opened().read(url, 0, 300_000)
    before = len(server.requests)
    again = opened()
    assert again.read(url, 0, 300_000) == content
    assert server.data_requests()[-1].end == 300_000
    assert len(server.requests) == before + 1  # a look, and no content
    assert again.stats()["bytes"] == 0


@pytest.mark.parametrize("damage", ["flip", "cut", "empty"])
def test_a_damaged_block_is_fetched_again(server, opened, content, tmp_path, damage):
    url = server.add("0.tar", content)
    opened().read(url, 0, 300_000)
    blocks = sorted((tmp_path / "cache").glob("*.block"))
    whole = blocks[3].read_bytes()
    changed = {"flip": whole[:-1] + bytes([whole[-1] ^ 4]), "cut": whole[:-9], "empty": b""}
    blocks[3].write_bytes(changed[damage])
    before = len(server.data_requests())
    assert opened().read(url, 0, 300_000) == content
    assert len(server.data_requests()) == before + 1


def test_a_block_cut_while_it_is_in_use_is_fetched_again(server, opened, content, tmp_path):
    url = server.add("0.tar", content)
    storage = opened()
    for _ in range(2):
        storage.read(url, 0, 100)
    (path,) = (tmp_path / "cache").glob("*.block")
    with open(path, "r+b") as file:
        file.truncate(60)
    assert storage.read(url, 50, 100) == content[50:150]


@pytest.mark.parametrize("where", ["memory only", "no folder"])
def test_reading_works_without_a_disk(server, opened, content, tmp_path, where, capsys):
    url = server.add("0.tar", content)
    (tmp_path / "file").write_bytes(b"")
    fields = {"cache_bytes": 0} if where == "memory only" else {"cache_dir": f"{tmp_path}/file/x"}
    storage = opened(**fields)
    for start in range(0, 300_000, 10_000):
        assert storage.read(url, start, 10_000) == content[start : start + 10_000]
    assert len(server.data_requests()) == 19
    assert capsys.readouterr().err.count("\n") == (where == "no folder")
    assert not (tmp_path / "cache").exists()


_READER = """
import hashlib, json, sys
from clipjax.config.data import RemoteConfig
from clipjax.data.storage import open_storage
url, cache, seed = sys.argv[1:]
config = RemoteConfig(block_bytes=16384, cache_dir=cache, cache_bytes=5 * 17000)
storage = open_storage([url], config)
out = {}
for turn in range(120):
    start = (turn * 7919 + int(seed) * 104729) % 290_000
    out[start] = hashlib.md5(storage.read(url, start, 10_000)).hexdigest()
assert "jax" not in sys.modules
print(json.dumps([out, storage.stats()]))
"""


@pytest.mark.slow
def test_two_processes_share_a_cache_that_is_too_small(server, content, tmp_path, make_child_env):
    import hashlib
    import json

    url = server.add("0.tar", content)
    readers = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", _READER, url, str(tmp_path), seed],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=make_child_env(),
        )
        for seed in ("1", "2")
    ]
    for reader in readers:
        out, err = reader.communicate(timeout=60)
        assert (reader.returncode, err) == (0, b"")
        digests, stats = json.loads(out)
        assert len(digests) > 50
        for start, digest in digests.items():
            part = content[int(start) : int(start) + 10_000]
            assert hashlib.md5(part).hexdigest() == digest
        assert stats["block_hits"] > 0
    kept = sum(path.stat().st_size for path in tmp_path.glob("*.block"))
    assert 0 < kept <= 7 * 17000


_LEAVER = """
import sys
from clipjax.config.data import RemoteConfig
from clipjax.data.storage import open_storage
config = RemoteConfig(cache_dir=sys.argv[2], block_bytes=16384, request_timeout_seconds=2.0)
storage = open_storage([sys.argv[1]], config)
storage.prefetch(sys.argv[1], 0, 300_000)
"""


@pytest.mark.slow
@pytest.mark.parametrize("fault", [503, "stall", None])
def test_a_process_ends_while_something_is_being_prefetched(
    server, content, tmp_path, make_child_env, fault
):
    url = server.add("0.tar", content)
    server.fault = lambda number, request: fault
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", _LEAVER, url, str(tmp_path)],
        capture_output=True,
        env=make_child_env(),
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert time.monotonic() - started < 20
