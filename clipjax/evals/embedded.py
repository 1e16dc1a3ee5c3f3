"""The data of `--suite quick`: a few hundred small pictures that come with the package.

Digits: handwritten, 8 x 8 grey, 30 of each class, from E. Alpaydin and C. Kaynak 1998, "Optical
Recognition of Handwritten Digits", UCI Machine Learning Repository, https://doi.org/10.24432/C50P49,
CC BY 4.0, as scikit-learn has them. Emoji: 64 concepts drawn with Noto Color Emoji (SIL OFL 1.1) at
32 x 32, each with its names in the Unicode CLDR. Class names and templates are of our own wording
and stand for no published protocol. It tells a broken model from a working one in seconds; it ranks
none.
"""

import io
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import numpy as np
from PIL import Image

from clipjax.config import UserError
from clipjax.config.benchmarks import Benchmark
from clipjax.data.resize import EvaluationTransform
from clipjax.evals.dataset import Dataset, Pictures, truth_of
from clipjax.evals.prompts import PromptFiles, make_prompts

FILE = "embedded.npz"
_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_DIGIT_TEMPLATES = ("a handwritten {c}", "the digit {c}", "the number {c}")
_EMOJI_TEMPLATES = ("{c}", "an emoji of {c}", "a picture of {c}")
_OWN = "clipjax's own wording"

QUICK = {
    one.name: one
    for one in (
        Benchmark(name="quick/digits", title="Digits (embedded)", num_samples=300, num_classes=10),
        Benchmark(name="quick/emoji", title="Emoji (embedded)", num_samples=64, num_classes=64),
        Benchmark(
            name="quick/emoji_captions",
            title="Emoji captions (embedded)",
            kind="retrieval",
            main_metric="mean_recall@1",
            num_samples=64,
        ),
    )
}
"""The benchmarks that need no files."""


def open_embedded(
    benchmark: Benchmark,
    transform: EvaluationTransform,
    prompt_files: PromptFiles | None = None,
) -> Dataset:
    """Returns a data set of the package.

    Args:
        benchmark: one of QUICK.
        transform: of the model.
        prompt_files: class names and templates instead of ours.

    Raises:
        UserError: if there are too few class names.
    """
    files = prompt_files or PromptFiles()
    with np.load(Path(str(resources.files("clipjax.evals") / FILE)), allow_pickle=False) as arrays:
        if benchmark.name == "quick/digits":
            pixels, labels = arrays["digits"], arrays["digit_labels"].astype(np.int64)
            captions: list[str] = []
            names: Sequence[str] = _DIGITS
            templates: Sequence[str] = _DIGIT_TEMPLATES
        else:
            pixels, captions = arrays["emoji"], [str(text) for text in arrays["emoji_captions"]]
            names = [text.partition("\n")[0] for text in captions]
            labels, templates = np.arange(len(names)), _EMOJI_TEMPLATES
    images = Pictures(len(pixels), lambda index: _png(pixels[index]), transform)
    keys = [f"{number:03d}" for number in range(len(pixels))]
    if benchmark.kind == "retrieval":
        lines = [text.splitlines() for text in captions]
        return Dataset(
            name=benchmark.name,
            kind="retrieval",
            items=images,
            keys=keys,
            texts=[line for of_image in lines for line in of_image],
            truth=truth_of(image_of_text=np.repeat(labels, [len(of) for of in lines])),
        )
    chosen = files.class_names(benchmark.name)
    if chosen is not None and len(chosen) <= labels.max():
        raise UserError(
            f"{benchmark.name}: {files.paths[0]} holds {len(chosen):,} class names; expected "
            f"{labels.max() + 1}."
        )
    own = files.templates(benchmark.name, names if chosen is None else chosen)
    return Dataset(
        name=benchmark.name,
        kind="classification",
        items=images,
        keys=keys,
        prompts=make_prompts(
            benchmark.name,
            names if chosen is None else chosen,
            templates if own is None else own,
            _OWN if own is None and chosen is None else " and ".join(filter(None, files.paths)),
        ),
        truth=truth_of(label=labels),
    )


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert("RGB").save(buffer, "PNG")
    return buffer.getvalue()
