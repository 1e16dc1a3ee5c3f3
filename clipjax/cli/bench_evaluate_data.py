"""What `clipjax bench evaluate` measures with: photographs and prompts, the same for all."""

import itertools
from collections.abc import Iterator
from pathlib import Path

from clipjax.data.photos import make_photos
from clipjax.data.sources.tar_shards import TarShards
from clipjax.data.writers import Members, write_members

SPLIT = "test"
SHARD = "0.tar"

_BEGINNINGS = (
    "a photo of",
    "a good photo of",
    "a bad photo of",
    "a close-up photo of",
    "a blurry photo of",
    "a black and white photo of",
    "a low resolution photo of",
    "a photo of one of",
    "a drawing of",
    "a sketch of",
    "a cropped image of",
    "a bright image of",
    "a dark image of",
    "art of",
    "a picture of the large ones of",
    "an origami of",
)
_ENDS = ("a {c}.", "the {c}.", "my {c}.", "many {c}.", "{c}.")
TEMPLATES = tuple(" ".join(parts) for parts in itertools.product(_BEGINNINGS, _ENDS))
"""80, as long as those that are in use."""

_KINDS = ("red", "wild", "old", "small", "northern")
_THINGS = (
    "fox",
    "sports car",
    "apple",
    "church",
    "guitar",
    "snake",
    "coffee mug",
    "sailing boat",
    "mushroom",
    "desk lamp",
)
CLASS_NAMES = tuple(" ".join(parts) for parts in itertools.product(_KINDS, _THINGS))
"""50, of one to three words."""


def write_benchmark(folder: Path, *, kind: str, samples: int) -> None:
    """Writes photographs in the layout of CLIP_benchmark, in one shard, with made-up classes.

    Args:
        folder: new or empty.
        kind: a key of `photos.SETS`.
        samples: at most 10,000, which one shard holds.

    Raises:
        UserError: if there are no photographs on this machine.
    """
    make_photos(folder / "photos", kind=kind, samples=samples)
    shards = sorted(str(path) for path in (folder / "photos").rglob("*.tar"))
    source = TarShards(shards)

    def members() -> Iterator[Members]:
        for index in range(len(source)):
            label = index % len(CLASS_NAMES)
            yield {"jpg": source[index]["image"], "cls": str(label).encode()}

    write_members(folder / SPLIT, members(), shard_size=samples)
    (folder / SPLIT / "00000.tar").rename(folder / SPLIT / SHARD)
    for name, lines in (
        (f"{SPLIT}/nshards.txt", ["1"]),
        ("classnames.txt", CLASS_NAMES),
        ("zeroshot_classification_templates.txt", TEMPLATES),
    ):
        (folder / name).write_text("\n".join(lines) + "\n")
