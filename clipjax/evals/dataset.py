"""What an evaluation is given: things to embed, texts, and what is true of them."""

import dataclasses
import hashlib
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from clipjax.config.benchmarks import Kind
from clipjax.data.decode import BadSampleError
from clipjax.data.images import Images
from clipjax.data.resize import EvaluationTransform
from clipjax.evals.prompts import Prompts


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dataset:
    """One data set, opened; nothing of it depends on a model but how its items are read.

    Attributes:
        name: of the task.
        kind: how it is scored.
        items: what the first tower embeds: pictures, or whatever the encode function takes.
        keys: of the items, for people and to pair two evaluations.
        texts: what the second tower embeds, where they are not made of prompts: captions or cues.
        prompts: of the classes, where there are any.
        truth: arrays by name. classification: label int64 [items], group/FIELD int64 [items].
            multilabel: target bool [items, classes]. retrieval: image_of_text int64 [texts].
            selection: images_each and texts_each, one number each. association: instance int64
            [items], right bool [items], a text an instance. attributes: group/FIELD.
        notes: what people should know, e.g. samples that lack a file.
    """

    name: str
    kind: Kind
    items: Images
    keys: Sequence[str]
    texts: Sequence[str] = ()
    prompts: Prompts | None = None
    truth: Mapping[str, np.ndarray]
    notes: Sequence[str] = ()
    group_names: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)

    def sha256(self) -> str:
        """Returns a hash of keys, texts and truth, in order; not of the pixels."""
        hashed = hashlib.sha256()
        for lines in (self.keys, self.texts):
            hashed.update("\n".join(lines).encode("utf-8", "surrogateescape") + b"\0")
        for name in sorted(self.truth):
            array = np.ascontiguousarray(self.truth[name])
            hashed.update(f"{name} {array.dtype} {array.shape}".encode() + array.tobytes())
        return hashed.hexdigest()


class Pictures:
    """Pictures of a data set through the evaluation transform of a model, as others score them.

    The EXIF rotation is not applied and transparency is dropped.

    One that does not decode raises BadSampleError when it is read, so that the encoder gives it a
    row of zeros, and is remembered.

    Args:
        count: of pictures.
        read: returns the file of a picture; may raise BadSampleError.
        transform: of the model.
        keys: of the pictures, for messages.
        max_pixels: pictures that claim more are not decoded.

    Attributes:
        bad: why a picture could not be used, by number; of those that this process read.
    """

    def __init__(
        self,
        count: int,
        read: Callable[[int], bytes],
        transform: EvaluationTransform,
        keys: Sequence[str] = (),
        max_pixels: int = 64_000_000,
    ):
        self._count, self._read, self._keys = count, read, keys
        self._transform, self._max_pixels = transform, max_pixels
        self._lock = threading.Lock()
        self.bad: dict[int, str] = {}

    def __len__(self) -> int:
        return self._count

    def key(self, index: int) -> str:
        """Returns the key of a picture, or its number."""
        return self._keys[index] if self._keys else f"number {index}"

    def file(self, index: int) -> bytes:
        """Returns the file of a picture.

        Raises:
            BadSampleError: if it cannot be had.
        """
        return self._read(index)

    def fill(self, index: int, out: np.ndarray) -> None:
        """Writes picture `index` into `out`, uint8 [side, side, 3].

        Raises:
            BadSampleError: if it does not decode.
        """
        try:
            self._transform.of_file(self._read(index), self._max_pixels, out, as_stored=True)
        except BadSampleError as error:
            with self._lock:
                self.bad[index] = str(error)
            raise


def truth_of(**arrays: Any) -> dict[str, np.ndarray]:
    """Returns arrays by name."""
    return {name: np.asarray(array) for name, array in arrays.items()}
