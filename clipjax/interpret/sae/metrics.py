"""How the latents of an autoencoder are used by pictures and by texts, in one pass over pairs."""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float

Codes = Float[np.ndarray, "pairs latents"]
Embeds = Float[np.ndarray, "pairs embed"]
PerLatent = Float[np.ndarray, " latents"]

BIMODAL = (0.25, 0.75)
"""A latent whose modality score lies between these is used by both modalities."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModalityUse:
    """What the latents of pairs say about the modalities; NaN where nothing can be said.

    Attributes:
        pairs: how many were seen.
        modality_score: E|z_image| / (E|z_image| + E|z_text|) of each latent: 1 for one that only
            pictures use, 0 for one that only texts use; NaN for a dead one.
        energy_ratio: E z_image^2 / E z_text^2 of each latent (Iso-energy 2026,
            https://arxiv.org/abs/2602.06218).
        fire_share: share of the pictures, and of the texts, that use each latent.
        l0: latents that a picture uses, and a text, on average.
        r2: 1 less the squared error over the squared distance from the mean, of pictures and texts.
        jaccard: latents that both of a pair use over those that one of both uses, mean over pairs.
        bridge: E[z_image z_text] of each latent: how much it joins pairs (the diagonal of
            `bridge_scores`, as atoms have length 1).
        bridge_total: sum of all bridge scores: mean product of both reconstructions of a pair.
        mean_codes: E z_image and E z_text of each latent.
        mean_inputs: mean of what was encoded, of pictures and of texts.

    Source: Papadimitriou et al. 2025, "Interpreting the linear structure of vision-language model
    embedding spaces", sections 3 and 5 (modality score, bridge score),
    https://arxiv.org/abs/2504.11695.
    """

    pairs: int
    modality_score: PerLatent
    energy_ratio: PerLatent
    fire_share: Float[np.ndarray, "2 latents"]
    l0: tuple[float, float]
    r2: tuple[float, float]
    jaccard: float
    bridge: PerLatent
    bridge_total: float
    mean_codes: Float[np.ndarray, "2 latents"]
    mean_inputs: Float[np.ndarray, "2 embed"]

    @property
    def live(self) -> Bool[np.ndarray, " latents"]:
        """Which latents some picture or text uses."""
        return np.asarray(self.fire_share.any(axis=0))

    @property
    def bimodal(self) -> Bool[np.ndarray, " latents"]:
        """Which latents both modalities use; see `BIMODAL`."""
        low, high = BIMODAL
        with np.errstate(invalid="ignore"):
            return np.asarray((self.modality_score >= low) & (self.modality_score <= high))

    @property
    def dead_share(self) -> float:
        """Share of the latents that nothing uses."""
        return float(1 - self.live.mean())

    @property
    def bimodal_share(self) -> float:
        """Share of the live latents that both modalities use; NaN if all are dead."""
        live = self.live.sum()
        return float(self.bimodal.sum() / live) if live else float("nan")

    def gap(self, decoder: Float[np.ndarray, "latents embed"] | None = None) -> float:
        """Returns the distance between the mean picture and the mean text, of what was encoded.

        Args:
            decoder: atoms; with them, what latents that are not bimodal contribute is taken out of
                all pictures and texts before.
        """
        between = self.mean_inputs[0] - self.mean_inputs[1]
        if decoder is not None:
            removed = ~self.bimodal
            between = (
                between - (self.mean_codes[0] - self.mean_codes[1])[removed] @ decoder[removed]
            )
        return float(np.linalg.norm(between))

    @property
    def bridge_share(self) -> float:
        """Share of the product of both reconstructions that goes through one and the same latent.

        Latents that join pairs by lying in similar directions, as those of a dictionary split by
        modality do, make it small. It can be above 1 where unlike latents point apart.
        """
        return float(self.bridge.sum() / self.bridge_total) if self.bridge_total else float("nan")


class ModalityUseSums:
    """Sums over batches of pairs that give `ModalityUse`; memory is that of one batch.

    Args:
        decoder: atoms, of unit length.
        bias: what reconstructions have besides atoms.

    >>> sums, eye = ModalityUseSums(np.eye(2), np.zeros(2)), np.eye(2)
    >>> sums.update((eye, eye), (eye, eye))
    >>> found = sums.result()
    >>> found.modality_score.tolist(), found.jaccard, found.r2, found.bridge_share
    ([0.5, 0.5], 1.0, (1.0, 1.0), 1.0)
    """

    def __init__(
        self, decoder: Float[np.ndarray, "latents embed"], bias: Float[np.ndarray, " embed"]
    ):
        self._decoder, self._bias, self._pairs = decoder, bias, 0
        latents, dim = decoder.shape
        self._codes = np.zeros((2, latents))
        self._squares, self._fires = np.zeros((2, latents)), np.zeros((2, latents))
        self._first, self._inputs = np.zeros((2, dim)), np.zeros((2, dim))
        self._energy, self._errors = np.zeros(2), np.zeros(2)
        self._bridge, self._bridge_total, self._jaccard = np.zeros(latents), 0.0, 0.0

    def update(self, codes: tuple[Codes, Codes], inputs: tuple[Embeds, Embeds]) -> None:
        """Adds a batch; of each argument the pictures and the texts, row by row a pair.

        Args:
            codes: latents, not negative.
            inputs: what was encoded.
        """
        if not len(codes[0]):
            return
        if not self._pairs:
            self._first = np.stack([x[0].astype(np.float64) for x in inputs])
        self._pairs += len(codes[0])
        given = []
        for m, (z, x) in enumerate(zip(codes, inputs, strict=True)):
            given.append(z @ self._decoder)
            self._codes[m] += z.sum(axis=0, dtype=np.float64)
            self._squares[m] += np.square(z, dtype=np.float64).sum(axis=0)
            self._fires[m] += (z > 0).sum(axis=0)
            self._errors[m] += np.square(x - given[m] - self._bias, dtype=np.float64).sum()
            moved = x - self._first[m]
            self._inputs[m] += moved.sum(axis=0)
            self._energy[m] += np.square(moved).sum()
        image, text = codes
        self._bridge += (image * text).sum(axis=0, dtype=np.float64)
        self._bridge_total += float((given[0] * given[1]).sum(dtype=np.float64))
        self._jaccard += float(_jaccard(image > 0, text > 0).sum())

    def result(self) -> ModalityUse:
        """Returns what was found.

        Raises:
            ValueError: if no pair was seen.
        """
        if not self._pairs:
            raise ValueError("no pairs were seen")
        means, squares = self._codes / self._pairs, self._squares / self._pairs
        moved = self._inputs / self._pairs
        spread = self._energy / self._pairs - np.square(moved).sum(axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            score = means[0] / means.sum(axis=0)
            ratio = squares[0] / squares[1]
            r2 = 1 - self._errors / self._pairs / spread
        return ModalityUse(
            pairs=self._pairs,
            modality_score=score,
            energy_ratio=ratio,
            fire_share=self._fires / self._pairs,
            l0=_two(self._fires.sum(axis=1) / self._pairs),
            r2=_two(r2),
            jaccard=self._jaccard / self._pairs,
            bridge=self._bridge / self._pairs,
            bridge_total=self._bridge_total / self._pairs,
            mean_codes=means,
            mean_inputs=self._first + moved,
        )


def bridge_scores(
    image: Codes, text: Codes, decoder: Float[np.ndarray, "latents embed"]
) -> Float[np.ndarray, "latents latents"]:
    """Returns how much latent i of pictures and latent j of texts join pairs: E[z z^T] o (D D^T).

    Args:
        image: latents of pictures.
        text: latents of the texts of the same pairs.
        decoder: atoms, of unit length.

    Source: Papadimitriou et al. 2025, section 5, https://arxiv.org/abs/2504.11695.

    >>> bridge_scores(np.array([[1.0, 0]]), np.array([[2.0, 1]]), np.eye(2)).tolist()
    [[2.0, 0.0], [0.0, 0.0]]
    """
    together = image.T.astype(np.float64) @ text.astype(np.float64) / max(1, len(image))
    return together * (decoder.astype(np.float64) @ decoder.T.astype(np.float64))


def _jaccard(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Of each row; 0 where neither uses any."""
    either = (first | second).sum(axis=1)
    return (first & second).sum(axis=1) / np.maximum(either, 1)


def _two(values: np.ndarray) -> tuple[float, float]:
    return float(values[0]), float(values[1])
