"""From the address of a data set to its source."""

import glob
import os
from collections.abc import Sequence
from typing import Literal

from clipjax.config import RemoteConfig
from clipjax.data.manifest import FILE, INDEXES, Manifest, is_manifest
from clipjax.data.sources.folder import open_folder
from clipjax.data.sources.lists import LIST_SUFFIXES, ListedFiles
from clipjax.data.sources.source import Source
from clipjax.data.sources.tar_shards import TarShards
from clipjax.data.sources.tfds import TFDS_PREFIX, TfdsSource
from clipjax.data.storage import is_remote, list_urls, open_storage

Kind = Literal["tfds", "manifest", "list", "folder", "shards"]


def kind_of(address: str, root: str) -> Kind:
    """Returns what an address names.

    >>> kind_of("tfds:coco_captions:train", ""), kind_of("a.tsv", ""), kind_of("{00..41}.tar", "")
    ('tfds', 'list', 'shards')
    """
    if address.startswith(TFDS_PREFIX):
        return "tfds"
    if "://" in address or address.startswith("pipe:"):
        return "shards"  # which says what is wrong with it
    if address.endswith(LIST_SUFFIXES):
        return "list"
    path = os.path.join(root, address)
    if address and not is_remote(root) and is_manifest(path):
        return "manifest"
    if address and os.path.isdir(path) and not _tars(path):
        return "folder"
    return "shards"


def open_source(
    address: str,
    root: str,
    needs: Sequence[str],
    *,
    index_dir: str | None = None,
    remote: RemoteConfig | None = None,
    image_column: str | None = None,
    caption_column: str | None = None,
) -> Source:
    """Returns the samples of an address.

    Args:
        address: `tfds:NAME:SPLIT`; a folder that `clipjax data index` made; a .csv, .tsv, .jsonl
            or .parquet that lists images; a folder of images or of shards; or patterns of
            WebDataset shards, separated by spaces.
        root: folder that a relative address starts from.
        needs: members that every sample must have beside its image, e.g. ("txt",).
        index_dir: where the indexes of shards are cached; by default beside them.
        remote: how shards that are not on this machine are read.
        image_column: of a list or a TFDS data set, if its name is not one of the usual.
        caption_column: of a list or a TFDS data set, if its name is not one of the usual.

    Raises:
        UserError: if there is nothing of that kind, or it cannot be used.
    """
    kind = kind_of(address, root)
    if kind == "tfds":
        return TfdsSource.at(
            address, root, needs=needs, image_key=image_column, caption_key=caption_column
        )
    path = os.path.join(root, address)
    if kind == "list":
        return ListedFiles(
            path,
            root=root,
            needs=needs,
            image_column=image_column,
            caption_column=caption_column,
        )
    if kind == "folder":
        return open_folder(path, needs)
    remote = remote or RemoteConfig()
    if kind == "manifest":
        manifest = Manifest.load(os.path.dirname(path) if path.endswith(FILE) else path)
        own = os.path.join(str(manifest.folder), INDEXES)
        storage = open_storage([manifest.url(0)], remote)
        index_dir = own if os.path.isdir(own) else index_dir
        return TarShards(manifest, needs=needs, index_dir=index_dir, storage=storage)
    folder = bool(address) and not is_remote(root) and os.path.isdir(path)
    urls = _tars(path) if folder else list_urls(root, address, remote)
    return TarShards(urls, needs=needs, index_dir=index_dir, storage=open_storage(urls, remote))


def _tars(folder: str) -> list[str]:
    return sorted(glob.glob(os.path.join(glob.escape(folder), "*.tar")))
