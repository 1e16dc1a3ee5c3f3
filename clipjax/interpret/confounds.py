"""What could make a unit answer other than a concept: how bright a picture is, how long a text."""

import io
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from jaxtyping import Float, Int, Shaped, UInt8
from PIL import Image

from clipjax.data.tokenizers import Tokenizer
from clipjax.data.words import words_of

PICTURE_CONFOUNDS = ("luminance", "contrast", "edges", "bytes")
TEXT_CONFOUNDS = ("tokens", "frequency")

_LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601


def picture_confounds(
    pixels: UInt8[np.ndarray, "height width 3"], file_bytes: int | None = None
) -> Float[np.ndarray, " confounds"]:
    """Returns luminance, contrast, density of edges and size of a picture; float64.

    Luminance is the mean of grey, contrast its standard deviation, edges the mean length of its
    gradient, all in units where white is 1. The size is that of the file, or of a PNG file of these
    pixels.

    Args:
        pixels: as a model sees them.
        file_bytes: of the file that they come from.

    >>> picture_confounds(np.full((4, 4, 3), 255, np.uint8), 70).round(6).tolist()
    [1.0, 0.0, 0.0, 70.0]
    """
    grey = pixels.astype(np.float32) @ (_LUMINANCE / 255)
    down, right = np.diff(grey, axis=0)[:, :-1], np.diff(grey, axis=1)[:-1]
    edges = float(np.hypot(down, right).mean()) if down.size else 0.0
    size = _png_bytes(pixels) if file_bytes is None else file_bytes
    return np.array([grey.mean(dtype=np.float64), grey.std(dtype=np.float64), edges, size])


def text_confounds(
    texts: Sequence[str], tokenizer: Tokenizer | None = None
) -> Float[np.ndarray, "texts confounds"]:
    """Returns how many tokens each text has, and how usual its words are among all texts.

    Usual is the mean over the words of a text of log(share of all words); 0 for a text that has no
    word, which is above all others.

    Args:
        texts: of one facet.
        tokenizer: of the model; without one words are counted.

    >>> text_confounds(["a cat", "a dog"])[:, 1].round(3).tolist()
    [-1.04, -1.04]
    """
    split = [words_of(text) for text in texts]
    counts = Counter(word for words in split for word in words)
    total = max(1, counts.total())
    rows = np.zeros((len(texts), len(TEXT_CONFOUNDS)))
    for row, (text, words) in enumerate(zip(texts, split, strict=True)):
        rows[row, 0] = len(words) if tokenizer is None else _tokens(tokenizer(text))
        rows[row, 1] = np.mean([np.log(counts[word] / total) for word in words] or [0.0])
    return rows


def mean_of_views(
    samples: Shaped[np.ndarray, "samples numbers"], owner: Int[np.ndarray, " samples"], rows: int
) -> Float[np.ndarray, "rows numbers"]:
    """Returns the mean over the samples of each row; each row has one at least."""
    sums = np.zeros((rows, samples.shape[1]))
    np.add.at(sums, owner, samples)
    return sums / np.bincount(owner, minlength=rows)[:, None]


def labels_of_words(
    texts: Iterable[Sequence[str]], find: Callable[[str], Sequence[int]], concepts: int
) -> Shaped[np.ndarray, "rows concepts"]:
    """Returns whether any text of a row has a word of each concept.

    Args:
        texts: those of each row.
        find: the concepts of a text, by number.
        concepts: how many there are.
    """
    rows = []
    for of_row in texts:
        labels = np.zeros(concepts, bool)
        for text in of_row:
            labels[list(find(text))] = True
        rows.append(labels)
    return np.array(rows, bool).reshape(-1, concepts)


def _png_bytes(pixels: UInt8[np.ndarray, "height width 3"]) -> int:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.tell()


def _tokens(row: Int[np.ndarray, " tokens"]) -> int:
    """Returns how many tokens stand before the equal ones that end the row, which fill it."""
    text = np.flatnonzero(row != row[-1])
    return int(text[-1]) + 1 if len(text) else len(row)
