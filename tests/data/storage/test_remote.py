import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipjax.config import UserError
from clipjax.config.data import RemoteConfig
from clipjax.data.storage import FileStat, StorageError
from clipjax.data.storage import remote as remote_module
from clipjax.data.storage.remote import RemoteFiles, TransientError, failed_with, make_client

URL = "https://me:hush@host/0.tar?key=hush"
STAT = FileStat(100, "v")


class Scripted:
    """A client that does what a list says, and then answers."""

    def __init__(self, *script):
        self.script = list(script)
        self.calls = 0
        self.now = self.most = 0
        self.lock = threading.Lock()

    def _next(self, answer):
        with self.lock:
            self.calls += 1
            self.now += 1
            self.most = max(self.most, self.now)
            step = self.script.pop(0) if self.script else None
        try:
            if isinstance(step, Exception):
                raise step
            if isinstance(step, float):
                time.sleep(step)
            return step if isinstance(step, bytes) else answer
        finally:
            with self.lock:
                self.now -= 1

    def stat(self, url):
        return self._next(STAT)

    def get(self, url, start, end, stat):
        return self._next(bytes(range(start, end)))

    def list_files(self, url, recursive):
        return self._next([url])

    def close(self):
        pass


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(remote_module, "_FIRST_DELAY_SECONDS", 0.001)
    monkeypatch.setattr(remote_module, "_MAX_DELAY_SECONDS", 0.005)


def files(client, **fields):
    return RemoteFiles(client, RemoteConfig(**fields))


@settings(deadline=None, max_examples=20)
@given(st.lists(st.sampled_from(["503", "connection", "timeout", "cut"]), max_size=6))
def test_what_may_pass_is_asked_again_and_counted(reasons):
    client = Scripted(*[b"123" if r == "cut" else TransientError(r) for r in reasons])
    remote = files(client)
    assert remote.fetch(URL, 10, 20, STAT) == bytes(range(10, 20))
    stats = remote.stats()
    assert stats["requests"] == client.calls == len(reasons) + 1
    assert stats["bytes"] == 10 + 3 * reasons.count("cut")
    for reason in set(reasons):
        name = "retries/truncated" if reason == "cut" else f"retries/{reason}"
        assert stats[name] == reasons.count(reason)


@pytest.mark.parametrize("method", ["stat", "fetch", "list_files"])
def test_a_mistake_is_asked_once(method):
    client = Scripted(StorageError("no"))
    arguments = {"stat": (), "fetch": (0, 5, STAT), "list_files": ()}[method]
    keywords = {"recursive": False} if method == "list_files" else {}
    with pytest.raises(StorageError, match=r"^no$"):
        getattr(files(client), method)(URL, *arguments, **keywords)
    assert client.calls == 1


@pytest.mark.parametrize("seconds", [0.0, 0.2])
def test_the_budget_ends_the_trying(seconds):
    client = Scripted(*[TransientError("503", "overloaded")] * 10_000)
    started = time.monotonic()
    with pytest.raises(StorageError) as caught:
        files(client, retry_seconds=seconds).fetch(URL, 0, 5, STAT)
    assert time.monotonic() - started < seconds + 0.5
    text = str(caught.value)
    assert "https://host/0.tar?...: no answer that can be used after" in text
    assert "503 (overloaded)" in text
    assert "data.remote.retry_seconds" in text
    assert "hush" not in text
    assert (client.calls == 1) is (seconds == 0)


def test_one_try_is_one_try():
    client = Scripted(TransientError("503"), b"short")
    remote = files(client)
    with pytest.raises(TransientError):
        remote.fetch_once(URL, 0, 10, STAT)
    with pytest.raises(TransientError, match="truncated"):
        remote.fetch_once(URL, 0, 10, STAT)
    assert client.calls == 2


def test_more_bytes_than_asked_for_are_no_answer():
    client = Scripted(bytes(100))
    with pytest.raises(StorageError, match="whole files only"):
        files(client).fetch(URL, 0, 10, STAT)


def test_delays_are_random_below_a_bound_that_doubles(monkeypatch):
    monkeypatch.setattr(remote_module, "_FIRST_DELAY_SECONDS", 1.0)
    monkeypatch.setattr(remote_module, "_MAX_DELAY_SECONDS", 8.0)
    remote = files(Scripted(*[TransientError("503")] * 6))
    bounds = []

    class Spy:
        def uniform(self, low, high):
            bounds.append((low, high))
            return 0.0

    monkeypatch.setattr(remote, "_random", Spy())
    remote.fetch(URL, 0, 5, STAT)
    assert bounds == [(0, 1), (0, 2), (0, 4), (0, 8), (0, 8), (0, 8)]


def test_waiting_seeds_nothing_and_draws_from_no_shared_stream():
    import random

    random.seed(5)
    state = random.getstate()
    files(Scripted(TransientError("503"))).fetch(URL, 0, 5, STAT)
    assert random.getstate() == state


def test_a_number_of_requests_at_once_and_no_slot_while_waiting(monkeypatch):
    client = Scripted(*[0.05] * 12)
    remote = files(client, concurrency=3)
    threads = [threading.Thread(target=remote.stat, args=(URL,)) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert client.most == 3

    monkeypatch.setattr(remote_module, "_FIRST_DELAY_SECONDS", 100.0)
    monkeypatch.setattr(remote_module, "_MAX_DELAY_SECONDS", 100.0)
    remote = files(Scripted(TransientError("503")), concurrency=1)

    def wait():
        with pytest.raises(StorageError, match="closed"):
            remote.stat(URL)

    waiting = threading.Thread(target=wait)
    waiting.start()
    while "retries/503" not in remote.stats():
        time.sleep(0.01)
    assert remote.fetch(URL, 0, 5, STAT) == bytes(range(5))  # the one slot is free
    remote.close()
    waiting.join(5)
    assert not waiting.is_alive()  # closing ends the waiting


def test_a_closed_one_asks_nothing():
    client = Scripted()
    remote = files(client)
    remote.close()
    with pytest.raises(StorageError, match="closed"):
        remote.stat(URL)
    assert client.calls == 0


def test_a_read_that_waits_for_long_says_so_once(monkeypatch, capsys):
    monkeypatch.setattr(remote_module, "_SAY_AFTER_SECONDS", 0.0)
    files(Scripted(*[TransientError("503")] * 5)).fetch(URL, 0, 5, STAT)
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert told.startswith("warning: https://host/0.tar?...: no answer")
    assert "hush" not in told


@pytest.mark.parametrize("status", range(300, 600))
def test_every_status_is_one_or_the_other(status):
    error = failed_with(URL, status)
    passes = status in (408, 425, 429) or status >= 500
    assert isinstance(error, TransientError if passes else StorageError)
    assert "hush" not in str(error)


def test_without_any_client_the_package_is_named(monkeypatch):
    monkeypatch.setattr(remote_module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'clipjax\[remote\]'"):
        make_client(RemoteConfig())


def test_fsspec_stands_in_for_obstore(monkeypatch):
    monkeypatch.setattr(remote_module.importlib.util, "find_spec", lambda name: name == "fsspec")
    assert type(make_client(RemoteConfig())).__name__ == "FsspecClient"
