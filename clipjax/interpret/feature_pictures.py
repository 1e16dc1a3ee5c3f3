"""Pictures that drive a unit, made by gradient ascent: what it would like to see most."""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Complex, Float, Key, UInt8

from clipjax.config import DualEncoderConfig, UserError
from clipjax.core.progress import Progress
from clipjax.inference.load import Model
from clipjax.interpret.model_units import check_units
from clipjax.models import tapped, unit_paths, with_params

Pictures = UInt8[np.ndarray, "units side side 3"]

_BEFORE = {
    "mlp_act": "mlp_pre",
    "act": "pre",
    "act_1": "pre_1",
    "act_2": "pre_2",
    "out": "pre_out",
    "embed": "pre",
}
"""What an activation is computed from, where a tower has a tap there."""

# Grey, red against green, blue against yellow: natural pictures vary in them about independently,
# and about so much (Ruderman et al. 1998, "Statistics of cone responses to natural images").
_OPPONENT = np.array([[1, 1, 1], [1, -1, 0], [-0.5, -0.5, 1]]) / np.array([[3**0.5], [2], [1.5]])
_SHARES = np.array([1.0, 0.35, 0.35])
_QUIET_SECONDS = 2.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class VisualiseConfig:
    """How pictures are made.

    Attributes:
        steps: of gradient ascent.
        learning_rate: of Adam.
        parametrisation: "fourier" optimises a spectrum in which all frequencies weigh the same;
            "maco" its phases alone, with amplitudes as natural pictures have them.
        pool: "max" or "mean" over the places of a map.
        jitter: most pixels by which a picture is moved before each step, against patterns that
            work at one place only.
        noise: standard deviation of what is added before each step, of pixels in [0, 1].
        batch_size: units that are optimised at once.
        seed: of the beginnings, moves and noise.

    Source: Olah et al. 2017, "Feature Visualization", https://distill.pub/2017/
        feature-visualization; Fel et al. 2023, "Unlocking Feature Visualization for Deeper
        Networks with MAgnitude Constrained Optimization", https://arxiv.org/abs/2306.06805 (maco).
    """

    steps: int = 160
    learning_rate: float = 0.2
    parametrisation: Literal["fourier", "maco"] = "fourier"
    pool: Literal["max", "mean"] = "max"
    jitter: int = 3
    noise: float = 0.05
    batch_size: int = 32
    seed: int = 0

    def __post_init__(self):
        for name in ("steps", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be positive")
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate={self.learning_rate} must be positive and finite")
        if not 0 <= self.noise < math.inf or self.jitter < 0:
            raise ValueError("noise and jitter must not be negative")


def before_activation(path: str, config: DualEncoderConfig) -> str:
    """Returns the path of what the activation of `path` is computed from, or `path` itself.

    A unit that does not fire has no gradient behind a ReLU; before it, it has one.

    Raises:
        UserError: if the model has no such path, naming the nearest.
    """
    unit_paths(config, [path])
    head, _, last = path.rpartition("/")
    before = f"{head}/{_BEFORE.get(last, last)}"
    return before if before in unit_paths(config) else path


def visualise(
    model: Model,
    path: str,
    units: Sequence[int],
    config: VisualiseConfig = VisualiseConfig(),
    *,
    amplitudes: Float[np.ndarray, "side half"] | None = None,
    signs: Sequence[int] | None = None,
) -> tuple[Pictures, Float[np.ndarray, " units"]]:
    """Returns a picture for each unit, and the pre-activation that it reaches.

    Each picture is a function of its unit, the model, the config and the seed alone: not of the
    units beside it.

    Args:
        model: whose image tower has the units.
        path: of the units, e.g. "image/blocks/1/mlp_act" or "shared/embed".
        units: their numbers.
        config: how.
        amplitudes: of "maco", of the frequencies of `jax.numpy.fft.rfft2`; by default those that
            fall with the frequency as natural pictures' do.
        signs: 1 or -1 for each unit: -1 for what it would like least; 1 by default.

    Raises:
        UserError: if there is no such path or unit, or a picture cannot drive it.
    """
    check_units(model.config, path, units)
    if path.startswith("text/"):
        raise UserError(f"{path}: no picture drives a unit of the text tower.")
    size, side = config.batch_size, model.config.image.image_size
    if amplitudes is None:
        amplitudes = natural_amplitudes(side)
    run = _ascent(model.config, before_activation(path, model.config), config, side)
    wanted = np.asarray(units, np.int32)
    towards = np.ones(len(wanted)) if signs is None else np.asarray(signs, np.float64)
    pictures, reached = [], []
    with Progress("drawing", len(wanted), "units", quiet_seconds=_QUIET_SECONDS) as progress:
        for first in range(0, len(wanted), size):
            chosen = wanted[first : first + size]
            filled = np.resize(chosen, size)  # one compiled program
            sign = np.resize(towards[first : first + size], size).astype(np.float32)
            with jax.set_mesh(model.encoder.mesh):
                drawn, values = run(model.params, filled, sign, np.float32(amplitudes))
            pictures.append(np.asarray(drawn)[: len(chosen)])
            reached.append(np.asarray(values, np.float64)[: len(chosen)])
            progress.advance(len(chosen))
    return np.concatenate(pictures), np.concatenate(reached)


def noise_pictures(count: int, side: int, *, seed: int = 0) -> Pictures:
    """Returns pictures as they are before the first step: the control of a judge."""
    keys = jax.vmap(functools.partial(jax.random.fold_in, jax.random.key(seed)))(jnp.arange(count))
    amplitudes = jnp.asarray(natural_amplitudes(side), jnp.float32)
    spectra = jax.vmap(lambda key: _beginning(key, side))(keys)
    drawn = jax.vmap(lambda one: _drawn(one, "fourier", amplitudes, side))(spectra)
    return np.asarray(_bytes(drawn))


def natural_amplitudes(side: int) -> Float[np.ndarray, "side half"]:
    """Returns amplitudes that fall with the frequency, as those of natural pictures do.

    Source: Field 1987, "Relations between the statistics of natural images and the response
    properties of cortical cells", Journal of the Optical Society of America A 4.

    >>> natural_amplitudes(4)[:, 0].tolist()
    [4.0, 4.0, 2.0, 4.0]
    """
    down, along = np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None]
    return 1 / np.maximum(np.hypot(down, along), 1 / side)


