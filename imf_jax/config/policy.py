"""Settings of a policy: its encoder, and what goes with all of its parts."""

from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import tyro

from imf_jax.config.base import IMAGE_SIZE, VIEWS, kind_name, nearest_known, require, require_cameras, require_views
from imf_jax.config.networks import AttnResConfig, HeadConfig
from imf_jax.config.objectives import DiffusionConfig, ImfConfig, ObjectiveConfig

EncoderDtype = Literal["float32", "bfloat16"]
"""Types that an encoder can compute in."""


@dataclass(frozen=True)
class StateEncoderConfig:
    """Condition on robot state and the task's scene state (object poses); no camera."""

    # Also give each pose of the scene state in the frame of those before it, cut off at this distance [m] and at five
    # times it. For tasks in which millimetres decide: a small network does not subtract poses that exactly.
    relative_poses: float | None = None

    def __post_init__(self) -> None:
        near = self.relative_poses
        require(near is None or near > 0, f"encoder.relative_poses {near} must be a distance above 0 [m]")

    @property
    def cameras(self) -> tuple[str, ...]:
        """Cameras whose pictures the policy reads."""
        return ()

    @property
    def image_size(self) -> int:
        """Height and width of the pictures of its scenes [pixels]; the policy itself reads none."""
        return IMAGE_SIZE


@dataclass(frozen=True)
class LewmEncoderConfig:
    """Condition on what the frozen LEWM encoder makes of all camera views together, then robot state."""

    # Folder with the encoder, from converters/lewm.py or scripts/pretrain.py.
    weights: Path = Path("encoders/lewm")
    # Layout of the views in the one picture that the encoder sees: side by side, or 2 x 2.
    fusion: Literal["row", "grid"] = "row"
    # Height and width of the camera pictures, as they were recorded [pixels].
    image_size: int = IMAGE_SIZE
    # Operands of the encoder's matrix products. bfloat16 is faster on accelerators; its embeddings are off by about 1 %
    # of their norm (random weights, on a CPU).
    dtype: EncoderDtype = "float32"
    # Cameras whose pictures are read: those that the encoder was trained on, in that order.
    cameras: tuple[str, ...] = VIEWS
    # What is read of the encoder: the one embedding of all views, or keypoints in the maps of its patch tokens. Trained
    # convolutions find these; they locate objects better, and their cache takes more memory.
    features: Literal["embedding", "patches"] = "embedding"
    # Keypoints per view of the spatial softmax; each is an x and a y. Of features `patches` only.
    keypoints: int = 32

    def __post_init__(self) -> None:
        require(self.image_size >= 1, f"encoder.image_size {self.image_size} must be at least 1")
        require(self.keypoints >= 1, f"encoder.keypoints {self.keypoints} must be at least 1")
        require_views("encoder", self.cameras, self.fusion)


@dataclass(frozen=True)
class ResNetEncoderConfig:
    """Condition on camera pictures by a ResNet-18 with spatial softmax, trained with the policy, then robot state."""

    # Cameras whose pictures are read.
    cameras: tuple[str, ...] = VIEWS
    # Height and width of the camera pictures, as they were recorded [pixels].
    image_size: int = IMAGE_SIZE
    # Height and width of the crop of a picture: at random in training, from its centre otherwise [pixels]. Crops hide
    # where something small is in the picture of a camera that does not move; image_size reads the whole picture.
    crop_size: int = 224
    # Largest change of brightness, contrast and saturation in training, each as a share of what it was; 0 is none.
    jitter: float = 0.0
    # Normalisation in the residual blocks; group normalisation does not depend on the batch.
    norm: Literal["group", "batch"] = "group"
    # Use one network for all cameras instead of one per camera.
    shared: bool = False
    # Give every camera a condition token of its own (its features and the robot state) instead of one for all.
    token_per_camera: bool = False
    # Keypoints of the spatial softmax; each is an x and a y.
    keypoints: int = 32
    # Channels of the first stage; the later ones have 2, 4 and 8 times as many. 64 is ResNet-18.
    width: int = 64
    # Pixels per cell of the maps in which keypoints are found: 32 is all of ResNet-18, 16 and 8 leave out its last
    # stage or its last two. Smaller is finer, less abstract and has fewer weights.
    stride: Literal[8, 16, 32] = 32

    def __post_init__(self) -> None:
        require_cameras("encoder", self.cameras)
        require(
            self.width >= 16 and self.width % 16 == 0,
            f"encoder.width {self.width} must be a multiple of 16 (group normalisation has 16 channels a group)",
        )
        require(self.keypoints >= 1, f"encoder.keypoints {self.keypoints} must be at least 1")
        require(
            self.stride < self.crop_size <= self.image_size,  # a spatial softmax over one cell says nothing
            f"encoder.crop_size {self.crop_size} must be above encoder.stride {self.stride} and at most "
            f"encoder.image_size {self.image_size}",
        )
        require(0 <= self.jitter < 1, f"encoder.jitter {self.jitter} must be in [0, 1); 0 turns it off")


