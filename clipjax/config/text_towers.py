"""The text towers and decoders, one dataclass a family."""

import dataclasses
from typing import Literal

from clipjax.config.fields import Activation, check_blocks, check_positive


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextConfig:
    """Text transformer; the defaults are those of CLIP's ViT-B models.

    Attributes:
        vocab_size: number of token ids.
        context_length: tokens of a text, start and end included.
        end_id: the id that ends a text (EOT); None for the last one of the vocabulary.
        pad_id: the id behind the end; only `pool='class'` looks at it.
        pool: the features at the first EOT, at the last position, the mean over positions, or
            those of a class token that is added behind the text and does not see padding (CoCa).
        projection: linear map to the shared space; without it `embed_dim` must equal `width`.
        class_mask: with `pool='class'`, what is seen. exact: the tokens that are not padding, and
            the class token; shifted: one place later, as open_clip's CoCa models were trained, so
            that the first padding is seen and the class token only behind a full text.
        layer_scale: initial gain of each residual branch; None for no gains.
    """

    kind: Literal["transformer"] = "transformer"
    vocab_size: int = 49408
    context_length: int = 77
    end_id: int | None = None
    pad_id: int = 0
    width: int = 512
    depth: int = 12
    num_heads: int = 8
    mlp_dim: int = 2048
    causal: bool = True
    pool: Literal["eot", "last", "mean", "class"] = "eot"
    class_mask: Literal["exact", "shifted"] = "exact"
    projection: bool = True
    projection_bias: bool = False
    layer_scale: float | None = None
    activation: Activation = "gelu"
    norm_eps: float = 1e-5

    def __post_init__(self):
        _check_sizes(self)

    @property
    def eot_id(self) -> int:
        """The id that ends a text."""
        return self.vocab_size - 1 if self.end_id is None else self.end_id


