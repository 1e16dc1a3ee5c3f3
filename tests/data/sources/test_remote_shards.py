"""Shards on a server, read through order, prefetch, blocks and cache as a run reads them."""

import io
import statistics
import threading
import time
import zlib

import numpy as np
import pytest
from PIL import Image

from clipjax.config import DataConfig, RemoteConfig, UserError, ViTConfig
from clipjax.data.opening import make_order, open_sources
from clipjax.data.pairs import TrainingPairs
from clipjax.data.pipeline import Batches
from clipjax.data.sources.tar_shards import ShardChangedError
from clipjax.data.storage import StorageError
from clipjax.data.storage import remote as remote_module
from clipjax.data.tokenizers import ByteTokenizer

BLOCK = 8 << 20
ROW = {"number": ((), np.dtype(np.int64)), "crc": ((), np.dtype(np.int64))}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(remote_module, "_FIRST_DELAY_SECONDS", 0.01)
    monkeypatch.setattr(remote_module, "_MAX_DELAY_SECONDS", 0.05)


@pytest.fixture(scope="module")
def large(make_server, make_pool, tmp_path_factory):
    """Twelve shards of 17 to 27 MB, of which none is a multiple of a block."""
    counts = [68, 100, 71, 93, 104, 77, 88, 95, 66, 81, 99, 74]
    folder = tmp_path_factory.mktemp("large")
    config = RemoteConfig(cache_dir=str(folder / "blocks"))
    return make_pool(make_server(), folder / "manifest", counts, 256 << 10, config)


@pytest.fixture(scope="module")
def small(make_server, make_pool, tmp_path_factory):
    """Ten shards of 20 to 400 kB."""
    counts = [17, 1, 9, 20, 13, 5, 18, 11, 7, 19]
    folder = tmp_path_factory.mktemp("small")
    config = RemoteConfig(cache_dir=str(folder / "blocks"))
    return make_pool(make_server(), folder / "manifest", counts, 20_000, config)


@pytest.fixture(autouse=True)
def sound(large, small):
    """Servers without faults and without memory of other tests."""
    for pool in (large, small):
        pool.server.fault = lambda number, request: None
        pool.server.requests.clear()


class Host:
    """One process of a run: its own source and cache, and its rows of every batch."""

    def __init__(self, pool, cache, *, hosts=1, host=0, prefetch=True, threads=4, **fields):
        remote = {"cache_dir": str(cache), "request_timeout_seconds": 5.0}
        remote |= fields.pop("remote", {})
        self.config = DataConfig(
            root=str(pool.manifest.parent),
            shards=pool.manifest.name,
            remote=RemoteConfig(**remote),
            **fields,
        )
        self.source = open_sources(self.config)
        self.order = make_order(self.config, self.source)
        size = self.config.global_batch_size // hosts
        self.rows = np.arange(host * size, (host + 1) * size)
        self._prefetch, self._threads = prefetch, threads
        self.announced = set()

    def samples(self, step):
        return self.order.samples(step, self.rows)

    def plan(self, samples):
        pieces = self.order.upcoming(samples)
        self.announced.update(pieces)
        if self._prefetch:
            self.source.prefetch(pieces)
        examples = self.order.examples(samples)

        def fill(i, row):
            image = self.source[int(examples[i])]["image"]
            row["number"][...] = int.from_bytes(image[:8], "little")
            row["crc"][...] = zlib.crc32(image)

        return fill

    def read(self, steps, first_step=0, pause=0.0):
        """Returns numbers and CRCs, [steps, rows], of what was read."""
        batches = Batches(
            self.samples, self.plan, ROW, first_step=first_step, threads=self._threads, ahead=1
        )
        try:
            out = []
            for _ in range(steps):
                batch = next(batches)
                out.append((batch["number"].copy(), batch["crc"].copy()))
                time.sleep(pause)
        finally:
            batches.close()
        return tuple(np.stack(part) for part in zip(*out, strict=True))

    def announced_bytes(self):
        """Returns the bytes of all parts of shards that were announced."""
        source = self.source.parts[""]
        ranges = [source._table(p.shard).byte_range(p.first, p.stop) for _, p in self.announced]
        return sum(stop - start for start, stop in ranges)

    def stats(self):
        return self.source.parts[""]._storage.stats()


