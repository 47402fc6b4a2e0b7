"""Promised figures for one GPU; without a CUDA device they are "not measured"."""

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Protocol

import jax
import numpy as np

from imf_jax.benchmark import features
from imf_jax.benchmark.components import SEED
from imf_jax.benchmark.frames import measure_frames
from imf_jax.benchmark.rollouts import WARP, MeasuredPolicy
from imf_jax.benchmark.scaling import ScalingFigures
from imf_jax.config import PictureStyle
from imf_jax.evaluation.setup import make_rollout
from imf_jax.rollout.episode import EpisodeRecord
from imf_jax.rollout.planner import Observations
from imf_jax.sim.tasks import get_task

NOT_MEASURED = "not measured"

TRAINING = "50,000 training steps"

FIGURES = ("closed loop", "one plan, batch 1", TRAINING, "1,000 episodes", "episodes per second")
"""Kinds of figures of a policy; from the third on, of policies that see."""

PROMISED = {
    "state, 128/4": FIGURES[:2],
    "three cameras 128x128, LEWM grid, 384/12": FIGURES,
    "three cameras 128x128, LEWM grid in bfloat16, 384/12": tuple(kind for kind in FIGURES if kind != TRAINING),
}
"""Policies that figures were promised for, and their kinds. Training reads cached embeddings, whoever made them."""

Measured = tuple[float | str, str]
"""A figure, or "not measured", and a note on it."""


@dataclass(frozen=True)
class DeviceFigure:
    """One promised figure.

    Attributes:
        what: what was measured.
        figure: the figure, or "not measured".
        unit: its unit.
        target: what was promised.
        note: conditions of the measurement, or why there was none.
    """

    what: str
    figure: float | str
    unit: str
    target: str
    note: str


class DeviceSizes(NamedTuple):
    """Sizes of the measurements; the default ones are those of the promised figures.

    Attributes:
        episodes: episodes of the evaluation from pixels.
        episode_steps: their control steps; as many as the task allows by default.
        plans: calls whose median is the time of a plan.
        training_steps: training steps that are timed.
        frames_batch, frames_size, frames_steps: scenes, height and width of frames [pixels] and control steps per call
            of the measurement without a policy.
    """

    episodes: int = 1000
    episode_steps: int | None = None
    plans: int = 100
    training_steps: int = 200
    frames_batch: int = 4096
    frames_size: int = 64
    frames_steps: int = 20


PROMISED_SIZES = DeviceSizes()


class Attempt(Protocol):
    """Announces and runs a measurement; None if it failed, which is then reported."""

    def __call__(self, what: str, measure: Callable[[], Measured]) -> Measured | None:
        """Run `measure`, announced as `what`."""


def measure_device(
    policies: Sequence[MeasuredPolicy],
    scaling: Sequence[ScalingFigures],
    backend_name: str,
    *,
    sizes: DeviceSizes | None,
    max_seconds: float,
    attempt: Attempt,
    on_figure: Callable[[DeviceFigure], None],
    style: PictureStyle = WARP,
    frames: bool = True,
) -> None:
    """Measure the promised figures, quick ones first.

    Args:
        policies: the policies.
        scaling: what `measure_scaling` found for them.
        backend_name: the simulator.
        sizes: sizes of the measurements; None where there is no GPU, then nothing is measured.
        max_seconds: an evaluation is not begun if it would take longer than this [s].
        attempt: runs each measurement.
        on_figure: receives each figure when it is there; without a GPU those that are not measured.
        style: how pictures are drawn.
        frames: also measure frames without a policy.
    """
    if sizes is None:
        blank: Measured = NOT_MEASURED, "no CUDA GPU here"
        on_figure(_frames_figure(PROMISED_SIZES, blank))
        for label, kinds in PROMISED.items():
            for kind in kinds:
                on_figure(_figure(kind, label, len(kinds) > 2, blank))
        return

    def measure(what: str, call: Callable[[], Measured]) -> Measured:
        return attempt(what, call) or (NOT_MEASURED, "failed, see there")

    for policy in policies:
        on_figure(_figure("closed loop", policy.label, bool(policy.cameras), best_rate(scaling, policy)))
    if frames:
        found = measure("frames without a policy", partial(frame_rate, policies[0].task, backend_name, sizes))
        on_figure(_frames_figure(sizes, found))
    for policy in policies:
        found = measure(f"{policy.label}: one plan", partial(plan_time, policy, sizes.plans))
        on_figure(_figure("one plan, batch 1", policy.label, bool(policy.cameras), found))
    seeing = [
        policy
        for policy in policies
        if policy.policy.frozen_encoder is not None and TRAINING in PROMISED.get(policy.label, FIGURES)
    ]
    for policy in seeing if policies[0].task == features.TASK.name else ():
        found = measure(f"{policy.label}: training on cached features", partial(training_time, policy, sizes))
        on_figure(_figure(TRAINING, policy.label, True, found))
    for policy in policies:
        if not policy.cameras:
            continue
        call = partial(
            evaluation_time, scaling, policy, backend_name, sizes=sizes, max_seconds=max_seconds, style=style
        )
        seconds, note = measure(f"{policy.label}: {sizes.episodes:,} episodes", call)
        rate = seconds if isinstance(seconds, str) else sizes.episodes / seconds
        on_figure(_figure("1,000 episodes", policy.label, True, (_per_thousand(rate), note)))
        on_figure(_figure("episodes per second", policy.label, True, (rate, note)))


