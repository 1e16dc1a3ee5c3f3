"""Reads through blocks, from a real server that misbehaves."""

import gc
import itertools
import statistics
import threading
import time
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipjax.data.storage import ChangedError, StorageError, open_storage
from clipjax.data.storage import block_storage as block_storage_module
from clipjax.data.storage.block_storage import BlockStorage, _runs
from clipjax.data.storage.blocks import BlockCache, BlockKey
from clipjax.data.storage.remote import RemoteFiles, make_client

BLOCK = 1 << 14


pytestmark = pytest.mark.usefixtures("quick")


def together(*tasks):
    threads = [threading.Thread(target=task) for task in tasks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def wait_until(condition):
    for _ in range(500):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("waited for 5 s")


@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_every_range_is_that_of_the_file(data, content):
    offset = data.draw(st.integers(0, len(content)))
    length = data.draw(st.integers(0, len(content) - offset) | st.integers(0, 3))
    length = min(length, len(content) - offset)
    block_bytes = data.draw(st.sampled_from([4096, 7000, BLOCK, 299_999, 300_000, 1 << 20]))
    size = data.draw(st.integers(max(1, offset + length), len(content)))

    class Memory:
        """Answers from memory: the server is tested below."""

        def stat(self, url):
            return block_storage_module.FileStat(size, "v")

        def get(self, url, start, end, stat):
            assert 0 <= start < end <= size
            return content[start:end]

        def list_files(self, url, recursive):
            return []

        def close(self):
            pass

    config = block_storage_module.RemoteConfig(block_bytes=block_bytes)
    storage = BlockStorage(RemoteFiles(Memory(), config), BlockCache(None, 0), config)
    for _ in range(2):
        assert storage.read("http://host/x", offset, length) == content[offset : offset + length]
    storage.close()


@pytest.mark.parametrize(
    ("name", "fault", "reason"),
    [
        ("fine", lambda n, r: None, None),
        ("503 twice", lambda n, r: 503 if n < 2 else None, "503"),
        ("503 for 3 of 10", lambda n, r: 503 if (n * 7) % 10 < 3 else None, "503"),
        ("429", lambda n, r: 429 if n % 3 == 0 else None, "429"),
        ("reset", lambda n, r: "reset" if n % 3 == 1 else None, "connection"),
        ("cut", lambda n, r: "cut" if r.start and n % 2 else None, "connection"),
        ("stall", lambda n, r: "stall" if n in (2, 4) else None, "timeout"),
    ],
)
def test_faults_that_pass_change_no_byte(server, opened, content, name, fault, reason):
    url = server.add("0.tar", content)
    server.fault = fault
    storage = opened(request_timeout_seconds=0.5)
    got = b"".join(storage.read(url, start, 10_000) for start in range(0, 300_000, 10_000))
    assert got == content
    stats = storage.stats()
    retries = sum(value for key, value in stats.items() if key.startswith("retries/"))
    assert len(server.requests) == stats["requests"] == 1 + 19 + retries
    assert retries == (stats[f"retries/{reason}"] if reason else 0)
    assert stats["bytes"] == 300_000
    assert stats["seconds"] > 0


def test_blocks_are_whole_and_come_once(server, opened, content):
    url = server.add("0.tar", content)
    storage = opened()
    for start in range(0, 300_000, 1000):
        assert storage.read(url, start, 1000) == content[start : start + 1000]
    data = server.data_requests()
    assert len(data) == 19  # ceil(300,000 / 16,384)
    assert statistics.median(r.size for r in data) == BLOCK
    assert len({r.start for r in data}) == 19
    assert len(server.requests) == 20  # and one look
    assert storage.stats()["block_misses"] == 19


def test_a_constant_fault_ends_when_the_budget_does(server, opened, content):
    url = server.add("0.tar", content)
    storage = opened(retry_seconds=0.3)
    storage.stat(url)
    server.fault = lambda number, request: 503
    started = time.monotonic()
    with pytest.raises(StorageError, match=r"0\.tar: no answer .* 503") as caught:
        storage.read(url, 0, 10)
    assert time.monotonic() - started < 2
    assert "\n" not in str(caught.value)
    assert len(server.requests) > 3
    server.fault = lambda number, request: None
    assert storage.read(url, 0, 10) == content[:10]  # the failure is not kept


@pytest.mark.parametrize("status", [400, 401, 403, 404])
@pytest.mark.parametrize("method", ["stat", "read"])
def test_a_mistake_costs_one_request(server, opened, content, status, method):
    url = server.add("0.tar", content)
    server.fault = lambda number, request: status
    storage = opened()
    with pytest.raises(StorageError, match=str(status)):
        storage.stat(url) if method == "stat" else storage.read(url, 0, 10)
    assert len(server.requests) == 1


def test_a_flipped_bit_passes_here_and_goes_when_the_file_is_forgotten(server, opened, content):
    url = server.add("0.tar", content)
    server.fault = lambda number, request: "flip" if request.start == BLOCK else None
    storage, second = opened(), opened()
    index_crc = zlib.crc32(content[BLOCK : BLOCK + 100])
    for reader in (storage, second):
        assert zlib.crc32(reader.read(url, BLOCK, 100)) != index_crc  # the caller's to find
    server.fault = lambda number, request: None
    assert zlib.crc32(storage.read(url, BLOCK, 100)) != index_crc
    storage.forget(url)
    assert storage.read(url, BLOCK, 100) == content[BLOCK : BLOCK + 100]
    assert opened().read(url, BLOCK, 100) == content[BLOCK : BLOCK + 100]


def test_of_a_forgotten_range_only_its_blocks_are_fetched_again(server, opened, content):
    url = server.add("0.tar", content)
    storage = opened()
    assert storage.read(url, 0, len(content)) == content
    before = len(server.data_requests())
    storage.forget(url, BLOCK + 5, BLOCK)
    assert storage.read(url, 0, len(content)) == content
    again = server.data_requests()[before:]
    assert [(request.start, request.end) for request in again] == [(BLOCK, 3 * BLOCK)]


def test_what_was_under_way_when_a_file_was_forgotten_is_not_kept(server, opened, content):
    url = server.add("0.tar", content)
    storage = opened()
    storage.stat(url)
    go = threading.Event()

    def fault(number, request):
        if number == 1:
            go.wait(5)
            return "flip"
        return None

    server.fault = fault
    first = []
    reader = threading.Thread(target=lambda: first.append(storage.read(url, 0, 100)))
    reader.start()
    wait_until(lambda: len(server.requests) == 2)
    storage.forget(url)
    assert storage.read(url, 0, 100) == content[:100]  # does not wait for the old one
    go.set()
    reader.join()
    assert first[0] != content[:100]
    assert storage.read(url, 0, 100) == content[:100]
    assert opened().read(url, 0, 100) == content[:100]


def test_a_file_that_changed_is_noticed_and_read_after_a_new_look(server, opened, content):
    url = server.add("0.tar", content)
    storage = opened()
    assert storage.read(url, 0, 100) == content[:100]
    server.add("0.tar", content[::-1])
    with pytest.raises(ChangedError, match="changed since it was first read"):
        storage.read(url, BLOCK, 100)
    assert storage.stat(url).version == server.etag("/0.tar")
    assert storage.read(url, 0, 100) == content[::-1][:100]


@pytest.mark.parametrize(("offset", "length"), [(299_999, 2), (300_001, 1), (10**12, 5)])
def test_a_range_behind_the_end_is_an_error_without_a_request(
    server, opened, content, offset, length
):
    url = server.add("0.tar", content)
    storage = opened()
    storage.stat(url)
    with pytest.raises(StorageError, match=r"has 300,000 bytes, wanted"):
        storage.read(url, offset, length)
    with pytest.raises(ValueError, match="negative"):
        storage.read(url, -1, 1)
    assert storage.read(url, 300_000, 0) == b""
    assert len(server.requests) == 1


def test_threads_that_want_one_block_make_one_request(server, opened, content):
    url = server.add("0.tar", content)
    server.fault = lambda number, request: "slow"
    storage = opened()
    got = []
    together(*[lambda: got.append(storage.read(url, 100, 1000)) for _ in range(8)])
    assert got == [content[100:1100]] * 8
    assert len(server.requests) == 2  # one look, one block


def test_threads_that_want_overlapping_ranges_fetch_no_byte_twice(server, opened, content):
    url = server.add("0.tar", content)
    server.fault = lambda number, request: "slow"
    storage = opened()
    wrong = []

    def read(start, length):
        if storage.read(url, start, length) != content[start : start + length]:
            wrong.append(start)

    ranges = [(0, 300_000), (50_000, 200_000), (100_000, 50_000), (290_000, 10_000)]
    together(*[lambda r=r: read(*r) for r in ranges + ranges[::-1]])
    assert not wrong
    assert sum(r.size for r in server.data_requests()) == 300_000


def test_a_shared_failure_reaches_all_who_wait_and_is_not_kept(server, opened, content):
    url = server.add("0.tar", content)
    storage = opened(retry_seconds=0.0)
    storage.stat(url)
    answer = threading.Event()
    server.fault = lambda number, request: answer.wait(5) and 503
    entered, failures = [], []

    def read():
        entered.append(1)
        try:
            storage.read(url, 0, 10)
        except StorageError as error:
            failures.append(error)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(server.requests) == 2 and len(entered) == 4)
    time.sleep(0.2)
    answer.set()
    for thread in threads:
        thread.join()
    assert len(failures) == 4
    assert len(server.requests) == 2
    server.fault = lambda number, request: None
    assert storage.read(url, 0, 10) == content[:10]


