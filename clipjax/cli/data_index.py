"""Indexes shards; with --out, fixes in a manifest which of their samples a run uses.

clipjax data index 'train/*.tar'
clipjax data index 'train/*.tar' --out pool --max-aspect 3 --top-share similarity=0.3
"""

import argparse
import hashlib
import json
import os
import shlex
from typing import Any

from clipjax.cli.data_shards import (
    add_remote_flags,
    add_shards,
    check_caption,
    remote_config,
    shard_urls,
)
from clipjax.config.errors import UsageError, UserError

_FILTERS = (
    "min_caption_chars",
    "max_caption_chars",
    "min_caption_words",
    "max_caption_words",
    "min_side",
    "max_aspect",
    "at_least",
    "at_most",
    "equals",
    "keep_keys",
    "drop_keys",
    "key_column",
    "scores",
    "top_share",
    "duplicates",
    "balance",
    "balance_cap",
    "balance_seed",
    "match_case",
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `clipjax data index` to its parser."""
    add_shards(parser)
    parser.add_argument(
        "--root", default="", metavar="DIR", help="folder or URL that relative SHARDS start from"
    )
    parser.add_argument(
        "--out",
        metavar="DIR",
        help="folder of the manifest, which data.shards=DIR reads; without it only the indexes "
        "beside the shards are made",
    )
    parser.add_argument(
        "--needs",
        metavar="MEMBERS",
        help="members beside the image that a sample must have, with a comma between "
        "(default: those that --caption names)",
    )
    parser.add_argument(
        "--checksums",
        action="store_true",
        help="read the contents too, so that training sees every flipped bit; always so for URLs",
    )
    parser.add_argument(
        "--threads",
        type=int,
        default=min(32, 2 * (os.cpu_count() or 1)),
        metavar="N",
        help="that read (default: %(default)s)",
    )
    _add_sample_filters(parser)
    _add_pool_filters(parser)
    add_remote_flags(parser)


def _add_sample_filters(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "filters (with --out)",
        "COLUMN is a field of the .json members, or of img2dataset's Parquet files beside the "
        "shards; a sample without it is dropped.",
    )
    group.add_argument(
        "--caption",
        default="txt",
        metavar="WHERE",
        help="where captions are, as in data.caption (default: %(default)s)",
    )
    for unit in ("chars", "words"):
        for end in ("min", "max"):
            what = f"{'fewest' if end == 'min' else 'most'} {unit.replace('chars', 'characters')}"
            group.add_argument(
                f"--{end}-caption-{unit}", type=int, metavar="N", help=f"{what} of a caption"
            )
    group.add_argument("--min-side", type=float, metavar="PIXELS", help="of the shorter side")
    group.add_argument("--max-aspect", type=float, metavar="RATIO", help="longer / shorter side")
    for flag, what in (("at-least", "X or more"), ("at-most", "X or less")):
        group.add_argument(
            f"--{flag}",
            action="append",
            metavar="COLUMN=X",
            help=f"{what} in a column of numbers; can be repeated",
        )
    group.add_argument(
        "--equals",
        action="append",
        metavar="COLUMN=A,B",
        help="one of some values; can be repeated",
    )
    group.add_argument("--keep-keys", metavar="FILE", help="only the keys of a list, one a line")
    group.add_argument("--drop-keys", metavar="FILE", help="all but the keys of a list")
    group.add_argument(
        "--key-column", metavar="COLUMN", help="what these lists name, e.g. uid, if not the key"
    )
    group.add_argument(
        "--scores",
        metavar="FILE",
        help=".parquet, .jsonl or .npy with a field key: its other fields are columns too",
    )
    group.add_argument(
        "--no-parquet", action="store_true", help="read the .json members only, which is slower"
    )


def _add_pool_filters(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("steps over the whole pool (with --out), in this order")
    group.add_argument(
        "--top-share",
        action="append",
        metavar="COLUMN=SHARE",
        help="the highest numbers of the pool, e.g. similarity=0.3; can be repeated",
    )
    group.add_argument(
        "--duplicates",
        metavar="OF",
        help="drop later copies of an image, a caption or a COLUMN such as sha256",
    )
    group.add_argument(
        "--balance",
        metavar="FILE",
        help="thin out frequent entries of a list, one a line (MetaCLIP)",
    )
    group.add_argument(
        "--balance-cap",
        type=int,
        metavar="T",
        help="samples up to which an entry keeps all (default: 20000)",
    )
    group.add_argument("--balance-seed", type=int, metavar="N", help="of the draws (default: 0)")
    group.add_argument(
        "--match-case", action="store_true", help="entries match capital letters exactly"
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Makes the indexes, and the manifest if it is asked for; returns its figures.

    Raises:
        UserError: if a file cannot be used.
    """
    if not 1 <= args.threads <= 1024:
        raise UsageError(f"--threads {args.threads}: wanted 1 to 1,024.")
    given = [name for name in _FILTERS if getattr(args, name) not in (None, False)]
    if given and args.out is None:
        raise UsageError(
            f"--{given[0].replace('_', '-')}: what is filtered is said in a manifest. Name its "
            "folder with --out."
        )
    from clipjax.data.captions import caption_members
    from clipjax.data.make_manifest import check_out, index_shards, write_manifest
    from clipjax.data.storage import open_storage

    if args.out is not None:
        check_out(args.out)
    remote = remote_config(args)
    curation = make_curation(args)
    needs = caption_members(args.caption)
    if args.needs is not None:
        needs = tuple(dict.fromkeys(name for name in args.needs.split(",") if name))
    urls = _absolute(sorted(shard_urls(args.shards, remote, args.root)))
    storage = open_storage(urls, remote)
    how = {"storage": storage, "checksums": args.checksums, "threads": args.threads}
    try:
        if args.out is None:
            figures = index_shards(urls, needs, **how)
        else:
            figures = write_manifest(
                urls, args.out, needs, curation, made_by=made_by(args, given), **how
            )
    finally:
        storage.close()
    print_figures(figures)
    return figures


def make_curation(args: argparse.Namespace) -> Any:
    """Returns the `Curation` that the flags ask for.

    Raises:
        UsageError: for a flag that cannot be.
        UserError: if a list or table cannot be read.
    """
    from clipjax.data.curation import Curation
    from clipjax.data.key_table import read_scores

    check_caption(args.caption)
    return Curation(
        filters=tuple(_filters(args)),
        top_shares=tuple(_top_shares(args)),
        duplicates=args.duplicates,
        balance=_balance(args),
        caption=args.caption,
        scores=read_scores(args.scores) if args.scores else None,
        use_parquet=not args.no_parquet,
    )


def made_by(args: argparse.Namespace, given: list[str]) -> dict[str, Any]:
    """Returns what the manifest says of how it was made: the flags, and hashes of the files."""
    out: dict[str, Any] = {"shards": " ".join(map(shlex.quote, args.shards)), "root": args.root}
    out |= {"caption": args.caption, **{name: getattr(args, name) for name in given}}
    for name in ("keep_keys", "drop_keys", "scores", "balance"):
        if name in given:
            with open(getattr(args, name), "rb") as file:
                out[f"{name}_sha256"] = hashlib.file_digest(file, "sha256").hexdigest()
    return out


def print_figures(figures: dict[str, Any]) -> None:
    """Prints what there is, what was dropped and what is damaged."""
    rows = [
        ("shards", figures["shards"]),
        ("bytes", figures["bytes"]),
        ("samples", figures["all_samples"]),
        ("kept" if "out" in figures else "complete", figures["samples"]),
    ]
    dropped = sorted(figures["dropped"].items(), key=lambda item: (-item[1], item[0]))
    rows += [(f"  {reason}", -count) for reason, count in dropped]
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:{width}}  {value:>15,}")
    for name, value in figures.get("thresholds", {}).items():
        print(f"{name}: from {value:g}")
    if balance := figures.get("balance"):
        print(f"balance: {json.dumps(balance)}")
    damage = figures["damage"]
    if damage["shards"]:
        first, what = next(iter(damage["first"].items()))
        print(f"{damage['shards']:,} shards are damaged, e.g. {first}: {what}")
    if "out" in figures:
        print(f"{figures['out']}: digest {figures['digest'][:16]}; read it with data.shards=")


