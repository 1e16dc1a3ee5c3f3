"""The autoencoder: an affine map, a ReLU, few latents kept, and a dictionary of unit atoms."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from clipjax.interpret.sae.features import (
    MODALITIES,
    Embeds,
    FeaturePairs,
    Modality,
    Moments,
)
from clipjax.interpret.sae.objectives import Codes, batch_top_k, group_top_k, top_k
from clipjax.interpret.sae.options import SaeOptions

Params = Mapping[str, Array]
Inputs = Float[Array, "rows embed"]

_ENCODED_ROWS = 4096
_CALIBRATION_PAIRS = 1 << 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sae:
    """A trained autoencoder.

    An embedding e of a modality m is the input x = scale (e - mean_m); its latents are the kept
    ones of relu((x - bias) encoder + encoder_bias), its reconstruction latents decoder + bias.

    Attributes:
        options: how it was made.
        weights: "encoder" [embed, latents], "encoder_bias" [latents], "decoder" [latents, embed] of
            unit rows, "bias" [embed]; float32.
        image_mean: what is taken off embeddings of pictures.
        text_mean: what is taken off embeddings of texts; the same one if nothing is centred.
        scale: makes inputs have length 1, root mean square.
        threshold: a latent of "batchtopk" that is less is not kept; 0 otherwise.
        steps: of training that were done.
        features: what it was trained on: digest, pairs, and what is known of them.
    """

    options: SaeOptions
    weights: Mapping[str, np.ndarray]
    image_mean: Float[np.ndarray, " embed"]
    text_mean: Float[np.ndarray, " embed"]
    scale: float
    threshold: float = 0.0
    steps: int = 0
    features: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def decoder(self) -> Float[np.ndarray, "latents embed"]:
        """The atoms, of unit length."""
        return self.weights["decoder"]

    def mean(self, modality: Modality) -> Float[np.ndarray, " embed"]:
        """Returns what is taken off embeddings of a modality."""
        return self.image_mean if modality == "image" else self.text_mean

    def inputs(self, embeds: Embeds, modality: Modality) -> Embeds:
        """Returns what is encoded, float32: embeddings less their mean, scaled."""
        moved = embeds.astype(np.float64) - self.mean(modality)
        return (self.scale * moved).astype(np.float32)

    def encode(
        self, embeds: Embeds, modality: Modality, *, k: int | None = None
    ) -> Float[np.ndarray, "rows latents"]:
        """Returns the latents of embeddings, each row on its own, float32 and never negative.

        Args:
            embeds: unit rows, as `clipjax embed` writes them.
            modality: of all rows.
            k: another number of latents to keep than that of training; not for "batchtopk".
        """
        inputs, out = self.inputs(embeds, modality), []
        for first in range(0, len(inputs), _ENCODED_ROWS):
            block = inputs[first : first + _ENCODED_ROWS]
            codes = _encode(
                dict(self.weights), block, self.threshold, k or self.options.k, self._by_threshold
            )
            out.append(np.asarray(codes))
        return np.concatenate(out) if out else np.zeros((0, self.options.latents), np.float32)

    def encode_pairs(
        self, image: Embeds, text: Embeds
    ) -> tuple[Float[np.ndarray, "rows latents"], Float[np.ndarray, "rows latents"]]:
        """Returns the latents of pairs; with "group" both rows of a pair keep the same latents."""
        if self.options.objective != "group":
            return self.encode(image, "image"), self.encode(text, "text")
        both = _encode_pairs(
            dict(self.weights),
            self.inputs(image, "image"),
            self.inputs(text, "text"),
            self.options.k,
        )
        return np.asarray(both[0]), np.asarray(both[1])

    def decode(
        self, codes: Float[np.ndarray, "rows latents"], modality: Modality
    ) -> Float[np.ndarray, "rows embed"]:
        """Returns the embeddings that latents stand for, float32."""
        inputs = codes @ self.decoder + self.weights["bias"]
        return (inputs / self.scale + self.mean(modality)).astype(np.float32)

    @property
    def _by_threshold(self) -> bool:
        return self.options.objective == "batchtopk"


def init_params(options: SaeOptions, dim: int) -> dict[str, Array]:
    """Returns the first weights: random unit atoms, and the encoder their transpose.

    Source: Gao et al. 2024, section 2.4 and appendix A.1, https://arxiv.org/abs/2406.04093.
    """
    atoms = jax.random.normal(jax.random.key(options.seed), (options.latents, dim))
    atoms = unit_rows(atoms)
    return {
        "encoder": atoms.T,
        "encoder_bias": jnp.zeros(options.latents),
        "decoder": atoms,
        "bias": jnp.zeros(dim),
    }


def centres(options: SaeOptions, moments: Moments) -> tuple[np.ndarray, np.ndarray, float]:
    """Returns what is taken off pictures and texts, float32, and the scale."""
    image, text = moments.image_mean, moments.text_mean
    energy = (moments.image_variance + moments.text_variance) / 2
    if not options.centre:
        energy += np.square(image - text).sum() / 4
        image = text = (image + text) / 2
    return image.astype(np.float32), text.astype(np.float32), float(energy**-0.5)


def positive(params: Params, inputs: Inputs) -> Codes:
    """Returns all latents before any is dropped: those of a ReLU."""
    return jax.nn.relu((inputs - params["bias"]) @ params["encoder"] + params["encoder_bias"])


def decode(params: Params, codes: Codes) -> Inputs:
    """Returns reconstructed inputs."""
    return codes @ params["decoder"] + params["bias"]


def pair_codes(
    options: SaeOptions,
    params: Params,
    image: Inputs,
    text: Inputs,
    seen: Bool[Array, "rows 2"],
) -> list[tuple[Codes, Codes]]:
    """Returns the latents that reconstruct both rows of pairs, in training.

    Args:
        options: of the autoencoder.
        params: its weights.
        image: inputs.
        text: inputs; row i is of the same pair as row i of `image`.
        seen: whether the encoder sees the picture, the text; at least one of both. One that it does
            not see enters nothing, and is reconstructed from the latents of the other.

    Returns:
        For each of `options.levels` the latents for the picture and for the text.
    """
    sees_image, sees_text = seen[:, :1], seen[:, 1:]
    zero = jnp.zeros((), image.dtype)
    z_image = jnp.where(sees_image, positive(params, image), zero)
    z_text = jnp.where(sees_text, positive(params, text), zero)
    if options.objective == "batchtopk":
        rows = jnp.concatenate([z_image, z_text], axis=1)
        kept = batch_top_k(rows, options.k * seen.sum())
        levels = [(kept[:, : options.latents], kept[:, options.latents :])]
    elif options.objective == "group":
        levels = [group_top_k(z_image, z_text, options.k)]
    else:
        levels = [(top_k(z_image, k), top_k(z_text, k)) for k in options.levels]
    return [
        (jnp.where(sees_image, i, t), jnp.where(sees_text, t, i))  # no row is unseen in both
        for i, t in levels
    ]


def exact_threshold(sae: Sae, features: FeaturePairs) -> float:
    """Returns the latent above which rows of these features keep k on average, exactly.

    It stands in for the batch where rows come alone ("batchtopk"). Floats that are not negative are
    in the order of their bits: one pass counts the upper half of the bits, another one the lower
    half of those that share the upper half sought.

    Deviation: Bussmann et al. 2024, section 3, take the mean of the least latents that batches of
    the training kept, which lags behind the weights.

    Args:
        sae: the autoencoder.
        features: that it was trained on; at most 65,536 pairs, evenly spread, are looked at.
    """
    pairs = np.unique(np.linspace(0, len(features) - 1, _CALIBRATION_PAIRS).astype(np.int64))
    wanted, upper = 2 * len(pairs) * sae.options.k, 0
    for whole in (True, False):
        counts = np.zeros(1 << 16, np.int64)
        for first in range(0, len(pairs), _ENCODED_ROWS):
            for side, rows in enumerate(features.take(pairs[first : first + _ENCODED_ROWS])):
                found = _positive(dict(sae.weights), sae.inputs(rows, MODALITIES[side]))
                bits = np.asarray(found).view(np.uint32).ravel()
                halves = bits[bits > 0] >> 16 if whole else bits[bits >> 16 == upper] & 0xFFFF
                counts += np.bincount(halves, minlength=1 << 16)
        above = counts[::-1].cumsum()[::-1]
        if above[0] < wanted:
            return 0.0
        place = int(np.flatnonzero(above >= wanted)[-1])
        wanted -= int(above[place] - counts[place])
        upper = place if whole else upper << 16 | place
    return float(np.uint32(upper).view(np.float32))


def unit_rows(atoms: Float[Array, "latents embed"]) -> Float[Array, "latents embed"]:
    """Returns the atoms with length 1."""
    return atoms / jnp.maximum(jnp.linalg.norm(atoms, axis=1, keepdims=True), 1e-12)


@jax.jit
def _positive(weights: Params, inputs: Inputs) -> Codes:
    return positive(weights, inputs)


@functools.partial(jax.jit, static_argnames=("k", "by_threshold"))
def _encode(
    weights: Params,
    inputs: Inputs,
    threshold: float | Float[Array, ""],
    k: int,
    by_threshold: bool,
) -> Codes:
    found = positive(weights, inputs)
    return jnp.where(found >= threshold, found, 0) if by_threshold else top_k(found, k)


@functools.partial(jax.jit, static_argnames="k")
def _encode_pairs(weights: Params, image: Inputs, text: Inputs, k: int) -> tuple[Codes, Codes]:
    return group_top_k(positive(weights, image), positive(weights, text), k)
