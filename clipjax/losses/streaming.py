"""Every image against every text in blocks of columns, on one device or many.

Two ways to show each device all texts. A ring: a device's texts travel through all the others, and
what is gathered about them (normalisers, gradients) travels along and is complete when they are
home; no device ever holds more texts than its own. Chunks: all texts are gathered once, and what is
gathered about them is added up over the devices at the end; fewer and larger messages, but each
device holds all texts. Either way a device has one [images, block] of logits at a time.

Loss (Ring Attention's and Inf-CL's idea): Cheng et al. 2024, https://arxiv.org/abs/2410.17243.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, Mesh

from clipjax.core.mesh import BATCH_AXES, batch_devices
from clipjax.losses.options import Embeds, Groups, HardNegatives

Form = Literal["ring", "chunked"]

Visit = Callable[[Any, Any, Any], tuple[Any, Any]]
"""(about the images, texts of a block, about these texts) -> both of these, brought forward."""


@dataclasses.dataclass(frozen=True)
class Walk:
    """How each device comes to see all texts.

    Attributes:
        form: the ring or the chunks.
        mesh: whose batch axes the batch is split over.
        block: most columns of logits at a time.
    """

    form: Form
    mesh: Mesh | AbstractMesh
    block: int

    def __call__(
        self, visit: Visit, images: Any, texts: Any, about: Any, *, join: Callable[[Any], Any]
    ) -> tuple[Any, Any]:
        """Visits all texts; inside `shard_map`.

        Args:
            visit: one block.
            images: what is gathered about the images of this device, at the start.
            texts: of this device, arrays with equal first axes.
            about: what is gathered about them, at the start: the same for every text.
            join: of the chunks, from what the devices have gathered about all texts to what there
                is about those of this device.

        Returns:
            What was gathered about the images, and about the texts of this device.
        """
        if self.form == "ring":
            return self._ring(visit, images, texts, about)
        devices = batch_devices(self.mesh)
        texts = jax.tree.map(lambda x: jax.lax.all_gather(x, BATCH_AXES, tiled=True), texts)
        about = jax.tree.map(lambda x: jnp.concatenate([x] * devices), about)
        images, about = self._blocks(visit, images, texts, about)
        return images, join(about)

    def _ring(self, visit: Visit, images: Any, texts: Any, about: Any) -> tuple[Any, Any]:
        devices = batch_devices(self.mesh)
        to_next = [(source, (source + 1) % devices) for source in range(devices)]
        send = functools.partial(jax.lax.ppermute, axis_name=BATCH_AXES, perm=to_next)

        def hop(state: tuple[Any, Any, Any], _: None) -> tuple[tuple[Any, Any, Any], None]:
            images, texts, about = state
            images, about = self._blocks(visit, images, texts, about)
            return (images, send(texts), send(about)), None

        (images, _, about), _ = jax.lax.scan(hop, (images, texts, about), None, length=devices)
        return images, about

    def _blocks(self, visit: Visit, images: Any, texts: Any, about: Any) -> tuple[Any, Any]:
        count = len(jax.tree.leaves(texts)[0])
        block = largest_divisor(count, self.block)
        if block == count:
            return visit(images, texts, about)

        def step(images: Any, columns: tuple[Any, Any]) -> tuple[Any, Any]:
            return visit(images, *columns)

        cut = jax.tree.map(lambda x: x.reshape(-1, block, *x.shape[1:]), (texts, about))
        images, about = jax.lax.scan(step, images, cut)
        return images, jax.tree.map(lambda x: x.reshape(count, *x.shape[2:]), about)


class Texts(NamedTuple):
    """Texts of one device, their groups and their numbers; a hard negative has number -1."""

    embeds: jax.Array
    groups: jax.Array
    numbers: jax.Array


def given(
    texts: Embeds, groups: Groups | None, hard_negatives: HardNegatives | None
) -> tuple[Groups, HardNegatives]:
    """Returns groups and hard negatives, a group of its own for each pair and none by default."""
    count, dim = texts.shape
    if groups is None:
        groups = jnp.arange(count, dtype=jnp.int32)
    if hard_negatives is None:
        hard_negatives = jnp.zeros((count, 0, dim), texts.dtype)
    return groups, hard_negatives


def numbered(texts: jax.Array, negatives: jax.Array, groups: jax.Array) -> tuple[jax.Array, Texts]:
    """Returns the numbers of the images of this device, and its texts with its hard negatives."""
    first = jax.lax.axis_index(BATCH_AXES) * len(texts)
    numbers = (first + jnp.arange(len(texts))).astype(jnp.int32)
    flat = negatives.reshape(-1, negatives.shape[-1])
    none = jnp.full(len(flat), -1, jnp.int32)
    return numbers, Texts(
        embeds=jnp.concatenate([texts, flat]),
        groups=jnp.concatenate([groups, none]),
        numbers=jnp.concatenate([numbers, none]),
    )


def largest_divisor(count: int, most: int) -> int:
    """Returns the largest divisor of a number that is not above another one.

    >>> largest_divisor(96, 40), largest_divisor(7, 5), largest_divisor(8, 100)
    (32, 1, 8)
    """
    return next(size for size in range(min(count, most), 0, -1) if count % size == 0)
