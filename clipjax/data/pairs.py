"""One sample of a run: an image, cropped and resized, and the ids of its caption."""

import collections
import json
import sys
import threading
from collections.abc import Mapping

import numpy as np

from clipjax.config import DataConfig, UserError
from clipjax.data.crops import random_resized_crop
from clipjax.data.decode import BadSampleError, decode_image, resize_into
from clipjax.data.keyed import uniforms
from clipjax.data.order import Order, permute
from clipjax.data.sources.tar_shards import TarShards
from clipjax.data.tokenizers import Tokenizer

_CROPS, _CAPTIONS = 2, 3  # streams of `uniforms`
_SHUFFLE_KEY = 0x5EED
_MOST_ATTEMPTS = 20
_GRACE_SAMPLES = 1000


class BadSamples:
    """Counts the samples that could not be used, and ends the run when they are too many."""

    def __init__(self, max_share: float):
        self._max_share = max_share
        self._lock = threading.Lock()
        self.seen = 0
        self.by_reason: collections.Counter[str] = collections.Counter()

    def good(self) -> None:
        """Counts a usable sample."""
        with self._lock:
            self.seen += 1

    def bad(self, where: str, error: BadSampleError) -> None:
        """Counts an unusable sample.

        Raises:
            UserError: when more than the allowed share was unusable; of less than 1,000 samples,
                when they are more than that share of 1,000.
        """
        with self._lock:
            self.seen += 1
            self.by_reason[error.reason] += 1
            total = self.total
            if total == 1:  # the others are counted in the metrics
                print(
                    f"warning: {where}: {error}. Such samples are counted (data/bad_samples) and "
                    "replaced by others.",
                    file=sys.stderr,
                    flush=True,
                )
            if total > self._max_share * max(self.seen, _GRACE_SAMPLES):
                counts = ", ".join(f"{n} {reason}" for reason, n in self.by_reason.most_common())
                raise UserError(
                    f"{where}: {error}. With it {total} of {self.seen} samples could not be used "
                    f"({counts}), more than data.max_bad_share={self._max_share:g}. Mend the "
                    "shards or allow more."
                )

    @property
    def total(self) -> int:
        """Samples that could not be used so far."""
        return sum(self.by_reason.values())


class TrainingPairs:
    """Fills one row of a batch with sample number p of the run: a pure function of (seed, p).

    A sample that cannot be used is counted and replaced by another one, the same on every host
    and after every restart.
    """

    def __init__(
        self,
        source: TarShards,
        order: Order,
        tokenizer: Tokenizer,
        config: DataConfig,
        *,
        image_size: int,
    ):
        self._source, self._order, self._tokenizer = source, order, tokenizer
        self._config = config
        self.row_spec = {
            "images": ((image_size, image_size, 3), np.dtype(np.uint8)),
            "tokens": ((tokenizer.context_length,), np.dtype(np.int32)),
        }
        self.bad_samples = BadSamples(config.max_bad_share)

    def __call__(self, sample: int, row: Mapping[str, np.ndarray]) -> None:
        """Decodes sample number `sample` of the run into `row`."""
        example = int(self._order.examples(np.array([sample]))[0])
        for attempt in range(_MOST_ATTEMPTS):
            try:
                self._fill(sample, example, row)
            except BadSampleError as error:
                self.bad_samples.bad(self._source.key(example), error)
                example = self._order.replacement(sample, attempt)
            else:
                self.bad_samples.good()
                return
        raise UserError(
            f"{self._source.key(example)}: {_MOST_ATTEMPTS} samples in a row could not be used. "
            "Check the shards with `clipjax inspect`."
        )

    def caption(self, sample: int, example: int) -> str:
        """Returns the caption that sample number `sample` sees with this example."""
        if self._config.shuffled_captions:
            place = np.array([example])
            example = int(permute(place, len(self._source), _SHUFFLE_KEY, 0)[0])
        member = self._source[example]
        return choose_caption(
            member, self._config.caption, uniforms(self._order.seed, sample, _CAPTIONS, 1)[0]
        )

    def _fill(self, sample: int, example: int, row: Mapping[str, np.ndarray]) -> None:
        config, side = self._config, row["images"].shape[0]
        caption = self.caption(sample, example)
        image = decode_image(self._source[example]["image"], config.max_image_pixels)
        draws = uniforms(self._order.seed, sample, _CROPS, 40)
        height, width = image.shape[:2]
        box = random_resized_crop(draws, width, height, config.crop_scale, config.crop_ratio)
        resize_into(image, box, row["images"][:side])
        row["tokens"][...] = self._tokenizer(caption)


def caption_member(caption: str) -> str:
    """Returns the suffix of the member that holds the captions.

    >>> caption_member("json.captions"), caption_member("txt")
    ('json', 'txt')
    """
    return caption.partition(".")[0]


def choose_caption(member: Mapping[str, bytes], where: str, draw: float) -> str:
    """Returns the caption of a sample.

    Args:
        member: the files of the sample.
        where: "txt" or "json.FIELD", a text or a list of texts.
        draw: in [0, 1); picks one of a list.

    Raises:
        BadSampleError: if there is none.
    """
    kind, _, field = where.partition(".")
    try:
        if kind == "txt":
            text = member["txt"].decode()
        else:
            found = json.loads(member["json"])[field]
            text = found[int(draw * len(found))] if isinstance(found, list) else found
            text = text.encode().decode() if isinstance(text, str) else text  # no lone surrogates
    except (ValueError, KeyError, IndexError, TypeError, RecursionError) as error:
        raise BadSampleError("no caption", f"{where}: {type(error).__name__}: {error}") from error
    if not isinstance(text, str) or not text.strip():
        raise BadSampleError("no caption", f"{where} is empty")
    return text