def _per_thousand(rate: float | str) -> float | str:
    return rate if isinstance(rate, str) else 1000 / rate


def _figure(kind: str, label: str, cameras: bool, found: Measured) -> DeviceFigure:
    """One figure of a policy, with what was promised for it."""
    unit, with_cameras, without = {
        "closed loop": ("control steps/s", ">= 20,000", ">= 250,000"),
        "one plan, batch 1": ("ms", "<= 1.5", "<= 0.5"),
        TRAINING: ("s", "<= 600", ""),
        "1,000 episodes": ("s", "<= 60", ""),
        "episodes per second": ("1/s", "", ""),
    }[kind]
    target = (with_cameras if cameras else without) if label in PROMISED else ""
    return DeviceFigure(f"{kind}; {label}", found[0], unit, target, found[1])


def _frames_figure(sizes: DeviceSizes, found: Measured) -> DeviceFigure:
    size = sizes.frames_size
    what = f"one camera {size}x{size} without a policy, {sizes.frames_batch:,} scenes"
    return DeviceFigure(what, found[0], "frames/s", ">= 85,000" if sizes == PROMISED_SIZES else "", found[1])


def frame_rate(task: str, backend_name: str, sizes: DeviceSizes) -> Measured:
    """Frames per second of physics and one camera, and the time of the first call."""
    rate = measure_frames(
        backend_name,
        task,
        batch=sizes.frames_batch,
        cameras=(get_task(task).picture_camera,),
        image_size=sizes.frames_size,
        steps=sizes.frames_steps,
        repeats=3,
    )
    return rate.frames_per_s, f"a control step before each frame; first call {rate.first_call_s:.0f} s"


def best_rate(scaling: Sequence[ScalingFigures], measured_policy: MeasuredPolicy) -> Measured:
    """Most control steps per second of a policy over all batch sizes, and the batch."""
    rows = [row for row in scaling if row.policy == measured_policy.label and row.steps_per_s]
    if not rows:
        return NOT_MEASURED, "no batch size was measured"
    best = max(rows, key=lambda row: row.steps_per_s or 0.0)
    return best.steps_per_s or NOT_MEASURED, f"batch {best.batch}"


def plan_time(measured_policy: MeasuredPolicy, plans: int) -> Measured:
    """Median time of a plan for one scene, observations and actions in main memory [ms]."""
    planner = measured_policy.plan_with(1)
    horizon, random, task = planner.obs_horizon, np.random.default_rng(0), get_task(measured_policy.task)
    observations: Observations = {
        "state": random.normal(size=(1, horizon, task.robot.spaces.state_dim)).astype(np.float32),
        "env_state": random.normal(size=(1, horizon, task.env_state_dim)).astype(np.float32),
    }
    if planner.cameras:
        shape = 1, horizon, len(planner.cameras), planner.image_size, planner.image_size, 3
        observations["images"] = random.integers(0, 256, shape, np.uint8)
    seconds = []
    for call in range(plans + 1):
        start = time.perf_counter()
        planner.plan(observations, None, SEED, np.zeros(1, np.int64), np.full(1, call))  # type: ignore[arg-type]
        seconds.append(time.perf_counter() - start)
    return 1e3 * statistics.median(seconds[1:]), f"host to host, median of {plans}"


def training_time(measured_policy: MeasuredPolicy, sizes: DeviceSizes) -> Measured:
    """Time [s] of 50,000 training steps on cached features, from fewer of them."""
    seconds = features.training_seconds(measured_policy.policy, sizes.training_steps)
    return 50_000 * seconds / sizes.training_steps, f"from {sizes.training_steps} steps, after compilation"


def evaluation_time(
    scaling: Sequence[ScalingFigures],
    measured_policy: MeasuredPolicy,
    backend_name: str,
    *,
    sizes: DeviceSizes,
    max_seconds: float,
    style: PictureStyle,
) -> Measured:
    """Time [s] of an evaluation from pixels after compilation, at the best batch size."""
    best, found = best_rate(scaling, measured_policy)
    if isinstance(best, str):
        return NOT_MEASURED, found
    steps = sizes.episode_steps or get_task(measured_policy.task).max_steps
    expected = sizes.episodes * steps / best
    if expected > max_seconds:
        return NOT_MEASURED, f"about {expected:.0f} s were needed; raise --max-seconds"
    batch = max(row.batch for row in scaling if row.policy == measured_policy.label and row.steps_per_s == best)
    batches = math.ceil(sizes.episodes / batch)
    num_envs = math.ceil(sizes.episodes / batches)
    planner = measured_policy.plan_with(min(num_envs, batch))
    backend = measured_policy.backend(backend_name, style)
    records: list[EpisodeRecord] = []
    result = make_rollout(
        backend,
        planner,
        range(sizes.episodes),
        devices=jax.local_devices()[:1],
        seed=SEED,
        max_steps=steps,
        num_envs=num_envs,
        on_record=records.append,
    ).run()
    early = sum(record.steps < steps for record in records)
    note = f"{steps} steps each, {num_envs} at once; start {result.warmup_s:.0f} s apart; {early} ended early"
    return result.wall_s, note