@dataclasses.dataclass(frozen=True, kw_only=True)
class BertConfig:
    """BERT, RoBERTa and XLM-R encoders; the defaults are RoBERTa-base as open_clip uses it.

    Attributes:
        vocab_size: number of token ids.
        context_length: tokens of a text, start and end included.
        max_positions: rows of the table of positions.
        first_position: row of the first token. 0 as in BERT: padding is counted like all tokens.
            Otherwise as in RoBERTa: it is not, and has the row before (`pad_id`).
        token_types: rows of the table of token types; all texts have type 0.
        pad_id: tokens that are not seen.
        pool: the first token; the first token through the pre-trained pooler, a linear map and
            tanh; the mean, or the maximum, over the tokens that are not padding.
        unused_pooler: the pre-trained pooler is there, though another pool is asked for, and
            nothing reads it (ALIGN's public weights have it).
        projection: to the shared space: a linear map with or without bias, an MLP without biases
            whose hidden layer is the mean of both sizes, or none.
    """

    kind: Literal["bert"] = "bert"
    vocab_size: int = 50265
    context_length: int = 77
    max_positions: int = 514
    first_position: int = 2
    token_types: int = 1
    pad_id: int = 1
    width: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_dim: int = 3072
    pool: Literal["first", "pooler", "mean", "max"] = "mean"
    unused_pooler: bool = False
    projection: Literal["linear", "linear_bias", "mlp", "none"] = "mlp"
    activation: Activation = "gelu"
    norm_eps: float = 1e-5

    def __post_init__(self):
        _check_sizes(self)
        check_positive(max_positions=self.max_positions, token_types=self.token_types)
        if self.first_position + self.context_length > self.max_positions:
            raise ValueError(
                f"max_positions={self.max_positions} has no row for the last of "
                f"context_length={self.context_length} tokens after "
                f"first_position={self.first_position}"
            )
        if self.first_position not in (0, self.pad_id + 1):
            raise ValueError(
                f"first_position={self.first_position} must be 0 (padding is counted, BERT) or "
                f"pad_id + 1 = {self.pad_id + 1} (padding has the row before, RoBERTa)"
            )
        if self.unused_pooler and self.pool == "pooler":
            raise ValueError("unused_pooler=True with pool='pooler': the pooler is used")

    @property
    def has_pooler(self) -> bool:
        """Whether the pre-trained pooler is there."""
        return self.unused_pooler or self.pool == "pooler"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModernTextConfig:
    """A text tower of today: rotary positions, gated MLP, RMSNorm, normalised queries and keys.

    Attributes:
        vocab_size: number of token ids.
        context_length: tokens of a text, start and end included.
        pad_id: tokens that are not seen.
        mlp_dim: hidden units of each half of the gated MLP.
        rope_theta: the slowest rotary frequency is about one over it.
        qk_norm: RMSNorm of each head's queries and keys.
        pool: the mean over the tokens that are not padding, the last of them, or the first one.
    """

    kind: Literal["modern"] = "modern"
    vocab_size: int = 49408
    context_length: int = 77
    pad_id: int = 0
    width: int = 512
    depth: int = 12
    num_heads: int = 8
    mlp_dim: int = 1408
    causal: bool = False
    rope_theta: float = 10_000.0
    qk_norm: bool = True
    pool: Literal["mean", "last", "first"] = "mean"
    norm_eps: float = 1e-6

    def __post_init__(self):
        _check_sizes(self)
        if self.width // self.num_heads % 2:
            raise ValueError(
                f"rotary positions need heads of an even width, got {self.width // self.num_heads}"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class CocaDecoderConfig:
    """CoCa's multimodal decoder: causal self-attention and cross-attention in turns.

    Attributes:
        width: of its blocks, and of the text tower's tokens that it starts from.
        depth: pairs of a self-attention and a cross-attention block.
        vocab_size: token ids that are predicted, from 0 on; None for those of the text tower.
    """

    kind: Literal["coca"] = "coca"
    vocab_size: int | None = None
    width: int = 512
    depth: int = 12
    num_heads: int = 8
    mlp_dim: int = 2048
    activation: Activation = "gelu"
    norm_eps: float = 1e-5

    def __post_init__(self):
        check_positive(vocab_size=1 if self.vocab_size is None else self.vocab_size)
        check_blocks(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CappaDecoderConfig:
    """CapPa's captioning decoder, which also predicts all tokens at once.

    The defaults are those of the published ViT-B models.

    Attributes:
        vocab_size: number of token ids.
        context_length: tokens of a caption.
        pad_id: tokens that are not predicted.
        start_id: stands before the first token where a caption is predicted token by token.
        parallel_share: share of the captions of a batch that are predicted in parallel; with 0
            (Cap) there is no token for what is hidden.
        bias: of the MLPs and norms of the blocks; attention has none, the last norm and the map to
            the vocabulary always have one.
    """

    kind: Literal["cappa"] = "cappa"
    vocab_size: int = 32_000
    context_length: int = 64
    pad_id: int = 0
    start_id: int = 0
    width: int = 768
    depth: int = 6
    num_heads: int = 12
    mlp_dim: int = 3072
    parallel_share: float = 0.75
    bias: bool = False
    activation: Activation = "gelu_tanh"
    norm_eps: float = 1e-6

    def __post_init__(self):
        _check_sizes(self)
        if not 0 <= self.parallel_share <= 1:
            raise ValueError(f"parallel_share={self.parallel_share} must be in [0, 1]")
        if not 0 <= self.start_id < self.vocab_size:
            raise ValueError(
                f"start_id={self.start_id} must be an id below vocab_size={self.vocab_size}"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class MatchingConfig:
    """What tells whether an image and a text belong together; it reads both.

    Attributes:
        vocab_size: number of token ids.
        context_length: tokens of a text.
        pad_id: tokens that are not seen.
        bias: of the MLPs and norms of the blocks; attention has none.

    Source: Li et al. 2022, "BLIP", section 3.1, https://arxiv.org/abs/2201.12086.
    """

    vocab_size: int = 49408
    context_length: int = 77
    pad_id: int = 0
    width: int = 768
    depth: int = 6
    num_heads: int = 12
    mlp_dim: int = 3072
    bias: bool = True
    activation: Activation = "gelu"
    norm_eps: float = 1e-6

    def __post_init__(self):
        _check_sizes(self)


def _check_sizes(
    config: TextConfig | BertConfig | ModernTextConfig | CappaDecoderConfig | MatchingConfig,
) -> None:
    check_positive(vocab_size=config.vocab_size, context_length=config.context_length)
    check_blocks(config)


TextTowerConfig = TextConfig | BertConfig | ModernTextConfig
DecoderConfig = CocaDecoderConfig | CappaDecoderConfig
