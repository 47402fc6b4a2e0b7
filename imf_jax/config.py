"""Every setting a user can change, as frozen dataclasses. Field comments become the `--help` text.

Presets in `configs/` are instances of `TrainConfig`; command lines override single fields. A value that cannot
work is refused here, before anything is built, by an `ArgumentError` that names the field and the mend.
"""

import dataclasses
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import tyro

from imf_jax.errors import ArgumentError, UserError

ACTION_DIM = 16
"""Two arms x (position xyz 3, quaternion wxyz 4, gripper 1)."""

STATE_DIM = 16
"""Two arms x (7 joint angles, gripper opening 1)."""

VIEWS = ("r_vis", "top", "front")
"""Cameras of the scenes, in the order in which encoders take their pictures."""

IMAGE_SIZE = 256
"""Height and width of camera pictures unless a setting says otherwise [pixels]."""

SUBSTEPS = 5
"""Physics steps per control step: 50 Hz control."""


RendererName = Literal["warp", "opengl"]
BackendName = Literal["auto", "warp", "mjx", "native"]
DeviceCount = int | Literal["all"]
"""What makes camera pictures: MuJoCo Warp's ray tracer (anywhere), or MuJoCo's OpenGL (where EGL or OSMesa work)."""


VideoChoice = int | Literal["all", "failures", "none"]
"""Episodes whose videos are kept; a number: the first so many."""

TrackerName = Literal["swanlab", "wandb", "tensorboard"]
"""Services and formats that a training run can be followed in; each is an extra of the package."""

TrackerMode = Literal["online", "offline", "disabled"]
"""Send at once, keep in the run folder to be sent later, or neither."""


def require(condition: bool, message: str) -> None:
    """Raise `ArgumentError(message)` unless `condition` holds."""
    if not condition:
        raise ArgumentError(message)


def require_video_settings(record: VideoChoice, cameras: tuple[str, ...], size: int) -> None:
    """Refuse videos that cannot be made, whatever the scene."""
    words = ("all", "failures", "none")
    known = isinstance(record, int) and not isinstance(record, bool) and record >= 0
    require(
        known or record in words,
        f"--record-video is {record}; it must be {', '.join(words)}, or the number of first episodes to record",
    )
    require(len(cameras) > 0, "--video-cameras is empty; name at least one camera")
    require(len(set(cameras)) == len(cameras), f"--video-cameras {' '.join(cameras)} names a camera twice")
    require(
        size >= 16 and size % 2 == 0,
        f"--video-size is {size}; it must be even and at least 16 (colours are stored for 2 x 2 pixels)",
    )


@dataclass(frozen=True)
class HeadConfig:
    """The IMF-AttnRes transformer."""

    # Channels of an action [entries of the action vector].
    action_dim: int = ACTION_DIM
    # Observations the policy sees: the newest one and those before it [control steps].
    obs_horizon: int = 2
    # Length of a predicted chunk of actions [control steps].
    pred_horizon: int = 16
    # Actions executed from a chunk before planning again [control steps].
    num_action_steps: int = 8
    # Width of the transformer [channels].
    n_emb: int = 384
    # Transformer layers; each is one attention and one SwiGLU sub-layer.
    n_layer: int = 12
    # Query heads.
    n_head: int = 8
    # Key/value heads; fewer than query heads means grouped-query attention.
    n_kv_head: int = 8
    # Mask attention so that a token sees only earlier tokens.
    causal: bool = False

    def __post_init__(self) -> None:
        for name in ("action_dim", "obs_horizon", "pred_horizon", "n_emb", "n_layer", "n_head", "n_kv_head"):
            require(getattr(self, name) >= 1, f"head.{name} is {getattr(self, name)}; it must be at least 1")
        require(
            self.n_emb % (2 * self.n_head) == 0,
            f"head.n_emb {self.n_emb} must be a multiple of 2 x n_head {self.n_head} (rotary pairs per head)",
        )
        require(
            self.n_head % self.n_kv_head == 0,
            f"head.n_head {self.n_head} must be a multiple of head.n_kv_head {self.n_kv_head}",
        )
        longest = self.pred_horizon - self.obs_horizon + 1
        require(
            1 <= self.num_action_steps <= longest,
            f"head.num_action_steps {self.num_action_steps} must lie in 1..{longest} "
            f"(pred_horizon {self.pred_horizon} - obs_horizon {self.obs_horizon} + 1)",
        )


