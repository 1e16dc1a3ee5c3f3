"""What commands that look at pictures through a model have in common: flags, model, texts."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipjax.cli.parser import Parser, add_model_flags, listed
from clipjax.config.errors import UsageError, UserError

if TYPE_CHECKING:
    from clipjax.inference.load import Model
    from clipjax.interpret.facet_pictures import FacetPictures


@dataclasses.dataclass(frozen=True, kw_only=True)
class Looked:
    """A model, pictures for it, and texts in its space.

    Attributes:
        model: loaded.
        pictures: of the stimuli.
        texts: words.
        embeds: of the texts, of unit length.
        about: what a file that is written says of all that.
    """

    model: "Model"
    pictures: "FacetPictures"
    texts: Sequence[str]
    embeds: Any
    about: dict[str, Any]


def add_flags(parser: Parser) -> None:
    """Adds the flags of the model, the stimuli and the texts."""
    add_model_flags(parser)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument(
        "--stimuli",
        metavar="WHERE",
        help="emoji-world, or a folder of clipjax data emoji --facets",
    )
    where.add_argument(
        "--shards", metavar="WHERE", help="pictures with captions, as config.data.shards"
    )
    parser.add_argument(
        "--root", default=".", metavar="DIR", help="that WHERE is relative to (default: here)"
    )
    parser.add_argument(
        "--caption",
        default="txt",
        metavar="WHERE",
        help="of a sample of shards, as config.data.caption (default: %(default)s)",
    )
    parser.add_argument("--facets", metavar="LIST", help="of pictures; all but controls by default")
    parser.add_argument(
        "--texts", metavar="FILE", help="one a line; the names of the concepts by default"
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to write")
    parser.add_argument(
        "--batch_size", type=int, default=32, metavar="N", help="images at once (32)"
    )


def look(args: Any) -> Looked:
    """Loads the model, opens the pictures and embeds the texts.

    Raises:
        UserError: if one of them is not there or cannot be used.
    """
    if args.batch_size < 1:
        raise UsageError(f"--batch_size={args.batch_size} is not positive.")
    named = read_lines(args.texts, "--texts") if args.texts else None
    from clipjax.data.writers import make_folder
    from clipjax.inference.load import load
    from clipjax.interpret.facet_pictures import FacetPictures, image_facets
    from clipjax.interpret.stimuli import open_stimuli
    from clipjax.interpret.vit_parts import image_tower

    make_folder(args.out)
    model = load(args.model, step=args.step, preset=args.preset)
    image_tower(model.config)
    facets = listed(args.facets)
    stimuli = open_stimuli(
        args.stimuli or args.shards,
        model.config,
        tokenizer=model.tokenizer,
        facets=facets or None,
        caption=args.caption,
        root=args.root,
    )
    pictures = FacetPictures(image_facets(stimuli.facets, facets))
    texts = named or [concept.name for concept in stimuli.concepts]
    return Looked(
        model=model,
        pictures=pictures,
        texts=texts,
        embeds=model.encode_text(texts),
        about={
            "model": str(args.model),
            "step": model.step,
            "identity": model.identity,
            "stimuli": stimuli.name,
            "facets": [facet.rows.name for facet in image_facets(stimuli.facets, facets)],
            "images": len(pictures),
            "texts": args.texts or "concepts",
        },
    )


def read_lines(path: str, flag: str) -> list[str]:
    """Returns the lines of a file that are not blank.

    Raises:
        UserError: if it cannot be read, has none, or one twice.
    """
    try:
        content = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{flag}={path}: cannot be read ({error}).") from error
    lines = [line.strip() for line in content.splitlines() if line.strip()]
    if not lines:
        raise UserError(f"{flag}={path}: holds no text. Write one a line.")
    seen: set[str] = set()
    for number, line in enumerate(lines, 1):
        if line in seen:
            raise UserError(f"{flag}={path}: text {number}, {line!r}, is there twice. Remove one.")
        seen.add(line)
    return lines
