"""Speed of the closed loop: its share of the sum of its parts, and its ratio to one scene at a time.

The sides share process, scenes, policy and actions, and take turns batch by batch: noise from elsewhere on the machine
hits all of them alike. A batch of episodes starts together; all have the same fixed length.
"""

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax

from imf_jax.benchmark.components import (
    SEED,
    bare_physics,
    bare_planning,
    bare_rendering,
    record_work,
    require_full_length,
)
from imf_jax.benchmark.sequential import SequentialSystem
from imf_jax.config import PictureStyle, require
from imf_jax.evaluation.setup import make_rollout
from imf_jax.models.policy import Policy
from imf_jax.rollout.capacity import require_fit
from imf_jax.rollout.episode import EpisodeRecord
from imf_jax.rollout.episode_log import RolloutProgress, RolloutResult
from imf_jax.rollout.planner import PolicyPlanner
from imf_jax.sim.backends.choice import COMPILED, make_backend

WARP = PictureStyle()

PLAN_ROWS = 64
"""Scenes planned in one call on the native backend, or fewer if there are fewer; compiled loops plan all at once."""


@dataclass(frozen=True)
class MeasuredPolicy:
    """A policy to roll out.

    Attributes:
        label: how tables call it.
        policy: the policy.
        planner: what plans with it in every loop.
        task: name of the task.
    """

    label: str
    policy: Policy
    planner: Callable[[Policy, int], PolicyPlanner]
    task: str

    @property
    def cameras(self) -> int:
        """Cameras that the policy sees through."""
        return len(self.policy.config.encoder.cameras)

    def plan_with(self, rows: int) -> PolicyPlanner:
        """A planner of `rows` rows."""
        return self.planner(self.policy, rows)

    def backend(self, name: str, style: PictureStyle) -> Any:
        """A backend for its task, with pictures of the size that it reads."""
        size = self.policy.config.encoder.image_size
        return make_backend(name, self.task, image_size=size, renderer=style.renderer, visual=style.visual)


@dataclass(frozen=True)
class LoopFigures:
    """The closed loop at one batch size; times per control step of one scene [us], medians over the rounds.

    Attributes:
        policy: label of the policy.
        backend: the simulator.
        batch: scenes at once.
        steps: control steps of an episode.
        physics_us, rendering_us, planning_us: the parts on their own; no rendering without cameras.
        bound_us: their sum.
        loop_us: the closed loop.
        share: median over the rounds of sum / loop.
        steps_per_s: control steps of the closed loop [1/s].
        one_by_one_per_s: control steps of the baseline [1/s].
        ratio: median over the rounds of closed loop / baseline, in control steps per second.
        warmup_s: start of the closed loop, most of it compilation [s].
    """

    policy: str
    backend: str
    batch: int
    steps: int
    physics_us: float
    rendering_us: float | None
    planning_us: float
    bound_us: float
    loop_us: float
    share: float
    steps_per_s: float
    one_by_one_per_s: float
    ratio: float
    warmup_s: float


class BatchClock:
    """Times the batches of a rollout by its progress, and gives something else a turn after each.

    Args:
        batch: episodes of a batch; all of them end together.
        between: what has its turn; its time is not counted.

    Attributes:
        seconds: time of each batch [s], the reset of its scenes included.
    """

    def __init__(self, batch: int, between: Callable[[], None]) -> None:
        self.seconds: list[float] = []
        self._batch, self._between = batch, between
        self._since = 0.0

    def __call__(self, progress: RolloutProgress) -> None:
        """Receive the progress of the rollout."""
        if progress.episodes < self._batch * (len(self.seconds) + 1):
            return
        start = time.perf_counter()
        self.seconds.append(progress.loop_s - self._since)
        self._between()
        self._since = progress.loop_s + time.perf_counter() - start