def assert_is_what_was_planned(host, pool, numbers, crcs, first_step=0):
    steps = range(first_step, first_step + len(numbers))
    expected = np.stack([host.order.examples(host.samples(step)) for step in steps])
    np.testing.assert_array_equal(numbers, expected)
    np.testing.assert_array_equal(crcs, pool.crcs[numbers])


def settle(host):
    """Waits until nothing is fetched ahead any more."""
    storage, before = host.source.parts[""], -1.0
    while (now := host.stats()["bytes"]) != before:
        before = now
        time.sleep(0.4)
    storage.close()


@pytest.mark.slow
@pytest.mark.serial
@pytest.mark.parametrize(("window", "lanes"), [(2, 1), (8, 1), (2, 4), (8, 4)])
def test_an_epoch_fetches_every_shard_once_in_large_requests(large, tmp_path, window, lanes):
    """In blocks of 8 MiB; an epoch of 1,016 samples is 254 batches of four."""
    host = Host(large, tmp_path, window_shards=window, lanes=lanes, global_batch_size=4)
    assert host.config.remote.block_bytes == BLOCK
    numbers, crcs = host.read(len(large) // 4)
    settle(host)
    assert_is_what_was_planned(host, large, numbers, crcs)
    assert sorted(numbers.ravel().tolist()) == list(range(len(large)))
    pool_bytes = sum(map(len, large.shards))
    assert 0.99 * pool_bytes < host.stats()["bytes"] <= 1.1 * pool_bytes
    sizes = [request.size for request in large.server.data_requests()]
    assert statistics.median(sizes) >= 4 << 20


@pytest.mark.slow
@pytest.mark.serial
@pytest.mark.parametrize("lanes", [4, 8])
def test_four_hosts_fetch_together_hardly_more_than_one(large, tmp_path, lanes):
    """Each its own cache. What a cut between lanes costs is a block of the shard it lies in."""
    steps = len(large) // 8
    hosts = [
        Host(
            large,
            tmp_path / str(i),
            hosts=4,
            host=i,
            threads=1,
            window_shards=2,
            lanes=lanes,
            global_batch_size=8,
        )
        for i in range(4)
    ]
    results = [None] * 4

    def run(i):
        results[i] = hosts[i].read(steps)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for host, result in zip(hosts, results, strict=True):
        settle(host)
        assert_is_what_was_planned(host, large, *result)
    numbers = np.concatenate([numbers for numbers, _ in results], 1)
    assert sorted(numbers.ravel().tolist()) == list(range(len(large)))
    fetched = sum(host.stats()["bytes"] for host in hosts)
    announced = sum(host.announced_bytes() for host in hosts)
    # Besides those of the epoch: the first windows of the next one.
    assert fetched <= 1.1 * announced


@pytest.mark.slow
@pytest.mark.serial
def test_a_second_epoch_is_fetched_ahead_too(small, tmp_path):
    """The cache holds the windows, not the pool: every epoch fetches it again, shard by shard."""
    fields = {"block_bytes": 1 << 14, "cache_bytes": 1_500_000}
    host = Host(small, tmp_path, window_shards=2, lanes=1, global_batch_size=4, remote=fields)
    pieces = []
    fetch = host.source.parts[""]._fetch
    host.source.parts[""]._fetch = lambda piece: (pieces.append(piece), fetch(piece))
    steps = len(small) // 4
    numbers, crcs = host.read(3 * steps)
    assert_is_what_was_planned(host, small, numbers, crcs)
    settle(host)
    assert [piece.shard for piece in pieces].count(0) >= 3
    assert len(pieces) <= 3 * 10 + 4


@pytest.mark.slow
@pytest.mark.serial
def test_fetching_ahead_hides_the_waiting(small, tmp_path):
    """An answer comes after 0.1 s; a shard of four blocks is used up in about a second."""

    def late(number, request):
        return "slow"

    seconds = {}
    for prefetch in (True, False):
        small.server.fault = late
        host = Host(
            small,
            tmp_path / str(prefetch),
            prefetch=prefetch,
            threads=1,
            window_shards=2,
            lanes=1,
            global_batch_size=4,
            remote={"block_bytes": 1 << 16},
        )
        start = time.monotonic()
        numbers, crcs = host.read(len(small) // 4)
        seconds[prefetch] = time.monotonic() - start
        settle(host)
        assert_is_what_was_planned(host, small, numbers, crcs)
    assert seconds[True] < 0.6 * seconds[False], seconds


def by_number(fault, every):
    """A fault of every so many requests for content."""
    return lambda number, request: fault if request.method == "GET" and not number % every else None


def burst(number, request):
    return 503 if 20 < number < 35 else None


def drawn(share):
    def fault(number, request):
        return 503 if zlib.crc32(str(number).encode()) % 1000 < 1000 * share else None

    return fault


def everything(number, request):
    kinds = ("cut", None, 503, "slow", None, "rot", 429, "reset", None)
    return kinds[number % 9] if request.method == "GET" else None


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(burst, id="burst of 503"),
        pytest.param(drawn(0.3), id="30 % 503"),
        pytest.param(by_number("reset", 4), id="resets"),
        pytest.param(by_number("cut", 3), id="truncated"),
        pytest.param(by_number("slow", 3), id="slow"),
        pytest.param(by_number("rot", 4), id="flipped"),
        pytest.param(everything, id="everything"),
    ],
)
def test_faults_lose_repeat_and_change_nothing(small, tmp_path, fault):
    met = []

    def counted(number, request):
        met.append(fault(number, request))
        return met[-1]

    small.server.fault = counted
    host = Host(
        small,
        tmp_path,
        window_shards=2,
        lanes=2,
        global_batch_size=4,
        remote={"block_bytes": 1 << 15, "retry_seconds": 60.0},
    )
    numbers, crcs = host.read(2 * len(small) // 4)
    settle(host)
    assert_is_what_was_planned(host, small, numbers, crcs)
    assert sum(one is not None for one in met) >= 8


PICTURES = 24


def picture(i):
    out = io.BytesIO()
    Image.fromarray(np.full((20, 20, 3), 10 * i, np.uint8)).save(out, "PNG")
    return out.getvalue()


@pytest.fixture
def pictures(server, make_tar, tmp_path, versioned):
    """The config of a run over two shards of pictures on `server`, which may rot unseen."""
    for s in range(2):
        keys = range(12 * s, 12 * s + 12)
        samples = {f"{i:03d}": {"png": picture(i), "txt": f"number {i}".encode()} for i in keys}
        path = make_tar(tmp_path / f"{s}.tar", samples)
        server.add(f"{s}.tar", versioned(path.read_bytes()))
    return DataConfig(
        root=server.root,
        shards="{0..1}.tar",
        index_dir=str(tmp_path / "indexes"),
        window_shards=1,
        lanes=2,
        global_batch_size=4,
        remote=RemoteConfig(
            cache_dir=str(tmp_path / "blocks"), block_bytes=1 << 14, retry_seconds=2.0
        ),
    )


def rows_of(config, rows=None, steps=12):
    """Returns the tokens of some rows of the first batches, and the counts of bad samples."""
    sources = open_sources(config)
    order = make_order(config, sources)
    image = ViTConfig(image_size=8, patch_size=8)
    pairs = TrainingPairs(
        sources, order, ByteTokenizer(context_length=24, lowercase=True), config, image=image
    )
    rows = np.arange(4) if rows is None else rows
    batches = Batches(lambda step: order.samples(step, rows), pairs.plan, pairs.row_spec, threads=2)
    try:
        tokens = np.stack([next(batches)["tokens"].copy() for _ in range(steps)])
    finally:
        batches.close()
        sources.close()
    return tokens, pairs.bad_samples.by_reason


def spoil(server, name, i):
    """Turns a bit of a picture round; the server's ETag does not tell."""
    content = server.files[f"/{name}"]
    at = content.index(picture(i)) + 70
    server.files[f"/{name}"] = type(content)(
        content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :]
    )


