"""Plants units in a network of your own kind and tells whether the lab finds them, and no others.

clipjax neurons selftest --model runs/emoji
clipjax neurons selftest --model ViT-B-32 --units 20
clipjax neurons selftest --config configs/emoji_neurons.py --config.model.embed_dim=64 --seed 1

The network has the architecture that is named and random parameters. New columns of the last linear
map of each tower fire for a concept in pictures and in texts; the scan and the tests look for them
among all coordinates of the shared space, and once more in the network as it was. The exit status
is 3 unless 95 % of the planted units are found, 95 % of the found units were planted, and nothing
is found in the network as it was. It proves that the machinery works on such a network, and nothing
about units that a network learns by itself.
"""

import argparse
import sys
from typing import TYPE_CHECKING, Any

from clipjax.cli.configs import add_config_flag
from clipjax.cli.parser import Parser, listed
from clipjax.cli.text_table import text_table, written
from clipjax.config import UsageError

if TYPE_CHECKING:
    from clipjax.interpret.planted_finds import Selftest
    from clipjax.interpret.stimuli import Stimuli

EXIT_FAILED = 3
FACETS = ("photo", "edges", "word", "caption")


def configure(parser: Parser) -> None:
    """Adds the flags."""
    parser.add_argument(
        "--model", metavar="MODEL", help="whose architecture is taken: a run, a folder or a preset"
    )
    add_config_flag(parser, required=False)
    parser.add_argument(
        "--stimuli", default="emoji-world", metavar="WHERE", help="(default: %(default)s)"
    )
    parser.add_argument(
        "--root", default=".", metavar="DIR", help="that WHERE is relative to (default: here)"
    )
    parser.add_argument(
        "--facets",
        metavar="LIST",
        help="three or more, of both towers "
        f"(default: {','.join(FACETS)} of emoji-world, else all)",
    )
    parser.add_argument(
        "--units", type=int, metavar="N", help="to plant (default: 20, or a quarter of all)"
    )
    parser.add_argument(
        "--decoys",
        type=int,
        metavar="N",
        help="to plant that mean one thing in pictures and another in texts (default: 5, or fewer)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of parameters and plant (default: 0)"
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Prints what was planted and what was found; returns the figures.

    Raises:
        UserError: if nothing can be planted in this architecture, or the stimuli cannot be opened.
        UsageError: unless one of --model and --config is given.
    """
    if bool(args.model) == bool(args.config):
        raise UsageError("clipjax neurons selftest: give --model or --config, and not both.")
    if args.model and args.overrides:
        raise UsageError(f"{args.overrides[0]}: belongs to --config.")
    for flag, least in (("units", 1), ("decoys", 0), ("seed", 0)):
        if (given := getattr(args, flag)) is not None and given < least:
            raise UsageError(f"--{flag}={given}: wanted {least} or more.")
    from clipjax.interpret.planted_finds import random_network, selftest

    config, tokenizer, stimuli = _opened(args)
    model = random_network(config, tokenizer, seed=args.seed)
    found = selftest(model, stimuli, units=args.units, decoys=args.decoys, seed=args.seed)
    _print(found)
    if not found.passed:
        print("FAILED: do not trust what the lab says of this architecture.")
        args.exit_status = EXIT_FAILED
    return found.to_json()


def _opened(args: argparse.Namespace) -> tuple[Any, Any, "Stimuli"]:
    """Returns the config of the model, a tokenizer, and the stimuli."""
    from clipjax.cli.configs import load_config
    from clipjax.config import TokenizerConfig
    from clipjax.data.tokenizers import AbsentTokenizer, make_tokenizer
    from clipjax.interchange.pretrained import open_pretrained
    from clipjax.interpret.stimuli import EMOJI_WORLD, open_stimuli

    usual = FACETS if args.stimuli == EMOJI_WORLD else None
    wanted = listed(args.facets) or usual
    if args.config:
        whole = load_config(args.config, args.overrides)
        config, kind, tokenizer = whole.model, whole.tokenizer, None
    else:
        opened = open_pretrained(args.model)
        config, kind, tokenizer = opened.config, TokenizerConfig(), opened.tokenizer
        if isinstance(tokenizer, AbsentTokenizer):
            print(f"{args.model}: no vocabulary; one is made of the captions", file=sys.stderr)
            tokenizer = None
    stimuli = open_stimuli(args.stimuli, config, tokenizer=tokenizer, facets=wanted, root=args.root)
    if tokenizer is None:
        tokenizer = make_tokenizer(kind, config.text, lambda: _texts(stimuli))
    for note in stimuli.notes:
        print(f"{args.stimuli}: {note}", file=sys.stderr)
    return config, tokenizer, stimuli


def _texts(stimuli: "Stimuli") -> list[str]:
    facets = [facet for facet in stimuli.facets.values() if facet.rows.tower == "text"]
    return [facet.text(sample) for facet in facets for sample in range(len(facet.owner))]


def _print(found: "Selftest") -> None:
    rows = [
        (name, written(found.auroc[name], ".2f"), written(found.auroc_held_out[name], ".2f"))
        for name in found.facets
    ]
    print("planted units, median AUROC for their concepts:")
    print(text_table(("facet", "all stimuli", "not fitted on"), rows))
    print(
        f"planted {found.planted} units and {found.decoys} decoys; found {found.found} units: "
        f"recall {found.recall:.2f}, precision {found.precision:.2f}, right concept "
        f"{found.right_concept:.2f}, decoys {found.decoys_found}"
    )
    print(f"in the same network before: {found.unplanted} units")
    for what, names in (("missed", found.missed), ("wrong", found.wrong)):
        if names:
            print(f"{what}: {', '.join(names)}")


if __name__ == "__main__":
    from clipjax.cli.main import main

    main(["neurons", "selftest", *sys.argv[1:]])
