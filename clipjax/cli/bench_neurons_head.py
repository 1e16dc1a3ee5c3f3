"""Trains a dense and a sparse head of equal width, and asks whose axes mean something.

clipjax bench neurons head --seeds 0,1,2 --json head.json

For every seed two small models of the world of emoji, without pictures of words, train as many
steps, `model.head.kind` linear and sparse_relu. An axis of the shared space means something if the
photos and the captions that drive it show the same concepts: its cross-modal monosemanticity, over
that of all pairs (1: by chance), beside three random rotations of the same space. A space without
axes of its own equals them.
The logit scale stays at 8 or below in both: cosines of embeddings without negative coordinates are
0 at least, so that only orthogonal ones are told apart, and those share no axis.
Curves over the run are told by their Spearman correlation with the steps; with --shuffled a model
trains on captions of other pictures, and its curves should stay flat.
"""

import argparse
import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipjax.cli.bench_neurons_runs import RECIPE, add_run_flags, seed_figures
from clipjax.cli.bench_neurons_world import WITHOUT_WORDS

if TYPE_CHECKING:
    from clipjax.config import TrainConfig
    from clipjax.inference.load import Model

WIDTH = 192
STEPS, BATCH = 1400, 128
MOST_SCALE = 8.0
ROTATIONS = 3
LOOKS = 6
SPARSE_BAR, DENSE_BAR = 1.8, 0.1
CURVES = ("cross_modal_ratio", "multimodal_units", "strict_units", "reading_accuracy")

Axes = Mapping[str, Any]


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the flags."""
    add_run_flags(parser, config=f"{RECIPE}:captions")
    parser.add_argument(
        "--width", type=int, default=WIDTH, metavar="N", help="axes (default: %(default)s)"
    )
    parser.add_argument(
        "--steps", type=int, default=STEPS, metavar="N", help="of each model (default: %(default)s)"
    )
    parser.add_argument(
        "--shuffled", action="store_true", help="train a control on captions of other pictures"
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Trains, prints the table and returns the figures.

    Raises:
        UserError: if the recipe cannot be read or trained.
    """

    def rows_of(base: "TrainConfig", folder: Path, seed: int) -> list[dict[str, Any]]:
        size = {"width": args.width, "steps": args.steps}
        return [
            _row(model_config(base, folder, name, seed, **size), folder, name, seed)
            for name in ("linear", "sparse_relu", *(["shuffled"] if args.shuffled else []))
        ]

    figures = seed_figures(args, rows_of, width=args.width, steps=args.steps)
    print(table(figures["models"]))
    return figures


