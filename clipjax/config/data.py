"""What a run reads."""

import dataclasses
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
    """Random changes of the images on the device, a pure function of (seed, step).

    Attributes:
        flip: probability of a horizontal flip.
        colour: largest relative change of contrast and of each channel, and shift of brightness.
        shift: largest shift in pixels, with the border repeated.
        noise: standard deviation of added noise, pixels being in [-1, 1].
    """

    flip: float = 0.0
    colour: float = 0.0
    shift: int = 0
    noise: float = 0.0