@dataclass(frozen=True)
class ObjectiveConfig:
    """The improved MeanFlow training objective."""

    # How the two times of a sample are drawn: sigmoid of a normal, or uniform on [0, 1].
    time_distribution: Literal["logit_normal", "uniform"] = "logit_normal"
    # Mean of the normal under the sigmoid (logit_normal only).
    time_mean: float = -0.4
    # Standard deviation of the normal under the sigmoid (logit_normal only).
    time_std: float = 1.0
    # Share of a batch trained with r = t, which is plain flow matching.
    equal_time_fraction: float = 0.5
    # Regression loss between the compound velocity V and e - x.
    loss: Literal["pseudo_huber", "mse"] = "pseudo_huber"
    # Error at which the pseudo-Huber loss turns from quadratic to linear [normalised action units].
    huber_delta: float = 1.0
    # What the network predicts: the chunk itself, or its orthonormal DCT-II over the horizon.
    action_representation: Literal["time", "dct"] = "time"
    # Train also to continue chunks whose first actions are given, as if plans came up to so many control steps late;
    # needed to evaluate with --prefix. 0 turns it off.
    prefix_training: Annotated[int, tyro.conf.arg(prefix_name=False)] = 0

    def __post_init__(self) -> None:
        require(self.prefix_training >= 0, f"--prefix-training {self.prefix_training} must not be negative")
        require(
            not self.prefix_training or self.action_representation == "time",
            "--prefix-training needs objective.action_representation time: a coefficient of the DCT mixes all actions",
        )
        require(
            0 <= self.equal_time_fraction <= 1,
            f"objective.equal_time_fraction {self.equal_time_fraction} must lie in 0..1",
        )
        require(self.time_std > 0, f"objective.time_std {self.time_std} must be positive")
        require(self.huber_delta > 0, f"objective.huber_delta {self.huber_delta} must be positive")


@dataclass(frozen=True)
class StateEncoderConfig:
    """Condition on robot state and the task's scene state (object poses); no camera."""

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
    """Condition on one embedding of all three camera views by the frozen LEWM encoder, then robot state."""

    # Folder with the converted encoder, from converters/lewm.py.
    weights: Path = Path("encoders/lewm")
    # Layout of the three views in the one picture that the encoder sees: side by side, or 2 x 2.
    fusion: Literal["row", "grid"] = "row"
    # Height and width of the camera pictures, as they were recorded [pixels].
    image_size: int = IMAGE_SIZE

    @property
    def cameras(self) -> tuple[str, ...]:
        """Cameras whose pictures the policy reads; the encoder was trained on exactly these."""
        return VIEWS

    def __post_init__(self) -> None:
        require(self.image_size >= 1, f"encoder.image_size {self.image_size} must be at least 1")


@dataclass(frozen=True)
class ResNetEncoderConfig:
    """Condition on camera pictures by a ResNet-18 with spatial softmax, trained with the policy, then robot state."""

    # Cameras whose pictures are read.
    cameras: tuple[str, ...] = VIEWS
    # Height and width of the camera pictures, as they were recorded [pixels].
    image_size: int = IMAGE_SIZE
    # Height and width of what is cut out of a picture: at random in training, from its centre otherwise [pixels].
    crop_size: int = 224
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

    def __post_init__(self) -> None:
        require(len(self.cameras) > 0, "encoder.cameras is empty; name at least one camera")
        require(
            len(set(self.cameras)) == len(self.cameras),
            f"encoder.cameras {', '.join(self.cameras)} names a camera twice",
        )
        require(
            self.width >= 16 and self.width % 16 == 0,
            f"encoder.width {self.width} must be a multiple of 16 (group normalisation has 16 channels a group)",
        )
        require(self.keypoints >= 1, f"encoder.keypoints {self.keypoints} must be at least 1")
        require(
            SMALLEST_CROP <= self.crop_size <= self.image_size,
            f"encoder.crop_size {self.crop_size} must lie in {SMALLEST_CROP}..{self.image_size} (encoder.image_size)",
        )


