"""Zero-shot classification, Radford et al. 2021, section 3.1, https://arxiv.org/abs/2103.00020."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from clipjax.core.rows import Rows
from clipjax.data.images import Images
from clipjax.evals.estimate import Estimate, MatchRows, estimate, rank_of_best
from clipjax.evals.prompts import Prompts
from clipjax.evals.protocol import Encoders


@dataclasses.dataclass(frozen=True, kw_only=True)
class ZeroShotClassification:
    """Top-1 and top-5 accuracy of naming the class of an image.

    Attributes:
        images: the pictures.
        labels: class of each picture; the position in `class_names`.
        class_names: the classes.
        templates: each holds "{c}" for the class name; a class is the mean of its prompts.
        resamples: behind each interval.
    """

    images: Images
    labels: Int[np.ndarray, " images"]
    class_names: Sequence[str]
    templates: Sequence[str]
    resamples: int = 2000

    def run(self, encode: Encoders) -> dict[str, Estimate]:
        """Returns accuracies in [0, 1]; top-5 only where there are more than five classes."""
        classes = self.class_embeds(encode)
        embeds = encode.images(self.images)
        matches = MatchRows(self.labels, np.arange(len(self.class_names)))
        ranks = rank_of_best(embeds, classes, matches)
        counts = np.bincount(self.labels, minlength=len(self.class_names))
        out = {}
        for k in (1, 5):
            if k < len(self.class_names):
                often = float(np.sort(counts)[::-1][:k].sum() / len(self.labels))
                out[f"top{k}"] = estimate(
                    ranks < k,
                    chance=max(often, k / len(self.class_names)),
                    resamples=self.resamples,
                )
        return out

    def class_embeds(self, encode: Encoders) -> Float[np.ndarray, "classes embed"]:
        """Returns one unit vector a class: the mean over its prompts."""
        templates = [
            template.replace("{", "{{").replace("}", "}}").replace("{{c}}", "{c}")
            for template in self.templates
        ]
        prompts = Prompts(class_names=self.class_names, templates=templates, source="")
        return class_embeds(encode, prompts)


def class_embeds(
    encode: Encoders, prompts: Prompts, rows: Rows | None = None
) -> Float[np.ndarray, "classes embed"]:
    """Returns one unit vector a class: the mean of the unit vectors of its prompts, normalised.

    Args:
        encode: of the model.
        prompts: names and templates.
        rows: where the embeddings of `prompts.distinct()` are kept while they are made.
    """
    of_class = [prompts.of_class(name) for name in prompts.class_names]
    number = {text: i for i, text in enumerate(prompts.distinct())}
    embeds = encode.texts(list(number)) if rows is None else encode.texts(list(number), rows)
    means = np.stack([embeds[[number[text] for text in of]].mean(axis=0) for of in of_class])
    lengths = np.linalg.norm(means, axis=1, keepdims=True)
    # A sparse head may have nothing to say of a class: zeros then, and no NaN.
    return means / np.where(lengths > 0, lengths, 1)
