"""Layer 2: NNX modules, one file a family, and the tables of towers."""

from clipjax.models.cappa import parallel_captions
from clipjax.models.dual_encoder import (
    DECODERS,
    IMAGE_TOWERS,
    TEXT_TOWERS,
    Captions,
    DualEncoder,
    Read,
)
from clipjax.models.params import (
    abstract_model,
    init_model_state,
    init_params,
    model_state_names,
    model_state_of,
    num_params,
    num_tower_params,
    param_axes,
    param_shapes,
    with_params,
)
from clipjax.models.patches import Patches, patches_of
from clipjax.models.taps import tapped
from clipjax.models.units import is_non_negative, unit_paths

__all__ = [
    "DECODERS",
    "IMAGE_TOWERS",
    "TEXT_TOWERS",
    "Captions",
    "DualEncoder",
    "Patches",
    "Read",
    "abstract_model",
    "init_model_state",
    "init_params",
    "is_non_negative",
    "model_state_names",
    "model_state_of",
    "num_params",
    "num_tower_params",
    "parallel_captions",
    "param_axes",
    "param_shapes",
    "patches_of",
    "tapped",
    "unit_paths",
    "with_params",
]