SMALLEST_CROP = 33
"""A ResNet-18 makes a single cell of anything smaller, and a spatial softmax over one cell says nothing [pixels]."""

EncoderConfig = StateEncoderConfig | LewmEncoderConfig | ResNetEncoderConfig
"""The encoders a policy can have; the first one is that of configurations which name none."""


@dataclass(frozen=True)
class PolicyConfig:
    """Encoder, IMF-AttnRes head, objective and normalizer."""

    # Transformer that predicts average velocities.
    head: HeadConfig = field(default_factory=HeadConfig)
    # Training objective.
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    # What the policy observes besides the robot state.
    encoder: EncoderConfig = field(default_factory=StateEncoderConfig)
    # Scale actions and states to [-1, 1] by their range, or to zero mean and unit variance.
    normalization: Literal["min_max", "mean_std"] = "min_max"
    # Function evaluations per plan: 1 is one-step generation.
    sampling_steps: int = 1

    def __post_init__(self) -> None:
        require(self.sampling_steps >= 1, f"policy.sampling_steps {self.sampling_steps} must be at least 1")
        latest = self.head.pred_horizon - self.head.obs_horizon
        require(
            self.objective.prefix_training <= latest,
            f"--prefix-training {self.objective.prefix_training} leaves nothing of a chunk to learn; "
            f"it must lie in 0..{latest} (pred_horizon {self.head.pred_horizon} - obs_horizon {self.head.obs_horizon})",
        )


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
        require(0 <= self.ema_decay < 1, f"optimizer.ema_decay {self.ema_decay} must lie in [0, 1)")
        require(self.clip_norm > 0, f"optimizer.clip_norm {self.clip_norm} must be positive")
        require(self.warmup_steps >= 0, f"optimizer.warmup_steps {self.warmup_steps} must not be negative")
        require(
            self.decay_steps is None or self.decay_steps >= 1,
            f"optimizer.decay_steps {self.decay_steps} must be at least 1",
        )
        require(self.weight_decay >= 0, f"optimizer.weight_decay {self.weight_decay} must not be negative")
        require(0 <= self.final_fraction <= 1, f"optimizer.final_fraction {self.final_fraction} must lie in 0..1")
        for name in ("beta1", "beta2"):
            require(0 <= getattr(self, name) < 1, f"optimizer.{name} {getattr(self, name)} must lie in [0, 1)")


@dataclass(frozen=True)
class ValidationConfig:
    """Rollouts during training, on scenes that testing never uses."""

    # Training steps between two validations; 0 validates at the end only.
    every: int = 0
    # Episodes per validation; 0 turns validation off.
    num_episodes: int = 10
    # Front-view path pictures kept per validation; no video is made.
    num_images: int = 5

    def __post_init__(self) -> None:
        require(self.every >= 0, f"validation.every {self.every} must not be negative")
        require(self.num_episodes >= 0, f"validation.num_episodes {self.num_episodes} must not be negative")
        require(self.num_images >= 0, f"validation.num_images {self.num_images} must not be negative")


