"""A file server on the loopback interface that misbehaves when it is told to."""

import contextlib
import dataclasses
import hashlib
import re
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest

from clipjax.config.data import RemoteConfig
from clipjax.data import tar_index


@dataclasses.dataclass
class Request:
    """One request as the server saw it; `start` and `end` are None without a range."""

    method: str
    path: str
    start: int | None
    end: int | None
    headers: dict

    @property
    def size(self):
        return self.end - self.start


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self._serve(body=False)

    def do_GET(self):
        self._serve(body=True)

    def _serve(self, body):
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        path = unquote(urlsplit(self.path).path)
        content = self.server.faults.files.get(path, b"")
        start = int(found[1]) if found else None
        end = min(int(found[2]) + 1, len(content)) if found and found[2] else len(content)
        request = Request(
            self.command, self.path, start, end if found else None, dict(self.headers)
        )
        number = self.server.faults.count(request)
        with contextlib.suppress(OSError):
            self._answer(self.server.faults.fault(number, request), path, content, request, body)

    def _answer(self, fault, path, content, request, body):
        if fault == "slow":
            with self.server.faults.held_up():
                time.sleep(0.1)
        if fault == "reset":
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.close_connection = True
            self.connection.close()
            return
        if isinstance(fault, int) or path not in self.server.faults.files:
            self._plain(fault if isinstance(fault, int) else 404)
            return
        match = request.headers.get("If-Match") or request.headers.get("if-match")
        if match not in (None, self.server.faults.etag(path)):
            self._plain(412)
            return
        ranged = request.start is not None and fault != "whole"
        if ranged and request.start >= len(content):
            self._plain(416)
            return
        first, stop = (request.start, request.end) if ranged else (0, len(content))
        self.send_response(206 if ranged else 200)
        self.send_header("Content-Length", str(stop - first))
        self.send_header("Accept-Ranges", "bytes")
        if fault != "bare":
            self.send_header(
                "ETag", ("W/" if fault == "weak" else "") + self.server.faults.etag(path)
            )
            self.send_header("Last-Modified", "Tue, 15 Nov 1994 12:45:26 GMT")
        if ranged:
            self.send_header(
                "Content-Range", f"bytes {request.start}-{request.end - 1}/{len(content)}"
            )
        self.end_headers()
        if body:
            self._send(content[first:stop], fault)

    def _send(self, part, fault):
        if fault == "flip" and part:
            part = bytes([part[0] ^ 1]) + part[1:]
        if fault == "rot" and part:
            at = len(part) // 2
            part = part[:at] + bytes([part[at] ^ 1]) + part[at + 1 :]
        if fault in ("cut", "stall"):
            self.wfile.write(part[: len(part) // 2])
            self.wfile.flush()
            if fault == "stall":
                self.server.faults.stop_stalling.wait(20)
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        self.wfile.write(part)

    def _plain(self, status):
        text = b"<secret>the server's page</secret>"
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)


class FaultServer:
    """Serves `files` with ranges and ETags; `fault(number, request)` names what goes wrong.

    A fault is None or one of: a status code, "reset" (no answer), "cut" (half of the body),
    "stall" (some bytes and then silence), "flip" (one bit of the first byte), "rot" (one bit in the
    middle), "whole" (no ranges), "weak" (an ETag that is weak), "bare" (neither ETag nor date),
    "slow" (answers late).
    """

    def __init__(self):
        self.files = {}
        self.fault = lambda number, request: None
        self.requests = []
        self.most_at_once = 0
        self._now = 0
        self._lock = threading.Lock()
        self.stop_stalling = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.faults = self
        self._server.daemon_threads = True
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}
        )
        self._thread.start()
        self.root = f"http://127.0.0.1:{self._server.server_port}"

    def add(self, name, content):
        """Puts a file there; returns its URL."""
        self.files[f"/{name}"] = content
        return f"{self.root}/{name}"

    def data_requests(self):
        """Returns the requests for content, without those that ask only what is there."""
        return [r for r in self.requests if r.method == "GET" and (r.start, r.end) != (0, 1)]

    def etag(self, path):
        content = self.files[path]
        return f'"{getattr(content, "etag", None) or hashlib.md5(content).hexdigest()}"'

    def close(self):
        self.stop_stalling.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def count(self, request):
        """Returns the number of a request."""
        with self._lock:
            self.requests.append(request)
            return len(self.requests) - 1

    @contextlib.contextmanager
    def held_up(self):
        """Counts who is here at once, and lets everybody go before the answer does."""
        with self._lock:
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
        try:
            yield
        finally:
            with self._lock:
                self._now -= 1


@pytest.fixture(scope="session")
def make_server():
    """A function that starts a `FaultServer` without files; all are closed at the end."""
    servers = []

    def make():
        servers.append(FaultServer())
        return servers[-1]

    yield make
    for one in servers:
        one.close()


@pytest.fixture
def server():
    """A `FaultServer` without files."""
    faults = FaultServer()
    yield faults
    faults.close()


class VersionedBytes(bytes):
    """A content whose ETag says nothing about it, as when a server's disk is damaged."""

    etag = "one"


@pytest.fixture(scope="session")
def versioned():
    """The class `VersionedBytes`."""
    return VersionedBytes


@pytest.fixture(scope="session")
def content():
    """300,000 bytes without a pattern."""
    return np.random.default_rng(1).integers(0, 256, 300_000).astype(np.uint8).tobytes()


@pytest.fixture
def remote_config(tmp_path):
    """A function that makes a `RemoteConfig` with small blocks, short times and its own cache."""

    def make(**fields):
        defaults = {
            "request_timeout_seconds": 5.0,
            "retry_seconds": 20.0,
            "block_bytes": 1 << 14,
            "cache_dir": str(tmp_path / "cache"),
            "cache_bytes": 1 << 30,
        }
        return RemoteConfig(**{**defaults, **fields})

    return make


@pytest.fixture(scope="session")
def s3_server():
    """The URL of moto's S3 server in a process of its own."""
    pytest.importorskip("moto.server")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1"]
    process = subprocess.Popen(
        [*command, "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        for _ in range(300):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            assert process.poll() is None, "moto's server ended"
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


@pytest.fixture
def bucket(s3_server, monkeypatch, content):
    """(endpoint, put): the bucket `shards` with keys in the environment; put(key, bytes)."""
    import obstore
    from obstore.store import S3Store

    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_CA_BUNDLE", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "someone")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush-hush")
    urllib.request.urlopen(
        urllib.request.Request(f"{s3_server}/moto-api/reset", method="POST")
    ).close()
    urllib.request.urlopen(urllib.request.Request(f"{s3_server}/shards", method="PUT")).close()
    store = S3Store(
        "shards", endpoint=s3_server, region="us-east-1", client_options={"allow_http": True}
    )

    def put(key, data):
        obstore.put(store, key, data)
        return f"s3://shards/{key}"

    return s3_server, put


@pytest.fixture
def builds(monkeypatch):
    """The shards that were indexed anew."""
    built, build = [], tar_index.build_index

    def counted(path, *arguments, **options):
        built.append(path)
        return build(path, *arguments, **options)

    monkeypatch.setattr(tar_index, "build_index", counted)
    return built
