"""One step of training an autoencoder, as a pure function of (state, batch)."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float

from clipjax.interpret.sae.model import (
    Inputs,
    Params,
    decode,
    init_params,
    pair_codes,
    positive,
    unit_rows,
)
from clipjax.interpret.sae.objectives import top_k
from clipjax.interpret.sae.options import SaeOptions

Metrics = dict[str, Float[Array, ""]]
Step = Callable[["SaeState", Mapping[str, Array]], tuple["SaeState", Metrics]]

_FALLING_SHARE = 0.2
_CLIP_NORM = 1.0


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class SaeState:
    """All that training changes.

    Attributes:
        step: int32, steps done.
        params: of the autoencoder.
        opt_state: of Adam.
        idle: int32 [latents], steps since a row kept each latent.
    """

    step: Any
    params: Any
    opt_state: Any
    idle: Any


def make_optimizer(options: SaeOptions) -> optax.GradientTransformation:
    """Returns Adam with a rise, a plateau and a fall to 0, and gradients of bounded length."""
    warmup = max(1, round(options.warmup * options.steps))
    fall = max(1, round(_FALLING_SHARE * options.steps))
    rate = optax.join_schedules(
        [
            optax.linear_schedule(options.learning_rate / warmup, options.learning_rate, warmup),
            optax.constant_schedule(options.learning_rate),
            optax.linear_schedule(options.learning_rate, 0.0, fall),
        ],
        [warmup, max(warmup, options.steps - fall)],
    )
    return optax.chain(optax.clip_by_global_norm(_CLIP_NORM), optax.adam(rate))


def init_state(options: SaeOptions, dim: int) -> SaeState:
    """Returns the state before the first step."""
    params = init_params(options, dim)
    return SaeState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=make_optimizer(options).init(params),
        idle=jnp.zeros(options.latents, jnp.int32),
    )


def make_step(options: SaeOptions, energies: tuple[float, float]) -> Step:
    """Returns the step; it is not compiled yet.

    A batch has "image" and "text", inputs [rows, embed], and "seen", bool [rows, 2].

    Args:
        options: of the autoencoder.
        energies: mean squared distance of the inputs of pictures, and of texts, from their mean.
    """
    optimizer = make_optimizer(options)

    def step(state: SaeState, batch: Mapping[str, Array]) -> tuple[SaeState, Metrics]:
        dead = state.idle >= options.dead_steps

        def of_params(params: Params) -> tuple[Array, dict[str, Array]]:
            return sae_loss(options, energies, params, batch, dead)

        (loss, aux), grads = jax.value_and_grad(of_params, has_aux=True)(state.params)
        grads = {**grads, "decoder": _across(grads["decoder"], state.params["decoder"])}
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params: Any = optax.apply_updates(state.params, updates)
        params = {**params, "decoder": unit_rows(params["decoder"])}
        new = SaeState(
            step=state.step + 1,
            params=params,
            opt_state=opt_state,
            idle=jnp.where(aux["fired"], 0, state.idle + 1),
        )
        return new, {"loss": loss, "r2": aux["r2"], "dead": dead.mean()}

    return step


def sae_loss(
    options: SaeOptions,
    energies: tuple[float, float],
    params: Params,
    batch: Mapping[str, Array],
    dead: Bool[Array, " latents"],
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """Returns the loss and what else is known then: "r2" and "fired".

    The loss is the squared error over the spread of each modality, so 1 for a reconstruction by the
    means, averaged over modalities and levels; and, `aux` times, that with which dead latents
    reconstruct what is left of the rows that were seen.

    Source: Gao et al. 2024, appendix A.2 (dead latents), https://arxiv.org/abs/2406.04093.
    """
    image, text, seen = batch["image"], batch["text"], batch["seen"]
    levels = pair_codes(options, params, image, text, seen)
    errors = []
    for z_image, z_text in levels:
        left = image - decode(params, z_image), text - decode(params, z_text)
        errors.append(_relative(left, energies))
    place = options.levels.index(options.k)
    z_image, z_text = levels[place]
    loss = jnp.stack(errors).mean()
    if options.aux:
        left = image - decode(params, z_image), text - decode(params, z_text)
        loss += options.aux * _dead_loss(options, params, (image, text), left, seen, dead)
    fired = (z_image > 0).any(axis=0) | (z_text > 0).any(axis=0)
    return loss, {"r2": 1 - errors[place], "fired": fired}


def _dead_loss(
    options: SaeOptions,
    params: Params,
    inputs: tuple[Inputs, Inputs],
    left: tuple[Inputs, Inputs],
    seen: Bool[Array, "rows 2"],
    dead: Bool[Array, " latents"],
) -> Float[Array, ""]:
    k = min(options.latents, max(options.k, params["bias"].size // 2))
    above, below = jnp.zeros(()), jnp.zeros(())
    for m in range(2):
        wanted = jax.lax.stop_gradient(left[m]) * seen[:, m : m + 1]
        codes = top_k(jnp.where(dead, positive(params, inputs[m]), 0), k)
        given = codes @ params["decoder"] * seen[:, m : m + 1]
        above += jnp.square(wanted - given).sum()
        below += jnp.square(wanted).sum()
    return above / jnp.maximum(below, 1e-12)


def _relative(left: tuple[Inputs, Inputs], energies: tuple[float, float]) -> Float[Array, ""]:
    of_each = [jnp.square(x).sum(axis=1).mean() / e for x, e in zip(left, energies, strict=True)]
    return (of_each[0] + of_each[1]) / 2


def _across(gradient: Array, atoms: Array) -> Array:
    """Returns the part of the gradient that turns an atom, without what makes it longer."""
    return gradient - (gradient * atoms).sum(axis=1, keepdims=True) * atoms
