"""Requests through obstore, with its errors told apart."""

import base64
import datetime
import os
import re
import threading
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from clipjax.config.data import RemoteConfig
from clipjax.data.storage.interface import (
    ChangedError,
    FileStat,
    StorageError,
    bucket_and_key,
    scheme_of,
    shown,
)
from clipjax.data.storage.remote import TransientError, failed_with, whole_files_only

_CONNECT_SECONDS = 10.0
_STATUS = re.compile(r"status code: (\d{3})")
_HTTP_KIND = re.compile(r"HttpError \{\s*kind: (\w+)")
_NO_CREDENTIALS = re.compile(r"169\.254\.169\.254|metadata\.google|TokenRequest|NoCredentials")


class _NoCredentialsError(StorageError):
    pass


class ObstoreClient:
    """S3, Google Cloud Storage and plain web servers; obstore's own retries are off.

    Credentials come from the environment, from AWS's shared files where boto3 is installed, or
    from the machine's role. Nothing of them, and no text of a server, enters a message.
    """

    def __init__(self, config: RemoteConfig):
        self._config = config
        self._stores: dict[tuple[str, ...], Any] = {}
        self._lock = threading.Lock()
        self._has_answered = False

    def stat(self, url: str) -> FileStat:
        """Asks which content a file has."""
        import obstore

        store, path = self._place(url)
        try:
            if scheme_of(url) in ("s3", "gs"):
                return _file_stat(obstore.head(store, path))
            # Signed URLs and some servers answer GET only.
            return _file_stat(obstore.get(store, path, options={"range": (0, 1)}).meta)
        except Exception as error:
            status = _STATUS.search(str(error))
            if status and status[1] == "416":
                return self._stat_empty(url)
            raise self._told(url, error) from None  # its text may hold credentials

    def get(self, url: str, start: int, end: int, stat: FileStat) -> bytes:
        """Returns the bytes of [start, end) of the version `stat`."""
        import obstore

        store, path = self._place(url)
        options: dict[str, Any] = {"range": (start, end)}
        if stat.version.startswith('"'):  # a weak ETag, W/"...", never matches
            options["if_match"] = stat.version
        try:
            result = obstore.get(store, path, options=options)  # pyright: ignore[reportArgumentType]
            found = _file_stat(result.meta)
            if found.size != stat.size or _strong(found.version) != _strong(stat.version):
                raise _changed(url)
            data = result.bytes().to_bytes()
            self._has_answered = True
            return data
        except StorageError:
            raise
        except Exception as error:
            raise self._told(url, error) from None

    def list_files(self, url: str, recursive: bool) -> list[str]:
        """Returns the URLs below a folder of a bucket."""
        import obstore

        bucket, prefix = bucket_and_key(url)
        store, _ = self._place(url)
        try:
            if recursive:
                metas = [meta for chunk in obstore.list(store, prefix or None) for meta in chunk]
            else:
                metas = obstore.list_with_delimiter(store, prefix or None)["objects"]
        except Exception as error:
            raise self._told(url, error) from None
        return [f"{scheme_of(url)}://{bucket}/{meta['path']}" for meta in metas]

    def close(self) -> None:
        """Drops the stores, and with them their connections."""
        with self._lock:
            self._stores.clear()

    def _told(self, url: str, error: Exception) -> Exception:
        told = _told(url, error)
        if isinstance(told, _NoCredentialsError) and self._has_answered:
            # There were some: the machine that renews them is out of order for the moment.
            return TransientError("credentials", "cannot be renewed")
        return told

    def _stat_empty(self, url: str) -> FileStat:
        import obstore

        store, path = self._place(url)
        try:
            return _file_stat(obstore.head(store, path))
        except Exception as error:
            raise self._told(url, error) from None

    def _place(self, url: str) -> tuple[Any, str]:
        """Returns the store of a URL and the path in it."""
        try:
            if scheme_of(url) in ("s3", "gs"):
                bucket, path = bucket_and_key(url)
                key = (scheme_of(url), bucket)
            else:
                parts = urlsplit(url)
                path = unquote(parts.path.lstrip("/"))
                key = (scheme_of(url), parts.netloc, parts.query)
            with self._lock:
                if key not in self._stores:
                    self._stores[key] = self._make_store(*key)
                return self._stores[key], path
        except Exception as error:
            raise StorageError(
                f"{shown(url)}: cannot be used as a place of files ({type(error).__name__}). Check "
                "the URL, data.remote.endpoint, data.remote.region and the file of credentials."
            ) from None

    def _make_store(self, scheme: str, place: str, query: str = "") -> Any:
        from obstore.store import GCSStore, HTTPStore, S3Store

        timeout = self._config.request_timeout_seconds
        client: dict[str, Any] = {
            "timeout": datetime.timedelta(seconds=timeout),
            "connect_timeout": datetime.timedelta(seconds=min(timeout, _CONNECT_SECONDS)),
            "allow_http": True,
        }
        options: Any = {"client_options": client, "retry_config": {"max_retries": 0}}
        if scheme == "gs":
            if self._config.anonymous:
                options["skip_signature"] = True
            return GCSStore(place, **options)
        if scheme == "s3":
            if self._config.endpoint:
                options["endpoint"] = self._config.endpoint
            if self._config.region:
                options["region"] = self._config.region
            if self._config.anonymous:
                options["skip_signature"] = True
            else:
                options["credential_provider"] = _shared_aws_credentials()
            return S3Store(place, **options)
        user, at, host = place.rpartition("@")
        if at:
            token = base64.b64encode(unquote(user).encode()).decode()
            client["default_headers"] = {"authorization": f"Basic {token}"}
        return HTTPStore(f"{scheme}://{host}/{'?' + query if query else ''}", **options)


