"""Every setting of `scripts/rollout.py`, as frozen dataclasses; field comments become the `--help` text.

What cannot work is refused here, before anything is built: a flag that would do nothing, too.
"""

import dataclasses
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from imf_jax.config import (
    IMAGE_SIZE,
    BackendName,
    DeviceCount,
    EncoderDtype,
    ExecutionConfig,
    Precision,
    RendererChoice,
    VisualName,
    flag,
    require,
    require_counts,
    require_seed,
)

StrategyName = Literal["base", "episodic", "sentry", "highlight", "dagger"]
EventName = Literal["success", "failure", "drop", "stall", "non_finite", "reward_jump", "out_of_view"]
RuleName = Literal["distance", "no_progress", "beta"]

SCENES = 50
"""Number of scenes by default."""

SMALLEST_RING = 64 * 1024
"""Ring buffers below this hold no moment worth the name [bytes]."""


@dataclass(frozen=True)
class DatasetConfig:
    """The LeRobot dataset that receives the frames."""

    # Folder of the dataset; its name must start with rollout_.
    dataset: Path | None = None
    # Continue the dataset; scenes that it holds already are not recorded again. With --rounds: continue the rounds in
    # --out; --rounds may be larger than before.
    resume: bool = False
    # Cameras of the task's scene whose pictures are recorded; none by default.
    cameras: tuple[str, ...] = ()
    # Height and width of recorded pictures, even [pixels].
    image_size: int = IMAGE_SIZE

    def __post_init__(self) -> None:
        require(len(set(self.cameras)) == len(self.cameras), f"--cameras {' '.join(self.cameras)} names one twice")
        require(
            self.image_size >= 16 and self.image_size % 2 == 0,
            f"--image-size is {self.image_size}; videos need an even size of at least 16 pixels",
        )


@dataclass(frozen=True)
class SentryConfig:
    """Limits of an unattended recording."""

    # End after this time [s].
    duration_s: float | None = None
    # End when the recording has grown to this size, measured [bytes].
    max_bytes: int | None = None
    # Begin a new episode of the dataset when one has grown to this size, measured [bytes].
    shard_bytes: int = 100 * 2**20

    def __post_init__(self) -> None:
        require(self.duration_s is None or self.duration_s > 0, f"--duration-s is {self.duration_s}; must be positive")
        require(self.max_bytes is None or self.max_bytes >= 1, f"--max-bytes is {self.max_bytes}; must be at least 1")
        require(self.shard_bytes >= 1, f"--shard-bytes is {self.shard_bytes}; it must be at least 1")


@dataclass(frozen=True)
class HighlightConfig:
    """Events, and the moments around them that are kept."""

    # Events that are kept. failure: the task cannot be done any more, or time is up. drop: a lifted object is lost.
    # stall: both hands stand still. non_finite: physics or plan. out_of_view: an object leaves the --event-camera.
    events: tuple[EventName, ...] = ("success", "failure", "drop", "non_finite")
    # Longest time kept before an event [s].
    pre_s: float = 2.0
    # Longest time kept after an event [s].
    post_s: float = 1.0
    # Memory of the ring buffer of each scene [bytes].
    ring_bytes: int = 2**20
    # Change of the reward within one control step that counts as a jump.
    reward_jump: float = 2.0
    # Hands that have not moved for this time count as a stall [s].
    stall_s: float = 2.0
    # Camera of out_of_view; must be among --cameras. By default the one of the task that pictures show.
    event_camera: str | None = None

    def __post_init__(self) -> None:
        known = typing.get_args(EventName)
        for event in self.events:
            require(event in known, f"--events {event} is not known; choose from: {', '.join(known)}")
        require(len(self.events) > 0, f"--events is empty; choose from: {', '.join(known)}")
        require(len(set(self.events)) == len(self.events), f"--events {' '.join(self.events)} names one twice")
        require(self.pre_s > 0, f"--pre-s is {self.pre_s}; it must be positive")
        require(self.post_s >= 0, f"--post-s is {self.post_s}; it must not be negative")
        require(
            self.ring_bytes >= SMALLEST_RING,
            f"--ring-bytes is {self.ring_bytes}; it must be at least {SMALLEST_RING}",
        )
        require(self.reward_jump > 0, f"--reward-jump is {self.reward_jump}; it must be positive")
        require(self.stall_s > 0, f"--stall-s is {self.stall_s}; it must be positive")
        for name, event in (("reward_jump", "reward_jump"), ("stall_s", "stall"), ("event_camera", "out_of_view")):
            _require_use(self, name, event in self.events, f"{event} is not among --events")


