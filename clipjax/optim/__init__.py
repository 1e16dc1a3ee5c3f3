"""Layer 2: schedules, optimizers, moving averages."""

from clipjax.optim.adamw import decay_mask, learning_rate, make_optimizer, update_average

__all__ = ["decay_mask", "learning_rate", "make_optimizer", "update_average"]