def test_a_picture_that_stays_wrong_is_replaced_everywhere_alike(server, pictures, tmp_path):
    expected, counts = rows_of(pictures)
    assert not counts
    spoil(server, "1.tar", 17)

    def fresh(name):
        remote = RemoteConfig(cache_dir=str(tmp_path / name), block_bytes=1 << 14)
        return DataConfig(**{**vars(pictures), "remote": remote})

    tokens, counts = rows_of(fresh("a"))
    assert set(counts) == {"checksum"}
    differs = (tokens != expected).any(-1)
    wrong = (expected == expected[differs][0]).all(-1)
    np.testing.assert_array_equal(differs, wrong)  # number 17 and no other
    # Two epochs; the sample that stands in may be the bad one itself, and is drawn again.
    assert differs.sum() == 2 <= counts["checksum"]
    halves = [rows_of(fresh(f"half {i}"), np.arange(2 * i, 2 * i + 2)) for i in range(2)]
    np.testing.assert_array_equal(np.concatenate([half for half, _ in halves], 1), tokens)
    assert all(set(half) <= {"checksum"} for _, half in halves)


def test_a_forbidden_shard_ends_the_run_with_one_line(server, pictures, capsys):
    rows_of(pictures)
    server.fault = lambda number, request: 403 if "1.tar" in request.path else None
    with pytest.raises(StorageError, match=r"1\.tar: the server answered 403\.") as caught:
        rows_of(pictures)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, UserError)


