"""Settings of evaluations: backend and devices, captures, and the execution of plans."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from imf_jax.config.base import (
    BackendName,
    DeviceCount,
    PlanPrecision,
    RendererChoice,
    VisualName,
    flag,
    require,
    require_counts,
    require_seed,
)
from imf_jax.config.capture import CaptureConfig
from imf_jax.config.perturbation import PerturbFlag, require_perturbations
from imf_jax.config.policy import EncoderDtype

POLICY_SCHEMES = ("ws://", "wss://")
"""Beginnings of the address of a policy server."""


@dataclass(frozen=True)
class ClusterConfig:
    """Several processes, on one host or many, that share one evaluation and its --out folder.

    Start the same command in every process, with another --cluster.process-id each. JAX's variables
    JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID stand in for flags that are not given.
    """

    # HOST:PORT at which process 0 can be reached.
    coordinator: str | None = None
    # Number of processes.
    num_processes: int | None = None
    # Number of this process, counted from 0.
    process_id: int | None = None
    # Numbers of the GPUs for this process, where several processes share a host; by default JAX_LOCAL_DEVICE_IDS, else
    # all.
    local_device_ids: tuple[int, ...] = ()
    # Longest wait for the other processes at the start [s].
    timeout_s: int = 300


@dataclass(frozen=True)
class ExecutionConfig:
    """Execution of planned actions: at once, or as late as those of a planner beside the control loop."""

    # Plan while the robot waits (sync), or while it executes the previous plan (async).
    inference: Literal["sync", "async"] = "sync"
    # Delay of a plan: the one made from the observation at t takes over at t + delay (async only) [control steps].
    delay_steps: int = 0
    # Interval between two plans; by default the num_action_steps of the policy [control steps].
    replan_every: int | None = None
    # What to do when a chunk ends before the next one comes: stay at its last action (hold), or go on by its last
    # increment (continue).
    on_empty: Literal["hold", "continue"] = "hold"
    # Actions over which the old chunk is blended linearly into the new one (async only) [control steps].
    blend_steps: int = 0
    # Tell the policy the actions that are executed while it plans; it must be trained with --prefix-training (async
    # only).
    prefix: bool = False
    # Draw a plan to what the plan before it still has to say about the same steps, as real-time chunking does: the
    # largest weight of that against the policy's velocity, 5 in its paper; 0 turns it off. Wants --sampling-steps of 5
    # or so, each of which takes twice as long (async only).
    guidance: float = 0.0
    # Servo commands per control step, between the last action's joint targets and this one's; a divisor of 5.
    action_interpolation: int = 1

    def __post_init__(self) -> None:
        for name in ("delay_steps", "blend_steps"):
            value = getattr(self, name)
            require(value >= 0, f"{flag(name)} {value} must not be negative")
            require(
                self.inference == "async" or not value,
                f"{flag(name)} {value} would do nothing with --inference sync; add --inference async",
            )
        require(
            self.inference == "async" or self.on_empty == "hold",
            f"--on-empty {self.on_empty} would do nothing with --inference sync; add --inference async",
        )
        require(
            not self.prefix or self.delay_steps >= 1,
            "--prefix would do nothing without a delay; add --inference async --delay-steps 1 or more",
        )
        require(self.guidance >= 0, f"--guidance {self.guidance:g} must not be negative")
        require(
            self.inference == "async" or not self.guidance,
            f"--guidance {self.guidance:g} would do nothing with --inference sync; add --inference async",
        )
        require(not (self.prefix and self.guidance), "--prefix and --guidance both say what a plan follows; choose one")
        require(
            self.replan_every is None or self.replan_every >= 1,
            f"--replan-every {self.replan_every} must be at least 1",
        )
        require(
            self.action_interpolation >= 1,
            f"--action-interpolation {self.action_interpolation} must be at least 1",
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
    # Evaluate another policy: of a server, ws://HOST:PORT (scripts/serve.py, openpi), or package.module:function, which
    # gets observations and returns actions (scenes, steps, action_dim). The function is executed.
    policy: str | None = None
    # Time that a policy server has for a connection, and for each plan [s].
    policy_timeout_s: float = 30.0
    # Names of observations, for servers that have others than ours: state=observation/state top=observation/image; the
    # cameras that are named are rendered.
    policy_keys: tuple[str, ...] | None = None
    # Instruction that is sent with every observation as `prompt`.
    policy_prompt: str | None = None
    # File that holds the token of the server; by default that of the variable IMF_SERVE_TOKEN, if it is set.
    policy_token_file: Path | None = None
    # Task to evaluate on; by default the one that the policy was trained for (of an expert: transfer).
    task: str | None = None
    # Scenes to evaluate: episodes 0, 1, ... of the seed.
    episodes: int = 50
    # Scenes simulated at once; by default all, up to 50 on a CPU or 512 on each accelerator, and what fits in memory.
    # No influence on results of --backend native, by rounding only on the others.
    num_envs: int | None = None
    # What simulates: warp (CUDA, slow on CPUs), mjx (any XLA device), native (CPU cores); auto: warp on CUDA or native.
    backend: BackendName = "auto"
    # Devices that share the scenes of warp and mjx: a number, or all.
    devices: DeviceCount = 1
    # Several processes that share the episodes.
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    # Execution of planned actions.
    execution: Annotated[ExecutionConfig, tyro.conf.arg(name="")] = field(default_factory=ExecutionConfig)
    # Conditions that the policy was not trained for, see `PERTURBATIONS`.
    perturb: PerturbFlag = field(default_factory=dict)
    # Seed of scenes and planning noise; validation and demonstrations use other ranges.
    seed: int = 0
    # Scenes planned in one call; a divisor of num_envs wastes no time. Changes results by rounding only.
    plan_batch: int = 10
    # Function evaluations per plan; by default as in training.
    sampling_steps: int | None = None
    # Precision of the policy's matrix products. On NVIDIA GPUs highest is float32, high and default are TF32; CPUs
    # compute these three in float32. bfloat16 also rounds what the transformer multiplies: less exact, and faster
    # for batches on CPUs that have AMX.
    precision: PlanPrecision = "highest"
    # Operands of the frozen LEWM encoder's matrix products; by default as in training. bfloat16 is faster on
    # accelerators; its embeddings are off by about 1 % of their norm.
    encoder_dtype: EncoderDtype | None = None
    # Folder that receives the evaluation, empty unless --resume; by default evals/<timestamp>_<run>_step<n>_seed<seed>.
    out: Path | None = None
    # Continue the evaluation in --out: only what is missing runs. The records are those of an uninterrupted run.
    resume: bool = False
    # Runs of the same scenes, which count the episodes that end otherwise; only the first run has captures.
    repeat: int = 1
    # YAML or JSON file of named jobs, see the README; a setting that a job does not name is the one given here.
    jobs: Path | None = None
    # With --jobs: go on with the next job after one that failed (the exit code still says so).
    continue_on_error: bool = False
    # What is kept of each episode.
    capture: Annotated[CaptureConfig, tyro.conf.arg(name="")] = field(default_factory=CaptureConfig)
    # What makes the pictures that a policy sees: the Warp ray tracer, or OpenGL (needs EGL or OSMesa); auto: on a CPU
    # the faster of those that work here, tried out once. By default what drew the demonstrations that it learned from,
    # if that is known and works here, else warp.
    renderer: RendererChoice | None = None
    # Meshes in these pictures: as they are, or decimated; by default as in the demonstrations.
    visual: VisualName | None = None
    # Folder of another evaluation (for example of the scripted expert) to show beside this one.
    reference: Path | None = None

    def __post_init__(self) -> None:
        require_counts(self, "episodes", "num_envs", "plan_batch", "sampling_steps", "repeat")
        require_seed(self.seed)
        require_perturbations(self.perturb)
        if self.jobs is not None:
            require(
                not self.expert and self.checkpoint is None and self.policy is None,
                "--jobs names its checkpoints itself; leave --checkpoint, --expert and --policy out",
            )
            require(not self.resume or self.out is not None, "--resume needs the --out folder of the jobs to continue")
            return
        require(
            self.expert + (self.checkpoint is not None) + (self.policy is not None) == 1,
            "say what to evaluate: either --checkpoint FOLDER, --policy ADDRESS or --expert",
        )
        self._require_policy()
        if self.expert:
            require(self.encoder_dtype is None, "--encoder-dtype is for a policy; the scripted expert has no encoder")
            self.execution.require_no_plan_ahead()
        require(not self.continue_on_error, "--continue-on-error would do nothing without --jobs")
        require(
            not self.resume or self.out is not None, "--resume needs the --out folder of the evaluation to continue"
        )

    def _require_policy(self) -> None:
        """Refuse settings of a policy from elsewhere that cannot work or would do nothing."""
        require(self.policy_timeout_s > 0, f"--policy-timeout-s {self.policy_timeout_s:g} must be positive")
        served = self.policy is not None and self.policy.startswith(POLICY_SCHEMES)
        for name in ("policy_keys", "policy_prompt", "policy_token_file"):
            require(served or getattr(self, name) is None, f"{flag(name)} would do nothing without --policy ws://...")
        for entry in self.policy_keys or ():
            require(all(entry.partition("=")), f"--policy-keys {entry} must be NAME=KEY, as state=observation/state")
        if self.policy is None:
            return
        require(
            served or ":" in self.policy,
            f"--policy {self.policy} must be ws://HOST:PORT or package.module:function",
        )
        for name in ("sampling_steps", "encoder_dtype"):
            require(getattr(self, name) is None, f"{flag(name)} is for --checkpoint; set it where the policy is served")
        require(not self.execution.guidance, "--guidance is for --checkpoint: policies elsewhere cannot be guided")


@dataclass(frozen=True)
class LatencyConfig:
    """Success of one policy at several delays of its plans, on the same scenes."""

    # Checkpoint folder, or run folder, of which the newest complete checkpoint is taken.
    checkpoint: Path
    # Delays to evaluate [control steps]; by default all: 0 .. pred_horizon - obs_horizon, with --prefix those trained.
    delays: tuple[int, ...] = ()
    # Scenes per delay: episodes 0, 1, ... of the seed.
    episodes: int = 50
    # Scenes simulated at once; by default all, up to 50 on a CPU or 512 on each accelerator, and what fits in memory.
    # No influence on results of --backend native, by rounding only on the others.
    num_envs: int | None = None
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
    # Precision of the policy's matrix products. On NVIDIA GPUs highest is float32, high and default are TF32; CPUs
    # compute these three in float32. bfloat16 also rounds what the transformer multiplies: less exact, and faster
    # for batches on CPUs that have AMX.
    precision: PlanPrecision = "highest"
    # Operands of the frozen LEWM encoder's matrix products; by default as in training. bfloat16 is faster on
    # accelerators; its embeddings are off by about 1 % of their norm.
    encoder_dtype: EncoderDtype | None = None
    # Interval between two plans; by default the num_action_steps of the policy [control steps].
    replan_every: int | None = None
    # What to do when a chunk ends before the next one comes: stay at its last action (hold), or go on by its last
    # increment (continue).
    on_empty: Literal["hold", "continue"] = "hold"
    # Actions over which the old chunk is blended linearly into the new one [control steps].
    blend_steps: int = 0
    # Tell the policy the actions that are executed while it plans; it must be trained with --prefix-training.
    prefix: bool = False
    # Draw a plan to what the plan before it still has to say: the largest weight of that, 5 in the paper of real-time
    # chunking; 0 turns it off. Wants --sampling-steps of 5 or so.
    guidance: float = 0.0
    # Servo commands per control step; a divisor of 5.
    action_interpolation: int = 1
    # What is kept of each episode.
    capture: Annotated[CaptureConfig, tyro.conf.arg(name="")] = field(default_factory=CaptureConfig)
    # Folder for latency.json, latency.png and an evaluation per delay; by default evals/<timestamp>_latency_<run>...
    out: Path | None = None
    # Continue the sweep in --out, also by other --delays: only episodes that are missing run.
    resume: bool = False
    # Draw latency.png, which needs the extra `plots`.
    plot: bool = True

    def execution(self, delay: int) -> ExecutionConfig:
        """Execution at a delay; without one there is nothing to give as a prefix."""
        return ExecutionConfig(
            inference="async",
            delay_steps=delay,
            replan_every=self.replan_every,
            on_empty=self.on_empty,
            blend_steps=self.blend_steps,
            prefix=self.prefix and delay > 0,
            guidance=self.guidance,
            action_interpolation=self.action_interpolation,
        )

    def evaluation(self, delay: int) -> EvalConfig:
        """The evaluation at a delay."""
        return EvalConfig(
            checkpoint=self.checkpoint,
            episodes=self.episodes,
            num_envs=self.num_envs,
            backend=self.backend,
            devices=self.devices,
            execution=self.execution(delay),
            seed=self.seed,
            plan_batch=self.plan_batch,
            sampling_steps=self.sampling_steps,
            precision=self.precision,
            encoder_dtype=self.encoder_dtype,
            capture=self.capture,
        )

    def __post_init__(self) -> None:
        require_counts(self, "episodes", "num_envs", "plan_batch", "sampling_steps")
        require_seed(self.seed)
        require(
            len(set(self.delays)) == len(self.delays), f"--delays {' '.join(map(str, self.delays))} names a delay twice"
        )
        require(not self.resume or self.out is not None, "--resume needs the --out folder of the sweep to continue")
        for delay in self.delays or (0,):
            require(delay >= 0, f"--delays {delay} must not be negative")
            self.execution(delay)
