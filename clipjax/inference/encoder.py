"""Embeds any number of images or texts with one compiled program, split over the mesh."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float

from clipjax.config import DualEncoderConfig
from clipjax.core.mesh import batch_devices, batch_sharding, local_rows, put_rows, replicated
from clipjax.data.images import Images
from clipjax.data.pipeline import Batches, one_by_one
from clipjax.data.tokenizers import Tokenizer
from clipjax.models import with_params

Params = Mapping[str, jax.Array]
Embeds = Float[np.ndarray, "items embed"]


class Encoder:
    """The encode functions of one model; every process gets all embeddings.

    Args:
        config: of the model.
        tokenize: text to ids.
        mesh: the batch is split over all its axes but `tensor`.
        batch_size: items of one call of the compiled program; rounded up to what the mesh divides.
        threads: decoding threads; 0 for one a core.
    """

    def __init__(
        self,
        config: DualEncoderConfig,
        tokenize: Tokenizer,
        mesh: Mesh,
        *,
        batch_size: int = 256,
        threads: int = 0,
    ):
        self.config, self._tokenize, self._mesh = config, tokenize, mesh
        parts = batch_devices(mesh)
        self._batch_size = -(-batch_size // parts) * parts
        self._rows = local_rows(mesh, self._batch_size)
        self._threads = threads
        whole, split = replicated(mesh), batch_sharding(mesh)

        def image(params: Params, images: jax.Array) -> jax.Array:
            return with_params(config, params).encode_image(images)

        def text(params: Params, tokens: jax.Array) -> jax.Array:
            return with_params(config, params).encode_text(tokens)

        compile_for_mesh = functools.partial(
            jax.jit, in_shardings=(None, split), out_shardings=whole
        )
        self._encode_image: Any = compile_for_mesh(image)
        self._encode_text: Any = compile_for_mesh(text)

    def compile(self, params: Params) -> None:
        """Compiles both encode functions for parameters with these shardings, before their use."""
        side, length = self.config.image.image_size, self.config.text.context_length
        place = batch_sharding(self._mesh)
        images = jax.ShapeDtypeStruct((self._batch_size, side, side, 3), np.uint8, sharding=place)
        tokens = jax.ShapeDtypeStruct((self._batch_size, length), np.int32, sharding=place)
        with jax.set_mesh(self._mesh):
            self._encode_image = self._encode_image.lower(params, images).compile()
            self._encode_text = self._encode_text.lower(params, tokens).compile()

    def images(self, params: Params, images: Images) -> Embeds:
        """Returns unit vectors, float32, in the order of `images`."""
        side = self.config.image.image_size

        def fill(index: int, row: Mapping[str, np.ndarray]) -> None:
            if index < len(images):
                images.fill(index, row["x"])

        spec = {"x": ((side, side, 3), np.dtype(np.uint8))}
        return self._run(self._encode_image, params, len(images), fill, spec)

    def texts(self, params: Params, texts: Sequence[str]) -> Embeds:
        """Returns unit vectors, float32, in the order of `texts`."""

        def fill(index: int, row: Mapping[str, np.ndarray]) -> None:
            if index < len(texts):
                row["x"][...] = self._tokenize(texts[index])

        spec = {"x": ((self.config.text.context_length,), np.dtype(np.int32))}
        return self._run(self._encode_text, params, len(texts), fill, spec)

    def bind(self, params: Params) -> "BoundEncoder":
        """Returns the encode functions of these parameters, as evaluations take them."""
        return BoundEncoder(self, params)

    def _run(
        self,
        encode: Callable[[Params, jax.Array], jax.Array],
        params: Params,
        count: int,
        fill: Callable[[int, Mapping[str, np.ndarray]], None],
        spec: Mapping[str, tuple[tuple[int, ...], np.dtype]],
    ) -> Embeds:
        size, steps = self._batch_size, -(-count // self._batch_size)
        out = np.zeros((steps * size, self.config.embed_dim), np.float32)
        batches = Batches(
            lambda step: step * size + self._rows,
            one_by_one(fill),
            spec,
            threads=self._threads,
            ahead=1,
        )
        try:
            with jax.set_mesh(self._mesh):
                for step in range(steps):
                    batch = put_rows(next(batches)["x"], self._rows, size, self._mesh)
                    embeds = encode(params, batch)
                    out[step * size : (step + 1) * size] = embeds.addressable_data(0)
        finally:
            batches.close()
        return out[:count]


class BoundEncoder:
    """An encoder with parameters: images and texts in, unit vectors out."""

    def __init__(self, encoder: Encoder, params: Params):
        self._encoder, self._params = encoder, params

    def images(self, images: Images) -> Embeds:
        """Returns unit vectors, float32, in the order of `images`."""
        return self._encoder.images(self._params, images)

    def texts(self, texts: Sequence[str]) -> Embeds:
        """Returns unit vectors, float32, in the order of `texts`."""
        return self._encoder.texts(self._params, texts)
