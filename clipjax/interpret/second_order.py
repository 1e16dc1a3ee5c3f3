"""What each neuron of a Vision Transformer does to the embedding through later attention heads.

Source: Gandelsman et al. 2024, "Interpreting the Second-Order Effects of Neurons in CLIP",
sections 3 and 4, https://arxiv.org/abs/2406.04341.
"""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from clipjax.config import DualEncoderConfig, UserError, did_you_mean
from clipjax.interpret.moments import Moments
from clipjax.interpret.vit_parts import (
    Parts,
    blocks_of,
    image_tower,
    in_plain_form,
    neuron_outputs,
    readout,
    take_apart,
    value_maps,
)
from clipjax.models import with_params

_MOST_BYTES = 4 * 2**30
_CHUNK_ENTRIES = 2**24
_PATH = re.compile(r"^image/blocks/(\d+)/mlp_act$")


@dataclasses.dataclass(frozen=True, kw_only=True)
class NeuronEffects:
    """The second-order effects of the neurons of a layer, over images.

    Attributes:
        direction: of unit length, along which the effect of a neuron differs most from image to
            image: its first principal component, of the sign of the mean effect. Zeros for a
            neuron whose effect does not vary.
        share: of the variance that is along the direction; 1 for an effect of rank one.
        size: root mean square length of the effect on an embedding of unit length.
        mean: effect.
    """

    direction: Float[np.ndarray, "neurons embed"]
    share: Float[np.ndarray, " neurons"]
    size: Float[np.ndarray, " neurons"]
    mean: Float[np.ndarray, "neurons embed"]


