"""From patterns to the URLs of files."""

import fnmatch
import glob
import os
import re

from clipjax.config.data import RemoteConfig
from clipjax.config.errors import UsageError, UserError
from clipjax.data.storage.interface import check_url, is_remote, scheme_of, shown
from clipjax.data.storage.remote import RemoteFiles, make_client

_SCHEME_LIKE = re.compile(r"pipe:|[A-Za-z][A-Za-z0-9+.-]*://", re.IGNORECASE)


def list_urls(
    root: str, patterns: str, config: RemoteConfig, *, field: str = "data.shards"
) -> list[str]:
    """Returns the files that patterns with `*` and `{00000..00041}` name, sorted and once each.

    `*` is looked up: in folders, and in buckets with one request for each thousand files or so.
    Plain web servers cannot be asked what they have, so https:// takes braces only. A pattern
    `@FILE` stands for the lines of a file, each a path or a URL as it is.

    Args:
        root: folder or URL that relative patterns start from; taken as it is, not as a pattern.
        patterns: separated by spaces.
        config: how servers are asked.
        field: where the patterns come from, for messages: of a config, or a flag.

    Raises:
        UserError: if a pattern matches no file, or names something that cannot be read.
    """
    urls: list[str] = []
    for pattern in patterns.split():
        if pattern.startswith("@"):
            found = _listed(root, pattern, field)
        else:
            found = [
                url
                for name in _expand(pattern, field)
                for url in _matches(root, name, config, field)
            ]
        if not found:
            raise UserError(_nothing(root, pattern, field))
        urls += found
    if not urls:
        example = "--config.data.shards='train/*.tar'" if _of_config(field) else "'train/*.tar'"
        raise UsageError(f"{field} is empty. Name WebDataset shards, e.g. {example}.")
    return sorted(set(urls))


def expand_shards(root: str, patterns: str, *, field: str = "data.shards") -> list[str]:
    """Returns the local files that patterns with `*` and `{00000..00041}` name, sorted.

    Args:
        root: directory that relative patterns start from.
        patterns: separated by spaces.
        field: where they come from, for messages.

    Raises:
        UserError: if a pattern matches no file, or names something that is not a local file.
    """
    for pattern in patterns.split():
        if "://" in pattern or pattern.startswith("pipe:"):
            raise UserError(
                f"{field}={shown(pattern)!r}: only files of this machine can be read. Mount or "
                "copy the shards and name them by path."
            )
    return list_urls(_as_path(root), patterns, RemoteConfig(), field=field)


def _of_config(field: str) -> bool:
    return field.startswith("data.")


def _expand(pattern: str, field: str) -> list[str]:
    from webdataset.shardlists import expand_urls

    check_url(pattern, field)
    try:
        names = list(expand_urls(pattern))
    except (ValueError, AssertionError) as error:
        raise UserError(
            f"{field}={shown(pattern)!r}: cannot be expanded ({error}). Write ranges as "
            "{00000..00041} and choices as {a,b}."
        ) from error
    for name in names:
        check_url(name, field)
    return names


def _matches(root: str, name: str, config: RemoteConfig, field: str) -> list[str]:
    if is_remote(name):
        return _remote_matches(name, config, field)
    if is_remote(root) and not os.path.isabs(name):
        check_url(root, "data.root")
        return _remote_matches(name, config, field, root.rstrip("/") + "/")
    names = glob.glob(name, root_dir=root) if glob.has_magic(name) else [name]
    return [_as_path(os.path.join(root, name)) for name in names]


def _as_path(path: str) -> str:
    """Returns a path that no reader can take for a command or a URL."""
    return f"./{path}" if _SCHEME_LIKE.match(path) else path


def _remote_matches(pattern: str, config: RemoteConfig, field: str, root: str = "") -> list[str]:
    """Returns the URLs of a pattern; `root` stands before it and is no pattern."""
    url = root + pattern
    if scheme_of(url) in ("http", "https"):
        if "*" in pattern.partition("?")[0]:
            raise UserError(
                f"{field}={shown(url)!r}: a web server cannot be asked what it has, so * "
                "matches nothing there. Name the shards with braces, {00000..00041}, or in a file "
                "with @FILE."
            )
        return [url]
    if not glob.has_magic(pattern):
        return [url]
    fixed = pattern[: min(pattern.find(mark) for mark in "*?[" if mark in pattern)]
    folder, tail = fixed.rpartition("/")[0], pattern[fixed.rfind("/") + 1 :]
    folder = root + folder if folder else root.rstrip("/")
    if "://" not in folder or not folder.partition("://")[2]:
        raise UserError(f"{field}={url!r}: the name of a bucket cannot be a pattern. Write it out.")
    remote = RemoteFiles(make_client(config), config)
    try:
        found = remote.list_files(folder, recursive="/" in tail)
    finally:
        remote.close()
    wanted = tail.split("/")
    return [name for name in found if _fits(name.removeprefix(f"{folder}/"), wanted)]


def _fits(name: str, wanted: list[str]) -> bool:
    parts = name.split("/")
    return len(parts) == len(wanted) and all(map(fnmatch.fnmatchcase, parts, wanted))


def _listed(root: str, pattern: str, field: str) -> list[str]:
    path = os.path.join("." if is_remote(root) else root, pattern[1:])
    try:
        with open(path, encoding="utf-8") as file:
            lines = [line.strip() for line in file]
    except (OSError, ValueError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or str(error)
        raise UserError(
            f"{field}={pattern!r}: {path}: {reason}. Expected a text file with one URL or path "
            "a line."
        ) from error
    urls = []
    for line in lines:
        if not line or line.startswith("#"):
            continue
        check_url(line, f"{field}={pattern!r}, line")
        if is_remote(line):
            urls.append(line)
        elif is_remote(root) and not os.path.isabs(line):
            urls.append(f"{root.rstrip('/')}/{line}")
        else:
            urls.append(_as_path(os.path.join(root, line)))
    return urls


def _nothing(root: str, pattern: str, field: str) -> str:
    if not _of_config(field):
        below = f" below {shown(root)}" if root else ""
        return f"{field}={shown(pattern)!r}: matches no file{below} (seen from {os.getcwd()})."
    if is_remote(pattern) or is_remote(root):
        return (
            f"{field}={shown(pattern)!r}: matches no file"
            f"{f' below data.root={shown(root)!r}' if is_remote(root) else ''}. Check the bucket "
            "and the pattern; `*` stays within one folder."
        )
    return (
        f"{field}={pattern!r}: matches no file below data.root={root!r} (seen from "
        f"{os.getcwd()}). Check both; set them with --config.data.root= and "
        "--config.data.shards=. `clipjax data emoji --out DIR` makes shards."
    )
