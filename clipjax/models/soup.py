"""Averages of the weights of models that were fine-tuned from the same one."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from clipjax.config import DualEncoderConfig, UserError, did_you_mean

Arrays = dict[str, np.ndarray]
Params = Mapping[str, Any]


def interpolate(a: Params, b: Params, share: float) -> Arrays:
    """Returns (1 - share) a + share b; with a pretrained, b fine-tuned on one task, it is robust.

    Args:
        a: parameters and statistics of a model by name.
        b: of another one with the same config.
        share: of b; not in [0, 1] goes on beyond a model.

    Raises:
        UserError: if names or shapes differ.

    Source: Wortsman et al. 2021, "Robust fine-tuning of zero-shot models",
        https://arxiv.org/abs/2109.01903.
    """
    return _mixed([a, b], [1 - share, share])


def soup(models: Sequence[Params]) -> Arrays:
    """Returns the mean of models: the uniform soup.

    Args:
        models: parameters and statistics by name; the mean of batch-norm statistics is not that
            of the mean model: with batch norm let it see some batches again.

    Raises:
        UserError: if names or shapes differ, or there is no model.

    Source: Wortsman et al. 2022, "Model soups", https://arxiv.org/abs/2203.05482.
    """
    return _mixed(models, [1 / max(len(models), 1)] * len(models))


def greedy_soup(
    models: Sequence[Params], score: Callable[[Arrays], float]
) -> tuple[Arrays, tuple[int, ...]]:
    """Returns the greedy soup, and which models are in it.

    From the best model down each is stirred in if the soup does not score worse with it.

    Args:
        models: as in `soup`.
        score: of parameters on held-out data, higher is better; called up to twice for each model.

    Raises:
        UserError: as in `soup`.

    Source: Wortsman et al. 2022, "Model soups", recipe 1, https://arxiv.org/abs/2203.05482.
    """
    alone = [score(soup([model])) for model in models]
    order = sorted(range(len(models)), key=lambda index: -alone[index])
    chosen, best = order[:1], max(alone, default=0.0)
    for index in order[1:]:
        found = score(soup([models[i] for i in [*chosen, index]]))
        if found >= best:
            chosen, best = [*chosen, index], found
    return soup([models[index] for index in chosen]), tuple(chosen)


def check_same(configs: Sequence[DualEncoderConfig]) -> None:
    """Raises UserError unless the models are the same; how they are computed may differ."""
    for number, config in enumerate(configs[1:], 1):
        for field in dataclasses.fields(config):
            first, other = (getattr(c, field.name) for c in (configs[0], config))
            if first != other and field.name != "compute":
                raise UserError(
                    f"model {number} is not model 0: {field.name} is {other!r}, not {first!r}. "
                    "Only weights of one architecture can be averaged."
                )


def _mixed(models: Sequence[Params], shares: Sequence[float]) -> Arrays:
    if not models:
        raise UserError("a soup needs at least one model.")
    arrays = [{name: np.asarray(p) for name, p in model.items()} for model in models]
    for number, other in enumerate(arrays[1:], 1):
        _check(arrays[0], other, number)
    out = {}
    for name, first in arrays[0].items():
        # In float64 the mean of equal numbers is that number.
        parts = [
            share * a[name].astype(np.float64) for share, a in zip(shares, arrays, strict=True)
        ]
        out[name] = np.asarray(sum(parts)).astype(first.dtype)
    return out


def _check(first: Arrays, other: Arrays, number: int) -> None:
    apart = sorted(first.keys() ^ other.keys())
    if apart:
        whose = "0" if apart[0] in first else str(number)
        near = did_you_mean(apart[0], other if whose == "0" else first)
        raise UserError(
            f"models 0 and {number} have other parameters: only model {whose} has "
            f"{apart[0]}.{near} Only weights of one architecture can be averaged."
        )
    for name, array in first.items():
        if array.shape != other[name].shape:
            raise UserError(
                f"{name} is {list(array.shape)} in model 0 and {list(other[name].shape)} in model "
                f"{number}. Only weights of one architecture can be averaged."
            )
