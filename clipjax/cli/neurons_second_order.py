"""Tells in texts what each neuron of a layer does to the embedding through later heads.

clipjax neurons second-order image/blocks/8/mlp_act --model runs/a --stimuli emoji-world --out DIR

For a Vision Transformer with a class token or a mean over patches, and any layer but the last. With
attention held as it is in each picture, the effect of a neuron has one main direction; the texts
are a sum near to it. Writes DIR/second_order.json and DIR/second_order.npz with the directions.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from clipjax.cli.neurons_pictures import add_flags, look
from clipjax.cli.parser import Parser
from clipjax.cli.text_table import text_table
from clipjax.config.errors import UsageError

_SHOWN_NEURONS, _SHOWN_TEXTS = 20, 4


def configure(parser: Parser) -> None:
    """Adds the flags."""
    parser.add_argument("path", metavar="UNITPATH", help="of the layer: image/blocks/8/mlp_act")
    add_flags(parser)
    parser.add_argument("--count", type=int, default=8, metavar="N", help="texts of a neuron (8)")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Writes all neurons, prints those with the largest effects, and returns all.

    Raises:
        UserError: if model, stimuli or texts are not there, or the layer has no such effects.
    """
    from clipjax.core.metrics import write_json

    if args.count < 1:
        raise UsageError(f"--count={args.count} is not positive.")
    looked = look(args)
    from clipjax.core.files import replaced
    from clipjax.interpret.neuron_texts import neuron_texts

    found = neuron_texts(
        looked.model,
        looked.pictures,
        args.path,
        looked.embeds,
        count=min(args.count, *looked.embeds.shape),
        batch_size=args.batch_size,
    )
    effects, texts = found.effects, found.texts
    neurons = [
        {
            "unit": f"{args.path}:{neuron}",
            "size": float(effects.size[neuron]),
            "share": float(effects.share[neuron]),
            "texts": [
                {"text": looked.texts[text], "weight": float(weight)}
                for text, weight in zip(texts.texts[neuron], texts.weights[neuron], strict=True)
                if text >= 0
            ],
            "explained": float(texts.explained[neuron]),
        }
        for neuron in range(len(effects.size))
    ]
    out = Path(args.out)
    with replaced(out / "second_order.npz") as file:
        np.savez(
            file,
            allow_pickle=False,
            direction=effects.direction,
            mean=effects.mean,
            size=effects.size,
            share=effects.share,
        )
    content = {**looked.about, "path": args.path, "neurons": neurons}
    write_json(out / "second_order.json", content)
    order = np.argsort(-effects.size, kind="stable")[:_SHOWN_NEURONS]
    rows = [_row(neurons[neuron]) for neuron in order]
    print(text_table(["unit", "texts", "size", "share", "explained"], rows, texts=2))
    print(
        "\nsize: root mean square length of the effect on an embedding of length 1; share: of its\n"
        "variance along one direction; explained: of that direction by the texts\n"
        f"{out / 'second_order.json'}: {len(neurons):,} neurons over {found.images:,} images"
    )
    return content


def _row(neuron: Any) -> list[str]:
    said = [f"{one['weight']:+.2f} {one['text']}" for one in neuron["texts"][:_SHOWN_TEXTS]]
    return [
        neuron["unit"],
        ", ".join(said),
        f"{neuron['size']:.4f}",
        f"{neuron['share']:.0%}",
        f"{neuron['explained']:.0%}",
    ]
