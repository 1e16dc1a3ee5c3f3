"""Layer 2: NNX modules, one file a family, and the tables of towers."""

from clipjax.models.dual_encoder import IMAGE_TOWERS, TEXT_TOWERS, DualEncoder
from clipjax.models.params import abstract_model, init_params, num_params, param_axes, with_params
from clipjax.models.patches import Patches, patches_of

__all__ = [
    "IMAGE_TOWERS",
    "TEXT_TOWERS",
    "DualEncoder",
    "Patches",
    "abstract_model",
    "init_params",
    "num_params",
    "param_axes",
    "patches_of",
    "with_params",
]