def _filters(args: argparse.Namespace) -> list[Any]:
    from clipjax.data import filters
    from clipjax.data.key_table import read_key_list

    found: list[Any] = []
    for kind, unit in ((filters.CaptionChars, "chars"), (filters.CaptionWords, "words")):
        low, high = (getattr(args, f"{end}_caption_{unit}") for end in ("min", "max"))
        if low is not None or high is not None:
            if (low or 0) < 0 or (high is not None and high < max(low or 0, 1)):
                raise UsageError(
                    f"--min-caption-{unit} {low}, --max-caption-{unit} {high}: no caption fits."
                )
            found.append(kind(low or 0, high))
    if args.min_side is not None:
        found.append(filters.MinSide(_above("--min-side", args.min_side, 0.0)))
    if args.max_aspect is not None:
        found.append(filters.MaxAspect(_above("--max-aspect", args.max_aspect, 1.0)))
    for flag, kind in (("at_least", filters.AtLeast), ("at_most", filters.AtMost)):
        found += [kind(*_column_and_number(flag, text)) for text in getattr(args, flag) or ()]
    for text in args.equals or ():
        column, values = _column_and_value("equals", text)
        found.append(filters.OneOf(column, tuple(values.split(","))))
    for path, keep in ((args.keep_keys, True), (args.drop_keys, False)):
        if path is not None:
            found.append(filters.KeyList(read_key_list(path), keep, args.key_column))
    if args.key_column is not None and not (args.keep_keys or args.drop_keys):
        raise UsageError("--key-column: needs --keep-keys or --drop-keys.")
    return found


