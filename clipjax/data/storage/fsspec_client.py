"""Requests through fsspec, where obstore is not installed."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from clipjax.config.data import RemoteConfig
from clipjax.config.errors import UserError
from clipjax.data.storage.interface import FileStat, StorageError, scheme_of, shown
from clipjax.data.storage.remote import TransientError, failed_with

_PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "http": "aiohttp", "https": "aiohttp"}

_Result = TypeVar("_Result")


class FsspecClient:
    """The same files as `ObstoreClient`, read with s3fs, gcsfs or aiohttp.

    A file that changes while it is read is not noticed here: fsspec hides the ETag of an answer.
    """

    def __init__(self, config: RemoteConfig):
        self._config = config
        self._systems: dict[str, Any] = {}
        self._lock = threading.Lock()

    def stat(self, url: str) -> FileStat:
        """Asks which content a file has."""
        info = self._ask(url, lambda system: system.info(url))
        if info.get("size") is None:
            raise StorageError(
                f"{shown(url)}: the server does not tell the size of the file. Put it on another "
                "server, or copy it to a disk and name it by path."
            )
        version = info.get("ETag") or info.get("etag") or info.get("LastModified") or ""
        return FileStat(int(info["size"]), str(version))

    def get(self, url: str, start: int, end: int, stat: FileStat) -> bytes:  # noqa: ARG002
        """Returns the bytes of [start, end)."""
        data = self._ask(url, lambda system: system.cat_file(url, start=start, end=end))
        return bytes(data)

    def list_files(self, url: str, recursive: bool) -> list[str]:
        """Returns the URLs below a folder of a bucket."""
        if recursive:
            names = self._ask(url, lambda system: system.find(url))
        else:
            entries = self._ask(url, lambda system: system.ls(url, detail=True))
            names = [entry["name"] for entry in entries if entry.get("type") == "file"]
        return [f"{scheme_of(url)}://{name.partition('://')[2] or name}" for name in names]

    def close(self) -> None:
        """Drops the connections."""
        with self._lock:
            self._systems.clear()

    def _ask(self, url: str, request: Callable[[Any], _Result]) -> _Result:
        try:
            return request(self._system(scheme_of(url)))
        except (StorageError, UserError):
            raise
        except Exception as error:
            raise _told(url, error) from None  # its text may hold credentials

    def _system(self, scheme: str) -> Any:
        import fsspec

        with self._lock:
            if scheme not in self._systems:
                try:
                    options = self._options(scheme)
                    self._systems[scheme] = fsspec.filesystem(scheme, **options)
                except ImportError as error:
                    raise UserError(
                        f"{scheme}:// needs a package that is not installed: pip install "
                        f"'clipjax[remote]' (or fsspec with {_PACKAGES[scheme]})."
                    ) from error
            return self._systems[scheme]

    def _options(self, scheme: str) -> dict[str, Any]:
        config = self._config
        seconds = config.request_timeout_seconds
        options: dict[str, Any] = {"use_listings_cache": False, "skip_instance_cache": True}
        if scheme == "s3":
            options |= {
                "anon": config.anonymous,
                "config_kwargs": {
                    "connect_timeout": seconds,
                    "read_timeout": seconds,
                    "retries": {"total_max_attempts": 1},
                },
            }
            if config.endpoint:
                options["endpoint_url"] = config.endpoint
            if config.region:
                options["client_kwargs"] = {"region_name": config.region}
        elif scheme == "gs":
            options |= {"token": "anon" if config.anonymous else None, "timeout": seconds}
        else:
            import aiohttp

            options["client_kwargs"] = {"timeout": aiohttp.ClientTimeout(total=seconds)}
        return options


def _told(url: str, error: BaseException) -> Exception:
    """Returns our error for one of fsspec or of the libraries below it."""
    status = 0 if "Payload" in type(error).__name__ else _status(error)  # it says 400 when cut
    if isinstance(error, FileNotFoundError):
        return failed_with(url, 404)
    if status:
        return failed_with(url, status)
    if isinstance(error, PermissionError):
        return failed_with(url, 403)
    if isinstance(error, TimeoutError | asyncio.TimeoutError) or "Timeout" in type(error).__name__:
        return TransientError("timeout", "no whole answer within request_timeout_seconds")
    if "Credentials" in type(error).__name__:
        return StorageError(
            f"{shown(url)}: no credentials were found. Give them in the environment, or set "
            "data.remote.anonymous for public files."
        )
    if isinstance(error, OSError) or type(error).__module__.startswith(("aiohttp", "botocore")):
        return TransientError("connection", type(error).__name__)
    return StorageError(
        f"{shown(url)}: the request failed ({type(error).__name__}). Check the URL and "
        "data.remote.endpoint."
    )


def _status(error: BaseException | None) -> int:
    """Returns the HTTP status that an error or its causes carry, or 0."""
    while error is not None:
        for name in ("status", "status_code", "code"):
            found = getattr(error, name, None)
            if isinstance(found, int) and found >= 300:
                return found
        response = getattr(error, "response", None)
        if isinstance(response, dict):  # botocore's ClientError
            return int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        error = error.__cause__
    return 0