@dataclass(frozen=True)
class TrainConfig:
    """One training run."""

    # Task whose demonstrations are learned and on which validation rolls out.
    task: str = "transfer"
    # Folder of demonstrations (episode_*.hdf5 and stats.json), from scripts/collect.py.
    data: Path = Path("demos/transfer")
    # Folder that receives the run; must not hold a run yet unless --resume.
    out: Path = Path("runs/transfer")
    # Continue the run in --out from its newest complete checkpoint.
    resume: bool = False
    # Seed of initial weights, batches, noise and times.
    seed: int = 0
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
    # Also follow the run in these (swanlab, wandb, tensorboard); metrics.jsonl is always written. Each is an extra.
    tracker: tuple[TrackerName, ...] = ()
    # Send at once, keep in the run folder for later, or neither. What tensorboard writes always stays in the folder.
    tracker_mode: TrackerMode = "online"
    # The policy.
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    # The optimizer.
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    # Rollout validation.
    validation: ValidationConfig = field(default_factory=ValidationConfig)

    def __post_init__(self) -> None:
        for name in ("max_steps", "batch_size", "save_every", "keep", "log_every"):
            require(getattr(self, name) >= 1, f"{name} is {getattr(self, name)}; it must be at least 1")
        require(self.seed >= 0, f"seed {self.seed} must not be negative")
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
class CollectConfig:
    """Scripted demonstrations of one task."""

    # Task to demonstrate.
    task: str = "transfer"
    # Folder that receives episode_*.hdf5 and stats.json; an interrupted collection in it is continued.
    out: Path = Path("demos/transfer")
    # Successful demonstrations to record; scenes in which the expert fails are passed over and counted.
    episodes: int = 200
    # Seed of the scenes and of the noise; training and test scenes never coincide.
    seed: int = 0
    # Scenes simulated at once, fewer if their pictures would not fit in memory; has no influence on any result.
    num_envs: int = 64
    # Largest standard deviation of the noise added to commanded hand positions [m]; each episode draws its share.
    position_noise: float = 0.008
    # Largest standard deviation of the noise added to commanded hand yaw [rad].
    yaw_noise: float = 0.04
    # Cameras whose pictures are recorded (r_vis, top, front); none by default.
    cameras: tuple[str, ...] = ()
    # Height and width of recorded pictures [pixels].
    image_size: int = IMAGE_SIZE
    # What makes the pictures: the Warp ray tracer, or OpenGL (needs EGL or OSMesa).
    renderer: RendererName = "warp"

    def __post_init__(self) -> None:
        for name in ("episodes", "num_envs", "image_size"):
            value = getattr(self, name)
            require(value >= 1, f"--{name.replace('_', '-')} is {value}; it must be at least 1")
        require(
            self.renderer == "warp" or bool(self.cameras),
            f"--renderer {self.renderer} would do nothing: name --cameras to record",
        )
        for name in ("position_noise", "yaw_noise"):
            value = getattr(self, name)
            require(0 <= value <= 0.2, f"--{name.replace('_', '-')} is {value}; it must lie in 0..0.2")


@dataclass(frozen=True)
class ClusterConfig:
    """Several processes, on one host or many, that share one evaluation and its --out folder.

    Start the same command in every process, with another --cluster.process-id each. JAX's variables
    JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID stand in for flags that are not given.
    """

    # HOST:PORT at which process 0 can be reached.
    coordinator: str | None = None
    # How many processes there are.
    num_processes: int | None = None
    # Which one this is, from 0.
    process_id: int | None = None
    # How long to wait for the others at the start [s].
    timeout_s: int = 300


