"""The learning rate of each step."""

import dataclasses

import jax.numpy as jnp
import optax

from clipjax.config import OptimConfig, TrainConfig


def learning_rate(config: OptimConfig, num_steps: int) -> optax.Schedule:
    """Returns the learning rate of a step: linear from zero, then as `config.schedule` says.

    It reaches its end at step `num_steps`, one behind the last update.

    Source: Radford et al. 2021, table 19; the cosine: Loshchilov and Hutter 2016,
        https://arxiv.org/abs/1608.03983; rsqrt and its cool-down: Zhai et al. 2022, "Scaling
        Vision Transformers", section 3.5, https://arxiv.org/abs/2106.04560; wsd: Hu et al. 2024,
        "MiniCPM", section 4, https://arxiv.org/abs/2404.06395.
    """
    peak, warmup, share = config.peak_learning_rate, config.warmup_steps, config.final_share
    steps = max(num_steps - warmup, 1)
    if config.schedule == "cosine":
        after = optax.cosine_decay_schedule(peak, steps, share)
    elif config.schedule == "linear":
        after = optax.linear_schedule(peak, share * peak, steps)
    elif config.schedule == "rsqrt":
        after = _rsqrt(peak, config.timescale_steps)
    else:
        after = optax.constant_schedule(peak)
    if config.cooldown_steps:
        after = _cooled(after, steps - config.cooldown_steps, config.cooldown_steps, share)
    if not warmup:
        return after
    # (step + 1) / warmup: the first step already learns.
    rise = optax.linear_schedule(peak / warmup, peak, max(warmup - 1, 1))
    return optax.join_schedules([rise, after], [warmup])


def _rsqrt(peak: float, timescale: int) -> optax.Schedule:
    return lambda step: peak * jnp.sqrt(timescale / (jnp.maximum(step, 0) + timescale))


def _cooled(schedule: optax.Schedule, start: int, steps: int, share: float) -> optax.Schedule:
    """Returns the schedule up to `start`, then a line down to `share` of its value there."""

    def cooled(step):
        done = jnp.clip((step - start) / steps, 0, 1)
        return schedule(jnp.minimum(step, start)) * (1 - (1 - share) * done)

    return cooled


def run_learning_rate(config: TrainConfig) -> optax.Schedule:
    """Returns the learning rate of a run, which some of its stages begin anew."""
    begins = [(0, config.optim)]
    for part in config.parts:
        stage = config.stages.get(part.name)
        if stage is None or stage.peak_learning_rate is None:
            continue
        warmup = config.optim.warmup_steps if stage.warmup_steps is None else stage.warmup_steps
        begins.append(
            (
                part.first_step,
                dataclasses.replace(
                    config.optim, peak_learning_rate=stage.peak_learning_rate, warmup_steps=warmup
                ),
            )
        )
    if len(begins) > 1 and begins[1][0] == 0:
        del begins[0]
    stops = [first for first, _ in begins[1:]] + [config.num_steps]
    pieces = [
        learning_rate(optim, stop - first)
        for (first, optim), stop in zip(begins, stops, strict=True)
    ]
    return pieces[0] if len(pieces) == 1 else optax.join_schedules(pieces, stops[:-1])
