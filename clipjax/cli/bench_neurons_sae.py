"""Trains sparse autoencoders of every objective on the same embeddings, and compares them.

clipjax bench neurons sae --seeds 0,1,2 --json sae.json
clipjax bench neurons sae --features embeddings --captions 'data/emoji/train/*.tar'

Without --features a dense model of the world of emoji is trained first (configs/emoji_neurons.py).
A plain autoencoder splits its latents between the modalities; the group-sparse centred one is to
have at least 0.60 of its live latents in both and twice as many as the plain one, for at most 0.05
of R2. Embeddings of 24 words and the emoji that they name need few latents: with many more than the
embedding has numbers, most die or tell single pictures apart. What pairs mean, for xMS, are the
words of their captions (TF-IDF). The columns are those of clipjax sae eval.
"""

import argparse
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipjax.cli.bench_neurons_runs import RECIPE
from clipjax.cli.parser import Parser, add_seeds_flag
from clipjax.config.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

LEAST_BIMODAL, LEAST_RATIO, MOST_COST = 0.60, 2.0, 0.05
MASK = 0.2

# name: options; the first is what the last is compared with.
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "topk": {"objective": "topk", "centre": False},
    "topk centred": {"objective": "topk"},
    "batchtopk centred": {"objective": "batchtopk"},
    "matryoshka centred": {"objective": "matryoshka"},
    "group masked": {"objective": "group", "centre": False, "mask": MASK},
    "group centred masked": {"objective": "group", "mask": MASK},
    "group centred": {"objective": "group"},
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the flags."""
    parser.add_argument(
        "--features", metavar="DIR", help="embeddings of `clipjax embed` (default: see above)"
    )
    parser.add_argument(
        "--captions", metavar="WHERE", help="shards that --features are of, whose words judge xMS"
    )
    parser.add_argument(
        "--caption", default="json.captions", metavar="FIELD", help="(default: %(default)s)"
    )
    add_seeds_flag(parser, "of autoencoders")
    parser.add_argument(
        "--variants", metavar="LIST", help=f"of: {', '.join(VARIANTS)} (default: all)"
    )
    for name, default, meaning in (
        ("latents", 128, "atoms"),
        ("k", 4, "latents of a row"),
        ("steps", 4000, "of each autoencoder"),
        ("batch_size", 1024, "pairs of a step"),
    ):
        parser.add_argument(
            f"--{name}", type=int, default=default, metavar="N", help=f"{meaning} ({default})"
        )


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Trains, prints the table and returns the figures.

    Raises:
        UserError: if the features or captions cannot be used.
    """
    from clipjax.cli.sae_table import scores_table
    from clipjax.interpret.sae.features import open_features

    names = _variants(args.variants)
    with tempfile.TemporaryDirectory() as temporary:
        where, captions, caption = args.features, args.captions, args.caption
        if where is None:
            where, captions, caption = _embedded_world(Path(temporary))
        features = open_features(where)
        meanings = None if captions is None else _meanings(captions, caption)
        meanings = None if meanings is None else meanings[features.rows]
        rows = {
            f"{name} {seed}": _row(features, meanings, args, name, seed)
            for name in names
            for seed in args.seeds
        }
    print(scores_table(rows))
    if meanings is None:
        print("xMS by the texts that were encoded themselves: it flatters. See --captions.")
    bars = (
        [_bars(rows, seed) for seed in args.seeds] if {"topk", "group centred"} <= {*names} else []
    )
    for bar in bars:
        print(
            f"seed {bar['seed']}: bimodal {bar['bimodal_share']:.2f} ({LEAST_BIMODAL:.2f}), "
            f"{bar['ratio']:.1f} times the plain one's ({LEAST_RATIO:.0f}), for "
            f"{bar['r2_cost']:+.3f} of R2 ({MOST_COST}){'' if bar['passed'] else ' !'}"
        )
    return {"autoencoders": rows, "bars": bars, "passed": all(bar["passed"] for bar in bars)}


def _variants(text: str | None) -> list[str]:
    from clipjax.config.errors import did_you_mean

    names = [part.strip() for part in text.split(",")] if text else list(VARIANTS)
    for name in names:
        if name not in VARIANTS:
            raise UsageError(
                f"--variants: no {name!r}.{did_you_mean(name, VARIANTS)} There are "
                f"{', '.join(VARIANTS)}."
            )
    return names