@dataclass(frozen=True)
class DaggerConfig:
    """Corrections of the policy by the expert: when they begin, what is recorded, and training on them."""

    # When the expert takes over: its actions and the policy's differ (distance), the task stands still (no_progress),
    # or for a random share of the time (beta).
    intervene: tuple[RuleName, ...] = ("distance", "no_progress")
    # Distance between both actions at which the expert takes over, averaged over 0.2 s; of positions and openings [m],
    # of joints [rad].
    distance: float = 0.01
    # Control steps without a higher stage of the task after which the expert takes over.
    no_progress_steps: int = 100
    # Share of the stretches that the expert drives; in round r of --rounds, beta to the power of r.
    beta: float = 0.5
    # Shortest correction, and length of the stretches of beta [control steps].
    correction_steps: int = 25
    # Record the corrections only, or whole episodes with the column intervention.
    save: Literal["corrections", "episodes"] = "corrections"
    # Number of rounds: each records, trains on the recordings and evaluates. By default it only records.
    rounds: int | None = None
    # Folder that receives the rounds: demonstrations, training runs, evaluations, rounds.json. New unless --resume.
    out: Path = Path("runs/dagger")
    # Demonstrations to add the corrections to; by default those that the checkpoint was trained on.
    demonstrations: Path | None = None
    # Optimizer steps of each round; by default as many as the checkpoint was trained for.
    train_steps: int | None = None
    # Validation scenes on which the policy of each round is evaluated, the same ones every time.
    validation_episodes: int = 50

    def __post_init__(self) -> None:
        known = typing.get_args(RuleName)
        for rule in self.intervene:
            require(rule in known, f"--intervene {rule} is not known; choose from: {', '.join(known)}")
        require(len(self.intervene) > 0, f"--intervene is empty; choose from: {', '.join(known)}")
        require(self.distance > 0, f"--distance is {self.distance}; it must be positive")
        require_counts(self, "no_progress_steps", "correction_steps", "validation_episodes", "train_steps", "rounds")
        require(0 <= self.beta <= 1, f"--beta is {self.beta}; it must be in [0, 1]")
        choices = typing.get_args(typing.get_type_hints(DaggerConfig)["save"])
        require(self.save in choices, f"--save {self.save} is not known; choose from: {', '.join(choices)}")
        for name, rule in (("distance", "distance"), ("no_progress_steps", "no_progress"), ("beta", "beta")):
            _require_use(self, name, rule in self.intervene, f"{rule} is not among --intervene")
        for name in ("out", "demonstrations", "train_steps", "validation_episodes"):
            _require_use(self, name, self.rounds is not None, "nothing is trained without --rounds")


