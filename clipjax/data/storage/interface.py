"""What a storage promises, and which URLs there are."""

import re
from typing import NamedTuple, Protocol, runtime_checkable

from clipjax.config.errors import UserError

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_PIPE = re.compile(r"pipe:", re.IGNORECASE)
_REMOTE = ("http", "https", "s3", "gs")


class StorageError(UserError):
    """A file or a part of it that cannot be had.

    Attributes:
        status: what HTTP calls the reason, where a server gave one.
    """

    status: int | None = None


class ChangedError(StorageError):
    """A file that is no longer the one that was looked at first."""


class FileStat(NamedTuple):
    """Which content a file has.

    Attributes:
        size: bytes.
        version: another one for another content. Of a local file the modification time in
            nanoseconds; of a remote one its ETag, else its date, or "" where the server tells
            neither.
    """

    size: int
    version: str


@runtime_checkable
class Storage(Protocol):
    """Files that are read by byte ranges. Threads may share one."""

    def stat(self, url: str) -> FileStat:
        """Looks at the file now; later reads give the content of this version or fail.

        Raises:
            StorageError: if there is no such file or it cannot be reached.
        """
        ...

    def read(self, url: str, offset: int, length: int) -> bytes:
        """Returns exactly `length` bytes.

        Raises:
            StorageError: if they cannot be had.
        """
        ...

    def prefetch(self, url: str, offset: int, length: int) -> None:
        """Starts to fetch a range that will be read, and returns at once; it never raises."""
        ...

    def forget(self, url: str, offset: int = 0, length: int | None = None) -> None:
        """Drops what is cached of a range, of all of a file by default; the next read asks anew."""
        ...

    def close(self) -> None:
        """Gives back handles and threads."""
        ...


def is_remote(url: str) -> bool:
    """Returns whether a URL names a file that is reached over the network.

    >>> is_remote("s3://bucket/00000.tar"), is_remote("/data/00000.tar")
    (True, False)
    """
    found = _SCHEME.match(url)
    return found is not None and found[1].lower() in _REMOTE


def check_url(url: str, field: str = "data.shards") -> None:
    """Raises unless `url` is a path of this machine or has a scheme that can be read.

    Args:
        url: a URL, a path, or a pattern of them.
        field: where it comes from, for the message.

    Raises:
        UserError: for `pipe:`, which would run a shell command, and for any unknown scheme.
    """
    if _PIPE.match(url):
        raise UserError(
            f"{field}={url!r}: `pipe:` would run a shell command, which reading data never does. "
            "Name the file itself: a path, or s3://, gs://, http:// or https://."
        )
    found = _SCHEME.match(url)
    if found and found[1].lower() not in _REMOTE:
        raise UserError(
            f"{field}={url!r}: the scheme {found[1]}:// is not known. Name a path, or a URL with "
            "s3://, gs://, http:// or https://."
        )
    if found and found[1].lower() in ("s3", "gs") and "@" in url[found.end() :].partition("/")[0]:
        raise UserError(
            f"{field}={shown(url)!r}: a bucket name has no @. Give credentials in the environment "
            "(AWS_ACCESS_KEY_ID, GOOGLE_APPLICATION_CREDENTIALS, ...), never in a URL."
        )


def shown(url: str) -> str:
    """Returns a URL as messages may show it: without user, password and query.

    >>> shown("https://me:secret@host/a.tar?signature=123")
    'https://host/a.tar?...'
    """
    if not is_remote(url):
        return url
    start = _SCHEME.match(url)
    assert start is not None
    place, query, _ = url[start.end() :].partition("?")
    host, slash, path = place.partition("/")
    return f"{start[0]}{host.rpartition('@')[2]}{slash}{path}{'?...' if query else ''}"


def bucket_and_key(url: str) -> tuple[str, str]:
    """Splits an s3:// or gs:// URL; a key is taken as it stands, it has no query.

    >>> bucket_and_key("s3://bucket/a/b?.tar")
    ('bucket', 'a/b?.tar')
    """
    bucket, _, key = url.partition("://")[2].partition("/")
    return bucket, key


def scheme_of(url: str) -> str:
    """Returns the scheme of a remote URL in small letters."""
    return url.partition("://")[0].lower()
