"""The shards that arguments of a command name: files, patterns, folders, manifests, URLs."""

import argparse
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from clipjax.config.data import DataConfig, RemoteConfig
from clipjax.config.errors import UsageError, UserError

if TYPE_CHECKING:
    from clipjax.data.sources.source import Source
    from clipjax.data.sources.tar_shards import TarShards

FIELD = "SHARDS"
_RETRY_SECONDS = 60.0


def add_shards(parser: argparse.ArgumentParser) -> None:
    """Adds the argument SHARDS."""
    parser.add_argument(
        "shards",
        nargs="+",
        metavar=FIELD,
        help="WebDataset shards: files, folders of them, s3://, gs:// and https:// URLs, or a "
        "folder that `clipjax data index` made; *, {000..041} and @FILE (a list of them) work",
    )


def add_remote_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that say how shards on other machines are read."""
    group = parser.add_argument_group("shards in buckets and on web servers")
    group.add_argument("--endpoint", default="", metavar="URL", help="S3 server, if not Amazon's")
    group.add_argument("--region", default="", metavar="NAME", help="of the S3 buckets")
    group.add_argument("--anonymous", action="store_true", help="public buckets: do not sign")
    group.add_argument(
        "--retry-seconds",
        type=float,
        default=_RETRY_SECONDS,
        metavar="S",
        help="how long failed requests of one read are repeated (default: %(default)s)",
    )


def remote_config(args: argparse.Namespace) -> RemoteConfig:
    """Returns what the flags of `add_remote_flags` say.

    Raises:
        UsageError: for a value that cannot be.
    """
    try:
        return RemoteConfig(
            endpoint=args.endpoint,
            region=args.region,
            anonymous=args.anonymous,
            retry_seconds=args.retry_seconds,
        )
    except ValueError as error:
        name, _, rest = str(error).partition(" ")
        flag = "--" + name.partition("=")[0].replace("_", "-")
        value = name[name.index("=") :] if "=" in name else ""
        raise UsageError(f"{flag}{value} {rest}.") from error


def check_caption(caption: str) -> None:
    """Raises UsageError unless --caption says where captions are."""
    try:
        DataConfig(caption=caption)
    except ValueError as error:
        raise UsageError(f"--{error}.") from error


def shard_urls(arguments: Sequence[str], remote: RemoteConfig, root: str = "") -> list[str]:
    """Returns the shards that arguments name, once each, in the order of the arguments.

    Args:
        arguments: of the command line. A shell may have expanded patterns already, so that what is
            a file is taken as it is, blanks and brackets included.
        remote: how servers are asked.
        root: folder or URL that relative arguments start from.

    Raises:
        UserError: if one of them names nothing.
    """
    urls: list[str] = []
    for argument in arguments:
        urls += _urls_of(argument, remote, root)
    if not urls:
        raise UsageError(f"{FIELD} is empty. Name WebDataset shards, e.g. 'train/*.tar'.")
    return list(dict.fromkeys(urls))


def open_shards(
    args: argparse.Namespace, needs: Sequence[str], *, wishes: Sequence[str] = ()
) -> "TarShards":
    """Returns the samples of the arguments SHARDS; of one manifest, those that it lists.

    Args:
        args: of a parser with `add_shards` and `add_remote_flags`.
        needs: members that a sample must have beside the image.
        wishes: members that are needed too if the first shard, or the manifest, has them.

    Raises:
        UserError: if one of them cannot be read, or no sample is complete.
    """
    from clipjax.data.manifest import FILE, Manifest
    from clipjax.data.sources.opening import kind_of, open_source
    from clipjax.data.sources.tar_shards import TarShards
    from clipjax.data.storage import open_storage
    from clipjax.data.tar_index import open_index

    remote = remote_config(args)
    if len(args.shards) == 1 and kind_of(args.shards[0], "") == "manifest":
        path = args.shards[0]
        has = Manifest.load(os.path.dirname(path) if path.endswith(FILE) else path).needs
        source: Source = open_source(path, "", _with(needs, wishes, has), remote=remote)
        assert isinstance(source, TarShards)
        return source
    urls = shard_urls(args.shards, remote)
    storage = open_storage(urls, remote)
    if wishes:
        needs = _with(needs, wishes, open_index(urls[0], storage=storage).suffixes)
    return TarShards(urls, needs=needs, storage=storage)


def _with(needs: Sequence[str], wishes: Sequence[str], has: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys([*needs, *(wish for wish in wishes if wish in has)]))


def _urls_of(argument: str, remote: RemoteConfig, root: str) -> list[str]:
    from clipjax.data.manifest import FILE, Manifest, is_manifest
    from clipjax.data.storage import is_remote, list_urls

    path = os.path.join(root, argument)
    if not argument.strip() or is_remote(path):
        return list_urls(root, argument, remote, field=FIELD)
    if is_manifest(path):
        manifest = Manifest.load(os.path.dirname(path) if path.endswith(FILE) else path)
        return [manifest.url(shard) for shard in range(len(manifest))]
    if os.path.isfile(path):
        return [path]
    if os.path.isdir(path):
        names = sorted(name for name in os.listdir(path) if name.endswith(".tar"))
        if not names:
            raise UserError(
                f"{FIELD}={argument!r}: a folder without .tar files. Name shards, or a folder of "
                "them; `clipjax data make` makes shards of images."
            )
        return [os.path.join(path, name) for name in names]
    urls = list_urls(root, argument, remote, field=FIELD)
    if not any(is_remote(url) or os.path.exists(url) for url in urls):
        raise UserError(f"{FIELD}={argument!r}: no such file (seen from {root or os.getcwd()}).")
    return urls