@dataclass(frozen=True)
class RolloutConfig:
    """Rollouts of a checkpoint or of the scripted expert, and their recording."""

    # What to do: count (base), record every scene (episodic), record without end (sentry), keep moments (highlight),
    # let the expert correct the policy and learn from it (dagger).
    strategy: StrategyName = "base"
    # Checkpoint folder, or run folder, of which the newest complete checkpoint is taken.
    checkpoint: Path | None = None
    # Roll out the scripted expert of the task instead of a checkpoint.
    expert: bool = False
    # Task to roll out on; by default the one that the policy was trained for (of an expert: transfer).
    task: str | None = None
    # Scenes to run (of dagger: in each round); by default 50, of sentry until a limit is reached or Ctrl-C.
    episodes: int | None = None
    # Scenes simulated at once.
    num_envs: int = 10
    # What simulates: warp (CUDA, slow on CPUs), mjx (any XLA device), native (CPU cores); auto: warp on CUDA or native.
    backend: BackendName = "auto"
    # Devices that share the scenes of warp and mjx: a number, or all.
    devices: DeviceCount = 1
    # Seed of scenes and planning noise. Scenes of rollouts are neither those of tests nor of demonstrations.
    seed: int = 0
    # Scenes planned in one call; a divisor of num_envs wastes no time. Changes results by rounding only.
    plan_batch: int = 10
    # Function evaluations per plan; by default as in training.
    sampling_steps: int | None = None
    # Precision of the policy's matrix products on accelerators; CPUs always compute in float32. On NVIDIA GPUs highest
    # is float32, high and default are TF32: faster, and less exact.
    precision: Precision = "highest"
    # Operands of the frozen LEWM encoder's matrix products; by default as in training. bfloat16 is faster on
    # accelerators; its embeddings are off by about 1 % of their norm.
    encoder_dtype: EncoderDtype | None = None
    # What makes pictures, seen and recorded: the Warp ray tracer, or OpenGL (needs EGL or OSMesa); auto: on a CPU the
    # faster of those that work here, tried out once. By default what drew the demonstrations that the policy learned
    # from, if that is known and works here, else warp.
    renderer: RendererChoice | None = None
    # Meshes in these pictures: as they are, or decimated; by default as in the demonstrations.
    visual: VisualName | None = None
    # Execution of planned actions.
    execution: Annotated[ExecutionConfig, tyro.conf.arg(name="")] = field(default_factory=ExecutionConfig)
    # The dataset; not for --strategy base.
    recording: Annotated[DatasetConfig, tyro.conf.arg(name="")] = field(default_factory=DatasetConfig)
    # For --strategy sentry.
    sentry: Annotated[SentryConfig, tyro.conf.arg(name="")] = field(default_factory=SentryConfig)
    # For --strategy highlight.
    highlight: Annotated[HighlightConfig, tyro.conf.arg(name="")] = field(default_factory=HighlightConfig)
    # For --strategy dagger.
    dagger: Annotated[DaggerConfig, tyro.conf.arg(name="")] = field(default_factory=DaggerConfig)

    def __post_init__(self) -> None:
        known = typing.get_args(StrategyName)
        require(self.strategy in known, f"--strategy {self.strategy} is not known; choose from: {', '.join(known)}")
        require_counts(self, "episodes", "num_envs", "plan_batch", "sampling_steps")
        require_seed(self.seed)
        require(
            self.expert != (self.checkpoint is not None),
            "say what to roll out: either --checkpoint FOLDER or --expert",
        )
        require(
            not self.expert or self.encoder_dtype is None,
            "--encoder-dtype is for a policy; the scripted expert has no encoder",
        )
        require(
            self.strategy != "dagger" or not self.expert,
            "--strategy dagger lets the expert correct a policy; give --checkpoint instead of --expert",
        )
        self._require_dataset()
        for name in ("sentry", "highlight", "dagger"):
            group = getattr(self, name)
            for member in dataclasses.fields(group):
                _require_use(group, member.name, self.strategy == name, f"it is for --strategy {name}")

    def _require_dataset(self) -> None:
        recording = self.recording
        if self.strategy == "base":
            for member in dataclasses.fields(recording):
                _require_use(recording, member.name, False, "--strategy base records nothing")
            return
        require(
            recording.dataset is not None,
            f"--strategy {self.strategy} records; say where with --dataset recordings/rollout_NAME",
        )
        _require_use(recording, "image_size", bool(recording.cameras), "no --cameras are recorded")


def _require_use(config: Any, name: str, used: bool, why: str) -> None:
    """Refuse a value that is not the default and would do nothing."""
    default = next(member.default for member in dataclasses.fields(config) if member.name == name)
    value = getattr(config, name)
    shown = " ".join(map(str, value)) if isinstance(value, tuple) else value
    given = flag(name) if value is True else f"{flag(name)} {shown}"
    require(used or value == default, f"{given} would do nothing: {why}")
