"""Embeds any number of images or texts with few compiled programs, split over the mesh."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from clipjax.config import DualEncoderConfig, UserError
from clipjax.config.fields import ComputeDtype
from clipjax.core.distributed import broadcast_bytes, broadcast_int
from clipjax.core.mesh import batch_devices, batch_sharding, local_rows, put_rows, replicated
from clipjax.core.progress import Progress
from clipjax.core.rows import Embeds, Rows, RowsInMemory
from clipjax.data.decode import BadSampleError
from clipjax.data.images import Images, NamedImages
from clipjax.data.pipeline import Batches, one_by_one
from clipjax.data.texts import Texts
from clipjax.data.tokenizers import Tokenizer
from clipjax.inference.text_groups import text_batches
from clipjax.models import with_params
from clipjax.models.taps import Write, writing
from clipjax.models.text_lengths import deciding_tokens

Params = Mapping[str, jax.Array]
Writes = Mapping[str, Mapping[str, Write]]

_BATCHES_AMONG_WHICH_TEXTS_ARE_SORTED = 64
_QUIET_SECONDS = 2.0
_ROWS_OF_A_BROADCAST = 65_536


class Encoder:
    """The encode functions of one model; every process gets all embeddings.

    Args:
        config: of the model.
        tokenize: text to ids.
        mesh: the batch is split over all its axes but `tensor`.
        batch_size: items of one call of the compiled program; rounded up to what the mesh divides.
        threads: decoding threads; 0 for one a core.
        image_dtype: in which the image tower computes; None for what the config says.
        text_dtype: likewise of the text tower.
        write: what changes activations, by tower and path, as of `clipjax.models.taps`.
    """

    def __init__(
        self,
        config: DualEncoderConfig,
        tokenize: Tokenizer,
        mesh: Mesh,
        *,
        batch_size: int = 256,
        threads: int = 0,
        image_dtype: ComputeDtype | None = None,
        text_dtype: ComputeDtype | None = None,
        write: Writes | None = None,
    ):
        self.config, self._tokenize, self._mesh = config, tokenize, mesh
        self.write: Writes = write or {}
        self._again = functools.partial(
            Encoder,
            config,
            tokenize,
            mesh,
            batch_size=batch_size,
            threads=threads,
            image_dtype=image_dtype,
            text_dtype=text_dtype,
            write=write,
        )
        parts = batch_devices(mesh)
        self._batch_size = -(-batch_size // parts) * parts
        self._rows = local_rows(mesh, self._batch_size)
        self._threads = threads
        self._compiled_lengths: set[int] = set()
        self._is_compiled = False
        whole, split = replicated(mesh), batch_sharding(mesh)
        image_config, text_config = _in_dtype(config, image_dtype), _in_dtype(config, text_dtype)

        def image(params: Params, images: jax.Array, valid: jax.Array) -> jax.Array:
            encode = with_params(image_config, params).encode_image
            embeds = writing(encode, self.write.get("image"))(images)
            return jnp.where(valid[:, None], embeds, 0)

        def text(params: Params, tokens: jax.Array, valid: jax.Array) -> jax.Array:
            encode = with_params(text_config, params).encode_text
            embeds = writing(encode, self.write.get("text"))(tokens)
            return jnp.where(valid[:, None], embeds, 0)

        compile_for_mesh = functools.partial(
            jax.jit, in_shardings=(None, split, split), out_shardings=whole
        )
        self._encode_image: Any = compile_for_mesh(image)
        self._encode_text: Any = compile_for_mesh(text)

    @property
    def mesh(self) -> Mesh:
        """The devices that it runs on."""
        return self._mesh

    def in_dtype(self, dtype: ComputeDtype) -> "Encoder":
        """Returns an encoder of the same model that computes in another type."""
        return self._again(image_dtype=dtype, text_dtype=dtype)

    def writing(self, write: Writes) -> "Encoder":
        """Returns an encoder of the same model that writes this, and nothing else."""
        return self._again(write=write)

    def compile(self, params: Params) -> None:
        """Compiles both encode functions for parameters with these shardings, before their use.

        Nothing is compiled after: all texts are encoded at their full length then.
        """
        side, length = self.config.image.image_size, self.config.text.context_length
        place = batch_sharding(self._mesh)
        images = jax.ShapeDtypeStruct((self._batch_size, side, side, 3), np.uint8, sharding=place)
        tokens = jax.ShapeDtypeStruct((self._batch_size, length), np.int32, sharding=place)
        valid = jax.ShapeDtypeStruct((self._batch_size,), np.bool_, sharding=place)
        with jax.set_mesh(self._mesh):
            self._encode_image = self._encode_image.lower(params, images, valid).compile()
            self._encode_text = self._encode_text.lower(params, tokens, valid).compile()
        self._is_compiled = True

    def images(
        self, params: Params, images: Images, rows: Rows | None = None, *, progress: str = ""
    ) -> Embeds:
        """Returns unit vectors, float32, in the order of `images`; zeros where one is bad.

        Args:
            params: of the model.
            images: a picture whose `fill` raises BadSampleError has a row of zeros.
            rows: keeps the embeddings, and has those that are not computed again; each batch is
                kept as it comes. That of process 0 counts, and the others may pass none.
            progress: what is said to be done, where it takes long.

        Raises:
            UserError: if an embedding is not finite.
        """
        run = functools.partial(self._image_batches, params, images, progress)
        return self._collected(run, len(images), rows)

    def texts(
        self, params: Params, texts: Texts, rows: Rows | None = None, *, progress: str = ""
    ) -> Embeds:
        """Returns unit vectors, float32, in the order of `texts`; zeros where one is bad.

        Texts are cut behind what decides their embedding (see `deciding_tokens`): most are short.

        Args:
            params: of the model.
            texts: one whose item raises BadSampleError has a row of zeros.
            rows: see `images`; 64 batches are kept at a time, which are sorted by length.
            progress: what is said to be done, where it takes long.

        Raises:
            UserError: if an embedding is not finite.
        """
        run = functools.partial(self._text_batches, params, texts, progress)
        return self._collected(run, len(texts), rows)

    def write_images(
        self, params: Params, images: Images, rows: Rows | None, *, progress: str = ""
    ) -> None:
        """Does what `images` does, and leaves the embeddings where they are kept.

        Args:
            params: of the model.
            images: see `images`.
            rows: of process 0; the others may pass none.
            progress: what is said to be done, where it takes long.

        Raises:
            UserError: if an embedding is not finite.
        """
        self._write(functools.partial(self._image_batches, params, images, progress), rows)

    def write_texts(
        self, params: Params, texts: Texts, rows: Rows | None, *, progress: str = ""
    ) -> None:
        """Does what `texts` does, and leaves the embeddings where they are kept.

        Args:
            params: of the model.
            texts: see `texts`.
            rows: of process 0; the others may pass none.
            progress: what is said to be done, where it takes long.

        Raises:
            UserError: if an embedding is not finite.
        """
        self._write(functools.partial(self._text_batches, params, texts, progress), rows)

    def bind(self, params: Params, *, progress: str = "") -> "BoundEncoder":
        """Returns the encode functions of these parameters, as evaluations take them.

        Args:
            params: of the model.
            progress: what is said to be done, where a call takes long and says nothing else.
        """
        return BoundEncoder(self, params, progress)

    def _collected(
        self, run: Callable[[int], Generator[Embeds, None, None]], count: int, rows: Rows | None
    ) -> Embeds:
        """Returns what `run` yields from the row on that process 0 lacks, behind what it has."""
        here = rows if jax.process_index() == 0 else None
        first = broadcast_int(-1 if here is None else here.done)
        kept = here or RowsInMemory(count, self.config.embed_dim, max(first, 0))
        with contextlib.closing(run(max(first, 0))) as batches:
            for embeds in batches:
                kept.append(embeds)
        if first > 0:
            self._share(kept, first)
        return kept.array

    def _share(self, kept: Rows, count: int) -> None:
        """Gives the first rows of process 0 to those that keep theirs in memory."""
        if jax.process_count() == 1:
            return
        sends = jax.process_index() == 0
        for first in range(0, count, _ROWS_OF_A_BROADCAST):
            part = kept.array[first : min(first + _ROWS_OF_A_BROADCAST, count)]
            found = broadcast_bytes(part.tobytes() if sends else None)
            if isinstance(kept, RowsInMemory):
                kept.fill(first, np.frombuffer(found, np.float32).reshape(part.shape))

    def _write(
        self, run: Callable[[int], Generator[Embeds, None, None]], rows: Rows | None
    ) -> None:
        here = rows if jax.process_index() == 0 else None
        first = broadcast_int(here.done if here is not None else 0)
        with contextlib.closing(run(first)) as batches:
            for embeds in batches:
                if here is not None:
                    here.append(embeds)

    def _image_batches(
        self, params: Params, images: Images, progress: str, first: int
    ) -> Generator[Embeds, None, None]:
        side, size = self.config.image.image_size, self._batch_size

        def fill(index: int, row: Mapping[str, np.ndarray]) -> None:
            images.fill(index, row["x"])

        spec = {"x": ((side, side, 3), np.dtype(np.uint8))}
        batches = self._host_batches(fill, spec, first, len(images), size, self._rows)
        told = _progress(progress, len(images) - first, "images")
        with told, contextlib.closing(batches):
            for start, batch in batches:
                embeds = self._run(self._encode_image, params, batch["x"], batch["valid"])
                embeds = embeds[: len(images) - start]
                if (bad := _not_finite(embeds)) is not None:
                    name = (
                        f" ({images.key(start + bad)})" if isinstance(images, NamedImages) else ""
                    )
                    raise _no_number(f"image {start + bad}{name}")
                yield embeds
                told.advance(len(embeds))

    def _text_batches(
        self, params: Params, texts: Texts, progress: str, first: int
    ) -> Generator[Embeds, None, None]:
        size, length = self._batch_size, self.config.text.context_length

        def fill(index: int, row: Mapping[str, np.ndarray]) -> None:
            row["x"][...] = self._tokenize(texts[index])

        most = -(-(len(texts) - first) // size)  # every process has all, to sort them alike
        window = size * min(_BATCHES_AMONG_WHICH_TEXTS_ARE_SORTED, most)
        spec = {"x": ((length,), np.dtype(np.int32))}
        windows = self._host_batches(
            fill, spec, first, len(texts), window, np.arange(window, dtype=np.int64)
        )
        told = _progress(progress, len(texts) - first, "texts")
        with told, contextlib.closing(windows):
            for start, rows in windows:
                count = min(window, len(texts) - start)
                out = np.zeros((count, self.config.embed_dim), np.float32)
                for chosen, embeds in self._sorted(params, rows["x"][:count], rows["valid"]):
                    out[chosen] = embeds
                    told.advance(len(chosen))
                if (bad := _not_finite(out)) is not None:
                    raise _no_number(f"text {start + bad} ({texts[start + bad]!r:.80})")
                yield out

    def _sorted(
        self, params: Params, tokens: np.ndarray, valid: np.ndarray
    ) -> Iterator[tuple[np.ndarray, Embeds]]:
        """Yields which texts, and their embeddings; short texts first."""
        size, most = self._batch_size, tokens.shape[1]
        needed = np.full(len(tokens), most)
        if not self._is_compiled:
            needed = deciding_tokens(self.config.text, tokens)
        for batch in text_batches(
            needed, context_length=most, batch_size=size, compiled=self._compiled_lengths
        ):
            self._compiled_lengths.add(batch.length)
            chosen = batch.texts
            rows, is_valid = np.zeros((size, batch.length), np.int32), np.zeros(size, np.bool_)
            rows[: len(chosen)] = tokens[chosen, : batch.length]
            is_valid[: len(chosen)] = valid[chosen]
            mine = rows[self._rows], is_valid[self._rows]
            yield chosen, self._run(self._encode_text, params, *mine)[: len(chosen)]

    def _host_batches(
        self,
        fill: Callable[[int, Mapping[str, np.ndarray]], None],
        spec: Mapping[str, tuple[tuple[int, ...], np.dtype]],
        first: int,
        count: int,
        size: int,
        rows: np.ndarray,
    ) -> Generator[tuple[int, dict[str, np.ndarray]], None, None]:
        """Yields the first item of each batch and the batch; `valid` says which rows count."""
        if first >= count:
            return

        def fill_valid(index: int, row: Mapping[str, np.ndarray]) -> None:
            try:
                row["valid"][...] = index < count
                if index < count:
                    fill(index, row)
            except BadSampleError:
                row["valid"][...] = False
                row["x"][...] = 0  # of a picture that was half decoded

        steps = -(-(count - first) // size)
        batches = Batches(
            lambda step: first + step * size + rows,
            one_by_one(fill_valid),
            {**spec, "valid": ((), np.dtype(np.bool_))},
            stop_step=steps,
            threads=self._threads,
            ahead=1,
        )
        try:
            for step in range(steps):
                yield first + step * size, next(batches)
        finally:
            batches.close()

    def _run(self, encode: Any, params: Params, x: np.ndarray, valid: np.ndarray) -> Embeds:
        size, mesh = self._batch_size, self._mesh
        with jax.set_mesh(mesh):
            parts = [put_rows(array, self._rows, size, mesh) for array in (x, valid)]
            return np.asarray(encode(params, *parts).addressable_data(0))


class BoundEncoder:
    """An encoder with parameters: images and texts in, unit vectors out."""

    def __init__(self, encoder: Encoder, params: Params, progress: str = ""):
        self._encoder, self._params, self._progress = encoder, params, progress

    def images(self, images: Images, rows: Rows | None = None, *, progress: str = "") -> Embeds:
        """Returns unit vectors, float32, in the order of `images`; see `Encoder.images`."""
        told = progress or self._progress
        return self._encoder.images(self._params, images, rows, progress=told)

    def texts(self, texts: Texts, rows: Rows | None = None, *, progress: str = "") -> Embeds:
        """Returns unit vectors, float32, in the order of `texts`; see `Encoder.texts`."""
        told = progress or self._progress
        return self._encoder.texts(self._params, texts, rows, progress=told)


def _in_dtype(config: DualEncoderConfig, dtype: ComputeDtype | None) -> DualEncoderConfig:
    if dtype is None or dtype == config.compute.dtype:
        return config
    # Whatever else was asked for may not exist in this one.
    compute = dataclasses.replace(config.compute, dtype=dtype, reduce_dtype=None, attention="auto")
    return dataclasses.replace(config, compute=compute)


def _progress(what: str, count: int, unit: str) -> Progress:
    told = what and jax.process_index() == 0
    return Progress(what, count, unit, quiet_seconds=_QUIET_SECONDS if told else np.inf)


def _not_finite(embeds: Embeds) -> int | None:
    """Returns the first row with a number that is not finite."""
    bad = np.flatnonzero(~np.isfinite(embeds).all(axis=1))
    return int(bad[0]) if len(bad) else None


def _no_number(what: str) -> UserError:
    return UserError(
        f"{what}: its embedding holds NaN or infinity, expected finite numbers. Check that the "
        "weights are whole and did not diverge, or compute in float32 (model.compute.dtype)."
    )