@dataclass(frozen=True)
class ExecutionConfig:
    """How planned actions reach the robot: at once, or as late as a planner beside the control loop would be."""

    # Plan while the robot waits (sync), or while it goes on with the plan before (async).
    inference: Literal["sync", "async"] = "sync"
    # How late a plan comes: that of the observation at t takes over at t + delay (async only) [control steps].
    delay_steps: int = 0
    # Make a plan every so often; by default the num_action_steps of the policy [control steps].
    replan_every: int | None = None
    # What to do when a chunk ends before the next one comes: stay at its last action, or go on by its last increment.
    on_empty: Literal["hold", "continue"] = "hold"
    # Go over from the old chunk to the new one linearly within so many actions (async only) [control steps].
    blend_steps: int = 0
    # Plan with the actions given that are executed meanwhile; for policies trained with --prefix-training (async only).
    prefix: bool = False
    # Servo commands per control step, between the last action's joint targets and this one's; a divisor of 5.
    action_interpolation: int = 1

    def __post_init__(self) -> None:
        for name in ("inference", "on_empty"):
            known = typing.get_args(typing.get_type_hints(ExecutionConfig)[name])
            flag, value = f"--{name.replace('_', '-')}", getattr(self, name)
            require(value in known, f"{flag} {value} is not known; choose from: {', '.join(known)}")
        for name in ("delay_steps", "blend_steps", "action_interpolation", "replan_every"):
            flag, value = f"--{name.replace('_', '-')}", getattr(self, name)
            require(type(value) is int or value is None, f"{flag} {value} must be a whole number")
        for name in ("delay_steps", "blend_steps"):
            value = getattr(self, name)
            require(value >= 0, f"--{name.replace('_', '-')} {value} must not be negative")
            require(
                self.inference == "async" or not value,
                f"--{name.replace('_', '-')} {value} would do nothing with --inference sync; add --inference async",
            )
        require(
            self.inference == "async" or self.on_empty == "hold",
            f"--on-empty {self.on_empty} would do nothing with --inference sync; add --inference async",
        )
        require(
            not self.prefix or self.delay_steps >= 1,
            "--prefix would do nothing without a delay; add --inference async --delay-steps 1 or more",
        )
        require(
            self.replan_every is None or self.replan_every >= 1,
            f"--replan-every {self.replan_every} must be at least 1",
        )
        require(
            self.action_interpolation >= 1 and SUBSTEPS % self.action_interpolation == 0,
            f"--action-interpolation {self.action_interpolation} does not divide the {SUBSTEPS} physics steps of a "
            f"control step; choose 1 or {SUBSTEPS}",
        )

    def require_no_plan_ahead(self) -> None:
        """Refuse what needs a policy: a scripted expert chooses the action of the next control step only."""
        require(
            self.inference == "sync",
            f"--inference {self.inference} needs a --checkpoint: the scripted expert plans no step ahead",
        )
        require(
            self.replan_every in (None, 1),
            f"--replan-every {self.replan_every} needs a --checkpoint: the scripted expert plans no step ahead",
        )


