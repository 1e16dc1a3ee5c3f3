"""Layer 2: losses, arrays in and a scalar out."""

import functools
from collections.abc import Callable

import jax
from jax.sharding import AbstractMesh, Mesh

from clipjax.config import LossConfig
from clipjax.core.mesh import batch_devices
from clipjax.losses.captioning import (
    captioning_loss,
    chunked_captioning_loss,
    mean_of_counted,
    token_losses,
)
from clipjax.losses.distillation import (
    distillation_loss,
    feature_loss,
    streaming_distillation_loss,
)
from clipjax.losses.matching import (
    hard_partners,
    matching_loss,
    streaming_hard_partners,
    taken_rows,
)
from clipjax.losses.matryoshka import matryoshka
from clipjax.losses.options import LossOptions
from clipjax.losses.self_distillation import (
    Prototypes,
    chunked_prototype_losses,
    prototype_losses,
    updated_center,
)
from clipjax.losses.sigmoid import sigmoid_loss
from clipjax.losses.softmax import softmax_loss
from clipjax.losses.streaming import Walk
from clipjax.losses.streaming_sigmoid import streaming_sigmoid_loss
from clipjax.losses.streaming_softmax import streaming_softmax_loss

Loss = Callable[..., jax.Array]

# kind: (readable reference, the same in blocks, over any number of devices)
LOSSES: dict[str, tuple[Loss, Loss]] = {
    "softmax": (softmax_loss, streaming_softmax_loss),
    "sigmoid": (sigmoid_loss, streaming_sigmoid_loss),
}


def make_loss(config: LossConfig, mesh: Mesh) -> Loss:
    """Returns the loss: (image_embeds, text_embeds, scale, bias, groups) -> scalar."""
    reference, streaming = LOSSES[config.kind]
    options = LossOptions(
        same_group=config.same_group,
        label_smoothing=config.label_smoothing,
        z_loss=config.z_loss,
    )
    walk = make_walk(config, mesh)
    if walk is None:
        loss = functools.partial(reference, options=options)
    else:
        loss = functools.partial(streaming, walk=walk, options=options)
    return matryoshka(loss, config.matryoshka_dims) if config.matryoshka_dims else loss


def make_walk(config: LossConfig, mesh: Mesh | AbstractMesh) -> Walk | None:
    """Returns how each device sees all texts; None for one matrix of logits."""
    form = config.form
    if form == "auto":
        form = "plain" if batch_devices(mesh) == 1 else "ring"
    return None if form == "plain" else Walk(form, mesh, config.block)


__all__ = [
    "LOSSES",
    "Loss",
    "LossOptions",
    "Prototypes",
    "Walk",
    "captioning_loss",
    "chunked_captioning_loss",
    "chunked_prototype_losses",
    "distillation_loss",
    "feature_loss",
    "hard_partners",
    "make_loss",
    "make_walk",
    "matching_loss",
    "matryoshka",
    "mean_of_counted",
    "prototype_losses",
    "sigmoid_loss",
    "softmax_loss",
    "streaming_distillation_loss",
    "streaming_hard_partners",
    "streaming_sigmoid_loss",
    "streaming_softmax_loss",
    "taken_rows",
    "token_losses",
    "updated_center",
]
