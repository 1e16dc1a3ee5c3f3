"""Trains a sparse autoencoder on embeddings of pictures and their texts.

clipjax embed --model runs/quickstart --shards 'data/emoji/train/*.tar' --out embeddings
clipjax sae train --features embeddings --out sae
clipjax sae train --features embeddings --out plain --objective topk --no-centre --mask 0

An embedding becomes the sum of few of N atoms of one dictionary, the latents. A plain autoencoder
spends most latents on one modality only; taking off the mean of each modality and choosing latents
for a picture and its text together ("group") makes latents that both use. DIR gets sae.json and
sae.npz. The same command goes on where it stopped.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from clipjax.cli.parser import Parser
from clipjax.config.errors import UsageError


def configure(parser: Parser) -> None:
    """Adds the flags."""
    parser.add_argument(
        "--features", required=True, metavar="DIR", help="embeddings of `clipjax embed`, in pairs"
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to write")
    add_option_flags(parser)
    parser.add_argument(
        "--save_every",
        type=int,
        default=500,
        metavar="N",
        help="steps between two saves of the training (default: %(default)s)",
    )
    parser.add_argument(
        "--force", action="store_true", help="replace what DIR holds of other options or features"
    )


def add_option_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that `options_from` reads, with the defaults of `SaeOptions`."""
    from clipjax.interpret.sae.options import OBJECTIVES, SaeOptions

    defaults = SaeOptions()
    parser.add_argument(
        "--objective",
        choices=OBJECTIVES,
        default=defaults.objective,
        help="which latents are kept: the k largest of each row (topk), as many of the batch "
        "(batchtopk), of several k at once (matryoshka), or of each pair (group) "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--centre",
        action=argparse.BooleanOptionalAction,
        default=defaults.centre,
        help="take off the mean of each modality, not that of both (default: yes)",
    )
    for name, kind, meaning in (
        ("latents", int, "atoms of the dictionary"),
        ("k", int, "latents of a row that are kept"),
        ("mask", float, "share of the pairs of which one modality, hidden, is reconstructed too"),
        ("steps", int, "of training"),
        ("batch_size", int, "pairs of a step, of all devices"),
        ("learning_rate", float, "at its peak"),
        ("seed", int, "of first weights, order and masks"),
    ):
        default = getattr(defaults, name)
        parser.add_argument(
            f"--{name}",
            type=kind,
            default=default,
            metavar="N" if kind is int else "X",
            help=f"{meaning} (default: {default})",
        )


def options_from(args: argparse.Namespace) -> Any:
    """Returns the options.

    Raises:
        UsageError: for values that cannot be.
    """
    from clipjax.interpret.sae.options import SaeOptions

    names = ("objective", "centre", "latents", "k", "mask", "steps", "batch_size")
    try:
        return SaeOptions(
            **{name: getattr(args, name) for name in (*names, "learning_rate", "seed")}
        )
    except ValueError as error:
        raise UsageError(f"clipjax sae train: --{error}") from error


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Trains; returns what sae.json holds and how the autoencoder does on what it was trained on.

    Raises:
        UserError: if the features cannot be used, or the folder holds something else.
    """
    options = options_from(args)
    if args.save_every < 1:
        raise UsageError(f"--save_every={args.save_every}: expected 1 or more.")
    from clipjax.cli.sae_table import scores_table
    from clipjax.config import MeshConfig
    from clipjax.core.mesh import make_mesh
    from clipjax.interpret.sae.evaluation import evaluate_sae
    from clipjax.interpret.sae.features import described, open_features
    from clipjax.interpret.sae.files import finished_sae
    from clipjax.interpret.sae.training import train_sae

    features, folder = open_features(args.features), Path(args.out)
    sae = None if args.force else finished_sae(folder, features.identity, options)
    if sae is None:
        sae = train_sae(
            features,
            options,
            make_mesh(MeshConfig()),
            folder=folder,
            about=described(args.features),
            save_every=args.save_every,
            force=args.force,
        )
    else:
        print(f"{folder}: is done already", file=sys.stderr)
    summary = evaluate_sae(sae, features).summary()
    print(scores_table({options.objective: summary}))
    print(
        f"{folder}: {options.latents:,} latents of {features.dim} numbers, of {sae.steps:,} steps"
    )
    return {"out": str(folder), "steps": sae.steps, "threshold": sae.threshold, **summary}


if __name__ == "__main__":
    from clipjax.cli.main import main

    main(["sae", "train", *sys.argv[1:]])
