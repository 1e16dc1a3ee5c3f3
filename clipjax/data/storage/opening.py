"""The storage that fits a list of URLs."""

import os
from collections.abc import Sequence
from pathlib import Path

from clipjax.config.data import RemoteConfig
from clipjax.config.errors import UserError
from clipjax.data.storage.block_storage import BlockStorage
from clipjax.data.storage.blocks import BlockCache
from clipjax.data.storage.interface import FileStat, Storage, check_url, is_remote
from clipjax.data.storage.local import LocalStorage
from clipjax.data.storage.remote import RemoteFiles, make_client


def open_storage(urls: Sequence[str], config: RemoteConfig) -> Storage:
    """Returns a storage that reads all of `urls`: paths, remote files, or both.

    Raises:
        UserError: for a URL that cannot be read, or where a package for remote files is missing.
    """
    for url in urls:
        check_url(url)
    if not any(map(is_remote, urls)):
        return LocalStorage()
    try:
        import google_crc32c  # noqa: F401
    except ImportError as error:
        raise UserError(
            "Remote files need a package that is not installed: pip install 'clipjax[remote]' "
            "(google-crc32c)."
        ) from error
    remote = RemoteFiles(make_client(config), config)
    directory = cache_directory(config) if config.cache_bytes else None
    cache = BlockCache(directory, config.cache_bytes)
    return MixedStorage(LocalStorage(), BlockStorage(remote, cache, config))


def cache_directory(config: RemoteConfig) -> Path:
    """Returns where blocks of remote files are kept."""
    if config.cache_dir:
        return Path(config.cache_dir).expanduser()
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(home) / "clipjax" / "blocks"


class MixedStorage:
    """Paths go to one storage, URLs to another."""

    def __init__(self, local: LocalStorage, remote: BlockStorage):
        self._local, self._remote = local, remote

    def stat(self, url: str) -> FileStat:
        """Looks at the file now; see `Storage.stat`."""
        return self._of(url).stat(url)

    def read(self, url: str, offset: int, length: int) -> bytes:
        """Returns exactly `length` bytes; see `Storage.read`."""
        return self._of(url).read(url, offset, length)

    def prefetch(self, url: str, offset: int, length: int) -> None:
        """Starts to fetch a range; see `Storage.prefetch`."""
        self._of(url).prefetch(url, offset, length)

    def forget(self, url: str, offset: int = 0, length: int | None = None) -> None:
        """Drops what is cached of a file; see `Storage.forget`."""
        self._of(url).forget(url, offset, length)

    def stats(self) -> dict[str, float]:
        """Returns the counts of `BlockStorage.stats`."""
        return self._remote.stats()

    def close(self) -> None:
        """Closes both."""
        self._local.close()
        self._remote.close()

    def _of(self, url: str) -> LocalStorage | BlockStorage:
        return self._remote if is_remote(url) else self._local
