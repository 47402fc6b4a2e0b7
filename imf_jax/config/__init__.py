"""Every setting a user can change, as frozen dataclasses. Field comments become the `--help` text.

Presets in `configs/` are instances of `TrainConfig`; command lines override single fields. A value that cannot
work is refused here, before anything is built, by an `ArgumentError` that names the field and the mend.
"""

from imf_jax.config.base import (
    IMAGE_SIZE,
    SEEDS,
    VIEWS,
    BackendName,
    DeviceCount,
    PlanPrecision,
    Precision,
    RendererName,
    TrackerMode,
    TrackerName,
    VideoChoice,
    flag,
    require,
    require_counts,
    require_seed,
)
from imf_jax.config.capture import CaptureConfig
from imf_jax.config.evaluation import ClusterConfig, EvalConfig, ExecutionConfig, LatencyConfig
from imf_jax.config.networks import AttnResConfig
from imf_jax.config.objectives import ImfConfig
from imf_jax.config.policy import (
    SMALLEST_CROP,
    EfficientNetEncoderConfig,
    EncoderConfig,
    LewmEncoderConfig,
    PolicyConfig,
    ResNetEncoderConfig,
    StateEncoderConfig,
)
from imf_jax.config.pretraining import HeldOutConfig, PretrainConfig, WorldModelConfig
from imf_jax.config.stored import TYPE_KEY, flat_flags, from_dict, to_dict
from imf_jax.config.training import CollectConfig, OptimizerConfig, RunConfig, TrainConfig, ValidationConfig

__all__ = [
    "IMAGE_SIZE",
    "SEEDS",
    "SMALLEST_CROP",
    "TYPE_KEY",
    "VIEWS",
    "AttnResConfig",
    "BackendName",
    "CaptureConfig",
    "ClusterConfig",
    "CollectConfig",
    "DeviceCount",
    "EfficientNetEncoderConfig",
    "EncoderConfig",
    "EvalConfig",
    "ExecutionConfig",
    "HeldOutConfig",
    "ImfConfig",
    "LatencyConfig",
    "LewmEncoderConfig",
    "OptimizerConfig",
    "PlanPrecision",
    "PolicyConfig",
    "Precision",
    "PretrainConfig",
    "RendererName",
    "ResNetEncoderConfig",
    "RunConfig",
    "StateEncoderConfig",
    "TrackerMode",
    "TrackerName",
    "TrainConfig",
    "ValidationConfig",
    "VideoChoice",
    "WorldModelConfig",
    "flag",
    "flat_flags",
    "from_dict",
    "require",
    "require_counts",
    "require_seed",
    "to_dict",
]
