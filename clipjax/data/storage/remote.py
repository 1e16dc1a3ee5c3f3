"""Requests for byte ranges of remote files, repeated with patience where that can help."""

import importlib.util
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Protocol, TypeVar, runtime_checkable

from clipjax.config.data import RemoteConfig
from clipjax.config.errors import UserError
from clipjax.data.storage.interface import FileStat, StorageError, shown

_FIRST_DELAY_SECONDS = 0.2
_MAX_DELAY_SECONDS = 30.0
_SAY_AFTER_SECONDS = 10.0
_SAY_EVERY_SECONDS = 60.0
_RETRIED_STATUS = (408, 425, 429)

_Result = TypeVar("_Result")


class TransientError(Exception):
    """A request that failed for a reason that may pass.

    Attributes:
        reason: a word or a status code; retries are counted by it.
    """

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(f"{reason} ({detail})" if detail else reason)
        self.reason = reason


@runtime_checkable
class Client(Protocol):
    """One request at a time: a library that talks to servers, made to speak our errors."""

    def stat(self, url: str) -> FileStat:
        """Asks which content a file has; raises TransientError or StorageError."""
        ...

    def get(self, url: str, start: int, end: int, stat: FileStat) -> bytes:
        """Returns the bytes of [start, end); raises TransientError or StorageError."""
        ...

    def list_files(self, url: str, recursive: bool) -> list[str]:
        """Returns the URLs below a folder; raises TransientError or StorageError."""
        ...

    def close(self) -> None:
        """Gives connections back."""
        ...


def make_client(config: RemoteConfig) -> Client:
    """Returns obstore's client, or fsspec's where obstore is not installed.

    Raises:
        UserError: if neither is installed.
    """
    if importlib.util.find_spec("obstore"):
        from clipjax.data.storage.obstore_client import ObstoreClient

        return ObstoreClient(config)
    if importlib.util.find_spec("fsspec"):
        from clipjax.data.storage.fsspec_client import FsspecClient

        return FsspecClient(config)
    raise UserError(
        "Remote files need a package that is not installed: pip install 'clipjax[remote]' "
        "(obstore; fsspec with s3fs, gcsfs or aiohttp is the fallback)."
    )


def failed_with(url: str, status: int) -> Exception:
    """Returns the error for an HTTP status: TransientError where another try may help."""
    if status in _RETRIED_STATUS or status >= 500:
        return TransientError(str(status), "the server is overloaded or out of order")
    advice = {
        400: "The server does not understand the request: check the URL, data.remote.endpoint and "
        "data.remote.region.",
        401: "Give credentials in the environment, or set data.remote.anonymous for public files.",
        403: "The credentials lack the right to read it or have expired; public buckets need "
        "data.remote.anonymous.",
        404: "Check the URL.",
        410: "The file has been taken away.",
    }.get(status, "Expected the content of a file: check the URL and data.remote.endpoint.")
    error = StorageError(f"{shown(url)}: the server answered {status}. {advice}")
    error.status = status
    return error


def whole_files_only(url: str) -> StorageError:
    """Returns the error for a server that does not know ranges."""
    return StorageError(
        f"{shown(url)}: the server sends whole files only (no range requests). Put the files "
        "on another server, or copy them to a disk and name them by path."
    )


class RemoteFiles:
    """What a `Client` does, within a budget of time and a number of requests at once.

    Overload (408, 425, 429, 5xx), lost connections, silence and truncated answers are asked again,
    after a random delay below an exponentially growing bound; a mistake (400, 401, 403, 404) is
    told at once.

    Source: "full jitter" of Brooker 2015, "Exponential Backoff And Jitter".
    """

    def __init__(self, client: Client, config: RemoteConfig):
        self._client = client
        self._retry_seconds = config.retry_seconds
        self._slots = threading.BoundedSemaphore(config.concurrency)
        self._random = random.SystemRandom()
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._seconds = 0.0
        self._silent_until = 0.0

    def stat(self, url: str) -> FileStat:
        """Asks which content a file has.

        Raises:
            StorageError: if that cannot be found out.
        """
        return self._insist(url, lambda: self._client.stat(url))

    def fetch(self, url: str, start: int, end: int, stat: FileStat) -> bytes:
        """Returns the bytes of [start, end) of the version `stat`, trying again within the budget.

        Raises:
            StorageError: if they cannot be had.
        """
        return self._insist(url, lambda: self._get(url, start, end, stat))

    def fetch_once(self, url: str, start: int, end: int, stat: FileStat) -> bytes:
        """Does what `fetch` does with a single request.

        Raises:
            TransientError: if another try may help.
            StorageError: if it cannot.
        """
        return self._ask(lambda: self._get(url, start, end, stat))

    def list_files(self, url: str, *, recursive: bool) -> list[str]:
        """Returns the URLs of the files below a folder of a bucket.

        Raises:
            StorageError: if they cannot be listed.
        """
        return self._insist(url, lambda: self._client.list_files(url, recursive))

    def stats(self) -> dict[str, float]:
        """Returns what was asked so far: requests, bytes, seconds, and retries by reason."""
        with self._lock:
            return {"seconds": self._seconds, "requests": 0, "bytes": 0, **self._counts}

    def close(self) -> None:
        """Ends waiting for another try, and gives connections back."""
        self._closed.set()
        self._client.close()

    def _get(self, url: str, start: int, end: int, stat: FileStat) -> bytes:
        data = self._client.get(url, start, end, stat)
        with self._lock:
            self._counts["bytes"] += len(data)
        if len(data) > end - start:
            raise whole_files_only(url)
        if len(data) < end - start:
            raise TransientError("truncated", f"{len(data):,} of {end - start:,} bytes came")
        return data

    def _ask(self, request: Callable[[], _Result]) -> _Result:
        with self._slots:
            if self._closed.is_set():
                raise StorageError("The storage of remote files is closed.")
            started = time.monotonic()
            try:
                return request()
            finally:
                with self._lock:
                    self._counts["requests"] += 1
                    self._seconds += time.monotonic() - started

    def _insist(self, url: str, request: Callable[[], _Result]) -> _Result:
        started = time.monotonic()
        attempts = 0
        while True:
            try:
                return self._ask(request)
            except TransientError as error:
                bound = min(_MAX_DELAY_SECONDS, _FIRST_DELAY_SECONDS * 2 ** min(attempts, 16))
                delay = self._random.uniform(0, bound)
                attempts += 1
                passed = time.monotonic() - started
                if passed + delay > self._retry_seconds:
                    raise StorageError(
                        f"{shown(url)}: no answer that can be used after {attempts} requests in "
                        f"{passed:.0f} s; the last one: {error}. Check the server and the network; "
                        "data.remote.retry_seconds says how long to try."
                    ) from error
                self._note(url, error, passed)
                self._closed.wait(delay)

    def _note(self, url: str, error: TransientError, passed: float) -> None:
        """Counts another try, and says now and then that a read is waiting for long."""
        now = time.monotonic()
        with self._lock:
            self._counts[f"retries/{error.reason}"] += 1
            if passed < _SAY_AFTER_SECONDS or now < self._silent_until:
                return
            self._silent_until = now + _SAY_EVERY_SECONDS
        print(
            f"warning: {shown(url)}: no answer that can be used for {passed:.0f} s ({error}); "
            f"trying for {self._retry_seconds:.0f} s.",
            file=sys.stderr,
            flush=True,
        )
