"""Times one-pass monosemanticity against all pairs of stimuli, and compares the scores.

clipjax bench neurons monosemanticity --json monosemanticity.json

Activations (half of them 0, as of a ReLU) and embeddings are made on the spot. The reference is the
definition: for each stimulus, all later ones, weighted with the products of all units' activations.
The same as two matrix products of all pairs is timed too. Ours adds up batches, as a scan does. All
take turns in one process, and who begins changes; ratios are medians over the rounds.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from clipjax.config.errors import UsageError

BAR, ERROR_BAR = 20, 1e-6
_BATCH = 256


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the flags."""
    for flag, default, meaning in (
        ("--rounds", 3, "timed turns of each"),
        ("--stimuli", 3_000, "all pairs of which the reference looks at"),
        ("--units", 512, "that are scored"),
        ("--dim", 512, "numbers of an embedding"),
    ):
        parser.add_argument(
            flag, type=int, default=default, metavar="N", help=f"{meaning} (default: %(default)s)"
        )


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measures, prints and returns the figures.

    Raises:
        UsageError: if a number is not positive.
    """
    for flag in ("rounds", "stimuli", "units", "dim"):
        if getattr(args, flag) < (2 if flag == "stimuli" else 1):
            raise UsageError(f"--{flag}={getattr(args, flag)} is too few.")
    ways: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
        "pairs": by_pairs,
        "products": by_products,
        "ours": _in_one_pass,
    }
    rows = []
    for number in range(args.rounds):
        rng = np.random.default_rng(number)
        activations = np.maximum(rng.normal(size=(args.stimuli, args.units)), 0)
        embeds = rng.normal(size=(args.stimuli, args.dim)) + rng.normal(size=args.dim) / 2
        row: dict[str, Any] = {"round": number + 1}
        scores = {}
        for name in list(ways)[:: 1 if number % 2 == 0 else -1]:
            started = time.perf_counter()
            scores[name] = ways[name](activations, embeds)
            row[f"{name}_seconds"] = time.perf_counter() - started
        row["error"] = float(abs(scores["ours"] - scores["pairs"]).max())
        row["ratio"] = row["pairs_seconds"] / row["ours_seconds"]
        row["ratio_products"] = row["products_seconds"] / row["ours_seconds"]
        rows.append(row)
        print(
            f"round {row['round']}: pairs {row['pairs_seconds']:.2f} s, as products "
            f"{row['products_seconds']:.2f} s, ours {row['ours_seconds']:.3f} s; largest "
            f"difference {row['error']:.1e}"
        )
    figures = {
        "ratio": statistics.median(row["ratio"] for row in rows),
        "ratio_products": statistics.median(row["ratio_products"] for row in rows),
        "bar": BAR,
        "error": max(row["error"] for row in rows),
        "error_bar": ERROR_BAR,
        **{name: getattr(args, name) for name in ("stimuli", "units", "dim")},
        "rows": rows,
    }
    print(
        f"median ratio {figures['ratio']:.1f} (bar {BAR}), to products "
        f"{figures['ratio_products']:.1f}; largest difference {figures['error']:.1e} (bar "
        f"{ERROR_BAR:.0e}): {args.stimuli:,} stimuli, {args.units:,} units, {args.dim} numbers"
    )
    return figures


def by_pairs(activations: np.ndarray, embeds: np.ndarray) -> np.ndarray:
    """Returns the scores of the definition, [units]: every pair of two stimuli.

    Source: Pach et al. 2025, section 3.2, https://arxiv.org/abs/2504.02821.
    """
    scaled, similar = _scaled(activations), _cosines(embeds)
    above, below = np.zeros(scaled.shape[1]), np.zeros(scaled.shape[1])
    for first in range(len(scaled) - 1):
        weights = scaled[first] * scaled[first + 1 :]
        above += similar[first, first + 1 :] @ weights
        below += weights.sum(axis=0)
    return above / below


def by_products(activations: np.ndarray, embeds: np.ndarray) -> np.ndarray:
    """Returns the same, with all pairs in two matrix products."""
    scaled, similar = _scaled(activations), _cosines(embeds)
    np.fill_diagonal(similar, 0)
    others = scaled.sum(axis=0) - scaled
    return (scaled * (similar @ scaled)).sum(axis=0) / (scaled * others).sum(axis=0)


def _in_one_pass(activations: np.ndarray, embeds: np.ndarray) -> np.ndarray:
    from clipjax.interpret.statistics.monosemanticity import Monosemanticity

    sums = Monosemanticity()
    for first in range(0, len(activations), _BATCH):
        sums.update(activations[first : first + _BATCH], embeds[first : first + _BATCH])
    return sums.result().score


def _scaled(activations: np.ndarray) -> np.ndarray:
    low, high = activations.min(axis=0), activations.max(axis=0)
    return (activations - low) / (high - low)


def _cosines(embeds: np.ndarray) -> np.ndarray:
    unit = embeds / np.linalg.norm(embeds, axis=1, keepdims=True)
    return unit @ unit.T
