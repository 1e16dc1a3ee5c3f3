"""Byte ranges of files, wherever they are: on this machine, in a bucket, on a web server."""

from clipjax.data.storage.interface import (
    ChangedError,
    FileStat,
    Storage,
    StorageError,
    check_url,
    is_remote,
    shown,
)
from clipjax.data.storage.listing import expand_shards, list_urls
from clipjax.data.storage.opening import open_storage

__all__ = [
    "ChangedError",
    "FileStat",
    "Storage",
    "StorageError",
    "check_url",
    "expand_shards",
    "is_remote",
    "list_urls",
    "open_storage",
    "shown",
]
