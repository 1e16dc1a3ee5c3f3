"""What a run reads."""

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Literal

_MOST_PATCHES = 2**15 - 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class MixtureConfig:
    """One of several sources that a run draws from.

    Attributes:
        shards: as `data.shards`.
        weight: its share of the samples is this over the sum of all.
        replacement: draw every sample anew, instead of each once an epoch.
    """

    shards: str = ""
    weight: float = 1.0
    replacement: bool = False

    def __post_init__(self):
        if not 1e-6 <= self.weight <= 1e6:
            raise ValueError(f"weight={self.weight} must be in [1e-6, 1e6]")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RemoteConfig:
    """How shards with s3://, gs://, http:// and https:// are read; paths need none of it.

    Attributes:
        request_timeout_seconds: a request without its whole answer by then counts as failed.
        retry_seconds: how long failed requests of one read are repeated; 0 for never.
        concurrency: requests of a process at one time.
        block_bytes: files are fetched and kept in blocks of this size.
        cache_dir: folder of the blocks, shared by all processes of a machine; empty for
            `clipjax/blocks` in the user's cache directory.
        cache_bytes: the blocks used longest ago are removed beyond this; 0 keeps none on the disk.
        endpoint: URL of an S3 server that is not Amazon's; empty for Amazon's.
        region: of the S3 buckets; empty for the one that the environment names.
        anonymous: requests are not signed: for public buckets, without credentials.
    """

    request_timeout_seconds: float = 30.0
    retry_seconds: float = 300.0
    concurrency: int = 16
    block_bytes: int = 8 << 20
    cache_dir: str = ""
    cache_bytes: int = 20_000_000_000
    endpoint: str = ""
    region: str = ""
    anonymous: bool = False

    def __post_init__(self):
        if not 0 < self.request_timeout_seconds < float("inf"):
            raise ValueError(
                f"request_timeout_seconds={self.request_timeout_seconds} must be positive"
            )
        if not 0 <= self.retry_seconds < float("inf"):
            raise ValueError(f"retry_seconds={self.retry_seconds} must not be negative")
        if self.concurrency < 1:
            raise ValueError(f"concurrency={self.concurrency} must be positive")
        if self.block_bytes < 1:
            raise ValueError(f"block_bytes={self.block_bytes} must be positive")
        if self.cache_bytes and self.cache_bytes < self.block_bytes:
            raise ValueError(
                f"cache_bytes={self.cache_bytes} must be 0 or at least block_bytes="
                f"{self.block_bytes}"
            )
        if self.endpoint and not self.endpoint.startswith(("http://", "https://")):
            raise ValueError(f"endpoint={self.endpoint!r} must begin with http:// or https://")
        if "@" in self.endpoint:
            raise ValueError("endpoint must hold no user or password: set them in the environment")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Image-text pairs, and how they become batches.

    Attributes:
        root: directory that `shards` and the files of evaluation tasks are relative to.
        shards: patterns of WebDataset shards with `*` and `{00000..00041}`, separated by spaces;
            or one address of another source: a folder that `clipjax data index` made, a list
            (.csv, .tsv, .jsonl, .parquet) of image files and captions, a folder of images, or
            tfds:NAME:SPLIT.
        mixture: several sources by name, instead of `shards`.
        global_batch_size: pairs of one step over all devices of all processes.
        shuffle_seed: of the order, the crops and the choice of captions.
        threads: decoding threads of each process; 0 for one a core.
        caption: where the caption is: "txt" (the .txt member) or "json.FIELD" (a text or a list of
            texts in the .json member; one of a list is drawn for each sample). Of several, with
            weights such as "txt:3 json.captions:1", one is drawn for each sample.
        image_mode: fast (on the host, by OpenCV), device (the host decodes, the compiled step
            crops and resizes), exact (Pillow's antialiased bicubic filter) or naflex (crops that
            keep the aspect ratio of their image, as up to `max_patches` patches; training only:
            evaluations see the central square of `model.image.image_size` pixels as in every other
            mode).
        canvas_size: side of the square in which the device gets an image in mode device; larger
            images are cropped, and if need be shrunk, to fit.
        max_patches: patches that an image has at most in mode naflex, and is padded to; images are
            made as large as that allows.
        window_shards: examples are shuffled within windows of so many shards, which are fetched
            whole; 0 for among all; None for 2 where shards are remote and 0 where they are not.
        lanes: parts of a windowed order that hosts read apart from each other; a multiple of the
            number of hosts lets each read its own shards; 0 for up to 8.
        equal_images: pairs of one batch with the same image file are positives of each other
            instead of negatives: copies, which pools from the web are full of.
        text_buckets: lengths in tokens, ascending, the last being the context length, e.g.
            (16, 32, 77): captions of about one length make up a batch, which is padded to the
            smallest that holds them all; empty pads every batch to the context length.
        bucket_group: batches among which captions are sorted by length.
        shuffled_captions: pairs every image with the caption of another one: the negative control,
            which must end at chance.
        crop_scale: smallest and largest area of the random crop, as a share of the image.
        crop_ratio: smallest and largest width / height of the random crop; in mode naflex the crop
            has the image's own.
        max_image_pixels: images with more pixels count as undecodable.
        max_bad_share: the run stops when more than this share of the samples could not be used.
        index_dir: where tar indexes are kept; None for beside the shards where that is writable,
            else the user's cache directory.
        remote: how shards that are not on this machine are read.
    """

    root: str = "."
    shards: str = ""
    mixture: Mapping[str, MixtureConfig] = dataclasses.field(default_factory=dict)
    global_batch_size: int = 256
    shuffle_seed: int = 0
    threads: int = 0
    caption: str = "txt"
    image_mode: Literal["fast", "device", "exact", "naflex"] = "fast"
    canvas_size: int = 512
    max_patches: int = 256
    window_shards: int | None = None
    lanes: int = 0
    equal_images: bool = False
    text_buckets: tuple[int, ...] = ()
    bucket_group: int = 16
    shuffled_captions: bool = False
    crop_scale: tuple[float, float] = (0.9, 1.0)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    max_image_pixels: int = 64_000_000
    max_bad_share: float = 0.01
    index_dir: str | None = None
    remote: RemoteConfig = RemoteConfig()

    def __post_init__(self):
        if self.global_batch_size < 1:
            raise ValueError(f"global_batch_size={self.global_batch_size} must be positive")
        if not 0 <= self.shuffle_seed < 2**63:
            raise ValueError(f"shuffle_seed={self.shuffle_seed} must be in [0, 2**63)")
        if self.threads < 0:
            raise ValueError(f"threads={self.threads} must not be negative")
        self._check_caption()
        self._check_buckets()
        if self.canvas_size < 1:
            raise ValueError(f"canvas_size={self.canvas_size} must be positive")
        if not 1 <= self.max_patches <= _MOST_PATCHES:
            raise ValueError(f"max_patches={self.max_patches} must be in 1 .. {_MOST_PATCHES}")
        if self.window_shards is not None and self.window_shards < 0:
            raise ValueError(f"window_shards={self.window_shards} must not be negative")
        if self.lanes < 0 or (self.lanes and self.global_batch_size % self.lanes):
            raise ValueError(
                f"lanes={self.lanes} must be 0 or divide global_batch_size={self.global_batch_size}"
            )
        weights = {name: source.weight for name, source in self.mixture.items()}
        rarest = min(weights, key=weights.__getitem__, default="")
        if weights and weights[rarest] < 2e-9 * sum(weights.values()):
            raise ValueError(
                f"mixture: {rarest} has less than 2e-9 of the weight of all: no run would see it"
            )
        if self.shards and self.mixture:
            raise ValueError("shards and mixture cannot both be given")
        low, high = self.crop_scale
        if not 0 < low <= high <= 1:
            raise ValueError(
                f"crop_scale={self.crop_scale} must be two shares, 0 < low <= high <= 1"
            )
        low, high = self.crop_ratio
        if not 0 < low <= high:
            raise ValueError(f"crop_ratio={self.crop_ratio} must be 0 < low <= high")

    def _check_buckets(self) -> None:
        if list(self.text_buckets) != sorted({n for n in self.text_buckets if n > 2}):
            raise ValueError(f"text_buckets={self.text_buckets} must ascend and be 3 or more")
        if self.bucket_group < 1:
            raise ValueError(f"bucket_group={self.bucket_group} must be positive")

    def _check_caption(self) -> None:
        for place in self.caption.split() or [""]:
            if not re.fullmatch(r"(txt|json\.[^:]+)(:\d*\.?\d+)?", place):
                raise ValueError(
                    f"caption={self.caption!r} must be 'txt', 'json.FIELD', or several of them "
                    "with weights, e.g. 'txt:3 json.captions:1'"
                )
        if not any(float(p.partition(":")[2] or 1) > 0 for p in self.caption.split()):
            raise ValueError(f"caption={self.caption!r}: every weight is 0")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """How captions become ids; sizes come from `model.text`.

    Whatever the kind, the vocabulary is saved with every checkpoint: `path` is read once, when a
    run begins.

    Attributes:
        kind: bpe, trained on the captions of the run; byte; clip, with the ids of OpenAI's
            vocabulary (model.text.vocab_size=49408); sentencepiece, a .model file in SigLIP's
            frame (pieces, end, padding); huggingface, a tokenizer.json.
        path: file of the vocabulary. clip: bpe_simple_vocab_16e6.txt.gz or the tokenizer.json of
            a CLIP model, or empty for the package of the extra `clip-vocabulary`. sentencepiece
            and huggingface need one.
        lowercase: fold case before tokenizing.
        strip_punctuation: take out ASCII punctuation before tokenizing (sentencepiece and
            huggingface), as is done for the published SigLIP models in evaluation.
        pad_id: fills the rest of a row (sentencepiece and huggingface); None for the end of a text
            (sentencepiece, as SigLIP does), or for what the tokenizer.json says, else 0.
        training_captions: the BPE is trained on at most this many captions of the run.
    """

    kind: Literal["bpe", "byte", "clip", "sentencepiece", "huggingface"] = "bpe"
    path: str = ""
    lowercase: bool = True
    strip_punctuation: bool = False
    pad_id: int | None = None
    training_captions: int = 1_000_000

    def __post_init__(self):
        from_file = self.kind in ("sentencepiece", "huggingface")
        if from_file and not self.path:
            raise ValueError(f"path: kind={self.kind!r} needs the file of its vocabulary")
        if self.path and self.kind in ("bpe", "byte"):
            raise ValueError(f"path={self.path!r}: kind={self.kind!r} reads no file")
        if not from_file and (self.strip_punctuation or self.pad_id is not None):
            raise ValueError(
                f"strip_punctuation and pad_id are of sentencepiece and huggingface, not of "
                f"kind={self.kind!r}"
            )
        if self.pad_id is not None and self.pad_id < 0:
            raise ValueError(f"pad_id={self.pad_id} must not be negative")
        if self.training_captions < 1:
            raise ValueError(f"training_captions={self.training_captions} must be positive")


@dataclasses.dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Random changes of the images on the device, a pure function of (seed, step, row).

    All are off by default, and are made in this order.

    Attributes:
        flip: probability of a horizontal flip, 0 to 1.
        shift: largest shift in pixels, 0 or more, with the border repeated.
        rand_augment_layers: operations of RandAugment made one after the other on each image; 0 for
            none, 2 is usual.
        rand_augment_magnitude: strength of all of them, 0 to 30; 9 is usual.
        colour_jitter: strengths of brightness, contrast and saturation (0 to 1: factors between
            1 - strength and 1 + strength) and of hue (0 to 0.5 of a full turn), in random order.
            SimCLR: 0.8, 0.8, 0.8, 0.2; open_clip's example: 0.32, 0.32, 0.32, 0.08.
        colour_jitter_probability: share of the images that `colour_jitter` changes, 0 to 1.
        grey_probability: share of the images that lose their colours, 0 to 1; SimCLR: 0.2.
        colour: largest relative change of contrast and of each channel, and shift of brightness, 0
            to 1; unlike in `colour_jitter` nothing is cut off at black and white.
        noise: standard deviation of added noise, 0 or more, pixels being in [-1, 1].
    """

    flip: float = 0.0
    shift: int = 0
    rand_augment_layers: int = 0
    rand_augment_magnitude: int = 9
    colour_jitter: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    colour_jitter_probability: float = 0.8
    grey_probability: float = 0.0
    colour: float = 0.0
    noise: float = 0.0

    def __post_init__(self):
        for name in ("flip", "colour_jitter_probability", "grey_probability", "colour"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ValueError(f"{name}={value} must be in [0, 1]")
        for name in ("shift", "rand_augment_layers", "noise"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise ValueError(f"{name}={value} must be a number that is not negative")
        if not 0 <= self.rand_augment_magnitude <= 30:
            raise ValueError(
                f"rand_augment_magnitude={self.rand_augment_magnitude} must be in [0, 30]"
            )
        *strengths, hue = self.colour_jitter
        if not (len(strengths) == 3 and all(0 <= s <= 1 for s in strengths) and 0 <= hue <= 0.5):
            raise ValueError(
                f"colour_jitter={self.colour_jitter} must be brightness, contrast and saturation "
                "in [0, 1] and hue in [0, 0.5]"
            )