def _top_shares(args: argparse.Namespace) -> list[Any]:
    from clipjax.data.filters import TopShare

    shares = [_column_and_number("top_share", text) for text in args.top_share or ()]
    for column, share in shares:
        if not 0 < share <= 1:
            raise UsageError(f"--top-share {column}={share:g}: wanted a share above 0, at most 1.")
    return [TopShare(column, share) for column, share in shares]


def _balance(args: argparse.Namespace) -> Any:
    from clipjax.data.balance import Balance, Metadata

    if args.balance is None:
        for name in ("balance_cap", "balance_seed", "match_case"):
            if getattr(args, name) not in (None, False):
                raise UsageError(f"--{name.replace('_', '-')}: needs --balance FILE.")
        return None
    cap = 20_000 if args.balance_cap is None else args.balance_cap
    seed = args.balance_seed or 0
    if cap < 1:
        raise UsageError(f"--balance-cap {cap}: wanted 1 or more.")
    if not 0 <= seed < 2**63:
        raise UsageError(f"--balance-seed {seed}: wanted 0 to 2**63 - 1.")
    return Balance(Metadata.read(args.balance, match_case=args.match_case), cap, seed)


def _column_and_value(flag: str, text: str) -> tuple[str, str]:
    column, equals, value = text.partition("=")
    if not column or not equals or not value:
        raise UsageError(f"--{flag.replace('_', '-')} {text}: wanted COLUMN=VALUE.")
    return column, value


def _column_and_number(flag: str, text: str) -> tuple[str, float]:
    column, value = _column_and_value(flag, text)
    try:
        number = float(value)
    except ValueError:
        number = float("nan")
    if number != number:
        raise UsageError(f"--{flag.replace('_', '-')} {text}: {value!r} is no number.")
    return column, number


def _above(flag: str, value: float, least: float) -> float:
    if not least <= value < float("inf"):
        raise UsageError(f"{flag} {value:g}: wanted {least:g} or more.")
    return value


def _absolute(urls: list[str]) -> list[str]:
    """Returns local paths as absolute ones: a manifest may be read from any folder."""
    from clipjax.data.storage import is_remote

    paths = [url if is_remote(url) else os.path.abspath(url) for url in urls]
    if len(set(paths)) < len(paths):
        again = next(path for path in paths if paths.count(path) > 1)
        raise UserError(f"{again}: is named twice. Name each shard once.")
    return paths
