"""Judges sparse autoencoders on embeddings of pictures and their texts.

clipjax sae eval --sae sae --features embeddings/test
clipjax sae eval --sae plain --sae group --features embeddings/test --judge other_model/test

R2      share of the spread that the reconstruction keeps, each row encoded on its own
L0      latents that a row uses
dead    share of the latents that no row uses
bimodal share of the live latents that pictures and texts use about as much (score .25 to .75)
Jaccard latents that a picture and its text share, over those that one of both uses
xMS     whether the pictures and the texts that drive a latent mean the same, over chance (1)
bridge  share of the likeness of a picture and its text that goes through the same latents
gap     between the mean picture and the mean text; encoded: what is left of it in what was encoded;
        cleaned: and once the latents that are not bimodal are taken out

What rows mean is by default the embedding of their text, the one that was encoded, and that
flatters xMS: name embeddings of another model, or rows of concepts, with --judge.
"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipjax.cli.parser import Parser
from clipjax.config.errors import UserError

if TYPE_CHECKING:
    from clipjax.interpret.sae.features import FeaturePairs


def configure(parser: Parser) -> None:
    """Adds the flags."""
    parser.add_argument(
        "--sae",
        action="append",
        required=True,
        metavar="DIR",
        help="folder of `clipjax sae train`; may be given several times",
    )
    parser.add_argument(
        "--features", required=True, metavar="DIR", help="embeddings of `clipjax embed`, in pairs"
    )
    parser.add_argument(
        "--judge",
        metavar="WHERE",
        help="what rows mean: a .npy file [rows, any], or a folder of `clipjax embed` of which the "
        "texts count (default: the texts of --features)",
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Prints a table and returns the figures of each autoencoder by its folder.

    Raises:
        UserError: if an autoencoder or features cannot be used.
    """
    from clipjax.cli.sae_table import scores_table
    from clipjax.interpret.sae.evaluation import evaluate_sae
    from clipjax.interpret.sae.features import open_features
    from clipjax.interpret.sae.files import load_sae

    saes = {folder: load_sae(folder) for folder in dict.fromkeys(args.sae)}
    features = open_features(args.features)
    meanings = None if args.judge is None else _meanings(args.judge, features)
    figures = {
        folder: evaluate_sae(sae, features, meanings).summary() for folder, sae in saes.items()
    }
    print(scores_table(figures))
    if meanings is None:
        print("xMS by the texts that were encoded themselves: it flatters. See --judge.")
    return {"features": args.features, "judge": args.judge, "autoencoders": figures}


def _meanings(where: str, features: "FeaturePairs") -> Any:
    import numpy as np

    path = Path(where)
    path = path / "text_features.npy" if path.is_dir() else path
    try:
        rows = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"--judge={where}: {path} cannot be read ({error}).") from error
    if not isinstance(rows, np.ndarray) or rows.ndim != 2 or len(rows) <= features.rows[-1]:
        shape = getattr(rows, "shape", "several arrays")
        raise UserError(
            f"--judge={where}: {path} holds {shape}; expected one row for each of the features, "
            f"at least {features.rows[-1] + 1:,}, in the same order."
        )
    return rows[features.rows]


if __name__ == "__main__":
    from clipjax.cli.main import main

    main(["sae", "eval", *sys.argv[1:]])
