"""Settings of demonstrations and of training runs."""

import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from imf_jax.config.base import (
    IMAGE_SIZE,
    BackendName,
    Precision,
    RendererChoice,
    TrackerMode,
    TrackerName,
    VisualName,
    flag,
    require,
    require_counts,
    require_seed,
)
from imf_jax.config.policy import PolicyConfig


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with warm-up and cosine decay."""

    # Peak learning rate.
    learning_rate: float = 1e-4
    # Decay rate of the first moment.
    beta1: float = 0.9
    # Decay rate of the second moment.
    beta2: float = 0.95
    # Decoupled weight decay, on the kernels of linear layers only.
    weight_decay: float = 1e-3
    # Linear warm-up [training steps].
    warmup_steps: int = 500
    # Training steps over which the learning rate rises and falls; by default max_steps.
    decay_steps: int | None = None
    # Learning rate at the end of the cosine, as a share of the peak.
    final_fraction: float = 0.0
    # Largest global gradient norm.
    clip_norm: float = 5.0
    # Decay of the exponential moving average of the weights; 0 turns it off.
    ema_decay: float = 0.999

    def __post_init__(self) -> None:
        require(self.learning_rate > 0, f"optimizer.learning_rate {self.learning_rate} must be positive")
        require(0 <= self.ema_decay < 1, f"optimizer.ema_decay {self.ema_decay} must be in [0, 1)")
        require(self.clip_norm > 0, f"optimizer.clip_norm {self.clip_norm} must be positive")
        require(self.warmup_steps >= 0, f"optimizer.warmup_steps {self.warmup_steps} must not be negative")
        require(
            self.decay_steps is None or self.decay_steps >= 1,
            f"optimizer.decay_steps {self.decay_steps} must be at least 1",
        )
        require(self.weight_decay >= 0, f"optimizer.weight_decay {self.weight_decay} must not be negative")
        require(0 <= self.final_fraction <= 1, f"optimizer.final_fraction {self.final_fraction} must be in [0, 1]")
        for name in ("beta1", "beta2"):
            require(0 <= getattr(self, name) < 1, f"optimizer.{name} {getattr(self, name)} must be in [0, 1)")


@dataclass(frozen=True)
class ValidationConfig:
    """Rollouts during training, on scenes that testing never uses."""

    # Training steps between two validations; 0 validates at the end only.
    every: int = 0
    # Episodes per validation; 0 turns validation off.
    num_episodes: int = 10
    # Front-view path pictures kept per validation; no video is made.
    num_images: int = 5
    # Share of the episodes that is held out of training where the robot has no scene here to roll out in: the error of
    # the planned actions and the loss are measured on them. 0 trains on all.
    held_out: float = 0.1

    def __post_init__(self) -> None:
        require(self.every >= 0, f"validation.every {self.every} must not be negative")
        require(self.num_episodes >= 0, f"validation.num_episodes {self.num_episodes} must not be negative")
        require(self.num_images >= 0, f"validation.num_images {self.num_images} must not be negative")
        require(0 <= self.held_out < 1, f"validation.held_out {self.held_out} must be in [0, 1)")


@dataclass(frozen=True)
class ColumnsConfig:
    """Names in the dataset, where they are not those that its format usually has (data.py inspect shows them)."""

    # Columns of the robot state, joined in this order, such as observation.state.
    state: tuple[str, ...] = ()
    # Columns of the action.
    action: tuple[str, ...] = ()
    # Columns of the scene state, which policies that see do not read.
    env_state: tuple[str, ...] = ()
    # Cameras of the dataset, as many as the policy or the encoder reads and in that order.
    cameras: tuple[str, ...] = ()
    # Order of the colour channels in compressed pictures of ACT files: as OpenCV swaps them in ACT's own, or plain RGB.
    jpeg_order: Literal["opencv", "rgb"] = "opencv"


@dataclass(frozen=True)
class RunConfig:
    """What training runs of every kind share."""

    # Task whose demonstrations are learned and on which validation rolls out; none for data of a robot without a scene.
    task: str = "transfer"
    # Demonstrations from scripts/collect.py, or a LeRobot dataset; recognised by the content.
    data: Path = Path("demos/transfer")
    # Folder that receives the run; must not hold a run yet unless --resume.
    out: Path = Path("runs/transfer")
    # Continue the run in --out from its newest complete checkpoint.
    resume: bool = False
    # Seed of initial weights, batches and all noise.
    seed: int = 0
    # Precision of matrix products on accelerators; CPUs always compute in float32. On NVIDIA GPUs highest is float32,
    # high and default are TF32: faster, and less exact.
    precision: Precision = "highest"
    # Optimizer steps.
    max_steps: int = 50_000
    # Windows per optimizer step.
    batch_size: int = 64
    # Training steps between two checkpoints (and at the end).
    save_every: int = 5_000
    # Newest checkpoints kept, besides the best one.
    keep: int = 2
    # Training steps between two lines of metrics.jsonl.
    log_every: int = 50
    # External trackers of the run (swanlab, wandb, tensorboard, trackio), each an extra; metrics.jsonl is there always.
    tracker: tuple[TrackerName, ...] = ()
    # Send to trackers at once (online), keep in the run folder for later (offline), or neither (disabled). What
    # tensorboard writes always stays in the folder, what trackio writes on this machine unless TRACKIO_SPACE_ID is set.
    tracker_mode: TrackerMode = "online"
    # Name under which services (swanlab, wandb, trackio) show this run together with others; suites give theirs.
    tracker_group: str | None = None

    def __post_init__(self) -> None:
        for name in ("max_steps", "batch_size", "save_every", "keep", "log_every"):
            require(getattr(self, name) >= 1, f"{name} is {getattr(self, name)}; it must be at least 1")
        require_seed(self.seed)
        known = typing.get_args(TrackerName)
        for name in self.tracker:
            require(name in known, f"--tracker {name} is not known; choose from: {', '.join(known)}")
        require(
            len(set(self.tracker)) == len(self.tracker), f"--tracker {' '.join(self.tracker)} names a tracker twice"
        )
        require(
            self.tracker_mode in typing.get_args(TrackerMode),
            f"--tracker-mode {self.tracker_mode} is not known; choose from: {', '.join(typing.get_args(TrackerMode))}",
        )


@dataclass(frozen=True)
class TrainConfig(RunConfig):
    """One training run."""

    # The policy.
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    # The optimizer.
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    # Rollout validation, or held-out episodes where nothing can be rolled out.
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    # Names of columns and cameras in the dataset.
    columns: ColumnsConfig = field(default_factory=ColumnsConfig)
    # Main memory that pictures may take [GB]; what does not fit is read from a cache on the disk as it is needed, or
    # decoded ahead. By default four fifths of what is free.
    picture_memory: float | None = None
    # Disk that the cache of decoded pictures may take [GB], by default nine tenths of what is free beside the dataset.
    # Where they fit neither there nor in memory, threads decode them ahead and batches are drawn from a pool in memory.
    picture_disk: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("picture_memory", "picture_disk"):
            value = getattr(self, name)
            require(value is None or value >= 0, f"{flag(name)} {value} must not be negative")


@dataclass(frozen=True)
class CollectConfig:
    """Scripted demonstrations of one task."""

    # Task to demonstrate.
    task: str = "transfer"
    # Folder that receives episode_*.hdf5 and stats.json; an interrupted collection in it is continued. By default
    # demos/ and the name of the task.
    out: Path | None = None
    # Successful demonstrations to record; scenes in which the expert fails are passed over and counted.
    episodes: int = 200
    # Seed of the scenes and of the noise; training and test scenes never coincide.
    seed: int = 0
    # Scenes simulated at once, fewer if their pictures would not fit in memory; has no influence on any result.
    num_envs: int = 64
    # What simulates: warp (CUDA, slow on CPUs), mjx (any XLA device), native (CPU cores); auto: warp on CUDA or native.
    backend: BackendName = "auto"
    # Largest standard deviation of the noise added to commanded hand positions [m]; each episode draws its share. All
    # noise is by default what the task names.
    position_noise: float | None = None
    # Largest standard deviation of the noise added to commanded hand yaw [rad].
    yaw_noise: float | None = None
    # Largest standard deviation of the noise added to commanded joint targets, of robots that are commanded by joints
    # [rad].
    joint_noise: float | None = None
    # Cameras of the task's scene whose pictures are recorded; none by default.
    cameras: tuple[str, ...] = ()
    # Height and width of recorded pictures [pixels].
    image_size: int = IMAGE_SIZE
    # What makes the pictures: the Warp ray tracer, or OpenGL (needs EGL or OSMesa); auto: on a CPU the faster of those
    # that work here, tried out once. A collection that is continued keeps its own.
    renderer: RendererChoice = "warp"
    # Meshes in pictures: as they are, or decimated to 2,000 faces at most, which OpenGL draws several times as fast.
    visual: VisualName = "mesh"

    def __post_init__(self) -> None:
        require_counts(self, "episodes", "num_envs", "image_size")
        require_seed(self.seed)
        require(
            self.renderer == "warp" or bool(self.cameras),
            f"--renderer {self.renderer} would do nothing: name --cameras to record",
        )
        require(
            self.visual == "mesh" or bool(self.cameras),
            f"--visual {self.visual} would do nothing: name --cameras to record",
        )
        for name in ("position_noise", "yaw_noise", "joint_noise"):
            value = getattr(self, name)
            require(value is None or 0 <= value <= 0.2, f"{flag(name)} is {value}; it must be in [0, 0.2]")
