"""One sample of a run: an image, cropped and resized, and the ids of its caption."""

import collections
import copy
import sys
import threading
from collections.abc import Mapping

import google_crc32c
import numpy as np
from jaxtyping import UInt8

from clipjax.config import DataConfig, UserError
from clipjax.config.image_towers import ImageConfig
from clipjax.data.captions import choose_caption
from clipjax.data.decode import BadSampleError
from clipjax.data.keyed import uniforms
from clipjax.data.opening import Sources
from clipjax.data.order import Order
from clipjax.data.permutation import permute
from clipjax.data.pipeline import FillPlanned
from clipjax.data.stages import StageClock
from clipjax.data.tokenizers import Tokenizer
from clipjax.data.training_images import MODES, TrainingImages, row_spec

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

    def counts(self) -> dict[str, int]:
        """Returns how many samples could not be used, by reason."""
        with self._lock:
            return dict(self.by_reason)

    @property
    def total(self) -> int:
        """Samples that could not be used so far."""
        return sum(self.by_reason.values())


def image_hash(data: bytes) -> np.int32:
    """Returns a hash of an image file, for telling copies within one batch.

    >>> image_hash(b"123456789") == np.uint32(0xE3069283).view(np.int32)
    np.True_
    """
    return np.uint32(google_crc32c.value(data)).view(np.int32)


class TrainingPairs:
    """Fills the rows of a batch with samples of the run: a pure function of (seed, sample number).

    A sample that cannot be used is counted and replaced by another one, the same on every host
    and after every restart.

    Args:
        source: of all examples.
        order: which sample is which of them.
        tokenizer: of the captions.
        config: of the run.
        image: the tower that sees the images.
    """

    def __init__(
        self,
        source: Sources,
        order: Order,
        tokenizer: Tokenizer,
        config: DataConfig,
        *,
        image: ImageConfig,
    ):
        self._source, self._order, self._tokenizer = source, order, tokenizer
        self._config = config
        self._images: TrainingImages = MODES[config.image_mode](config, image)
        self.row_spec = row_spec(config, image, tokenizer.context_length)
        self.bad_samples = BadSamples(config.max_bad_share)
        self.clock = StageClock()

    def resized(
        self, config: DataConfig, image: ImageConfig, tokenizer: Tokenizer
    ) -> "TrainingPairs":
        """Returns the same samples as images and texts of other sizes, counted together.

        Args:
            config: of the run in a stage.
            image: the tower in that stage.
            tokenizer: of the captions, with the length of that stage.
        """
        other = copy.copy(self)
        other._tokenizer, other._config = tokenizer, config
        other._images = MODES[config.image_mode](config, image)
        other.row_spec = row_spec(config, image, tokenizer.context_length)
        return other

    def plan(self, samples: np.ndarray) -> FillPlanned:
        """Returns the function that decodes the i-th of these samples into a row.

        All random numbers are drawn here, for all samples at once.
        """
        if self._source.reads_ahead:
            self._source.prefetch(self._order.upcoming(samples))
        examples = self._order.examples(samples)
        crops = uniforms(self._order.seed, samples, _CROPS, 40)
        captions = uniforms(self._order.seed, samples, _CAPTIONS, 2)

        def fill(i: int, row: Mapping[str, np.ndarray]) -> None:
            self._fill(int(samples[i]), int(examples[i]), crops[i], captions[i].tolist(), row)

        return fill

    def __call__(self, sample: int, row: Mapping[str, np.ndarray]) -> None:
        """Decodes one sample of the run into a row."""
        self.plan(np.array([sample]))(0, row)

    def caption(self, sample: int, example: int) -> str:
        """Returns the caption that sample number `sample` sees with this example."""
        draws = uniforms(self._order.seed, sample, _CAPTIONS, 2).tolist()
        return self._caption(example, self._source[example], draws)

    def picture(self, sample: int, example: int) -> tuple[int, UInt8[np.ndarray, "side side 3"]]:
        """Returns the example that a sample shows in the end and its pixels as the model sees them.

        Another one than its own where that cannot be used.
        """
        row = {name: np.zeros(shape, kind) for name, (shape, kind) in self.row_spec.items()}
        crops = uniforms(self._order.seed, sample, _CROPS, 40)
        captions = uniforms(self._order.seed, sample, _CAPTIONS, 2).tolist()
        used = self._fill(sample, example, crops, captions, row)
        return used, self._images.picture(row)

    def key(self, example: int) -> str:
        """Returns "where: key" of an example."""
        return self._source.key(example)

    def place(self, example: int) -> str:
        """Returns where an example lies, without opening anything."""
        return self._source.place(example)

    def _caption(self, example: int, member: Mapping[str, bytes], draws: list[float]) -> str:
        if self._config.shuffled_captions:
            member = self._source.texts(
                int(caption_owners(np.array([example]), len(self._source))[0])
            )
        return choose_caption(member, self._config.caption, draws)

    def _fill(
        self,
        sample: int,
        example: int,
        crops: np.ndarray,
        captions: list[float],
        row: Mapping[str, np.ndarray],
    ) -> int:
        clock = self.clock
        clock.start()
        for attempt in range(_MOST_ATTEMPTS):
            try:
                member = self._source[example]
                clock.lap("read")
                caption = self._caption(example, member, captions)
                self._images(member["image"], crops, row, clock.lap)
                row["tokens"][...] = self._tokenizer(caption)
                if self._config.equal_images:
                    row["image_hashes"][...] = image_hash(member["image"])
                clock.lap("tokenize")
            except BadSampleError as error:
                self.bad_samples.bad(self._source.key(example), error)
                example = self._order.replacement(sample, attempt)
            else:
                self.bad_samples.good()
                return example
        raise UserError(
            f"{self._source.key(example)}: {_MOST_ATTEMPTS} samples in a row could not be used. "
            "Check the shards with `clipjax data check`."
        )


def caption_owners(examples: np.ndarray, num_examples: int) -> np.ndarray:
    """Returns whose caption each example shows with `data.shuffled_captions`."""
    return permute(examples, num_examples, _SHUFFLE_KEY, 0)
