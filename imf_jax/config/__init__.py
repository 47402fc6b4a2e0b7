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
    kind_name,
    require,
    require_counts,
    require_seed,
)
from imf_jax.config.capture import CaptureConfig
from imf_jax.config.evaluation import ClusterConfig, EvalConfig, ExecutionConfig, LatencyConfig
from imf_jax.config.networks import AttnResConfig, HeadConfig, TransformerConfig, TransformerSizes, UnetConfig
from imf_jax.config.objectives import (
    DiffusionConfig,
    FlowConfig,
    ImfConfig,
    IntervalTimes,
    MeanFlowConfig,
    ObjectiveConfig,
    PathTimes,
    RegressionConfig,
)
from imf_jax.config.policy import (
    KINDS,
    SMALLEST_CROP,
    EfficientNetEncoderConfig,
    EncoderConfig,
    LewmEncoderConfig,
    PolicyConfig,
    ResNetEncoderConfig,
    StateEncoderConfig,
    with_kind,
)
from imf_jax.config.pretraining import HeldOutConfig, PretrainConfig, WorldModelConfig
from imf_jax.config.stored import TYPE_KEY, flat_flags, from_dict, to_dict
from imf_jax.config.training import CollectConfig, OptimizerConfig, RunConfig, TrainConfig, ValidationConfig

__all__ = [
    "IMAGE_SIZE",
    "KINDS",
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
    "DiffusionConfig",
    "EfficientNetEncoderConfig",
    "EncoderConfig",
    "EvalConfig",
    "ExecutionConfig",
    "FlowConfig",
    "HeadConfig",
    "HeldOutConfig",
    "ImfConfig",
    "IntervalTimes",
    "LatencyConfig",
    "LewmEncoderConfig",
    "MeanFlowConfig",
    "ObjectiveConfig",
    "OptimizerConfig",
    "PathTimes",
    "PlanPrecision",
    "PolicyConfig",
    "Precision",
    "PretrainConfig",
    "RegressionConfig",
    "RendererName",
    "ResNetEncoderConfig",
    "RunConfig",
    "StateEncoderConfig",
    "TrackerMode",
    "TrackerName",
    "TrainConfig",
    "TransformerConfig",
    "TransformerSizes",
    "UnetConfig",
    "ValidationConfig",
    "VideoChoice",
    "WorldModelConfig",
    "flag",
    "flat_flags",
    "from_dict",
    "kind_name",
    "require",
    "require_counts",
    "require_seed",
    "to_dict",
    "with_kind",
]
