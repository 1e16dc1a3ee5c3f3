"""Times TextSpan by moments against the algorithm on all outputs, and compares the texts.

clipjax bench neurons textspan --json textspan.json

The outputs of one head of so many images, float32, are made on the spot, as are the texts. The
reference keeps all outputs, projects them on every text for each pick and removes the direction
from them. Ours adds up moments in batches, as a scan does. Both take turns in one process, and who
begins changes; the ratio is the median over the rounds.
"""

import argparse
import statistics
import time
from typing import Any

import numpy as np

from clipjax.config.errors import UsageError

BAR = 15
_BATCH = 256


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the flags."""
    for flag, default, meaning in (
        ("--rounds", 3, "timed turns of each"),
        ("--images", 20_000, "whose outputs there are"),
        ("--texts", 3_000, "to choose from"),
        ("--dim", 512, "numbers of an embedding"),
        ("--rank", 80, "leading directions"),
        ("--picks", 10, "texts that are chosen"),
    ):
        parser.add_argument(
            flag, type=int, default=default, metavar="N", help=f"{meaning} (default: %(default)s)"
        )


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measures, prints and returns the figures.

    Raises:
        UsageError: if a number is not positive, or there are fewer texts than picks.
    """
    for flag in ("rounds", "images", "texts", "dim", "rank", "picks"):
        if getattr(args, flag) < 1:
            raise UsageError(f"--{flag}={getattr(args, flag)} is not positive.")
    if args.picks > min(args.texts, args.dim, args.rank):
        raise UsageError(f"--picks={args.picks} is more than texts, numbers or directions.")
    rows = []
    for number in range(args.rounds):
        outputs, texts = _made(args, seed=number)
        ways = {
            "reference": lambda o=outputs, t=texts: reference(o, t, args.picks, args.rank),
            "ours": lambda o=outputs, t=texts: _by_moments(o, t, args.picks, args.rank),
        }
        seconds, picks = {}, {}
        for name in list(ways)[:: 1 if number % 2 == 0 else -1]:
            started = time.perf_counter()
            picks[name] = ways[name]()
            seconds[name] = time.perf_counter() - started
        row = {
            "round": number + 1,
            "reference_seconds": seconds["reference"],
            "seconds": seconds["ours"],
            "ratio": seconds["reference"] / seconds["ours"],
            "identical": picks["ours"] == picks["reference"],
        }
        rows.append(row)
        print(
            f"round {row['round']}: reference {row['reference_seconds']:.2f} s, ours "
            f"{row['seconds']:.2f} s, ratio {row['ratio']:.1f}; "
            f"{'identical' if row['identical'] else 'OTHER'} texts"
        )
    ratio = statistics.median(row["ratio"] for row in rows)
    identical = all(row["identical"] for row in rows)
    print(
        f"median ratio {ratio:.1f} (bar {BAR}), texts {'identical' if identical else 'differ'}: "
        f"{args.images:,} images, {args.texts:,} texts, {args.dim} numbers, {args.picks} picks"
    )
    sizes = {name: getattr(args, name) for name in ("images", "texts", "dim", "rank", "picks")}
    return {"ratio": ratio, "bar": BAR, "identical": identical, **sizes, "rows": rows}


def reference(outputs: np.ndarray, texts: np.ndarray, picks: int, rank: int) -> list[int]:
    """Returns the texts by the algorithm as it is written, on all outputs.

    Args:
        outputs: float32 [images, embed].
        texts: float32 [texts, embed].
        picks: how many are chosen.
        rank: leading directions of the outputs that texts are projected on.

    Source: Gandelsman et al. 2024, algorithm 1, https://arxiv.org/abs/2310.05916.
    """
    _, _, rows = np.linalg.svd(outputs, full_matrices=False)
    texts = texts @ rows[:rank].T @ rows[:rank]
    left = outputs - outputs.mean(axis=0)
    chosen = []
    for _ in range(picks):
        best = int((left @ texts.T).var(axis=0).argmax())
        direction = texts[best] / np.linalg.norm(texts[best])
        left = left - np.outer(left @ direction, direction)
        texts = texts - np.outer(texts @ direction, direction)
        chosen.append(best)
    return chosen


def _by_moments(outputs: np.ndarray, texts: np.ndarray, picks: int, rank: int) -> list[int]:
    from clipjax.interpret.moments import Moments
    from clipjax.interpret.text_span import text_span

    moments = Moments()
    for first in range(0, len(outputs), _BATCH):
        moments.update(outputs[first : first + _BATCH])
    span = text_span(moments.mean, moments.covariance, texts, picks=picks, rank=rank)
    return span.texts.tolist()


def _made(args: argparse.Namespace, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns outputs whose directions matter less and less, and texts with a common mean."""
    rng = np.random.default_rng(seed)
    sizes = 1 / np.sqrt(1 + np.arange(args.dim))
    turn = np.linalg.qr(rng.normal(size=(args.dim, args.dim)))[0].astype(np.float32)
    outputs = rng.standard_normal((args.images, args.dim), np.float32) * sizes.astype(np.float32)
    texts = rng.standard_normal((args.texts, args.dim), np.float32) + rng.normal(size=args.dim) / 2
    texts = texts / np.linalg.norm(texts, axis=1, keepdims=True)
    return outputs @ turn + turn[0], texts.astype(np.float32)
