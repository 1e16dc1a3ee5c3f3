"""A trained model as a person uses it in a notebook."""

import os
import sys
from collections.abc import Iterable, Mapping, Sequence

import jax
import numpy as np
from jaxtyping import Float
from PIL import Image

from clipjax.config import DualEncoderConfig, MeshConfig, UserError
from clipjax.core.mesh import make_mesh
from clipjax.data.decode import BadSampleError, decode_image, on_white
from clipjax.data.resize import EvaluationTransform
from clipjax.data.tokenizers import Tokenizer
from clipjax.inference.encoder import Encoder
from clipjax.interchange.pretrained import open_pretrained
from clipjax.models import num_params

ImageLike = str | os.PathLike[str] | bytes | Image.Image | np.ndarray
Embeds = Float[np.ndarray, "items embed"]

_MAX_PIXELS = 64_000_000


class Model:
    """A trained dual encoder.

    Attributes:
        config: of the model.
        params: float32 arrays by name, statistics of batch norm included; the moving average where
            the run kept one.
        tokenizer: maps a text to ids.
        encoder: embeds any number of items, split over the mesh.
        step: of the checkpoint; 0 for weights of another codebase.
        identity: another one for other weights; see `Pretrained.identity`.
    """

    def __init__(
        self,
        config: DualEncoderConfig,
        params: Mapping[str, jax.Array],
        tokenizer: Tokenizer,
        encoder: Encoder,
        step: int,
        identity: str = "",
    ):
        self.config, self.params, self.tokenizer = config, params, tokenizer
        self.encoder, self.step, self.identity = encoder, step, identity
        self._transform = EvaluationTransform.of(config)

    def __repr__(self) -> str:
        count = num_params(self.config)
        return f"clipjax.Model({count / 1e6:.2f} M parameters, step {self.step})"

    def encode_image(self, images: ImageLike | Iterable[ImageLike]) -> Embeds:
        """Returns unit vectors, float32, one a picture.

        Args:
            images: a path, encoded bytes, PIL image or uint8 array [height, width, 3], or any
                number of them, or one uint8 array [batch, height, width, 3]. They are cut
                and resized as the config of the model says.

        Raises:
            UserError: if a picture cannot be read.
        """
        one = (
            isinstance(images, str | bytes | os.PathLike | Image.Image)
            or (isinstance(images, np.ndarray) and images.ndim == 3)
            or not isinstance(images, Iterable)
        )
        listed: Sequence[ImageLike] = [images] if one else list(images)  # type: ignore[list-item, arg-type]
        return self.encoder.images(self.params, _Pictures(listed, self._transform))

    def encode_text(self, texts: str | Sequence[str]) -> Embeds:
        """Returns unit vectors, float32, one a text.

        Raises:
            UserError: if `texts` is neither a text nor texts.
        """
        if not isinstance(texts, Iterable) or not all(isinstance(text, str) for text in texts):
            raise UserError(f"expected a text or a sequence of texts, found {texts!r:.80}.")
        return self.encoder.texts(self.params, [texts] if isinstance(texts, str) else list(texts))

    def similarity(
        self, images: ImageLike | Iterable[ImageLike], texts: str | Sequence[str]
    ) -> Float[np.ndarray, "images texts"]:
        """Returns the cosine of every image with every text."""
        return self.encode_image(images) @ self.encode_text(texts).T

    def in_16_bits(self) -> Encoder:
        """Returns an encoder that computes in float16 on a GPU and in bfloat16 elsewhere.

        Those are the types that torch's autocast takes there.
        """
        gpu = jax.default_backend() == "gpu"
        return self.encoder.in_dtype("float16" if gpu else "bfloat16")

    @property
    def logit_scale(self) -> float:
        """What multiplies the cosines in the loss."""
        return float(np.exp(np.asarray(self.params["log_logit_scale"])))


class _Pictures(Sequence[ImageLike]):
    def __init__(self, images: Sequence[ImageLike], transform: EvaluationTransform):
        self._images, self._transform = images, transform

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index):
        return self._images[index]

    def fill(self, index: int, out: np.ndarray) -> None:
        self._transform(_pixels(self._images[index], index), out)


def _pixels(image: ImageLike, index: int) -> np.ndarray:
    try:
        if isinstance(image, np.ndarray):
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
                raise UserError(
                    f"image {index}: {image.dtype} array of shape {image.shape}; expected uint8 "
                    "[height, width, 3] with values in 0..255."
                )
            return image
        if isinstance(image, Image.Image):
            return on_white(image)
        if isinstance(image, bytes):
            return decode_image(image, _MAX_PIXELS)
        if isinstance(image, str | os.PathLike):
            with open(image, "rb") as file:
                return decode_image(file.read(), _MAX_PIXELS)
        raise UserError(
            f"image {index} is a {type(image).__name__}; expected a path, encoded bytes, a PIL "
            "image or a uint8 array."
        )
    except (BadSampleError, OSError) as error:
        name = f" ({os.fspath(image)})" if isinstance(image, str | os.PathLike) else ""
        raise UserError(f"image {index}{name}: {error}.") from error


def load(
    spec: str | os.PathLike[str],
    *,
    step: int | None = None,
    preset: str | None = None,
    all_devices: bool = False,
    batch_size: int = 32,
    mesh: MeshConfig | None = None,
) -> Model:
    """Loads a model from files of ours or of another codebase.

    Args:
        spec: the --workdir of a run; "hf:org/name" or "hf:org/name@revision"; a folder with the
            weights and the config of another codebase; a file of weights, with `preset`; or the
            name of a preset, whose parameters are then untrained.
        step: of the checkpoint of a run; the newest whole one by default.
        preset: which model a file of weights is.
        all_devices: split every batch over all devices of all processes, instead of using the
            first device only.
        batch_size: items of one call of the compiled program.
        mesh: how all devices are used; by default each has all parameters.

    Raises:
        UserError: if there is no such model, its files are damaged, would run code, or disagree
            about what it is.
    """
    found = open_pretrained(spec, preset_name=preset, step=step)
    one = jax.process_count() == 1 and not all_devices
    devices = make_mesh(mesh or MeshConfig(fsdp=1), num_devices=1 if one else None)
    encoder = Encoder(found.config, found.tokenizer, devices, batch_size=batch_size)
    params = found.params(mesh=devices)
    if found.directory is None:
        print(f"warning: {found.spec}: a preset has no weights: untrained.", file=sys.stderr)
    identity = found.identity()
    return Model(found.config, params, found.tokenizer, encoder, found.step, identity)
