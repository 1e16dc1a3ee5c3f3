"""Layer 0: every field and default of a run, without JAX."""

from clipjax.config.cluster import Cluster
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
from clipjax.config.guard import GuardConfig
from clipjax.config.head import HeadConfig
from clipjax.config.image_towers import (
    ConvNetConfig,
    ConvNeXtConfig,
    EfficientNetConfig,
    EvaConfig,
    ImageConfig,
    ResNetConfig,
    ViTConfig,
)
from clipjax.config.mesh import MeshConfig
from clipjax.config.model import ComputeConfig, DualEncoderConfig
from clipjax.config.neurons import NeuronsConfig
from clipjax.config.objectives import DistillConfig, LossConfig
from clipjax.config.optim import LoraConfig, OptimConfig, split_rate
from clipjax.config.presets import PRESETS, preset
from clipjax.config.self_distill import PrototypeHeadsConfig, SelfDistillConfig
from clipjax.config.stages import StageConfig
from clipjax.config.text_towers import (
    BertConfig,
    CappaDecoderConfig,
    CocaDecoderConfig,
    DecoderConfig,
    MatchingConfig,
    ModernTextConfig,
    TextConfig,
    TextTowerConfig,
)
from clipjax.config.train import (
    CheckpointConfig,
    InitConfig,
    LogConfig,
    Stage,
    TrainConfig,
    WatchdogConfig,
)

__all__ = [
    "PRESETS",
    "AugmentConfig",
    "BertConfig",
    "CappaDecoderConfig",
    "CheckpointConfig",
    "Cluster",
    "CocaDecoderConfig",
    "ComputeConfig",
    "ConvNeXtConfig",
    "ConvNetConfig",
    "DataConfig",
    "DecoderConfig",
    "DistillConfig",
    "DualEncoderConfig",
    "EfficientNetConfig",
    "EvaConfig",
    "EvalsConfig",
    "GuardConfig",
    "HeadConfig",
    "ImageConfig",
    "InitConfig",
    "LogConfig",
    "LoraConfig",
    "LossConfig",
    "MatchingConfig",
    "MeshConfig",
    "MixtureConfig",
    "ModernTextConfig",
    "NeuronsConfig",
    "OptimConfig",
    "PrototypeHeadsConfig",
    "RemoteConfig",
    "ResNetConfig",
    "SelfDistillConfig",
    "Stage",
    "StageConfig",
    "TaskConfig",
    "TextConfig",
    "TextTowerConfig",
    "TokenizerConfig",
    "TrainConfig",
    "UsageError",
    "UserError",
    "ViTConfig",
    "WatchdogConfig",
    "did_you_mean",
    "from_config_dict",
    "preset",
    "split_rate",
    "to_config_dict",
    "to_json_dict",
]