def test_a_server_that_is_down_for_good_ends_the_run_within_its_budget(server, pictures):
    rows_of(pictures)
    server.fault = lambda number, request: 503
    start = time.monotonic()
    with pytest.raises(StorageError, match=r"no answer that can be used after \d+ requests"):
        rows_of(pictures)
    assert time.monotonic() - start < 10


@pytest.mark.parametrize("at", ["between blocks", "after a checksum"])
def test_a_shard_that_is_replaced_during_the_run_ends_it(server, pictures, at, versioned):
    sources = open_sources(pictures)
    list(sources[i] for i in range(12, 18))
    storage = sources.parts[""]._storage
    old = server.files["/1.tar"]
    new = versioned(old.replace(picture(20), picture(21)))
    new.etag = "two"
    server.files["/1.tar"] = new
    if at == "between blocks":
        storage._remote._cache.drop_file(f"{server.root}/1.tar")
    else:
        # What is here is damaged, and what is fetched instead is of another version.
        table = sources.parts[""]._tables[1]
        table.crcs[6, -1] ^= 1
    with pytest.raises(ShardChangedError, match=r"1\.tar: changed since it was indexed"):
        list(sources[i] for i in range(18, 24))
    sources.close()


@pytest.mark.slow
def test_shards_of_a_bucket_by_pattern(bucket, make_tar, tmp_path):
    endpoint, put = bucket
    for s in range(3):
        samples = {
            f"{i:03d}": {"png": picture(i % 24), "txt": f"number {i}".encode()}
            for i in range(8 * s, 8 * s + 8)
        }
        path = make_tar(tmp_path / f"{s}.tar", samples)
        put(f"pool/{s}.tar", path.read_bytes())
    put("pool/notes.txt", b"no shard")
    remote = {"endpoint": endpoint, "region": "us-east-1", "block_bytes": 1 << 14}
    fields = {"window_shards": 1, "lanes": 2, "global_batch_size": 4, "index_dir": str(tmp_path)}
    far = DataConfig(
        root="s3://shards/pool",
        shards="*.tar",
        remote=RemoteConfig(cache_dir=str(tmp_path / "blocks"), **remote),
        **fields,
    )
    near = DataConfig(root=str(tmp_path), shards="*.tar", **fields)
    got, counts = rows_of(far)
    np.testing.assert_array_equal(got, rows_of(near)[0])
    assert not counts
    sources = open_sources(far)
    assert sources[1]["txt"] == b"number 1"
    put("pool/0.tar", (tmp_path / "0.tar").read_bytes().replace(b"number 1", b"number X"))
    again = open_sources(far)  # at the start of a run the new content is indexed
    assert again[1]["txt"] == b"number X"
    again.close()
    sources.parts[""]._storage.forget("s3://shards/pool/0.tar")
    with pytest.raises(ShardChangedError, match=r"s3://shards/pool/0\.tar: changed"):
        list(sources[i] for i in range(8))
    sources.close()
