"""Layer 0: every field and default of a run, without JAX."""

from clipjax.config.convert import from_config_dict, to_config_dict, to_json_dict
from clipjax.config.data import (
    AugmentConfig,
    DataConfig,
    MixtureConfig,
    RemoteConfig,
    TokenizerConfig,
)
from clipjax.config.errors import UsageError, UserError, did_you_mean
from clipjax.config.evals import EvalsConfig, TaskConfig
from clipjax.config.model import (
    ComputeConfig,
    ConvNetConfig,
    DualEncoderConfig,
    ImageConfig,
    TextConfig,
    ViTConfig,
)
from clipjax.config.presets import PRESETS, preset
from clipjax.config.train import (
    CheckpointConfig,
    LogConfig,
    LossConfig,
    MeshConfig,
    OptimConfig,
    TrainConfig,
    WatchdogConfig,
)

__all__ = [
    "PRESETS",
    "AugmentConfig",
    "CheckpointConfig",
    "ComputeConfig",
    "ConvNetConfig",
    "DataConfig",
    "DualEncoderConfig",
    "EvalsConfig",
    "ImageConfig",
    "LogConfig",
    "LossConfig",
    "MeshConfig",
    "MixtureConfig",
    "OptimConfig",
    "RemoteConfig",
    "TaskConfig",
    "TextConfig",
    "TokenizerConfig",
    "TrainConfig",
    "UsageError",
    "UserError",
    "ViTConfig",
    "WatchdogConfig",
    "did_you_mean",
    "from_config_dict",
    "preset",
    "to_config_dict",
    "to_json_dict",
]