@dataclass(frozen=True)
class EvalConfig:
    """One evaluation in batched rollouts, of a checkpoint or of the scripted expert."""

    # Checkpoint folder, or run folder, of which the newest complete checkpoint is taken.
    checkpoint: Path | None = None
    # Evaluate the scripted expert of the task instead of a checkpoint.
    expert: bool = False
    # Task to evaluate on; by default the one that the policy was trained for (of an expert: transfer).
    task: str | None = None
    # Scenes to evaluate: episodes 0, 1, ... of the seed.
    episodes: int = 50
    # Scenes simulated at once; no influence on results of --backend native, by rounding only on the others.
    num_envs: int = 50
    # What simulates: warp (CUDA, slow on CPUs), mjx (any XLA device), native (CPU cores); auto: warp on CUDA or native.
    backend: BackendName = "auto"
    # Devices that share the scenes of warp and mjx: a number, or all.
    devices: DeviceCount = 1
    # Several processes that share the episodes.
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    # How planned actions reach the robot.
    execution: Annotated[ExecutionConfig, tyro.conf.arg(name="")] = field(default_factory=ExecutionConfig)
    # Seed of scenes and planning noise; validation and demonstrations use other ranges.
    seed: int = 0
    # Scenes planned in one call; a divisor of num_envs wastes no time. Changes results by rounding only.
    plan_batch: int = 10
    # Function evaluations per plan; by default as in training.
    sampling_steps: int | None = None
    # Folder that receives the evaluation, empty unless --resume; by default evals/<timestamp>_<run>_step<n>_seed<seed>.
    out: Path | None = None
    # Continue the evaluation in --out: only what is missing runs. The records are those of an uninterrupted run.
    resume: bool = False
    # YAML or JSON file of named jobs, see the README; what a job does not name is as given here.
    jobs: Path | None = None
    # With --jobs: go on with the next job after one that failed (the exit code still tells).
    continue_on_error: bool = False
    # Write trajectory.npz per episode: commanded actions and executed end-effector poses.
    save_trajectory: bool = False
    # Write trajectory.png per episode: a camera's picture with the executed path of both end effectors in red.
    save_images: bool = False
    # Write timing.json: the time of each stage of the loop, per call and per control step; with --save-trajectory also
    # the raw times per step. Compiled loops have one stage.
    save_timing: bool = False
    # Write an MP4 per episode and camera: of all episodes, of those that did not succeed (failures), of none, or of the
    # first N.
    record_video: VideoChoice = "none"
    # Cameras of the videos (r_vis, top, front).
    video_cameras: tuple[str, ...] = ("front",)
    # Height and width of the videos, even [pixels].
    video_size: int = IMAGE_SIZE
    # What makes the pictures that a policy sees: the Warp ray tracer, or OpenGL (needs EGL or OSMesa).
    renderer: RendererName = "warp"
    # Camera of those pictures.
    camera: str = "front"
    # Folder of another evaluation (for example of the scripted expert) to show beside this one.
    reference: Path | None = None

    def __post_init__(self) -> None:
        for name in ("episodes", "num_envs", "plan_batch"):
            require(
                getattr(self, name) >= 1, f"--{name.replace('_', '-')} is {getattr(self, name)}; it must be at least 1"
            )
        require(
            self.sampling_steps is None or self.sampling_steps >= 1,
            f"--sampling-steps is {self.sampling_steps}; it must be at least 1",
        )
        require_video_settings(self.record_video, self.video_cameras, self.video_size)
        if self.jobs is not None:
            require(
                not self.expert and self.checkpoint is None,
                "--jobs names its checkpoints itself; leave --checkpoint and --expert out",
            )
            require(not self.resume or self.out is not None, "--resume needs the --out folder of the jobs to continue")
            return
        require(
            self.expert != (self.checkpoint is not None),
            "say what to evaluate: either --checkpoint FOLDER or --expert",
        )
        if self.expert:
            self.execution.require_no_plan_ahead()
        require(not self.continue_on_error, "--continue-on-error would do nothing without --jobs")
        require(
            not self.resume or self.out is not None, "--resume needs the --out folder of the evaluation to continue"
        )


@dataclass(frozen=True)
class LatencyConfig:
    """Success of one policy against how late its plans come, on the same scenes."""

    # Checkpoint folder, or run folder, of which the newest complete checkpoint is taken.
    checkpoint: Path
    # Delays to evaluate [control steps]; by default all: 0 .. pred_horizon - obs_horizon, with --prefix those trained.
    delays: tuple[int, ...] = ()
    # Scenes per delay: episodes 0, 1, ... of the seed.
    episodes: int = 50
    # Scenes simulated at once; no influence on results of --backend native, by rounding only on the others.
    num_envs: int = 50
    # What simulates: warp (CUDA, slow on CPUs), mjx (any XLA device), native (CPU cores); auto: warp on CUDA or native.
    backend: BackendName = "auto"
    # Devices that share the scenes of warp and mjx: a number, or all.
    devices: DeviceCount = 1
    # Seed of scenes and planning noise.
    seed: int = 0
    # Scenes planned in one call; a divisor of num_envs wastes no time. Changes results by rounding only.
    plan_batch: int = 10
    # Function evaluations per plan; by default as in training.
    sampling_steps: int | None = None
    # Make a plan every so often; by default the num_action_steps of the policy [control steps].
    replan_every: int | None = None
    # What to do when a chunk ends before the next one comes: stay at its last action, or go on by its last increment.
    on_empty: Literal["hold", "continue"] = "hold"
    # Go over from the old chunk to the new one linearly within so many actions [control steps].
    blend_steps: int = 0
    # Plan with the actions given that are executed meanwhile; for policies trained with --prefix-training.
    prefix: bool = False
    # Servo commands per control step; a divisor of 5.
    action_interpolation: int = 1
    # Folder for latency.json, latency.png and an evaluation per delay; by default evals/<timestamp>_latency_<run>...
    out: Path | None = None
    # Draw latency.png, which needs the extra `plots`.
    plot: bool = True

    def execution(self, delay: int) -> ExecutionConfig:
        """How plans reach the robot at a delay; without one there is nothing to give as a prefix."""
        return ExecutionConfig(
            inference="async",
            delay_steps=delay,
            replan_every=self.replan_every,
            on_empty=self.on_empty,
            blend_steps=self.blend_steps,
            prefix=self.prefix and delay > 0,
            action_interpolation=self.action_interpolation,
        )

    def __post_init__(self) -> None:
        for name in ("episodes", "num_envs", "plan_batch"):
            value = getattr(self, name)
            require(value >= 1, f"--{name.replace('_', '-')} is {value}; it must be at least 1")
        require(
            self.sampling_steps is None or self.sampling_steps >= 1,
            f"--sampling-steps is {self.sampling_steps}; it must be at least 1",
        )
        require(
            len(set(self.delays)) == len(self.delays), f"--delays {' '.join(map(str, self.delays))} names a delay twice"
        )
        for delay in self.delays or (0,):
            require(delay >= 0, f"--delays {delay} must not be negative")
            self.execution(delay)


