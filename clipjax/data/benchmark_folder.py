"""The layout in which CLIP_benchmark and DataComp publish data sets: shards with small text files.

    FOLDER/classnames.txt                            one class a line, line i for the label i
    FOLDER/zeroshot_classification_templates.txt     one prompt a line, {c} for the class
    FOLDER/dataset_type.txt                          classification (default), multilabel, retrieval
    FOLDER/test/nshards.txt, test/0.tar, test/1.tar  and the same for train

A folder may lie on this machine, on a web server, or be a data set of the Hugging Face Hub, whose
address CLIP_benchmark writes https://huggingface.co/datasets/USER/NAME/tree/BRANCH.
"""

import dataclasses
import os
import re
from collections.abc import Sequence

from clipjax.config import RemoteConfig
from clipjax.config.errors import UserError
from clipjax.data.sources.tar_shards import TarShards
from clipjax.data.storage import StorageError, is_remote, open_storage

CLASS_NAMES = "classnames.txt"
TEMPLATES = "zeroshot_classification_templates.txt"
_ABSENT = (401, 403, 404, 410)
"""What servers answer of files that do not exist: those that hide which do, not only 404."""
_TYPE = "dataset_type.txt"
_RETRY_SECONDS = 20.0
_HUB = re.compile(r"(https://huggingface\.co/datasets/[^/]+/[^/]+)(?:/tree/([^/]+))?/?$")


class BenchmarkFolder:
    """One data set in that layout; nothing is read before it is asked for.

    Args:
        address: path or URL of the folder.
        remote: how a server is asked.
        index_dir: where the indexes of shards are cached; by default beside them.
    """

    def __init__(
        self, address: str, remote: RemoteConfig | None = None, index_dir: str | None = None
    ):
        hub = _HUB.match(address)
        self.address = address
        self._base = f"{hub[1]}/resolve/{hub[2] or 'main'}" if hub else address.rstrip("/")
        self._remote, self._index_dir = remote or RemoteConfig(), index_dir

    def exists(self, split: str = "test") -> bool:
        """Returns whether there is such a data set, that is whether its number of shards is."""
        return self.text(f"{split}/nshards.txt") is not None

    def text(self, name: str) -> str | None:
        """Returns the content of a file of the folder; None where it does not exist.

        Raises:
            UserError: if it is not UTF-8 text, or a server does not say that it does not exist.
        """
        url = f"{self._base}/{name}"
        try:
            if is_remote(url):
                storage = open_storage([url], _hasty(self._remote))
                try:
                    data = storage.read(url, 0, storage.stat(url).size)
                finally:
                    storage.close()
            else:
                with open(url, "rb") as file:
                    data = file.read()
        except OSError:
            return None
        except StorageError as error:
            if error.status in _ABSENT:
                return None
            raise
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise UserError(f"{url}: not UTF-8 text ({error}).") from error

    def kind(self) -> str:
        """Returns what `dataset_type.txt` says; "classification" where there is none."""
        return (self.text(_TYPE) or "classification").strip().lower()

    def lines(self, name: str) -> list[str] | None:
        """Returns the stripped lines of a file as CLIP_benchmark reads them; None without it."""
        text = self.text(name)
        return None if text is None else [line.strip() for line in text.splitlines()]

    def shards(self, split: str = "test") -> list[str]:
        """Returns the paths or URLs of the shards of a split, in order.

        Raises:
            UserError: if their number is missing or none.
        """
        url = f"{self._base}/{split}/nshards.txt"
        text = self.text(f"{split}/nshards.txt")
        if text is None:
            raise UserError(f"{url}: no such file; it holds the number of shards of {split}.")
        if not text.strip().isdecimal() or int(text) < 1:
            raise UserError(f"{url}: holds {text.strip()[:40]!r}; expected the number of shards.")
        return [f"{self._base}/{split}/{number}.tar" for number in range(int(text))]

    def open(self, split: str, needs: Sequence[str]) -> TarShards:
        """Returns the samples of a split.

        Args:
            split: e.g. "test" or "train".
            needs: suffixes that a sample must have besides an image.

        Raises:
            UserError: if a shard is missing or none has a complete sample.
        """
        urls = self.shards(split)
        missing = [url for url in urls if not is_remote(url) and not os.path.isfile(url)]
        if missing:
            raise UserError(
                f"{missing[0]}: no such file; nshards.txt counts {len(urls)} shards, of which "
                f"{len(missing)} are missing. Download the rest."
            )
        storage = open_storage(urls, self._remote)
        return TarShards(urls, needs=needs, index_dir=self._index_dir, storage=storage)


def _hasty(remote: RemoteConfig) -> RemoteConfig:
    """Returns a config that gives up a server sooner: these files are asked for of every task."""
    seconds = min(remote.retry_seconds, _RETRY_SECONDS)
    return dataclasses.replace(remote, retry_seconds=seconds)
