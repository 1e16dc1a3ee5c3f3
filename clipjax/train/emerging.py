"""The emergence curves of a run, as what happens between its steps."""

import sys
import time
from collections.abc import Callable, Mapping

import jax
from jax.sharding import Mesh

from clipjax.config import TrainConfig
from clipjax.data.tokenizers import Tokenizer
from clipjax.interpret.emergence import Emergence, NotFiniteError, emergence_line
from clipjax.interpret.stimuli import Stimuli
from clipjax.train.loop import Action
from clipjax.train.state import TrainState, evaluated_params


def emergence_actions(
    config: TrainConfig,
    tokenizer: Tokenizer,
    mesh: Mesh,
    stimuli: Stimuli | None,
    state: TrainState,
    write: Callable[[int, Mapping[str, float]], None],
) -> list[tuple[int, Action]]:
    """Returns the looks at units and how many steps lie between them; none without stimuli.

    What they need is compiled now, so that no later step waits for it.

    Args:
        config: of the run.
        tokenizer: of its texts.
        mesh: of its devices.
        stimuli: of `clipjax.interpret.emergence.open_for_run`.
        state: with the shardings of the run.
        write: takes step and metrics.
    """
    if stimuli is None:
        return []
    emergence = Emergence(config.model, tokenizer, mesh, stimuli, config.neurons)
    emergence.compile(evaluated_params(config, state))

    def look(step: int, state: TrainState) -> None:
        begin = time.perf_counter()
        try:
            found = emergence.run(evaluated_params(config, state))
        except NotFiniteError as error:  # a look is not worth a run, which has a guard of its own
            line = f"warning: neurons at step {step:,}: {error}"
        else:
            write(step, found)
            line = emergence_line(step, found, time.perf_counter() - begin)
        if jax.process_index() == 0:
            print(line, file=sys.stderr, flush=True)

    return [(config.neurons.every_steps, look)]
