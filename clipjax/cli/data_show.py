"""Shows any past or future batch of a run: keys, captions and a picture of the pictures.

clipjax data show --config configs/quickstart.py --step 250 --out batch.png
clipjax data show --config runs/a/config.json --step 41235 --rows 64

Nothing of the run is touched: which samples make up a batch follows from the config and the data
alone. A sample that cannot be used shows the one that stands in for it, as in the run. Steps are
counted as in the log of the run, from 1.
"""

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipjax.cli.configs import add_config_flag, load_config
from clipjax.cli.parser import Parser, check_writable
from clipjax.config import TrainConfig, UsageError, UserError

if TYPE_CHECKING:
    import numpy as np

    from clipjax.data.opening import Sources
    from clipjax.data.order import Order
    from clipjax.data.pairs import TrainingPairs

_MOST_SAMPLES = 2**62  # sample numbers are int64


def configure(parser: Parser) -> None:
    """Adds the flags."""
    add_config_flag(parser, required=True)
    parser.add_argument(
        "--step", type=int, required=True, metavar="N", help="of the log, from 1; may lie ahead"
    )
    parser.add_argument(
        "--rows", type=int, default=16, metavar="N", help="rows shown (default: %(default)s)"
    )
    parser.add_argument(
        "--out", metavar="PNG", help="also draw the rows as the model sees them, before `augment`"
    )
    add_workdir_flag(parser)
    parser.add_argument(
        "--order",
        action="store_true",
        help="also report how well consecutive epochs are mixed, beside the full shuffle",
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Prints and returns the rows of a batch.

    Raises:
        UserError: if the data cannot be opened.
        UsageError: if there is no such step.
    """
    from clipjax.data.opening import forecast, open_sources
    from clipjax.data.order_quality import order_quality
    from clipjax.data.pairs import TrainingPairs
    from clipjax.data.tokenizers import ByteTokenizer

    config = load_config(args.config, args.overrides)
    for name, value in (("step", args.step), ("rows", args.rows)):
        if value < 1:
            raise UsageError(f"--{name}={value}: counts from 1.")
    check_steps("step", args.step, config)
    if args.out:
        check_writable("--out", args.out)
    sources = open_sources(config.data)
    order = order_of(config, sources, args.workdir)
    samples = order.samples(args.step - 1)[: args.rows]
    examples = order.examples(samples)
    tokenizer = ByteTokenizer(context_length=2, lowercase=False)
    tolerant = dataclasses.replace(config.data, max_bad_share=1.0)  # bad samples are to be seen
    stage = next((p for p in config.parts if args.step <= p.stop_step), config.parts[-1])
    pairs = TrainingPairs(sources, order, tokenizer, tolerant, image=stage.config.model.image)
    rows, pictures = [], []
    numbered = zip(samples.tolist(), examples.tolist(), strict=True)
    for number, (sample, example) in enumerate(numbered):
        row, picture = _row(pairs, number, sample, example)
        rows.append(row)
        pictures.append(picture)
        print(_line(row))
    names = [name for name in sources.parts if name]
    figures: dict[str, Any] = {
        "step": args.step,
        "batch": rows,
        "samples": len(sources),
        "epochs": dict(zip(names or ["data"], order.epochs(config.num_steps), strict=True)),
    }
    for line in forecast(order, sources, config.num_steps):
        print(line)
    if args.order:
        figures["order"] = order_quality(order)
        for name, value in figures["order"].items():
            print(f"{name}: {value:.4f}")
    if args.out:
        _draw(args.out, rows, pictures)
    return figures


def add_workdir_flag(parser: Parser) -> None:
    """Adds the flag that names the run whose left out batches count."""
    parser.add_argument(
        "--workdir",
        metavar="DIR",
        help="of the run: batches that it left out when it went back (guard.max_rollbacks) count",
    )


def order_of(config: TrainConfig, sources: "Sources", workdir: str | None) -> "Order":
    """Returns the order of a run; where captions are sorted by length, they are measured first.

    Args:
        config: of the run.
        sources: of the run.
        workdir: of the run, if it may have left out batches.
    """
    from clipjax.data.opening import make_order
    from clipjax.train.setup import batch_schedule, newest_skips, open_data

    skips = newest_skips(Path(workdir)) if workdir else ()
    if config.data.text_buckets:
        return open_data(config, sources, None, skips).order
    return make_order(config.data, sources, batch_schedule(config, skips))


def check_steps(flag: str, steps: int, config: TrainConfig) -> None:
    """Raises UsageError for so many steps that their samples could not be counted."""
    most = _MOST_SAMPLES // config.data.global_batch_size
    if steps > most:
        raise UsageError(f"--{flag}={steps}: wanted at most {most:,}.")


def _row(
    pairs: "TrainingPairs", number: int, sample: int, example: int
) -> "tuple[dict[str, Any], np.ndarray | None]":
    """Returns what one row shows; where its shard cannot be read, what is known without."""
    row: dict[str, Any] = {"row": number, "sample": sample}
    picture = None
    try:
        used, picture = pairs.picture(sample, example)
        row |= {"example": used, "key": pairs.key(used), "caption": pairs.caption(sample, used)}
        if used != example:
            row["instead_of"] = pairs.key(example)
    except UserError as error:
        row |= {"example": example, "key": pairs.place(example), "problem": str(error)}
    return row, picture


def _line(row: dict[str, Any]) -> str:
    instead = f"  (instead of {row['instead_of']})" if "instead_of" in row else ""
    return f"{row['row']:6}  {row['key']}  {row.get('caption') or row.get('problem')!r}{instead}"


def _draw(path: str, rows: list[dict[str, Any]], pictures: "list[np.ndarray | None]") -> None:
    from clipjax.data.contact_sheet import contact_sheet

    texts = [
        f"{row['row']} {row['key'].rpartition(': ')[2]}: {row.get('caption') or 'not readable'}"
        for row in rows
    ]
    try:
        contact_sheet(pictures, texts).save(path, "PNG")
    except OSError as error:
        raise UserError(f"--out={path}: cannot be written ({error.strerror}).") from error
    print(f"wrote {path}", file=sys.stderr)
