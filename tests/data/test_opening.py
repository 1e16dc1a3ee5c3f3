"""Several sources as one, the rules of windows and lanes, what is recorded of an order."""

import dataclasses
import itertools
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipjax.config import DataConfig, MixtureConfig, RemoteConfig, UsageError, UserError
from clipjax.data import opening
from clipjax.data.opening import (
    Sources,
    forecast,
    make_order,
    open_sources,
    order_record,
    read_ahead_warnings,
    window_of,
)
from clipjax.data.streams import FullShuffle, Piece, WindowedShuffle, WithReplacement


class Listed:
    """A source of some numbers."""

    def __init__(self, name, count):
        self.name, self.count, self.closed = name, count, 0

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return {"txt": f"{self.name} {index}".encode()}

    def key(self, index):
        return f"{self.name}.csv: {index}"

    def digest(self):
        return f"digest of {self.name}"

    def close(self):
        self.closed += 1


@pytest.fixture(scope="module")
def root(tmp_path_factory, make_tar):
    """a/: four shards of 6 samples; b/: two shards of 2; one .jsonl of 5 without files."""
    root = tmp_path_factory.mktemp("opening")
    for name, shards, count in (("a", 4, 6), ("b", 2, 2)):
        (root / name).mkdir()
        for s in range(shards):
            samples = {
                f"{name}{s * count + i:02d}": {"png": b"x", "txt": b"text"} for i in range(count)
            }
            make_tar(root / name / f"{s}.tar", samples)
    (root / "0.png").write_bytes(b"x")
    lines = [json.dumps({"image": f"{i}.png", "caption": f"text {i}"}) for i in range(5)]
    (root / "list.jsonl").write_text("\n".join(lines))
    return root


@pytest.fixture
def config(root):
    def make(**fields):
        fields = {"shards": "a/*.tar", "global_batch_size": 8} | fields
        return DataConfig(root=str(root), **fields)

    return make


def mixed(**parts):
    return {"shards": "", "mixture": parts}


A, B = MixtureConfig(shards="a/*.tar", weight=3.0), MixtureConfig(shards="b/*.tar")
LIST = MixtureConfig(shards="list.jsonl")


@given(st.lists(st.integers(1, 5), min_size=1, max_size=5))
def test_the_examples_of_sources_follow_on_each_other(counts):
    parts = {f"s{i}": Listed(f"s{i}", count) for i, count in enumerate(counts)}
    sources = Sources(parts)
    expected = [(name, i) for name, part in parts.items() for i in range(len(part))]
    assert len(sources) == len(expected)
    for index, (name, own) in enumerate(expected):
        assert sources[index] == {"txt": f"{name} {own}".encode()}
        assert sources.key(index) == sources.place(index) == f"{name}.csv: {own}"
        assert sources.find(f"{name}.csv: {own}") == [index]
    assert sources.find("0") == [i for i, (_, own) in enumerate(expected) if own == 0]
    assert sources.find("nothing") == []
    for index in (-1, len(expected)):
        with pytest.raises(IndexError, match=f"sample {index} of {len(expected)}"):
            sources.key(index)
    sources.close()
    assert all(part.closed == 1 for part in parts.values())


def test_the_digest_of_one_source_is_its_own_and_of_several_depends_on_their_order():
    a, b = Listed("a", 2), Listed("b", 3)
    assert Sources({"": a}).digest() == a.digest()
    both, swapped = Sources({"x": a, "y": b}).digest(), Sources({"y": b, "x": a}).digest()
    assert len({a.digest(), b.digest(), both, swapped}) == 4


def test_shards_and_lists_side_by_side(root, config):
    sources = open_sources(config(**mixed(one=A, two=B, three=LIST)))
    assert (len(sources), list(sources.parts)) == (24 + 4 + 5, ["one", "two", "three"])
    assert sources.key(25) == f"{root}/b/0.tar: b01"
    assert sources.place(25) == f"{root}/b/0.tar: sample 1"
    assert sources.find("b01") == sources.find("b/0.tar: b01") == [25]
    assert sources.find(sources.key(30)) == [30]
    assert sources.find("b/1.tar: b01") == []
    assert sources[0]["txt"] == b"text"
    piece = Piece(0, 0, 1)
    sources.prefetch([(2, piece), (0, piece)])  # of lists and of files there is nothing to fetch
    sources.close()
    assert sources[25]["txt"] == b"text"


def test_a_mistake_in_a_part_names_the_part(config):
    with pytest.raises(UserError, match=r"data\.mixture\.two\.shards='none/\*\.tar': matches no"):
        open_sources(config(**mixed(one=A, two=MixtureConfig(shards="none/*.tar"))))
    with pytest.raises(UsageError, match=r"data\.mixture\.two\.shards is empty"):
        open_sources(config(**mixed(one=A, two=MixtureConfig())))


def order_of(data):
    sources = open_sources(data)
    return make_order(data, sources), sources


def test_one_source_is_shuffled_as_a_whole(config):
    order, sources = order_of(config(shuffle_seed=5))
    assert order.streams == (FullShuffle(24, 5, 1),)
    assert (order.lanes, order.weights, order.seed) == (1, (1.0,), 5)
    assert order_record(config(), order, sources) == {}
    assert order_of(config(lanes=4))[0].lanes == 1  # without windows there is nothing to divide


