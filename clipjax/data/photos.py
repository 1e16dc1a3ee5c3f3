"""Shards to measure speed with: crops of real photographs, sized and compressed as in the field.

From the photographs of Debian's package mate-backgrounds, or from those that come with scikit-image
and scikit-learn. Pictures like these are what decoders and resizing are slow or fast on; their
captions only have the length and the odd characters of real ones.
"""

import collections
import importlib.util
import os
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from clipjax.config.errors import UserError
from clipjax.data.keyed import uniforms
from clipjax.data.writers import DatasetFolder, Sample, write_shards

MATE_FOLDER = Path("/usr/share/backgrounds/mate")
MATE_PHOTOS = (
    "abstract/Elephants_5640x3172.jpg",
    "abstract/Elephants.jpg",
    *(f"nature/{name}.jpg" for name in
      ("Aqua", "Blinds", "Dune", "FreshFlower", "Garden", "GreenMeadow", "LadyBird", "RainDrops",
       "Storm", "TwoWings", "Wood", "YellowFlower")),
)  # fmt: skip
SCIKIT_IMAGE_PHOTOS = ("astronaut", "chelsea", "coffee", "rocket")
_LOOK, _CAPTION = 1, 2  # streams of `uniforms`
_WEB_ASPECTS = (0.56, 1.78)
_NOISE = 1.8
_ODD = ("caf\u00e9", "&amp;", "\u2764", "\u732b", "na\u00efve", "1/2\u2033", "\U0001f600", "&#39;s")
_ODD_SHARE = 0.1
_WORDS = 3000
_MEAN_WORDS = 10

# name: (longest side or None, shortest side or None, JPEG quality)
SETS: dict[str, tuple[int | None, int | None, int]] = {
    "longest512": (512, None, 95),
    "shortest512": (None, 512, 95),
    "square256": (256, 256, 85),
}


def make_photos(
    out: str | os.PathLike[str], *, kind: str = "longest512", samples: int = 2000, seed: int = 0
) -> dict[str, Any]:
    """Writes a set as shards into `out` and returns the content of its dataset.json.

    longest512 and shortest512: aspects between 9:16 and 16:9, JPEG quality 95, as the pools of
    DataComp are made; square256: 256 x 256, quality 85.

    Args:
        out: a new or empty folder.
        kind: a key of `SETS`.
        samples: pairs.
        seed: of crops and captions.

    Raises:
        UserError: if there is no photograph on this machine, or `out` holds something else.
    """
    folder = DatasetFolder(
        out, "photos", {"kind": kind, "samples": samples, "seed": seed}, ["train"]
    )
    found = folder.complete()
    if found is not None:
        return found
    where, photos = load_photos()
    folder.begin()
    measured: collections.Counter[str] = collections.Counter()

    def encoded() -> Iterator[Sample]:
        words = _words()
        make = _maker(photos, kind, seed)
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            for number, (data, width, height) in enumerate(pool.map(make, range(samples))):
                measured["bytes"] += len(data)
                measured["pixels"] += width * height
                yield Sample(
                    caption=_caption(words, seed, number),
                    image=data,
                    fields={"width": width, "height": height},
                )

    write_shards(folder.path / "train", encoded(), image_format="jpg")
    return folder.finish(
        {
            "samples": samples,
            "photographs": len(photos),
            "photographs_from": where,
            "mean_bytes": round(measured["bytes"] / samples),
            "mean_bits_per_pixel": round(8 * measured["bytes"] / measured["pixels"], 3),
        }
    )


def load_photos(folder: Path = MATE_FOLDER) -> tuple[str, list[np.ndarray]]:
    """Returns where photographs come from and their pixels, RGB.

    Raises:
        UserError: if there are none.
    """
    paths = [folder / name for name in MATE_PHOTOS if (folder / name).is_file()]
    if paths:
        return "mate-backgrounds", [np.asarray(Image.open(path).convert("RGB")) for path in paths]
    photos: list[np.ndarray] = []
    packages = []
    if importlib.util.find_spec("skimage"):
        from skimage import data as skimage_data

        photos += [getattr(skimage_data, name)() for name in SCIKIT_IMAGE_PHOTOS]
        packages.append("scikit-image")
    if importlib.util.find_spec("sklearn"):
        from sklearn.datasets import load_sample_images

        photos += load_sample_images().images
        packages.append("scikit-learn")
    if not photos:
        raise UserError(
            "clipjax data photos: no photograph on this machine. Install the Debian package "
            "mate-backgrounds, or pip install scikit-image scikit-learn."
        )
    return " and ".join(packages), photos


def _maker(
    photos: list[np.ndarray], kind: str, seed: int
) -> Callable[[int], tuple[bytes, int, int]]:
    longest, shortest, quality = SETS[kind]

    def make(number: int) -> tuple[bytes, int, int]:
        draws = uniforms(seed, number, _LOOK, 6)
        photo = photos[int(draws[0] * len(photos))]
        low, high = np.log(_WEB_ASPECTS)
        aspect = 1.0 if longest and shortest else float(np.exp(low + draws[1] * (high - low)))
        width, height = _size(aspect, longest, shortest)
        most = min(photo.shape[1] / width, photo.shape[0] / height)
        scale = min(most, 1.0 + draws[2] * (most - 1.0))  # at least one pixel a pixel, if there is
        cut_width, cut_height = int(width * scale), int(height * scale)
        left = int(draws[3] * (photo.shape[1] - cut_width + 1))
        top = int(draws[4] * (photo.shape[0] - cut_height + 1))
        part = photo[top : top + cut_height, left : left + cut_width]
        shrunk = cv2.resize(part, (width, height), interpolation=cv2.INTER_AREA)
        noise = np.random.default_rng([seed, number]).normal(0, _NOISE, (height, width, 1))
        light = 0.85 + 0.3 * draws[5]
        pixels = np.clip(shrunk * light + noise, 0, 255).astype(np.uint8)
        _, data = cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
        return data.tobytes(), width, height

    return make


def _size(aspect: float, longest: int | None, shortest: int | None) -> tuple[int, int]:
    """Returns width and height.

    >>> _size(2.0, 512, None), _size(0.5, None, 512), _size(1.0, 256, 256)
    ((512, 256), (512, 1024), (256, 256))
    """
    if longest is not None:
        return (longest, round(longest / aspect)) if aspect >= 1 else (
            round(longest * aspect), longest)  # fmt: skip
    assert shortest is not None
    return (round(shortest * aspect), shortest) if aspect >= 1 else (
        shortest, round(shortest / aspect))  # fmt: skip


def _words() -> list[str]:
    """Returns English words by frequency, from what every machine has: Python's documentation."""
    from pydoc_data.topics import topics

    counts = collections.Counter(re.findall(r"[a-z]{2,12}", " ".join(topics.values()).lower()))
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [word for word, _ in ranked[:_WORDS]]


def _caption(words: list[str], seed: int, number: int) -> str:
    draws = uniforms(seed, number, _CAPTION, 64)
    length = 3 + int(draws[0] * 2 * (_MEAN_WORDS - 3))
    ranks = (len(words) ** draws[1 : 1 + length]).astype(int) - 1  # Zipf: log-uniform ranks
    chosen = [words[rank] for rank in ranks]
    if draws[40] < _ODD_SHARE:
        chosen.insert(int(draws[41] * length), _ODD[int(draws[42] * len(_ODD))])
    return " ".join(chosen).capitalize()