def model_config(
    base: "TrainConfig", folder: Path, name: str, seed: int, *, width: int, steps: int
) -> "TrainConfig":
    """Returns the run of one model.

    Args:
        base: the recipe; towers and shards are those of the benchmark.
        folder: that holds the world.
        name: "linear", "sparse_relu" or "shuffled", which is sparse too.
        seed: of parameters, order and augmentation.
        width: of the shared space.
        steps: of the run.
    """
    from clipjax.config import HeadConfig, NeuronsConfig, TextConfig, ViTConfig

    kind = "linear" if name == "linear" else "sparse_relu"
    sizes: Any = {"width": 64, "num_heads": 4, "mlp_dim": 128, "activation": "relu"}
    image = ViTConfig(image_size=32, patch_size=8, depth=2, pool="mean", **sizes)
    text = TextConfig(vocab_size=600, context_length=16, depth=1, **sizes)
    held_out = {"held_out": base.evals.tasks["held_out"]}
    return dataclasses.replace(
        base,
        seed=seed,
        num_steps=steps,
        model=dataclasses.replace(
            base.model, image=image, text=text, embed_dim=width, head=HeadConfig(kind=kind)
        ),
        data=dataclasses.replace(
            base.data,
            root=str(folder / "world"),
            shards=WITHOUT_WORDS,
            global_batch_size=BATCH,
            shuffle_seed=seed,
            shuffled_captions=name == "shuffled",
        ),
        loss=dataclasses.replace(base.loss, max_logit_scale=MOST_SCALE),
        evals=dataclasses.replace(base.evals, tasks=held_out),
        checkpoint=dataclasses.replace(base.checkpoint, every_steps=steps),
        neurons=NeuronsConfig(every_steps=max(steps // LOOKS, 1)),
    )


def _row(config: "TrainConfig", folder: Path, name: str, seed: int) -> dict[str, Any]:
    from clipjax.core.distributed import Cluster, joined
    from clipjax.data.world_shards import make_emoji_world
    from clipjax.inference.load import load
    from clipjax.train.run import run as train

    make_emoji_world(folder / "world")
    workdir = folder / f"{name}-{config.model.embed_dim}-{config.num_steps}-{seed}"
    with joined(Cluster()) as lifeline:
        figures = train(config, workdir, lifeline)
    row = {
        "model": name,
        "seed": seed,
        "seconds": figures["seconds"],
        "zero_shot": figures["tasks"]["held_out"]["top1"]["value"],
        **judge(load(workdir)),
        "rises": rises(workdir),
    }
    row["passed"] = passes(row)
    return row


def passes(row: Axes) -> bool:
    """Returns whether a model reaches its bar; the control has none."""
    if row["model"] == "linear":
        return abs(row["over_rotation"] - 1) <= DENSE_BAR
    return row["model"] == "shuffled" or row["over_rotation"] >= SPARSE_BAR


def judge(model: "Model") -> dict[str, Any]:
    """Returns what the axes of a model's shared space are, and recall.

    Axes are judged on all emoji, most of which the model was trained on, recall on those held out.

    Args:
        model: of the world of emoji.
    """
    import numpy as np

    from clipjax.data.emoji_world import load_emoji_world
    from clipjax.interpret.controls import random_rotation
    from clipjax.interpret.emergence_scores import cross_modal_ratio
    from clipjax.interpret.facet_samples import facet_embeds
    from clipjax.interpret.stimuli import EMOJI_WORLD, open_stimuli

    stimuli = open_stimuli(EMOJI_WORLD, model.config, facets=["photo", "caption"])
    rows = {name: facet.rows for name, facet in stimuli.facets.items()}
    embeds = {name: facet_embeds(model, facet) for name, facet in stimuli.facets.items()}
    photo, caption = ((rows[name], embeds[name]) for name in ("photo", "caption"))
    width = embeds["photo"].shape[1]
    native = cross_modal_ratio(photo, caption)
    turned = np.concatenate(
        [
            cross_modal_ratio(photo, caption, random_rotation(width, seed=seed))
            for seed in range(ROTATIONS)
        ]
    )
    held_out = load_emoji_world().held_out
    ranks = _ranks(embeds["photo"][held_out], embeds["caption"][held_out])
    return {
        "ratio": float(np.nanmean(native)),
        "median": float(np.nanmedian(native)),
        "most": float(np.nanmax(native)),
        "rotated": float(np.nanmean(turned)),
        "over_rotation": float(np.nanmean(native) / np.nanmean(turned)),
        "recall_1": float((ranks < 1).mean()),
        "recall_10": float((ranks < 10).mean()),
        "live": int(((embeds["photo"] != 0).any(0) & (embeds["caption"] != 0).any(0)).sum()),
        "active": float((embeds["photo"] > 0).sum(axis=1).mean()),
    }


def _ranks(photos: Any, captions: Any) -> Any:
    """Returns how many captions are nearer to each photo than its own."""
    import numpy as np

    similarity = photos @ captions.T
    return (similarity > np.diag(similarity)[:, None]).sum(axis=1)


def rises(workdir: Path, curves: Sequence[str] = CURVES) -> dict[str, float | None]:
    """Returns the Spearman correlation of curves with the steps, None of a flat one.

    Args:
        workdir: of a run that looked at its units.
        curves: names of `clipjax.interpret.emergence`, without `neurons/`.
    """
    import numpy as np

    from clipjax.interpret.statistics.ranks import midranks

    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    out: dict[str, float | None] = {}
    for name in curves:
        key = f"neurons/{name}"
        points = [(line["step"], line[key]) for line in lines if key in line and line["step"]]
        flat = len({value for _, value in points}) < 2
        out[name] = None if flat else float(np.corrcoef(midranks(np.array(points)).T)[0, 1])
    return out


def table(rows: Sequence[Axes]) -> str:
    """Returns the figures as lines, what misses a bar marked, and the bars."""
    columns = (
        ("ratio", "ratio", "{:.2f}"),
        ("median", "median", "{:.2f}"),
        ("most", "most", "{:.1f}"),
        ("rotated", "rotated", "{:.2f}"),
        ("over_rotation", "/ rotated", "{:.2f}"),
        ("zero_shot", "zero-shot", "{:.3f}"),
        ("recall_1", "R@1", "{:.3f}"),
        ("recall_10", "R@10", "{:.3f}"),
        ("live", "live", "{}"),
        ("active", "active", "{:.1f}"),
        ("seconds", "seconds", "{:.0f}"),
    )
    lines = [f"{'head':<14}" + "".join(f"{title:>11}" for _, title, _ in columns)]
    for row in rows:
        cells = [how.format(row[field]) for field, _, how in columns]
        cells[4] += "" if row["passed"] else " !"
        title = f"{row['model']} {row['seed']}"
        lines.append(f"{title:<14}" + "".join(f"{cell:>11}" for cell in cells))
    lines.append(
        f"bars: sparse_relu at least {SPARSE_BAR} over its rotations, linear within "
        f"{DENSE_BAR:.0%} of them"
    )
    for row in rows:
        told = ", ".join(
            f"{name.replace('_', ' ')} {'flat' if value is None else f'{value:.2f}'}"
            for name, value in row["rises"].items()
        )
        lines.append(f"{row['model']} {row['seed']}, correlation with the steps: {told}")
    return "\n".join(lines)