@pytest.mark.parametrize(
    ("fields", "lanes"),
    [
        ({"window_shards": 1}, 4),  # four windows of a shard
        ({"window_shards": 2}, 2),
        ({"window_shards": 3}, 1),
        ({"window_shards": 9}, 1),
        ({"window_shards": 1, "global_batch_size": 6}, 2),
        ({"window_shards": 1, "global_batch_size": 7}, 1),
        ({"window_shards": 1, "lanes": 8}, 8),
        ({"window_shards": 1, **mixed(one=A, two=B)}, 2),  # the smallest has two windows
        ({"window_shards": 0}, 1),
    ],
)
def test_lanes_divide_the_batch_and_leave_each_a_window(config, fields, lanes):
    data = config(**fields)
    order, sources = order_of(data)
    assert order.lanes == lanes
    windowed = bool(data.window_shards)
    assert all(isinstance(s, WindowedShuffle if windowed else FullShuffle) for s in order.streams)
    count = len(sources)
    if not data.mixture and not count % data.global_batch_size:
        steps = count // data.global_batch_size
        epoch = np.concatenate([order.examples(order.samples(step)) for step in range(steps)])
        assert sorted(epoch.tolist()) == list(range(count))


def test_windows_that_cannot_be(config):
    data = config(window_shards=2, **mixed(one=A, two=LIST))
    with pytest.raises(UsageError, match="window_shards=2: only sources of tar shards"):
        order_of(data)
    with pytest.raises(UsageError, match=r"data\.lanes=8: a windowed source has 4 samples"):
        order_of(config(window_shards=1, lanes=8, shards="b/*.tar"))
    sources = open_sources(config(**mixed(one=A, two=LIST)))
    assert [window_of(config(), part) for part in sources.parts.values()] == [0, 0]


def test_sources_of_a_mixture_have_orders_of_their_own(config):
    twice = mixed(one=A, two=MixtureConfig(shards="a/*.tar"), three=B)
    order, _ = order_of(config(shuffle_seed=3, **twice))
    seeds = [stream.seed for stream in order.streams]
    assert seeds[0] == 3
    assert len(set(seeds)) == 3
    assert order.weights == (3.0, 1.0, 1.0)
    drawn = MixtureConfig(shards="b/*.tar", replacement=True)
    order, _ = order_of(config(**mixed(one=A, two=drawn)))
    assert [type(stream) for stream in order.streams] == [FullShuffle, WithReplacement]


def test_whatever_changes_the_order_changes_its_record(config):
    drawn = MixtureConfig(shards="b/*.tar", replacement=True)
    records = []
    for fields in (
        {},
        {"window_shards": 1},
        {"window_shards": 2},
        {"window_shards": 1, "lanes": 1},
        mixed(one=A, two=B),
        mixed(one=A, two=drawn),
        mixed(one=B, two=A),
        {"window_shards": 1, **mixed(one=A, two=B)},
    ):
        data = config(**fields)
        records.append(order_record(data, *order_of(data)))
    assert records[0] == {}
    assert json.loads(json.dumps(records)) == records
    assert all(a != b for a, b in itertools.combinations(records, 2))


def test_the_forecast_is_what_the_run_sees(config):
    steps = 40
    drawn = MixtureConfig(shards="b/*.tar", weight=2.0, replacement=True)
    order, sources = order_of(config(**mixed(photos=A, bs=B, d=drawn)))
    lines = forecast(order, sources, steps)
    assert lines == [
        "photos  24 samples, 50.0 % of a batch, 6.67 epochs in 40 steps",
        "bs      4 samples, 16.7 % of a batch, 13.33 epochs in 40 steps",
        "d       4 samples, 33.3 % of a batch, each drawn 26.67 times on average in 40 steps",
    ]
    long = 512  # whole blocks of the mixture, in which the shares are met to one sample
    seen = np.concatenate([order.examples(order.samples(step)) for step in range(long)])
    found = np.bincount(np.searchsorted([24, 28, 32], seen, side="right"))
    for count, number, epochs in zip(found, (24, 4, 4), order.epochs(long), strict=True):
        assert count == pytest.approx(epochs * number, abs=1)


def test_the_forecast_of_one_source_has_no_name(config):
    order, sources = order_of(config())
    assert forecast(order, sources, 3) == ["24 samples, 1.00 epochs in 3 steps"]


@pytest.mark.parametrize(
    ("hosts", "cache_bytes", "told"),
    [
        (1, 10**9, []),
        (2, 10**9, []),
        (3, 10**9, ["data.lanes=4 is no multiple of 3 processes"]),
        (8, 10**9, ["data.lanes=4 is no multiple of 8 processes"]),
        (1, None, ["keeps 0 GB: parts are fetched again"]),
        (4, 4, ["keeps 0 GB: parts are fetched again"]),
        (1, 0, []),  # nothing is kept on the disk, as was asked for
    ],
)
def test_what_makes_shards_be_fetched_twice_is_told(config, monkeypatch, hosts, cache_bytes, told):
    """Four lanes of windows of one shard; None is one byte less than two windows of each lane."""
    data = config(window_shards=1)
    order, sources = order_of(data)
    assert read_ahead_warnings(data, sources, order.lanes, hosts) == []  # local: nothing is fetched
    monkeypatch.setattr(opening, "is_remote", lambda url: True)
    size = sources.parts[""].shard_size(0)
    kept = 4 * 2 * size - 1 if cache_bytes is None else cache_bytes
    remote = RemoteConfig(cache_bytes=kept, block_bytes=1)
    data = dataclasses.replace(data, remote=remote)
    found = read_ahead_warnings(data, sources, order.lanes, hosts)
    assert len(found) == len(told)
    assert all(part in line for part, line in zip(told, found, strict=True))