def amplitudes_of(
    pictures: UInt8[np.ndarray, "count side side 3"],
) -> Float[np.ndarray, "side half"]:
    """Returns the mean amplitudes of the brightness of pictures, to be given to "maco"."""
    grey = pictures.mean(axis=3) / 255
    spectra = np.abs(np.fft.rfft2(grey - grey.mean(axis=(1, 2), keepdims=True)))
    return spectra.mean(axis=0)


def _ascent(config: DualEncoderConfig, path: str, how: VisualiseConfig, side: int) -> Any:
    """Returns the compiled function of parameters, units, signs and amplitudes."""
    adam = optax.adam(how.learning_rate)
    read = tapped(
        lambda params, pixels: with_params(config, params).encode_image(pixels),
        read={path: how.pool},
    )

    def activations(params: Mapping[str, Array], pixels: Array, units: Array) -> Array:
        found = read(params, 255 * pixels)[1][path]
        return jnp.take_along_axis(found, units[:, None], axis=1)[:, 0]

    @jax.jit
    def run(params: Any, units: Array, signs: Array, amplitudes: Array) -> tuple[Array, Array]:
        own = jax.vmap(functools.partial(jax.random.fold_in, jax.random.key(how.seed)))(units)
        spectra = jax.vmap(lambda key: _beginning(key, side))(own)

        def drawn(spectra: Any) -> Array:
            return jax.vmap(lambda one: _drawn(one, how.parametrisation, amplitudes, side))(spectra)

        def loss(spectra: Any, keys: Array) -> Array:
            moved = jax.vmap(lambda image, key: _disturbed(image, key, how))(drawn(spectra), keys)
            return -(signs * activations(params, moved, units)).sum()

        def step(carry: Any, number: Array) -> tuple[Any, None]:
            spectra, state = carry
            keys = jax.vmap(lambda key: jax.random.fold_in(key, number + 1))(own)
            updates, state = adam.update(jax.grad(loss)(spectra, keys), state)
            return (optax.apply_updates(spectra, updates), state), None

        (spectra, _), _ = jax.lax.scan(step, (spectra, adam.init(spectra)), jnp.arange(how.steps))
        whole = _bytes(drawn(spectra))
        return whole, activations(params, whole / 255.0, units)

    return run


def _beginning(key: Key[Array, ""], side: int) -> Float[Array, "2 3 side half"]:
    """Real and imaginary parts of a spectrum, before the amplitudes."""
    return 0.01 * jax.random.normal(key, (2, 3, side, side // 2 + 1))


def _drawn(
    spectrum: Float[Array, "2 3 side half"],
    parametrisation: str,
    amplitudes: Float[Array, "side half"],
    side: int,
) -> Float[Array, "side side 3"]:
    """Returns pixels in [0, 1]."""
    complex_ = jax.lax.complex(spectrum[0], spectrum[1])
    if parametrisation == "maco":
        complex_ = _unit_circle(complex_) * amplitudes
        planes = jnp.fft.irfft2(complex_, s=(side, side))
        planes = planes / jnp.maximum(planes.std(axis=(1, 2), keepdims=True), 1e-6)
    else:
        planes = jnp.fft.irfft2(complex_ * amplitudes, s=(side, side)) * side
    mixed = jnp.einsum("chw,c,cd->hwd", planes, _SHARES, _OPPONENT)
    return jax.nn.sigmoid(mixed)


def _unit_circle(values: Complex[Array, "..."]) -> Complex[Array, "..."]:
    lengths = jnp.sqrt(values.real**2 + values.imag**2 + 1e-12)
    return values / lengths


def _disturbed(
    image: Float[Array, "side side 3"], key: Key[Array, ""], how: VisualiseConfig
) -> Float[Array, "side side 3"]:
    where, what = jax.random.split(key)
    shift = jax.random.randint(where, (2,), -how.jitter, how.jitter + 1)
    image = jnp.roll(image, shift, axis=(0, 1))
    return image + how.noise * jax.random.normal(what, image.shape)


def _bytes(pixels: Float[Array, "..."]) -> UInt8[Array, "..."]:
    return jnp.round(255 * pixels).astype(jnp.uint8)
