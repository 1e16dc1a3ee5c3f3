"""One optimizer step, as a pure function of (state, batch)."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int32

from clipjax.config import Stage, TrainConfig
from clipjax.losses import Loss
from clipjax.models import Patches, patches_of
from clipjax.models.lora import merged
from clipjax.models.surgery import position_maps, with_positions
from clipjax.optim import run_learning_rate, update_average
from clipjax.train.augment import augment
from clipjax.train.device_crop import crop_and_resize
from clipjax.train.guard import is_outlier, next_record
from clipjax.train.objectives import Terms, check_objectives, loss_of_pairs
from clipjax.train.self_distill import Means, next_average
from clipjax.train.state import TrainState, trained_of
from clipjax.train.teacher import Teacher, placed_like
from clipjax.train.waiting import kept_moments, of_trained, zeros_for_the_others

Batch = Mapping[str, Array]
Metrics = dict[str, Float[Array, ""] | Int32[Array, ""]]
Step = Callable[..., tuple[TrainState, Metrics]]

_AUGMENT_STREAM, _TOWER_STREAM = 1, 2


def make_train_step(
    config: TrainConfig,
    optimizer: optax.GradientTransformation,
    loss: Loss,
    stage: Stage | None = None,
    teacher: Teacher | None = None,
) -> Step:
    """Returns the step, not yet compiled; `compile_step` pins its shardings.

    A step whose loss, gradient or batch statistics are not finite, or whose gradient is an outlier,
    moves no parameter and no statistics; for the moments of the optimizer its gradient counts as
    zero. Choosing between the old and the new state as a whole would be simpler to say, but it
    makes XLA keep both: 0.4 GB and 650 copies more for ViT-B/32.

    Args:
        config: of the run.
        optimizer: of the run.
        loss: contrastive.
        stage: whose steps these are; the first one by default.
        teacher: that the run learns from; its parameters are then the third argument of the step.

    Raises:
        UsageError: if the model has a part that no objective of the run trains.
    """
    check_objectives(config)
    whole, config = config, (stage or config.parts[0]).config
    schedule = run_learning_rate(whole)
    maps = position_maps(whole.model, config.model)
    augment_key, tower_key = (
        jax.random.fold_in(jax.random.key(config.seed), stream)
        for stream in (_AUGMENT_STREAM, _TOWER_STREAM)
    )

    def seen_images(batch: Batch, step: Array) -> Array | Patches:
        if "patches" in batch:
            return patches_of(batch)
        if "canvas" in batch:
            images = crop_and_resize(batch["canvas"], batch["boxes"], config.model.image.image_size)
        else:
            images = batch["images"]
        return augment(images, jax.random.fold_in(augment_key, step), config.augment)

    def groups_of(batch: Batch) -> Int32[Array, " batch"] | None:
        if config.loss.equal_captions:
            return caption_groups(batch["tokens"])
        return batch.get("image_hashes")

    def loss_fn(
        moving: Mapping[str, Array], state: TrainState, batch: Batch, teacher: Teacher | None
    ) -> tuple[Float[Array, ""], tuple[Mapping[str, Array], Terms, Means]]:
        params = merged({**state.params, **moving}, config.model, config.optim.lora)
        params = with_positions(maps, params)
        average = {
            part: with_positions(maps, arrays) for part, arrays in state.self_teacher.items()
        }
        state = dataclasses.replace(state, self_teacher=average)
        pairs = seen_images(batch, state.step), batch["tokens"]
        key = jax.random.fold_in(tower_key, state.step)
        return loss_of_pairs(config, loss, params, state, pairs, groups_of(batch), key, teacher)

    def train_step(
        state: TrainState, batch: Batch, taught_by: Mapping[str, Array] | None = None
    ) -> tuple[TrainState, Metrics]:
        now = None if teacher is None else dataclasses.replace(teacher, params=taught_by)
        ever, which = (trained_of(each, state.params) for each in (whole, config))
        old = {name: array for name, array in state.params.items() if ever[name]}
        moving = {name: array for name, array in old.items() if which[name]}
        (value, found), grads = jax.value_and_grad(loss_fn, has_aux=True)(moving, state, batch, now)
        model_state, terms, seen = found
        grads = zeros_for_the_others(which, grads, old)
        grad_norm = optax.tree.norm(grads)
        finite = jnp.isfinite(value) & jnp.isfinite(grad_norm)
        for statistics in model_state.values():  # a variance may overflow where the loss does not
            finite &= jnp.isfinite(statistics).all()
        taken = finite & ~is_outlier(config.guard, state.guard, grad_norm, state.step)
        grads = _only_if(taken, grads)
        updates, opt_state = optimizer.update(grads, state.opt_state, old)
        moved: Any = optax.apply_updates(old, _only_if(taken, updates))
        moved = of_trained(which, moved, old)
        opt_state = kept_moments({name: which[name] for name in old}, opt_state, state.opt_state)
        if "log_logit_scale" in moved:
            moved["log_logit_scale"] = jnp.minimum(
                moved["log_logit_scale"], math.log(config.loss.max_logit_scale)
            )
        params = {**state.params, **moved}
        model_state = jax.tree.map(
            lambda new, old: jnp.where(taken, new, old), model_state, state.model_state
        )
        ema = update_average(
            state.ema, {**moved, **model_state}, state.step, config.optim.ema_decay
        )
        bad_steps = jnp.where(taken, 0, state.bad_steps + 1)
        guard = next_record(config.guard, state.guard, grad_norm, taken)
        new = TrainState(
            step=state.step + 1,
            params=params,
            model_state=model_state,
            opt_state=opt_state,
            ema=ema,
            bad_steps=bad_steps,
            guard=guard,
            self_teacher=next_average(config, state.self_teacher, params, seen, taken),
        )
        metrics = {
            "train/loss": value,
            "train/grad_norm": grad_norm,
            "train/logit_scale": jnp.exp(params["log_logit_scale"]),
            "train/learning_rate": jnp.asarray(schedule(state.step), jnp.float32),
            "train/bad_steps": bad_steps,
            "train/skipped_steps": guard["skipped"],
        }
        if set(terms) != {"contrastive"}:
            metrics |= {f"train/{name}_loss": term for name, term in terms.items()}
        if "logit_bias" in params:
            metrics["train/logit_bias"] = params["logit_bias"]
        return new, metrics

    return train_step


def _only_if(condition: Array, tree: Any) -> Any:
    return jax.tree.map(lambda leaf: jnp.where(condition, leaf, 0), tree)


def caption_groups(tokens: Int32[Array, "batch tokens"]) -> Int32[Array, " batch"]:
    """Returns one number a caption, equal for equal captions.

    A polynomial hash of the ids modulo 2^32: two different captions of a batch of 32,768 collide
    with a probability of about 1/8, and then count as equal.
    """

    def absorb(hashed: Array, column: Array) -> tuple[Array, None]:
        hashed = (hashed ^ column.astype(jnp.uint32)) * jnp.uint32(0x9E3779B1)
        return hashed ^ (hashed >> 15), None

    start = jnp.zeros(tokens.shape[0], jnp.uint32)
    hashed, _ = jax.lax.scan(absorb, start, tokens.T)
    return jax.lax.bitcast_convert_type(hashed, jnp.int32)


def compile_step(
    step: Step,
    state: TrainState,
    batch: Mapping[str, jax.ShapeDtypeStruct],
    teacher: Teacher | None = None,
) -> jax.stages.Wrapped:
    """Returns the step jitted for the shardings that `state` and `batch` carry.

    The old state is donated: use only what the step returns. Its new shardings are pinned to the
    old ones; unpinned they may differ after the first step, which compiles a second time.

    Args:
        step: of `make_train_step`.
        state: or what describes it.
        batch: what describes it.
        teacher: of the step; what is returned takes its parameters behind the batch.
    """
    places = jax.tree.map(lambda leaf: leaf.sharding, state)
    whole = jax.NamedSharding(state.step.sharding.mesh, jax.P())
    inputs = places, jax.tree.map(lambda leaf: leaf.sharding, dict(batch))
    if teacher is not None:
        inputs = *inputs, placed_like(teacher)
    return jax.jit(step, in_shardings=inputs, out_shardings=(places, whole), donate_argnums=0)
