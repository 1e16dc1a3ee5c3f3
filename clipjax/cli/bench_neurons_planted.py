"""Plants units in networks of several kinds and counts what the lab finds, over seeds.

clipjax bench neurons selftest --seeds 0,1,2 --json selftest.json

The networks are small and random: a Vision Transformer, a convolutional network and a ResNet for
pictures, a transformer for texts. Facets are photo, edges, word and caption of the world of emoji.
Bars: recall and precision 0.95, no unit found in the network before anything was planted.
"""

import argparse
import time
from typing import TYPE_CHECKING, Any

from clipjax.cli.neurons_planted import FACETS
from clipjax.cli.parser import add_seeds_flag
from clipjax.cli.text_table import text_table
from clipjax.config.errors import UsageError, UserError

if TYPE_CHECKING:
    from clipjax.config import DualEncoderConfig

KINDS = ("vit", "convnet", "resnet")


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the flags."""
    add_seeds_flag(parser, "of networks")
    parser.add_argument(
        "--kinds", default=",".join(KINDS), metavar="LIST", help="(default: %(default)s)"
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Plants, looks, prints the table and returns the figures.

    Raises:
        UsageError: for a kind that is not known or seeds that are no numbers.
    """
    kinds = args.kinds.split(",")
    for kind in kinds:
        if kind not in KINDS:
            raise UsageError(f"--kinds: no kind {kind!r}. There are {', '.join(KINDS)}.")
    rows = [_row(kind, seed) for kind in kinds for seed in args.seeds]
    figures = {"facets": list(FACETS), "networks": rows}
    figures["passed"] = all(row["passed"] for row in rows)
    print(selftest_table(rows))
    return figures


def network(kind: str) -> "DualEncoderConfig":
    """Returns the config of a small network, by the kind of its image tower."""
    from clipjax.config import (
        ConvNetConfig,
        DualEncoderConfig,
        ResNetConfig,
        TextConfig,
        ViTConfig,
    )

    images = {
        "vit": ViTConfig(image_size=32, patch_size=4, width=128, depth=4, num_heads=4, mlp_dim=256),
        "convnet": ConvNetConfig(image_size=32, widths=(24, 48, 96, 256), depths=(0, 1, 1, 1)),
        "resnet": ResNetConfig(image_size=32, width=16, depths=(1, 1, 1, 1), num_heads=8),
    }
    text = TextConfig(
        vocab_size=600, context_length=24, width=128, depth=2, num_heads=4, mlp_dim=256
    )
    return DualEncoderConfig(image=images[kind], text=text, embed_dim=96)


def _row(kind: str, seed: int) -> dict[str, Any]:
    from clipjax.config import TokenizerConfig
    from clipjax.data.emoji_world import load_emoji_world
    from clipjax.data.tokenizers import make_tokenizer
    from clipjax.interpret.planted_finds import random_network, selftest
    from clipjax.interpret.stimuli import EMOJI_WORLD, open_stimuli

    started = time.monotonic()
    config = network(kind)
    said = [text for texts in load_emoji_world().captions for text in texts]
    tokenizer = make_tokenizer(TokenizerConfig(), config.text, lambda: said)
    stimuli = open_stimuli(EMOJI_WORLD, config, tokenizer=tokenizer, facets=FACETS)
    try:
        found = selftest(random_network(config, tokenizer, seed=seed), stimuli, seed=seed)
    except UserError as error:
        raise UserError(f"{kind}, seed {seed}: {error}") from error
    return {"kind": kind, "seconds": time.monotonic() - started, **found.to_json()}


def selftest_table(rows: list[dict[str, Any]]) -> str:
    """Returns a line for each network."""
    head = ("network", "planted", "found", "recall", "precision", "concept", "decoys", "unplanted")
    lines = []
    for row in rows:
        shares = (f"{row[name]:.2f}" for name in ("recall", "precision", "right_concept"))
        last = (str(row["decoys_found"]), str(row["unplanted"]), f"{row['seconds']:.0f}")
        mark = "" if row["passed"] else " !"
        name = f"{row['kind']} {row['seed']}{mark}"
        lines.append((name, str(row["planted"]), str(row["found"]), *shares, *last))
    return text_table((*head, "seconds"), lines)