TYPE_KEY = "type"
"""Names the class of a dataclass that is stored where several are possible."""


def _choices(hint: Any) -> tuple[type, ...]:
    """The dataclasses that a type hint allows, in order."""
    options = typing.get_args(hint) or (hint,)
    return tuple(option for option in options if isinstance(option, type) and dataclasses.is_dataclass(option))


def to_dict(config: Any) -> dict[str, Any]:
    """A configuration as plain JSON types (paths become strings); `from_dict` reads it."""

    def plain(value: Any, hint: Any = None) -> Any:
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            hints = typing.get_type_hints(type(value))
            fields = {f.name: plain(getattr(value, f.name), hints[f.name]) for f in dataclasses.fields(value)}
            return ({TYPE_KEY: type(value).__name__} if len(_choices(hint)) > 1 else {}) | fields
        if isinstance(value, Path):
            return str(value)
        if isinstance(value, (list, tuple)):
            return [plain(item) for item in value]
        return value

    return plain(config)


T = TypeVar("T")


def from_dict(kind: type[T], values: Any) -> T:
    """The configuration that `to_dict` wrote. Absent fields take their defaults, so older files stay readable.

    Args:
        kind: the dataclass.
        values: what `to_dict` made of an instance.

    Raises:
        UserError: a field is not known, or has a value of another kind.
        ArgumentError: a value cannot work.
    """
    return _read(kind, values, "")


def _read(kind: Any, values: Any, where: str) -> Any:
    if not isinstance(values, dict):
        raise UserError(f"configuration {where or kind.__name__} must be an object, not {values!r}")
    hints = typing.get_type_hints(kind)
    arguments = {}
    for name, value in values.items():
        if name not in hints:
            raise UserError(f"configuration field {where}{name} is not known; it was written by another version")
        hint, choices = hints[name], _choices(hints[name])
        if choices and value is not None:
            # A field that had only one type when it was written names none: it was the first of today's.
            content = dict(value) if isinstance(value, dict) else value
            tag = content.pop(TYPE_KEY, choices[0].__name__) if isinstance(content, dict) else choices[0].__name__
            chosen = next((choice for choice in choices if choice.__name__ == tag), None)
            if chosen is None:
                raise UserError(f"configuration field {where}{name} names the unknown type {tag!r}")
            arguments[name] = _read(chosen, content, f"{where}{name}.")
        elif value is not None and (hint is Path or Path in typing.get_args(hint)):
            arguments[name] = Path(value)
        elif isinstance(value, list):
            arguments[name] = tuple(value)
        else:
            arguments[name] = value
    try:
        return kind(**arguments)
    except TypeError as error:
        raise UserError(f"configuration {where or kind.__name__} holds a value of the wrong kind: {error}") from None