@dataclass(frozen=True)
class EfficientNetEncoderConfig:
    """Condition on keypoints in feature maps of a frozen EfficientNet-Lite0 (extra efficientnet), then robot state."""

    # Cameras whose pictures are read.
    cameras: tuple[str, ...] = VIEWS
    # Height and width of the camera pictures, as they were recorded [pixels].
    image_size: int = 128
    # Pixels per cell of the map of features: 8, 16 or 32. Smaller is finer, less abstract and takes more memory.
    stride: Literal[8, 16, 32] = 16
    # Keypoints of the spatial softmax; each is an x and a y.
    keypoints: int = 32

    def __post_init__(self) -> None:
        require_cameras("encoder", self.cameras)
        require(self.keypoints >= 1, f"encoder.keypoints {self.keypoints} must be at least 1")
        require(
            self.image_size > self.stride,
            f"encoder.image_size {self.image_size} must be above encoder.stride {self.stride}; a map of one cell says "
            "nothing about positions",
        )


EncoderConfig = StateEncoderConfig | LewmEncoderConfig | ResNetEncoderConfig | EfficientNetEncoderConfig
"""The encoders a policy can have; the first one is that of configurations which name none."""


@dataclass(frozen=True)
class PolicyConfig:
    """A policy: what it observes, the actions it plans, the network and the objective it is trained with."""

    # Network that predicts chunks.
    head: HeadConfig = field(default_factory=AttnResConfig)
    # Training objective.
    objective: ObjectiveConfig = field(default_factory=ImfConfig)
    # What the policy observes besides the robot state.
    encoder: EncoderConfig = field(default_factory=StateEncoderConfig)
    # Entries of an action; by default those of the robot of the task.
    action_dim: int | None = None
    # Observations the policy sees: the newest one and those before it [control steps].
    obs_horizon: int = 2
    # Length of a predicted chunk of actions [control steps].
    pred_horizon: int = 16
    # Actions executed from a chunk before planning again [control steps].
    num_action_steps: int = 8
    # Scale actions and states to [-1, 1] by their range, or to zero mean and unit variance.
    normalization: Literal["min_max", "mean_std"] = "min_max"
    # Function evaluations per plan: 1 is one-step generation.
    sampling_steps: int = 1
    # Longest delay of a plan for which the policy also learns to continue chunks whose first actions are given [control
    # steps]; needed to evaluate with --prefix. 0 turns it off.
    prefix_training: Annotated[int, tyro.conf.arg(prefix_name=False)] = 0
    # Noise on the given actions in training, so that the policy trusts them less than what it observes (standard
    # deviation) [normalised action units].
    prefix_noise: Annotated[float, tyro.conf.arg(prefix_name=False)] = 0.0
    # Share of the training windows that would be given actions and are given none.
    prefix_dropout: Annotated[float, tyro.conf.arg(prefix_name=False)] = 0.0
    # Longest delay of a plan for which the policy also learns chunks that begin so many steps after its newest
    # observation; how many, it is told [control steps]. Plans with --inference async are then made for the time at
    # which they take over. 0 turns it off.
    delay_training: Annotated[int, tyro.conf.arg(prefix_name=False)] = 0

    def __post_init__(self) -> None:
        for name in ("action_dim", "obs_horizon", "pred_horizon", "sampling_steps"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"policy.{name} is {value}; it must be at least 1")
        horizons = f"pred_horizon {self.pred_horizon} - obs_horizon {self.obs_horizon}"
        latest = self.pred_horizon - self.obs_horizon
        require(
            1 <= self.num_action_steps <= latest + 1,
            f"policy.num_action_steps {self.num_action_steps} must be in [1, {latest + 1}] ({horizons} + 1)",
        )
        unit = self.head.horizon_unit
        require(
            self.pred_horizon % unit == 0,
            f"policy.pred_horizon {self.pred_horizon} must be a multiple of {unit} for this policy.head",
        )
        require(self.prefix_training >= 0, f"--prefix-training {self.prefix_training} must not be negative")
        require(
            self.prefix_training <= latest,
            f"--prefix-training {self.prefix_training} leaves nothing of a chunk to learn; "
            f"it must be in [0, {latest}] ({horizons})",
        )
        require(self.prefix_noise >= 0, f"--prefix-noise {self.prefix_noise:g} must not be negative")
        require(0 <= self.prefix_dropout < 1, f"--prefix-dropout {self.prefix_dropout:g} must be in [0, 1)")
        for name, value in (("noise", self.prefix_noise), ("dropout", self.prefix_dropout)):
            require(
                self.prefix_training > 0 or not value,
                f"--prefix-{name} {value:g} would do nothing without --prefix-training",
            )
        require(self.delay_training >= 0, f"--delay-training {self.delay_training} must not be negative")
        require(
            not (self.delay_training and self.prefix_training),
            "--delay-training and --prefix-training are two answers to late plans; choose one",
        )
        problem = self.objective.prefix_problem
        require(not self.prefix_training or problem is None, f"--prefix-training {problem}")
        require(
            not (isinstance(self.objective, DiffusionConfig) and self.normalization == "mean_std")
            or self.objective.clip != DiffusionConfig.clip,
            f"objective.clip {DiffusionConfig.clip} cuts off most of what normalization mean_std makes; set it to None",
        )
        most = self.objective.most_steps
        require(
            most is None or self.sampling_steps <= most,
            f"--sampling-steps {self.sampling_steps} is more than objective {kind_name(self.objective)} has; "
            f"choose {f'1..{most}' if most != 1 else 1}",
        )

    @property
    def chunk_steps(self) -> int:
        """Actions of a chunk for the time of its observation and later."""
        return self.pred_horizon - self.obs_horizon + 1

    @property
    def window_steps(self) -> int:
        """Actions of a training window: a chunk, and those before it where it may begin late."""
        return self.pred_horizon + self.delay_training