def run_batches(
    backend: Any,
    planner: PolicyPlanner,
    *,
    batch: int,
    steps: int,
    batches: int,
    between: Callable[[], None] = lambda: None,
    max_seconds: float = math.inf,
) -> tuple[list[float], RolloutResult]:
    """Run the closed loop over `batches` batches of episodes; returns the time of each [s] and the result.

    No further batch is begun once they have taken `max_seconds` together.

    Raises:
        ArgumentError: an episode ended early.
    """
    records: list[EpisodeRecord] = []

    def keep(record: EpisodeRecord) -> None:
        records.append(record)
        require_full_length(records[-1:], steps)

    clock = BatchClock(batch, between)
    result = make_rollout(
        backend,
        planner,
        range(batch * batches),
        devices=jax.local_devices()[:1],
        seed=SEED,
        max_steps=steps,
        num_envs=batch,
        on_record=keep,
        on_progress=clock,
        should_stop=lambda: sum(clock.seconds) > max_seconds,
    ).run()
    return clock.seconds, result


def measure_loop(
    measured_policy: MeasuredPolicy,
    backend_name: str,
    *,
    batch: int,
    steps: int,
    repeats: int,
    style: PictureStyle = WARP,
) -> LoopFigures:
    """Time the parts, the closed loop and the baseline in turns.

    Args:
        measured_policy: the policy.
        backend_name: a name made by `imf_jax.sim.backends.choice.resolve_backend`.
        batch: scenes at once.
        steps: control steps of an episode, a multiple of the actions per plan.
        repeats: rounds.
        style: how pictures are drawn.

    Raises:
        ArgumentError: `steps` does not suit, an episode ended early, or the batch does not fit in memory.
    """
    planner = measured_policy.plan_with(min(batch, PLAN_ROWS))
    require_whole_plans(steps, planner, backend_name)
    backend = measured_policy.backend(backend_name, style)
    require_fit(backend, planner, batch, jax.local_devices()[:1] if backend.compiled else ())
    work = record_work(backend, planner, batch=batch, steps=steps)
    parts = {"physics": bare_physics(backend, work), "planning": bare_planning(backend, planner, work)}
    if planner.cameras:
        parts["rendering"] = bare_rendering(backend, planner, work)
    baseline = SequentialSystem(measured_policy.task, measured_policy.plan_with(1), style=style)
    for part in parts.values():
        part()
    baseline.run(0, planner.num_action_steps)
    seconds: dict[str, list[float]] = {name: [] for name in (*parts, "baseline")}

    def others() -> None:
        for name, part in parts.items():
            start = time.perf_counter()
            part()
            seconds[name].append(time.perf_counter() - start)
        seconds["baseline"].append(baseline.run(0, steps)[0])

    loop, result = run_batches(backend, planner, batch=batch, steps=steps, batches=repeats, between=others)
    bound = [sum(times) for times in zip(*(seconds[name] for name in parts), strict=True)]
    total = batch * steps

    def per_step(times: list[float]) -> float:
        return 1e6 * statistics.median(times) / total

    return LoopFigures(
        policy=measured_policy.label,
        backend=backend_name,
        batch=batch,
        steps=steps,
        physics_us=per_step(seconds["physics"]),
        rendering_us=per_step(seconds["rendering"]) if "rendering" in parts else None,
        planning_us=per_step(seconds["planning"]),
        bound_us=per_step(bound),
        loop_us=per_step(loop),
        share=statistics.median(a / b for a, b in zip(bound, loop, strict=True)),
        steps_per_s=total / statistics.median(loop),
        one_by_one_per_s=steps / statistics.median(seconds["baseline"]),
        ratio=statistics.median(batch * b / a for a, b in zip(loop, seconds["baseline"], strict=True)),
        warmup_s=result.warmup_s,
    )


def require_whole_plans(steps: int, planner: PolicyPlanner, backend_name: str) -> None:
    """Refuse episodes that end within a plan, or within a call of a compiled loop: all sides must do the same.

    Raises:
        ArgumentError: names a length that works.
    """
    length, unit = planner.num_action_steps, "actions of a plan"
    if backend_name in COMPILED:
        from imf_jax.rollout.compiled import CALL_STEPS

        call = max(1, round(CALL_STEPS / length)) * length
        if steps > call:
            length, unit = call, f"control steps that --backend {backend_name} makes per call"
    require(
        steps >= 1 and steps % length == 0,
        f"--steps {steps} must be a multiple of the {length} {unit}, "
        f"for example {max(1, round(steps / length)) * length}",
    )
