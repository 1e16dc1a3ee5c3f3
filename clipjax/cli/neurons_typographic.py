"""Writes words on pictures and tells what they make a model say, in four arms.

clipjax neurons typographic --model runs/emoji --out typographic
clipjax neurons typographic --model hf:org/name --stimuli data/emoji/stimuli --out typographic

A wrong word (incongruent) is compared with the same letters scrambled at the same place, never with
the clean picture alone: whatever is written covers something. congruent is the right word. The
model chooses among the names of the concepts. hijack: how much more often it says the wrong word
than with scrambled letters; drop: what reading costs it; stroop: the right word less the wrong one;
reading: words alone. Intervals are of a bootstrap over stimuli, all arms drawn together.
Without --stimuli these are the emoji that come with the package; others need fonts-dejavu-core.
"""

import argparse
from pathlib import Path
from typing import Any

from clipjax.cli.parser import Parser
from clipjax.config.errors import UsageError, UserError, did_you_mean

WORLD = "emoji-world"


def configure(parser: Parser) -> None:
    """Adds the flags."""
    parser.add_argument("--model", required=True, metavar="M", help="as of `clipjax evaluate`")
    parser.add_argument(
        "--stimuli",
        default=WORLD,
        metavar="WHERE",
        help="folder of `clipjax data emoji --facets`, shards, or emoji-world (default)",
    )
    parser.add_argument(
        "--facet", default="photo", metavar="NAME", help="pictures to write on (photo)"
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="for typographic.json")
    parser.add_argument(
        "--repeats", type=int, default=4, metavar="N", help="wrong words a picture (4)"
    )
    parser.add_argument(
        "--views", type=int, default=8, metavar="N", help="pictures of each word alone (8)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of words, places and colours (0)"
    )
    parser.add_argument("--preset", metavar="NAME", help="what a file of weights is")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Prints the table, writes it as JSON, and returns it.

    Raises:
        UserError: if the model, the stimuli or the font are not there.
    """
    for flag in ("repeats", "views"):
        if getattr(args, flag) < 1:
            raise UsageError(f"--{flag} {getattr(args, flag)}: wanted 1 or more.")
    if args.seed < 0:
        raise UsageError(f"--seed {args.seed}: wanted 0 or more.")
    from clipjax.core.metrics import write_json
    from clipjax.data.resize import EvaluationTransform
    from clipjax.data.writers import make_folder
    from clipjax.inference.load import load
    from clipjax.interpret.typographic import run_typographic, table

    make_folder(args.out)
    model = load(args.model, preset=args.preset)
    scene = _scene(args, model)
    found = run_typographic(
        model.encoder.bind(model.params),
        scene,
        EvaluationTransform.of(model.config),
        repeats=args.repeats,
        views=args.views,
        seed=args.seed,
    )
    figures = {
        "model": args.model,
        "step": model.step,
        "stimuli_from": args.stimuli,
        "facet": args.facet,
        "seed": args.seed,
        **found.as_json(),
    }
    path = Path(args.out) / "typographic.json"
    write_json(path, figures)
    print(table(found))
    print(f"\n{path}")
    return figures


def _scene(args: argparse.Namespace, model: Any) -> Any:
    from clipjax.interpret.typographic_pictures import facet_scene, world_scene

    if args.stimuli == WORLD:
        if args.facet != "photo":
            raise UsageError(f"--facet {args.facet}: of {WORLD} words are written on photo.")
        from clipjax.data.emoji_world import load_emoji_world

        return world_scene(load_emoji_world())
    from clipjax.data.emoji_fonts import FONT_ROOTS
    from clipjax.data.word_pictures import WordPainter
    from clipjax.interpret.stimuli import open_stimuli

    stimuli = open_stimuli(args.stimuli, model.config)
    if args.facet not in stimuli.facets:
        raise UserError(
            f"{args.stimuli}: no facet {args.facet!r}.{did_you_mean(args.facet, stimuli.facets)} "
            f"There are {', '.join(stimuli.facets)}."
        )
    side = model.config.image.image_size
    painter = WordPainter(FONT_ROOTS, side, args.seed)
    return facet_scene(stimuli.facets[args.facet], stimuli.concepts, side, painter, seed=args.seed)
