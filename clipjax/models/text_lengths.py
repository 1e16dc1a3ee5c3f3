"""How much of a row of tokens decides its embedding, so that the rest need not be computed."""

import numpy as np
from jaxtyping import Int

from clipjax.config import TextConfig, TextTowerConfig


def deciding_tokens(
    config: TextTowerConfig, tokens: Int[np.ndarray, "texts tokens"]
) -> Int[np.ndarray, " texts"]:
    """Returns how many of the first tokens of each text decide its embedding, 1 or more.

    A text may be cut to any length from that on: nothing that is pooled sees what stood behind.
    Where that is so depends on the tower:

    - CLIP's, causal and pooled at the end token: up to the first end token, as nothing in front of
      it sees what is behind. A text without one is pooled at its first token.
    - CoCa's, causal with a class token behind the text, whose position is the same whatever the
      length: up to the last token that is not padding; with the mask one place later the class
      token sees the first padding too, and sees itself only where there is none.
    - BERT's and the modern one mask padding everywhere, and positions do not depend on it: up to
      the last token that is not padding. BERT sees all of a text that is nothing but padding.
    - All others see padding (SigLIP: not causal, or the last position is pooled, or the mean over
      all positions): the whole row.

    Args:
        config: of the tower.
        tokens: whole rows, of `context_length`.

    >>> clip = TextConfig(vocab_size=10)
    >>> deciding_tokens(clip, np.array([[8, 5, 9, 0], [8, 5, 5, 9], [8, 5, 5, 0]])).tolist()
    [3, 4, 1]
    """
    whole = np.full(len(tokens), tokens.shape[1])
    if isinstance(config, TextConfig):
        if config.pool == "eot" and config.causal:
            return (tokens == config.eot_id).argmax(axis=1) + 1
        if config.pool != "class" or not config.causal:
            return whole
    real = tokens != config.pad_id
    last = tokens.shape[1] - real[:, ::-1].argmax(axis=1)  # behind the last that is not padding
    if config.kind == "modern":
        return np.where(real.any(axis=1), last, 1)
    if config.kind == "transformer" and config.class_mask == "shifted":
        last = np.minimum(last + 1, tokens.shape[1])
    return np.where(real.any(axis=1), last, whole)
