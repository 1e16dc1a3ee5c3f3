"""What a run reads."""

import dataclasses
import math
from typing import Literal


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Image-text pairs in WebDataset shards, and how they become batches.

    Attributes:
        root: directory that `shards` and the files of evaluation tasks are relative to.
        shards: patterns with `*` and `{00000..00041}`, separated by spaces.
        global_batch_size: pairs of one step over all devices of all processes.
        shuffle_seed: of the order, the crops and the choice of captions.
        threads: decoding threads of each process; 0 for one a core.
        caption: where the caption is: "txt" (the .txt member) or "json.FIELD" (a text or a list of
            texts in the .json member; one of a list is drawn for each sample).
        shuffled_captions: pairs every image with the caption of another one: the negative control,
            which must end at chance.
        crop_scale: smallest and largest area of the random crop, as a share of the image.
        crop_ratio: smallest and largest width / height of the random crop.
        max_image_pixels: images with more pixels count as undecodable.
        max_bad_share: the run stops when more than this share of the samples could not be used.
        index_dir: where tar indexes are kept; None for beside the shards where that is writable,
            else the user's cache directory.
    """

    root: str = "."
    shards: str = ""
    global_batch_size: int = 256
    shuffle_seed: int = 0
    threads: int = 0
    caption: str = "txt"
    shuffled_captions: bool = False
    crop_scale: tuple[float, float] = (0.9, 1.0)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    max_image_pixels: int = 64_000_000
    max_bad_share: float = 0.01
    index_dir: str | None = None

    def __post_init__(self):
        if self.global_batch_size < 1:
            raise ValueError(f"global_batch_size={self.global_batch_size} must be positive")
        if not 0 <= self.shuffle_seed < 2**63:
            raise ValueError(f"shuffle_seed={self.shuffle_seed} must be in [0, 2**63)")
        if self.threads < 0:
            raise ValueError(f"threads={self.threads} must not be negative")
        if not (self.caption == "txt" or self.caption.startswith("json.")):
            raise ValueError(f"caption={self.caption!r} must be 'txt' or 'json.FIELD'")
        low, high = self.crop_scale
        if not 0 < low <= high <= 1:
            raise ValueError(
                f"crop_scale={self.crop_scale} must be two shares, 0 < low <= high <= 1"
            )
        low, high = self.crop_ratio
        if not 0 < low <= high:
            raise ValueError(f"crop_ratio={self.crop_ratio} must be 0 < low <= high")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """How captions become ids; sizes come from `model.text`.

    Attributes:
        kind: bpe, trained on the captions of the run and saved with its checkpoints, or byte.
        lowercase: fold case before tokenizing.
        training_captions: the BPE is trained on at most this many captions of the run.
    """

    kind: Literal["bpe", "byte"] = "bpe"
    lowercase: bool = True
    training_captions: int = 1_000_000


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
