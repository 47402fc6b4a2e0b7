"""Promised figures for one GPU; without a CUDA device they are "not measured"."""

import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import numpy as np

from imf_jax.benchmark.components import SEED
from imf_jax.benchmark.rollouts import MeasuredPolicy, ScalingFigures
from imf_jax.config import RendererName
from imf_jax.evaluation.setup import make_rollout
from imf_jax.rollout.episode import EpisodeRecord
from imf_jax.rollout.planner import Observations
from imf_jax.sim.backends.choice import make_backend
from imf_jax.sim.tasks import get_task

NOT_MEASURED = "not measured"

EVALUATED_EPISODES = 1000
"""Episodes, as long as the task allows, of the evaluation whose time is measured."""

PROMISED = {"state, 128/4": False, "three cameras, LEWM grid, 384/12": True}
"""Policies that figures were promised for, and whether they see."""

PLANS = 100
"""Calls whose median is the time of a plan."""

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


def on_cuda() -> bool:
    """Whether JAX's default device is a CUDA GPU."""
    return jax.local_devices()[0].platform in ("gpu", "cuda")


def measure_device(
    policies: Sequence[MeasuredPolicy],
    scaling: Sequence[ScalingFigures],
    backend_name: str,
    *,
    max_seconds: float,
    renderer: RendererName = "warp",
) -> list[DeviceFigure]:
    """The promised figures, measured where a CUDA GPU is.

    Args:
        policies: the policies.
        scaling: what `measure_scaling` found for them.
        backend_name: the simulator.
        max_seconds: an evaluation is not begun if it would take longer than this [s].
        renderer: what makes the pictures.
    """
    if not on_cuda():
        return [
            DeviceFigure(what, NOT_MEASURED, unit, target, "no CUDA GPU here")
            for label, cameras in PROMISED.items()
            for what, unit, target in promises(label, cameras=cameras)
        ]
    figures = []
    for measured_policy in policies:
        measured = [best_rate(scaling, measured_policy), plan_time(measured_policy)]
        if measured_policy.cameras:
            measured.append(
                evaluation_time(scaling, measured_policy, backend_name, max_seconds=max_seconds, renderer=renderer)
            )
        rows = promises(measured_policy.label, cameras=bool(measured_policy.cameras))
        figures += [
            DeviceFigure(what, figure, unit, target, note)
            for (what, unit, target), (figure, note) in zip(rows, measured, strict=True)
        ]
    return figures


def promises(label: str, *, cameras: bool) -> list[tuple[str, str, str]]:
    """Promised figures of a policy: name, unit and target."""
    rows = [
        (f"closed loop; {label}", "control steps/s", ">= 20,000" if cameras else ">= 200,000"),
        (f"one plan, batch 1; {label}", "ms", "<= 1.5"),
    ]
    if cameras:
        rows.append((f"{EVALUATED_EPISODES:,} episodes; {label}", "s", "<= 60"))
    return rows


def best_rate(scaling: Sequence[ScalingFigures], measured_policy: MeasuredPolicy) -> Measured:
    """Most control steps per second of a policy over all batch sizes, and the batch."""
    rows = [row for row in scaling if row.policy == measured_policy.label and row.steps_per_s]
    if not rows:
        return NOT_MEASURED, "no batch size was measured"
    best = max(rows, key=lambda row: row.steps_per_s or 0.0)
    return best.steps_per_s or NOT_MEASURED, f"batch {best.batch}"


def plan_time(measured_policy: MeasuredPolicy) -> Measured:
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
    for call in range(PLANS + 1):
        start = time.perf_counter()
        planner.plan(observations, None, SEED, np.zeros(1, np.int64), np.full(1, call))  # type: ignore[arg-type]
        seconds.append(time.perf_counter() - start)
    return 1e3 * statistics.median(seconds[1:]), f"host to host, median of {PLANS}"


def evaluation_time(
    scaling: Sequence[ScalingFigures],
    measured_policy: MeasuredPolicy,
    backend_name: str,
    *,
    max_seconds: float,
    renderer: RendererName,
) -> Measured:
    """Time [s] of an evaluation from pixels after compilation, at the best batch size."""
    best, found = best_rate(scaling, measured_policy)
    if isinstance(best, str):
        return NOT_MEASURED, found
    steps = get_task(measured_policy.task).max_steps
    expected = EVALUATED_EPISODES * steps / best
    if expected > max_seconds:
        return NOT_MEASURED, f"about {expected:.0f} s were needed; raise --max-seconds"
    batch = max(row.batch for row in scaling if row.policy == measured_policy.label and row.steps_per_s == best)
    batches = math.ceil(EVALUATED_EPISODES / batch)
    num_envs = math.ceil(EVALUATED_EPISODES / batches)
    planner = measured_policy.plan_with(min(num_envs, batch))
    backend = make_backend(backend_name, measured_policy.task, image_size=planner.image_size, renderer=renderer)
    records: list[EpisodeRecord] = []
    result = make_rollout(
        backend,
        planner,
        range(EVALUATED_EPISODES),
        devices=jax.local_devices()[:1],
        seed=SEED,
        max_steps=steps,
        num_envs=num_envs,
        on_record=records.append,
    ).run()
    early = sum(record.steps < steps for record in records)
    note = f"{steps} steps each, {num_envs} at once; start {result.warmup_s:.0f} s apart; {early} ended early"
    return result.wall_s, note