def _row(
    features: Any, meanings: "np.ndarray | None", args: argparse.Namespace, name: str, seed: int
) -> dict[str, Any]:
    from clipjax.config import MeshConfig
    from clipjax.core.mesh import make_mesh
    from clipjax.interpret.sae.evaluation import evaluate_sae
    from clipjax.interpret.sae.options import SaeOptions
    from clipjax.interpret.sae.training import train_sae

    asked = {
        "latents": args.latents,
        "k": args.k,
        "steps": args.steps,
        "batch_size": args.batch_size,
        "seed": seed,
    }
    try:
        options = SaeOptions(**{**asked, **VARIANTS[name]})
    except ValueError as error:
        raise UsageError(f"clipjax bench neurons sae: --{error}") from error
    sae = train_sae(features, options, make_mesh(MeshConfig()))
    return evaluate_sae(sae, features, meanings).summary()


def _bars(rows: Mapping[str, Any], seed: int) -> dict[str, Any]:
    plain, group = rows[f"topk {seed}"], rows[f"group centred {seed}"]
    cost = sum(plain["r2"][m] - group["r2"][m] for m in ("image", "text")) / 2
    ratio = group["bimodal_share"] / max(plain["bimodal_share"], 1e-12)
    return {
        "seed": seed,
        "bimodal_share": group["bimodal_share"],
        "ratio": ratio,
        "r2_cost": cost,
        "passed": group["bimodal_share"] >= LEAST_BIMODAL
        and ratio >= LEAST_RATIO
        and cost <= MOST_COST,
    }


def _embedded_world(folder: Path) -> tuple[str, str, str]:
    """Trains a model of the world of emoji; returns its features, their shards and captions."""
    import dataclasses

    from clipjax.cli import embed
    from clipjax.cli.configs import load_config
    from clipjax.core.distributed import Cluster, joined
    from clipjax.data.world_shards import make_emoji_world
    from clipjax.train.run import run as train

    make_emoji_world(folder / "world")
    base = load_config(f"{RECIPE}:captions", [])
    config = dataclasses.replace(
        base, data=dataclasses.replace(base.data, root=str(folder / "world"))
    )
    with joined(Cluster()) as lifeline:
        train(config, folder / "model", lifeline)
    shards = " ".join(f"{folder / 'world' / part}" for part in config.data.shards.split())
    parser = Parser(prog="clipjax embed")
    embed.configure(parser)
    out = str(folder / "embeddings")
    model = ["--model", str(folder / "model"), "--out", out]
    embed.run(parser.parse_args([*model, "--shards", shards, "--caption", config.data.caption]))
    return out, shards, config.data.caption


def _meanings(where: str, caption: str) -> "np.ndarray":
    """Returns TF-IDF vectors of the captions of each sample, float32 [samples, words]."""
    from clipjax.config import DataConfig
    from clipjax.data.captions import caption_members
    from clipjax.data.concepts import read_captions
    from clipjax.data.opening import Sources, open_address

    data = DataConfig(root=".", shards=where, caption=caption)
    source = Sources({"": open_address(where, data, caption_members(caption))})
    return tf_idf(read_captions(source, caption=caption, samples=len(source)))


def tf_idf(texts: Iterable[str]) -> "np.ndarray":
    """Returns one row a text, unit length: which words it has, rare ones weighing more.

    Words of one text only are left out, as they tie nothing to anything; a text of such words alone
    has a column for all of those.

    >>> tf_idf(["red cat", "red", "dog"]).astype(bool).tolist()
    [[True, True], [True, False], [False, True]]
    """
    import numpy as np

    from clipjax.data.words import words_of

    words = [dict.fromkeys(words_of(text)) for text in texts]
    counts: dict[str, int] = {}
    for found in words:
        for word in found:
            counts[word] = counts.get(word, 0) + 1
    columns = {word: n for n, word in enumerate(w for w, c in counts.items() if c > 1)}
    rows = np.zeros((len(words), len(columns) + 1), np.float32)
    for row, found in zip(rows, words, strict=True):
        for word in found:
            if word in columns:
                row[columns[word]] = np.log(len(words) / counts[word])
            else:
                row[-1] = np.log(len(words))
    empty = ~rows.any(axis=1)
    rows[empty, -1] = 1
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


if __name__ == "__main__":
    import sys

    from clipjax.cli.main import main

    main(["bench", "neurons", "sae", *sys.argv[1:]])
