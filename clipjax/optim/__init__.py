"""Layer 2: schedules, optimizers, moving averages."""

from clipjax.optim.names import Parameters, along_layers
from clipjax.optim.optimizers import decay_mask, make_optimizer, update_average
from clipjax.optim.rates import rate_factors
from clipjax.optim.schedules import learning_rate, run_learning_rate
from clipjax.optim.trained import Trained, trained, trained_in_run

__all__ = [
    "Parameters",
    "Trained",
    "along_layers",
    "decay_mask",
    "learning_rate",
    "make_optimizer",
    "rate_factors",
    "run_learning_rate",
    "trained",
    "trained_in_run",
    "update_average",
]
