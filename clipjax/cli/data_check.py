"""Looks through shards for damage: broken tars, missing partners, images that cannot be decoded.

clipjax data check 'train/*.tar'
clipjax data check --root /data --no-decode 'train/{00000..00041}.tar' --json report.json
clipjax data check 's3://bucket/train/*.tar' --region eu-central-1

Of a manifest all its shards are looked at, not only the samples that it lists. Shards that are not
on this machine are read whole. The exit status is 1 if anything is wrong.
"""

import argparse
from typing import Any

from clipjax.cli.data_shards import (
    add_remote_flags,
    add_shards,
    check_caption,
    remote_config,
    shard_urls,
)
from clipjax.config.errors import UsageError


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `clipjax data check`."""
    add_shards(parser)
    parser.add_argument(
        "--root", default="", metavar="DIR", help="folder or URL that relative SHARDS start from"
    )
    parser.add_argument(
        "--caption",
        default="txt",
        metavar="WHERE",
        help="where captions are, as in data.caption (default: %(default)s)",
    )
    parser.add_argument(
        "--decode",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="also decode every image, which takes most of the time (default: yes)",
    )
    parser.add_argument(
        "--max-image-pixels",
        type=int,
        default=64_000_000,
        metavar="N",
        help="images with more pixels count as too large (default: %(default)s)",
    )
    parser.add_argument(
        "--index-dir", metavar="DIR", help="where tar indexes are kept (default: beside the shards)"
    )
    parser.add_argument(
        "--threads",
        type=int,
        default=0,
        metavar="N",
        help="shards looked at together (default: one a core)",
    )
    add_remote_flags(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Prints what is wrong and returns it; exit status 1 if anything is.

    Raises:
        UserError: if no shard has such a name.
    """
    from clipjax.data.check import CheckOptions, check_shards
    from clipjax.data.storage import open_storage

    check_caption(args.caption)
    if args.threads < 0:
        raise UsageError(f"--threads={args.threads}: must not be negative.")
    if args.max_image_pixels < 1:
        raise UsageError(f"--max-image-pixels={args.max_image_pixels}: must be positive.")
    options = CheckOptions(
        caption=args.caption,
        decode=args.decode,
        max_image_pixels=args.max_image_pixels,
        index_dir=args.index_dir,
        threads=args.threads,
    )
    remote = remote_config(args)
    urls = shard_urls(args.shards, remote, args.root)
    storage = open_storage(urls, remote)
    try:
        report = check_shards(urls, options, storage=storage)
    finally:
        storage.close()
    _print(report)
    args.exit_status = int(bool(report["problems"]))
    return report


def _print(report: dict[str, Any]) -> None:
    problems, rows = report["problems"], report["rows"]
    print(
        f"{report['shards']:,} shards, {report['samples']:,} samples, "
        f"{report['complete']:,} with image and caption"
    )
    if not problems:
        print("nothing is wrong")
        return
    width = max(map(len, problems))
    print(f"\n{'problem':{width}}  {'count':>10}  first")
    for reason, count in problems.items():
        print(f"{reason:{width}}  {count:>10,}  {report['examples'][reason][0]}")
    if rows:
        print(f"\n{len(rows):,} of {report['shards']:,} shards have problems:")
    for row in rows:
        counts = ", ".join(f"{reason} {count:,}" for reason, count in row["problems"].items())
        print(f"{row['shard']}: {row['error'] or counts}")
