"""Layer 2: contrastive losses, arrays in and a scalar out."""

import functools
from collections.abc import Callable

import jax
from jax.sharding import Mesh

from clipjax.core.mesh import batch_devices
from clipjax.losses.sigmoid import ring_sigmoid_loss, sigmoid_loss
from clipjax.losses.softmax import sharded_softmax_loss, softmax_loss

Loss = Callable[..., jax.Array]

# kind: (readable reference, version for a batch that is split over devices)
LOSSES: dict[str, tuple[Loss, Loss]] = {
    "softmax": (softmax_loss, sharded_softmax_loss),
    "sigmoid": (sigmoid_loss, ring_sigmoid_loss),
}


def make_loss(kind: str, mesh: Mesh) -> Loss:
    """Returns the loss for a mesh: (image_embeds, text_embeds, scale, bias, groups) -> scalar."""
    reference, sharded = LOSSES[kind]
    return reference if batch_devices(mesh) == 1 else functools.partial(sharded, mesh=mesh)


__all__ = [
    "LOSSES",
    "Loss",
    "make_loss",
    "ring_sigmoid_loss",
    "sharded_softmax_loss",
    "sigmoid_loss",
    "softmax_loss",
]
