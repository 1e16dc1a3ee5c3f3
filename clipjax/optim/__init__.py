"""Layer 2: schedules, optimizers, moving averages."""

from clipjax.optim.adamw import decay_mask, learning_rate, make_optimizer, update_average
from clipjax.optim.trained import Trained, layer_mask, trained

__all__ = [
    "Trained",
    "decay_mask",
    "layer_mask",
    "learning_rate",
    "make_optimizer",
    "trained",
    "update_average",
]