def test_no_more_requests_at_once_than_configured(server, opened, content):
    urls = [server.add(f"{number}.tar", content[:1000]) for number in range(12)]
    server.fault = lambda number, request: "slow"
    storage = opened(concurrency=3)
    together(*[lambda url=url: storage.read(url, 0, 10) for url in urls])
    assert server.most_at_once == 3


def test_prefetching_merges_neighbours_and_reading_then_asks_nothing(server, opened, content):
    url = server.add("0.tar", content)
    storage = opened()
    storage.read(url, 5 * BLOCK, 10)  # one block in the middle is here already
    started = time.monotonic()
    storage.prefetch(url, 0, 300_000)
    assert time.monotonic() - started < 0.5
    wait_until(lambda: storage.stats()["bytes"] == 300_000)
    assert [(r.start, r.end) for r in server.data_requests()] == [
        (5 * BLOCK, 6 * BLOCK),
        (0, 5 * BLOCK),
        (6 * BLOCK, 300_000),
    ]
    assert storage.read(url, 0, 300_000) == content
    assert len(server.requests) == 4


def test_a_run_has_a_longest_length(server, opened, content, monkeypatch):
    monkeypatch.setattr(block_storage_module, "_RUN_BYTES", 4 * BLOCK)
    url = server.add("0.tar", content)
    storage = opened()
    storage.prefetch(url, 100, 10**9)  # more than there is
    wait_until(lambda: storage.stats()["bytes"] == 300_000)
    assert max(r.size for r in server.data_requests()) == 4 * BLOCK
    assert len(server.data_requests()) == 5


