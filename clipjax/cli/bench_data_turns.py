"""Loaders that take turns: CPU time of exactly the batches that each gives."""

import time
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from clipjax.cli.bench_turns import Answer
from clipjax.cli.cpu_time import wait_until_quiet
from clipjax.config import UserError


@runtime_checkable
class Loader(Protocol):
    """What is measured: a `Worker` that answers "take" and "report"."""

    name: str

    @property
    def process_id(self) -> int:
        """Of the root of its processes."""
        ...

    def ask(self, order: str) -> Answer:
        """Returns the answer to an order."""
        ...


def measure(loader: Loader, order: str = "take") -> dict[str, Any]:
    """Lets a loader that rests give its batches and refill its queues; returns what that took.

    Args:
        loader: what is measured.
        order: whose answer tells the number of images.

    Raises:
        UserError: if it does not come to rest.
    """
    before, start = _rest(loader)[0], time.perf_counter()
    answer = loader.ask(order)
    after, end = _rest(loader)
    images = answer["images"]
    return {
        "cpu_us": 1e6 * (after - before) / images,
        "images_per_second": images / (end - start),
        "images": images,
    }


def take_turns(
    loaders: Sequence[Loader], rounds: int, order: str = "take", unit: str = "image"
) -> list[dict[str, Any]]:
    """Returns what each loader took in each round; who begins alternates.

    Args:
        loaders: that take turns.
        rounds: turns of each.
        order: see `measure`.
        unit: what is counted, for people.
    """
    rows, plural = [], unit + ("es" if unit.endswith("s") else "s")
    for number in range(rounds):
        in_turn = list(loaders) if number % 2 == 0 else list(loaders)[::-1]
        row: dict[str, Any] = {"round": number + 1, "first": in_turn[0].name}
        for loader in in_turn:
            found = measure(loader, order)
            row[f"{loader.name}_us"] = found["cpu_us"]
            row[f"{loader.name}_images_per_second"] = found["images_per_second"]
        rows.append(row)
        parts = (
            f"{loader.name} {row[f'{loader.name}_us']:.0f} us CPU a{'n' * (unit[0] in 'aeiou')} "
            f"{unit}, {row[f'{loader.name}_images_per_second']:.3g} {plural}/s"
            for loader in in_turn
        )
        print(f"round {number + 1}: {'; '.join(parts)}", flush=True)
    return rows


def warm_up(loaders: Sequence[Loader]) -> None:
    """Lets each give a turn's batches, so that what happens once has happened."""
    for loader in loaders:
        loader.ask("take")
        _rest(loader)


def _rest(loader: Loader) -> tuple[float, float]:
    try:
        return wait_until_quiet(loader.process_id)
    except (TimeoutError, ProcessLookupError) as error:
        raise UserError(f"the process of {loader.name}: {error}. Run it anew.") from error
