"""Tells in texts what each attention head of an image tower adds to the embedding.

clipjax neurons textspan --model runs/a --stimuli emoji-world --out spans
clipjax neurons textspan --model hf:org/name --shards 'photos/*.tar' --texts words.txt --out spans

For a Vision Transformer with a class token or a mean over patches. The direct effects of a head on
the embeddings of all pictures span some directions; the texts are those along which the effects
differ most from picture to picture, one after the other (TextSpan). explained is the share of the
variance that the texts up to each one span. Writes DIR/textspan.json.
"""

import argparse
import re
from pathlib import Path
from typing import Any

from clipjax.cli.neurons_pictures import add_flags, look
from clipjax.cli.parser import Parser
from clipjax.cli.text_table import text_table
from clipjax.config.errors import UsageError

_SHOWN_TEXTS = 4


def configure(parser: Parser) -> None:
    """Adds the flags."""
    add_flags(parser)
    parser.add_argument(
        "--layers",
        default="last4",
        metavar="WHICH",
        help="lastN, or numbers such as 8,9,11 (last4)",
    )
    parser.add_argument("--picks", type=int, default=10, metavar="N", help="texts of a head (10)")
    parser.add_argument(
        "--rank", type=int, default=80, metavar="R", help="leading directions of a head (80)"
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Writes and prints the texts of the heads, and returns them.

    Raises:
        UserError: if model, stimuli or texts are not there, or the tower has no such heads.
    """
    from clipjax.core.metrics import write_json

    for flag in ("picks", "rank"):
        if getattr(args, flag) < 1:
            raise UsageError(f"--{flag}={getattr(args, flag)} is not positive.")
    last, layers = _layers(args.layers)
    looked = look(args)
    from clipjax.interpret.head_texts import head_spans, last_layers

    found = head_spans(
        looked.model,
        looked.pictures,
        looked.embeds,
        layers=last_layers(looked.model, last) if last else layers,
        picks=min(args.picks, len(looked.texts)),
        rank=args.rank,
        batch_size=args.batch_size,
    )
    heads = [
        {
            "layer": one.layer,
            "head": one.head,
            "size": one.size,
            "variance": one.variance,
            "texts": [looked.texts[text] for text in one.span.texts],
            "explained": one.span.explained.tolist(),
        }
        for one in found
    ]
    content = {**looked.about, "rank": args.rank, "heads": heads}
    path = Path(args.out) / "textspan.json"
    write_json(path, content)
    rows = [
        [
            f"{one['layer']}:{one['head']}",
            ", ".join(one["texts"][:_SHOWN_TEXTS]),
            f"{one['size']:.3f}",
            f"{one['explained'][-1]:.0%}",
        ]
        for one in heads
    ]
    print(text_table(["head", "texts", "size", "explained"], rows, texts=2))
    print(
        "\nsize: root mean square length of what the head adds to an embedding of length 1;\n"
        "explained: share of its variance that all its texts span\n"
        f"{path}: {len(heads)} heads over {looked.about['images']:,} images"
    )
    return content


def _layers(text: str) -> tuple[int, list[int]]:
    """Returns how many of the last layers, or 0 and which layers."""
    last = re.fullmatch(r"last([1-9]\d*)", text)
    if last:
        return int(last[1]), []
    if not re.fullmatch(r"\d+(,\d+)*", text):
        raise UsageError(f"--layers={text!r}: expected lastN, or numbers such as 8,9,11.")
    return 0, sorted({int(part) for part in text.split(",")})