def test_a_run_that_fails_comes_block_by_block(server, opened, content):
    url = server.add("0.tar", content)
    server.fault = lambda n, r: "stall" if r.start is not None and r.size > BLOCK else None
    storage = opened(request_timeout_seconds=0.3)
    assert storage.read(url, 0, 300_000) == content
    assert len(server.data_requests()) == 1 + 19


def test_a_prefetch_that_fails_is_told_to_the_reader_only(server, opened, content):
    url = server.add("0.tar", content)
    server.fault = lambda number, request: 403
    storage = opened()
    storage.prefetch(url, 0, 1000)
    wait_until(lambda: server.requests)
    with pytest.raises(StorageError, match="403"):
        storage.read(url, 0, 10)
    server.fault = lambda number, request: None
    storage.prefetch(url, 0, 1000)  # the threads are alive
    wait_until(lambda: storage.stats()["bytes"] > 0)


def test_closing_ends_the_threads_and_what_is_waiting(server, opened, content):
    url = server.add("0.tar", content)
    server.fault = lambda number, request: 503
    storage = opened()
    for start in range(0, 300_000, 1000):
        storage.prefetch(url, start, 1000)
    storage.close()
    storage.close()
    assert not [t for t in threading.enumerate() if t.name == "clipjax-prefetch"]
    asked = len(server.requests)
    storage.prefetch(url, 0, 1000)
    with pytest.raises(StorageError, match="closed"):
        storage.read(url, 0, 10)
    assert len(server.requests) == asked


def test_a_storage_that_nobody_holds_ends_its_threads(server, remote_config, content):
    url = server.add("0.tar", content)

    def use():
        storage = open_storage([url], remote_config())
        storage.prefetch(url, 0, 1000)
        wait_until(lambda: storage.stats()["bytes"] > 0)

    use()
    gc.collect()
    wait_until(lambda: not [t for t in threading.enumerate() if t.name == "clipjax-prefetch"])


@given(st.lists(st.integers(0, 30), unique=True).map(sorted), st.integers(1, 5))
def test_runs_are_adjacent_complete_and_not_too_long(indices, longest):
    keys = [BlockKey("u", "v", 1000, 10, index) for index in indices]
    runs = _runs(keys, longest)
    assert [key for run in runs for key in run] == keys
    for run in runs:
        assert 1 <= len(run) <= longest
        assert [k.index for k in run] == list(range(run[0].index, run[0].index + len(run)))
    for one, two in itertools.pairwise(runs):
        assert len(one) == longest or two[0].index != one[-1].index + 1


def test_make_client_gives_what_remote_files_take(remote_config):
    files = RemoteFiles(make_client(remote_config()), remote_config())
    files.close()