def _shared_aws_credentials() -> Any:
    """Returns a provider for ~/.aws/credentials and profiles, which obstore does not read."""
    files = os.environ.get("AWS_SHARED_CREDENTIALS_FILE"), os.environ.get("AWS_PROFILE")
    shared = any(files) or (Path.home() / ".aws").is_dir()
    if "AWS_ACCESS_KEY_ID" in os.environ or not shared:
        return None
    try:
        from obstore.auth.boto3 import Boto3CredentialProvider

        return Boto3CredentialProvider()
    except Exception:  # without boto3, or with nothing of use in the files
        return None


def _file_stat(meta: Any) -> FileStat:
    modified = meta["last_modified"]
    date = modified.isoformat() if modified.timestamp() else ""  # the epoch: the server tells none
    return FileStat(meta["size"], meta["e_tag"] or date)


def _strong(version: str) -> str:
    return version.removeprefix("W/")


def _changed(url: str) -> ChangedError:
    return ChangedError(
        f"{shown(url)}: changed since it was first read (its size, ETag or date is another one). "
        "Bring the file back or start again: the run goes on from its last checkpoint with a new "
        "index."
    )


def _told(url: str, error: Exception) -> Exception:
    """Returns our error for one of obstore, which tells the status in its text only."""
    from obstore.exceptions import NotSupportedError, PreconditionError

    text = str(error)
    found = _STATUS.search(text)
    status = int(found[1]) if found else 0
    if _NO_CREDENTIALS.search(text) and status < 500 and status != 429:
        return _NoCredentialsError(
            f"{shown(url)}: no credentials were found. Give them in the environment "
            "(AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or GOOGLE_APPLICATION_CREDENTIALS), or "
            "set data.remote.anonymous for public files."
        )
    if isinstance(error, PreconditionError) or status == 416:
        return _changed(url)
    if isinstance(error, FileNotFoundError):
        return failed_with(url, 404)
    if status:
        return failed_with(url, status)
    if isinstance(error, NotSupportedError):
        return whole_files_only(url)
    kind = _HTTP_KIND.search(text)
    if kind and kind[1] == "Timeout":
        return TransientError("timeout", "no whole answer within request_timeout_seconds")
    if kind:
        return TransientError("connection", "refused, reset, or its host not found")
    if "redirect" in text.lower():
        return StorageError(
            f"{shown(url)}: the server sends elsewhere without saying where, as S3 does for a "
            "wrong region. Set data.remote.region."
        )
    return StorageError(
        f"{shown(url)}: the request failed ({type(error).__name__}). Check the URL and "
        "data.remote.endpoint."
    )
