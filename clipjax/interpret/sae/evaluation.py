"""Judges an autoencoder on paired embeddings: what it keeps, and what both modalities share."""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float

from clipjax.config.errors import UserError
from clipjax.core.progress import Progress
from clipjax.interpret.sae.features import FeaturePairs
from clipjax.interpret.sae.metrics import BIMODAL, ModalityUse, ModalityUseSums
from clipjax.interpret.sae.model import Sae
from clipjax.interpret.statistics.monosemanticity import CrossModalMonosemanticity, Monosemantic


@dataclasses.dataclass(frozen=True, kw_only=True)
class SaeScores:
    """What was found; see `ModalityUse` for the words.

    Attributes:
        use: of the latents by both modalities.
        cross_modal: whether the pictures and the texts that drive a latent mean the same.
        gap: between the mean embeddings of both modalities.
        gap_encoded: what is left of it in what was encoded: 0 with per-modality centring, on the
            features of the training.
        gap_without_unimodal: what is left of it when latents that are not bimodal are taken out.
    """

    use: ModalityUse
    cross_modal: Monosemantic
    gap: float
    gap_encoded: float
    gap_without_unimodal: float

    def summary(self) -> dict[str, Any]:
        """Returns the figures as plain numbers, without those of single latents."""
        use, live = self.use, self.use.live
        ratio = self.cross_modal.ratio[live]
        ratio = ratio[np.isfinite(ratio)]
        with np.errstate(divide="ignore"):  # a latent of texts alone has ratio 0
            energy = np.log2(use.energy_ratio[live])
        energy = energy[np.isfinite(energy)]
        return {
            "pairs": use.pairs,
            "r2": {"image": use.r2[0], "text": use.r2[1]},
            "l0": {"image": use.l0[0], "text": use.l0[1]},
            "dead_share": use.dead_share,
            "bimodal_share": use.bimodal_share,
            "bimodal_range": list(BIMODAL),
            "paired_jaccard": use.jaccard,
            "cross_modal_ratio": {
                "mean": float(ratio.mean()) if len(ratio) else None,
                "median": float(np.median(ratio)) if len(ratio) else None,
                "latents": len(ratio),
                "baseline": self.cross_modal.baseline,
            },
            "log2_energy_ratio": {
                "median": float(np.median(energy)) if len(energy) else None,
                "spread": float(energy.std()) if len(energy) else None,
                "one_modality_only": float(1 - len(energy) / max(1, live.sum())),
            },
            "bridge_share": use.bridge_share,
            "gap": {
                "embeddings": self.gap,
                "encoded": self.gap_encoded,
                "without_unimodal": self.gap_without_unimodal,
            },
        }


def evaluate_sae(
    sae: Sae, features: FeaturePairs, meanings: Float[np.ndarray, "pairs _"] | None = None
) -> SaeScores:
    """Returns how an autoencoder takes pairs apart, each row encoded on its own.

    Args:
        sae: the autoencoder.
        features: pairs, best others than it was trained on.
        meanings: what each pair means, by another model or by its concepts, any length but 0; by
            default the embedding of its text, which is what was encoded and hence flatters.

    Raises:
        UserError: if the features or meanings do not fit.
    """
    if features.dim != sae.image_mean.size:
        raise UserError(
            f"{features.where}: embeddings of {features.dim} numbers; the autoencoder takes "
            f"{sae.image_mean.size}. Embed with the model that it was trained on."
        )
    if meanings is not None and len(meanings) != len(features):
        raise UserError(
            f"{len(meanings):,} meanings of {len(features):,} pairs; expected one of each."
        )
    sums = ModalityUseSums(sae.decoder, sae.weights["bias"])
    cross, first = CrossModalMonosemanticity(), 0
    with Progress("encoding", len(features), "pairs", quiet_seconds=2.0) as progress:
        for image, text in features.blocks():
            codes = sae.encode(image, "image"), sae.encode(text, "text")
            sums.update(codes, (sae.inputs(image, "image"), sae.inputs(text, "text")))
            meant = text if meanings is None else meanings[first : first + len(text)]
            cross.update_pairs(codes[0], meant, codes[1], meant)
            first += len(text)
            progress.advance(len(text))
    use = sums.result()
    offset = (sae.image_mean - sae.text_mean).astype(np.float64)
    between = offset + (use.mean_inputs[0] - use.mean_inputs[1]) / sae.scale
    return SaeScores(
        use=use,
        cross_modal=cross.result(),
        gap=float(np.linalg.norm(between)),
        gap_encoded=use.gap() / sae.scale,
        gap_without_unimodal=use.gap(sae.decoder) / sae.scale,
    )