class SecondOrder:
    """Second-order effects as a few numbers of each neuron and image.

    With attention and the deviations of norms held as they are in an image, the effect of a neuron
    is a sum over later heads of a number that depends on the image, times a direction that does
    not. Only these numbers, the coefficients, are computed for an image; they are over the length
    of its embedding, so that effects are shares of the embedding of unit length.

    Deviation: the paper forms the effects of all tokens, [tokens, neurons, embed] an image.

    Args:
        config: of the model.
        params: of the model, by name.
        path: of the layer, such as "image/blocks/8/mlp_act".

    Attributes:
        neurons: of the layer.
        later: layer and head of each coefficient.

    Raises:
        UserError: if the tower is none whose embedding is such a sum, the layer is none of it or
            its last, or there are too many later heads to keep the moments of.
    """

    def __init__(self, config: DualEncoderConfig, params: Mapping[str, Any], path: str):
        plain, self._params = in_plain_form(config, params)
        image = image_tower(plain)
        layer = _layer_of(path, image.depth)
        self.later = [
            (later, head)
            for later in range(layer + 1, image.depth)
            for head in range(image.num_heads)
        ]
        self.neurons = image.mlp_dim
        state = 8 * self.neurons * len(self.later) ** 2
        if state > _MOST_BYTES:
            raise UserError(
                f"{path}: {self.neurons:,} neurons and {len(self.later)} later heads need "
                f"{state / 2**30:.0f} GiB of moments, the most is {_MOST_BYTES / 2**30:.0f}. Take "
                "a later layer."
            )

        def maps(params: Any) -> tuple[Array, Array]:
            tower = with_params(plain, params).image
            blocks = list(blocks_of(tower))
            through = [value_maps(block) @ readout(tower) for block in blocks[layer + 1 :]]
            return neuron_outputs(blocks[layer]), jnp.concatenate(through)

        def coefficients(params: Any, images: Array) -> Array:
            parts = take_apart(with_params(plain, params), images)
            lengths = jnp.linalg.norm(parts.embeds, axis=-1)
            return _coefficients(parts, layer) / lengths[:, None, None]

        outputs, through = jax.jit(maps)(self._params)
        self._outputs, self._through = np.asarray(outputs), np.asarray(through)
        self._coefficients = jax.jit(coefficients)

    def coefficients(
        self, images: UInt8[np.ndarray, "batch side side 3"]
    ) -> Float[np.ndarray, "batch neurons later"]:
        """Returns what each neuron sends through each later head."""
        return np.asarray(self._coefficients(self._params, images))

    def directions(self, neurons: slice) -> Float[np.ndarray, "neurons later embed"]:
        """Returns what a coefficient of 1 adds to the embedding, for some neurons."""
        return np.einsum("nw,pwe->npe", self._outputs[neurons], self._through, optimize=True)

    def effects(self, moments: Moments) -> NeuronEffects:
        """Returns the effects over the images whose coefficients were added up.

        The principal component is had from products of directions, [later, later] a neuron, and not
        from effects.

        Args:
            moments: of coefficients, a group for each neuron.
        """
        parts = [
            _principal(
                self.directions(part).astype(np.float64),
                moments.mean[part],
                moments.covariance[part],
            )
            for part in self._chunks()
        ]
        names = [field.name for field in dataclasses.fields(NeuronEffects)]
        columns = zip(*parts, strict=True)
        return NeuronEffects(
            **{name: np.concatenate(column) for name, column in zip(names, columns, strict=True)}
        )

    def _chunks(self) -> Iterator[slice]:
        rows = max(1, _CHUNK_ENTRIES // (len(self.later) * self._through.shape[-1]))
        for first in range(0, self.neurons, rows):
            yield slice(first, first + rows)


def _layer_of(path: str, depth: int) -> int:
    known = [f"image/blocks/{layer}/mlp_act" for layer in range(depth)]
    found = _PATH.match(path)
    if path not in known or found is None:
        raise UserError(
            f"{path!r}: not a layer of neurons of the image tower.{did_you_mean(path, known)} "
            f"There are {known[0]} to {known[-1]}."
        )
    if path == known[-1]:
        raise UserError(
            f"{path}: is the last layer, and no attention comes after it: its neurons have no "
            "second-order effect."
        )
    return int(found[1])


def _coefficients(parts: Parts, layer: int) -> Float[Array, "batch neurons later"]:
    """How much of an activation the embedding has through each later head, over all tokens."""
    hidden = parts.layers[layer].hidden
    through = []
    for later in parts.layers[layer + 1 :]:
        seen = jnp.einsum("bt,bhts->bhs", parts.weights, later.attention)
        seen = seen / later.deviation[:, None, :]
        through.append(jnp.einsum("bhs,bsn->bnh", seen, hidden))
    return jnp.concatenate(through, axis=-1)


def _principal(
    directions: Float[np.ndarray, "neurons later embed"],
    mean: Float[np.ndarray, "neurons later"],
    covariance: Float[np.ndarray, "neurons later later"],
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Direction, share, size and mean of effects directions^T c, where c has these moments.

    The covariance of the effects is D^T C D = (R D)^T (R D) with R the root of C; its leading
    direction is D^T R z, with z that of the smaller R D D^T R.
    """
    gram = directions @ np.swapaxes(directions, 1, 2)
    values, vectors = np.linalg.eigh(covariance)
    root = vectors * np.sqrt(np.maximum(values, 0))[:, None, :] @ np.swapaxes(vectors, 1, 2)
    spread, leading = np.linalg.eigh(root @ gram @ root)
    whole = np.maximum(spread, 0).sum(axis=1)
    direction = np.einsum("npe,npq,nq->ne", directions, root, leading[:, :, -1], optimize=True)
    lengths = np.linalg.norm(direction, axis=1, keepdims=True)
    direction = direction / np.where(lengths > 0, lengths, 1)
    mean_effect = np.einsum("npe,np->ne", directions, mean)
    direction *= np.where((direction * mean_effect).sum(axis=1) < 0, -1, 1)[:, None]
    share = np.maximum(spread[:, -1], 0) / np.where(whole > 0, whole, 1)
    size = np.sqrt(whole + (mean_effect**2).sum(axis=1))
    return direction, share, size, mean_effect
