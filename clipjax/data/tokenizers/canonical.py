"""Texts without case and punctuation, as SigLIP's are prepared."""

import string

_PUNCTUATION = str.maketrans("_", " ", string.punctuation.replace("_", ""))


def canonical_text(text: str, *, lowercase: bool, strip_punctuation: bool) -> str:
    """Returns the text in the form in which its vocabulary is applied.

    Args:
        text: any.
        lowercase: fold case.
        strip_punctuation: take out ASCII punctuation, turn "_" into a space, and collapse white
            space.

    Source: Zhai et al. 2023, https://arxiv.org/abs/2303.15343; the preparation of texts in their
    published evaluation.

    >>> canonical_text(" It's a_Cat! ", lowercase=True, strip_punctuation=True)
    'its a cat'
    """
    if strip_punctuation:
        text = " ".join(text.translate(_PUNCTUATION).split())
    return text.lower() if lowercase else text
