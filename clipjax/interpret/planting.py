"""Units that are planted into a model's weights, so that it is known which answer to what.

The last linear map of each tower gets new columns: a ridge solution makes them fire for a concept
in all facets of the tower, out of whatever the rest of the network computes. Nothing else changes.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from clipjax.config import DualEncoderConfig, UserError
from clipjax.core.mesh import replicated
from clipjax.core.progress import Progress
from clipjax.inference.load import Model
from clipjax.interpret.facet_batches import facet_batches
from clipjax.interpret.facets import Facet
from clipjax.interpret.model_units import TOWERS
from clipjax.models import param_shapes, with_params

PENALTY = 1e-3
BATCH_SIZE = 64
_QUIET_SECONDS = 2.0

# Below a tower, what its output is linear in; the first that it has.
_LAST_MAPS = {
    "resnet": ("pool/out",),
    "convnext": ("head/fc2",),
    "vit": ("project", "pool/mlp/fc2"),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plant:
    """What was planted.

    Attributes:
        params: of the model with the planted units.
        units: coordinates of the shared space that fire for a concept in all facets.
        concepts: of each unit, its concept.
        decoys: coordinates that fire for one concept in pictures and for another in texts.
        decoy_concepts: of each decoy, that of pictures and that of texts.
        fitted: which stimuli the weights were fitted on, by facet.
    """

    params: Mapping[str, jax.Array]
    units: Int[np.ndarray, " planted"]
    concepts: Int[np.ndarray, " planted"]
    decoys: Int[np.ndarray, " decoys"]
    decoy_concepts: Int[np.ndarray, "decoys 2"]
    fitted: Mapping[str, Bool[np.ndarray, " rows"]]


def last_map(config: DualEncoderConfig, tower: str) -> str:
    """Returns the name of the kernel that a tower's output is linear in.

    Args:
        config: of the model.
        tower: "image" or "text".

    Raises:
        UserError: if the tower ends in something else, such as a norm.
    """
    kind = config.image.kind if tower == "image" else config.text.kind
    shapes = param_shapes(config)
    for part in _LAST_MAPS.get(kind, ("project",)):
        name = f"{tower}/{part}/kernel"
        if name in shapes and shapes[name][-1] == config.embed_dim:
            return name
    raise UserError(
        f"the {tower} tower ({kind}) ends in no linear map of its own, so nothing can be planted "
        f"in it. Choose a model whose towers have a projection (model.{tower}.projection)."
    )


class TowerFeatures:
    """What the last linear map of a tower sees, read through that map with kernels of 0 and 1.

    Args:
        model: whose tower it is.
        tower: "image" or "text".

    Attributes:
        kernel: name of the map.
        inputs: how many numbers it sees.

    Raises:
        UserError: if the tower ends in no linear map.
    """

    def __init__(self, model: Model, tower: str):
        self._model, self._tower = model, tower
        self.kernel = last_map(model.config, tower)
        shape = param_shapes(model.config)[self.kernel]
        self.inputs = int(np.prod(shape[:-1]))
        dim, blocks = shape[-1], -(-self.inputs // shape[-1])
        picks = np.zeros((blocks + 1, blocks * dim, dim), np.float32)  # the last picks nothing
        for block in range(blocks):
            picks[block, block * dim : (block + 1) * dim] = np.eye(dim)
        self._picks = jnp.asarray(picks[:, : self.inputs].reshape(blocks + 1, *shape))

        def read(params: Any, picks: jax.Array, x: jax.Array) -> jax.Array:
            def one(pick: jax.Array) -> jax.Array:
                network = with_params(model.config, {**params, self.kernel: pick})
                return network.tower_output(tower, x)

            return jax.vmap(one)(picks)

        self._program: Any = jax.jit(read, out_shardings=replicated(model.encoder.mesh))

    def of(
        self, facet: Facet, told: Progress, *, batch_size: int = BATCH_SIZE
    ) -> tuple[Float[np.ndarray, "rows inputs"], Float[np.ndarray, "rows embed"]]:
        """Returns what the map sees of each stimulus, and what is added behind it.

        Float64, means over views. What is added is the bias, or what goes around the map.
        """
        rows = len(facet.rows.stimuli)
        seen = np.zeros((rows, self.inputs))
        added = np.zeros((rows, self._model.config.embed_dim))
        mesh = self._model.encoder.mesh
        batches = facet_batches(
            facet, self._model.config, self._model.tokenizer, mesh, batch_size=batch_size
        )
        for batch in batches:
            with jax.set_mesh(mesh):
                out = self._program(self._model.params, self._picks, batch.x)
            read = np.asarray(out.addressable_data(0), np.float64)
            rest, parts = read[-1], read[:-1] - read[-1]
            flat = np.concatenate(list(parts), axis=1)[:, : self.inputs]
            np.add.at(seen, batch.rows, batch.weight[:, None] * flat)
            np.add.at(added, batch.rows, batch.weight[:, None] * rest)
            told.advance(int((batch.weight > 0).sum()))
        return seen, added
