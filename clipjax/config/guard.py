"""What a run does about steps that would spoil it."""

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class GuardConfig:
    """What a run does about steps that would spoil it.

    A step whose loss or gradient is not finite changes nothing: it is skipped and counted. With
    `max_sigmas` so is one whose gradient is an outlier.

    Attributes:
        max_sigmas: a gradient norm is an outlier if its logarithm lies so many standard deviations
            above the mean of those before; 0 for no such check.
        memory_steps: over about how many steps mean and deviation are taken; before so many steps
            nothing is an outlier.
        abort_after: skipped steps in a row that end the run, or begin it anew at the last
            checkpoint.
        max_rollbacks: how often a run goes back to its last checkpoint and past the data between;
            0 ends it instead. What is left out is in the checkpoints, and `clipjax data show` knows
            it.

    Source: Chowdhery et al. 2022, "PaLM", section 5.1 (go back and leave out the data),
        https://arxiv.org/abs/2204.02311.
    """

    max_sigmas: float = 0.0
    memory_steps: int = 100
    abort_after: int = 10
    max_rollbacks: int = 0

    def __post_init__(self):
        if self.max_sigmas < 0:
            raise ValueError(f"max_sigmas={self.max_sigmas} must not be negative")
        if self.memory_steps < 2:
            raise ValueError(f"memory_steps={self.memory_steps} must be at least 2")
        if self.abort_after < 1:
            raise ValueError(f"abort_after={self.abort_after} must be positive")
        if self.max_rollbacks < 0:
            raise ValueError(f"max_rollbacks={self.max_rollbacks} must not be negative")