KINDS: dict[str, dict[str, type]] = {
    group: {kind_name(kind): kind for kind in get_args(union)}
    for group, union in (("head", HeadConfig), ("objective", ObjectiveConfig), ("encoder", EncoderConfig))
}
"""Groups of the settings of a policy that come in several kinds: name of the kind -> its class."""


def with_kind(policy: PolicyConfig, group: str, name: str) -> PolicyConfig:
    """The policy with another kind of a group of settings, at its defaults; the same if it is of that kind.

    A network keeps the sizes that both kinds have. Where the kind of objective allows fewer function evaluations per
    plan, these are reduced.

    Args:
        policy: the policy.
        group: a key of `KINDS`.
        name: of the kind.

    Raises:
        ArgumentError: there is no such kind; or it does not go with the other settings.
    """
    kinds = KINDS[group]
    require(name in kinds, f"--policy.{group} {name} is not known; {nearest_known(name, kinds)}")
    kind, current = kinds[name], getattr(policy, group)
    if type(current) is kind:
        return policy
    shared = [field.name for field in fields(kind) if group == "head" and hasattr(current, field.name)]
    changes: dict[str, Any] = {group: kind(**{size: getattr(current, size) for size in shared})}
    most = changes[group].most_steps if group == "objective" else None
    if most is not None:
        changes["sampling_steps"] = min(policy.sampling_steps, most)
    return replace(policy, **changes)
