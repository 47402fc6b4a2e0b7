"""The closed loop: observe, plan, execute a chunk, replace finished scenes, again.

Nothing that an episode experiences depends on which other episodes run beside it: scenes and noise come from keys of
(seed, episode), plans from fixed rows of fixed batches (`PolicyPlanner`), physics from a backend whose rows are
independent. Only `env_slot`, `start_step` and `end_step` of a record tell where and when it ran.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar

import jax
import numpy as np

from imf_jax.rollout.episode import EpisodeRecord, Status, scene_keys
from imf_jax.rollout.frames import FrameReader
from imf_jax.rollout.planner import Planner
from imf_jax.rollout.recorders.base import Recorder, ResetBatch, StepBatch
from imf_jax.rollout.scenes import (
    Scenes,
    advance_scenes,
    chunk_outcome,
    join_rows,
    run_last_states,
    run_steps,
    start_scenes,
    take_rows,
    with_images,
)
from imf_jax.rollout.schedule import EpisodeQueue
from imf_jax.sim.backends.base import Backend, SimState, StepOutput

T = TypeVar("T")


@dataclass(frozen=True)
class RolloutProgress:
    """How far a rollout is.

    Attributes:
        episodes: finished episodes.
        successes: those that succeeded.
        control_steps: control steps so far, running episodes included.
        loop_s: time [s] since the start of the loop, without the making of artifacts.
        share: share of the work in 0..1; a running episode counts by its steps.
    """

    episodes: int
    successes: int
    control_steps: int
    loop_s: float
    share: float


@dataclass
class RolloutResult:
    """What a rollout tells besides the records it handed out.

    Attributes:
        warmup_s: time [s] of the first plan and the first chunk, most of it compilation; not part of `wall_s`.
        wall_s: time [s] of the closed loop, without `capture_s`.
        capture_s: time [s] spent on making and writing artifacts when episodes end.
        control_steps: control steps of all finished episodes.
        frames_rendered: pictures made for plans, over all cameras, without those of the warm-up.
        interrupted: it was asked to stop before the last episode ended; running episodes left no record.
        capture_errors: one line for each artifact that could not be written.
    """

    warmup_s: float = 0.0
    wall_s: float = 0.0
    capture_s: float = 0.0
    control_steps: int = 0
    frames_rendered: int = 0
    interrupted: bool = False
    capture_errors: list[str] = field(default_factory=list)


class Rollout:
    """One rollout of a planner on a backend; `run` it once.

    Args:
        backend: the simulator.
        planner: what chooses actions.
        episodes: distinct episode indices, at least one; their order has no influence on any result.
        seed: seed of the scenes, as made by `split_seed`.
        max_steps: control steps after which an episode is a timeout.
        num_envs: scenes simulated at once, at most.
        on_record: receives each record when its episode ends.
        recorders: captures to feed; closed at the end.
        on_progress: called after every chunk.
        should_stop: asked before every plan; True ends the rollout early.
    """

    def __init__(
        self,
        backend: Backend,
        planner: Planner,
        episodes: Sequence[int],
        *,
        seed: int,
        max_steps: int,
        num_envs: int,
        on_record: Callable[[EpisodeRecord], None],
        recorders: Sequence[Recorder] = (),
        on_progress: Callable[[RolloutProgress], None] | None = None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self._backend = backend
        self._planner = planner
        self._total = len(episodes)
        self._seed = seed
        self._max_steps = max_steps
        self._on_record = on_record
        self._recorders = recorders
        self._needs_states = any(recorder.needs_states for recorder in recorders)
        self._frames = FrameReader(backend, planner.cameras, planner.obs_horizon) if planner.cameras else None
        chunk = planner.num_action_steps
        self._frames_per_chunk = min(planner.obs_horizon, chunk) if planner.cameras else 0
        self._states_per_chunk = chunk if self._needs_states else max(1, self._frames_per_chunk)
        self._on_progress = on_progress
        self._should_stop = should_stop
        self._queue = EpisodeQueue(episodes, planner.rows)
        keys = np.asarray(jax.random.key_data(scene_keys(seed, episodes)))
        self._keys = dict(zip(episodes, keys, strict=True))
        self._slot_clock = np.zeros(min(num_envs, self._total), np.int64)
        self._finished = self._successes = 0
        self._result = RolloutResult()
        self._started = 0.0

    def run(self) -> RolloutResult:
        """Run all episodes to their end, or until asked to stop."""
        try:
            self._warm_up()
            self._started = time.perf_counter()
            self._loop()
            self._result.wall_s = self._loop_seconds()
        finally:
            for recorder in self._recorders:
                recorder.close()
        self._result.interrupted = self._finished < self._total
        self._result.frames_rendered = self._frames.rendered if self._frames else 0
        return self._result

    def _loop(self) -> None:
        scenes: Scenes | None = None
        while not self._should_stop():
            scenes = self._admit(scenes)
            if scenes is None:
                return
            actions = self._plan(scenes)
            scenes, actions = self._drop_unplannable(scenes, actions)
            if len(scenes.episode):
                scenes = self._advance(scenes, actions)
            if self._on_progress:
                self._on_progress(self._progress(int(scenes.steps.sum())))

    def _progress(self, running: int) -> RolloutProgress:
        """How far the rollout is, when episodes that go on have made `running` steps."""
        steps = self._result.control_steps + running
        share = (self._finished + running / self._max_steps) / self._total
        return RolloutProgress(self._finished, self._successes, steps, self._loop_seconds(), share)

    def _loop_seconds(self) -> float:
        return time.perf_counter() - self._started - self._result.capture_s

    def _reset(self, episodes: Sequence[int]) -> tuple[SimState, StepOutput]:
        sim, output = self._backend.reset(np.stack([self._keys[episode] for episode in episodes]))
        return sim, jax.tree.map(np.asarray, output)

    def _plan(self, scenes: Scenes) -> np.ndarray:
        return self._planner.plan(scenes.observations, scenes.output, self._seed, scenes.episode, scenes.replans)

    def _warm_up(self) -> None:
        """Compile: plan and execute one chunk of the first scenes, for nothing. All of it is free of side effects."""
        started = time.perf_counter()
        episodes = list(self._keys)[: len(self._slot_clock)]
        sim, output = self._reset(episodes)
        indices = np.array(episodes)
        scenes = start_scenes(indices, indices, indices, sim, output, self._planner.obs_horizon)
        if self._frames:  # pictures of one scene do for all
            images = self._frames.first(take_rows(sim, [0]))
            scenes = with_images(scenes, np.repeat(images, len(episodes), axis=0))
            self._frames.rendered = 0
        actions = self._plan(scenes)
        if np.isfinite(actions).all():
            self._simulate(sim, actions)
        for recorder in self._recorders:
            self._capture(recorder, "setup", partial(recorder.setup, take_rows(sim, [0])))
        self._result.warmup_s = time.perf_counter() - started

    def _admit(self, scenes: Scenes | None) -> Scenes | None:
        """Start pending episodes in the free slots; None if nothing runs and nothing is left."""
        busy = scenes.slot if scenes is not None else np.zeros(0, np.int64)
        free = np.setdiff1d(np.arange(len(self._slot_clock)), busy)
        active = scenes.episode if scenes is not None else np.zeros(0, np.int64)
        episodes = self._queue.take(len(free), active)
        if not episodes:
            return scenes if len(active) else None
        slots = free[: len(episodes)]
        sim, output = self._reset(episodes)
        started = start_scenes(
            np.array(episodes), slots, self._slot_clock[slots], sim, output, self._planner.obs_horizon
        )
        if self._frames:
            started = with_images(started, self._frames.first(sim))
        for recorder in self._recorders:
            recorder.on_reset(ResetBatch(started.episode, output))
        return started if scenes is None or not len(active) else join_rows(scenes, started)

    def _drop_unplannable(self, scenes: Scenes, actions: np.ndarray) -> tuple[Scenes, np.ndarray]:
        """End the scenes that have no finite plan, so that no other is harmed."""
        usable = np.isfinite(actions).all(axis=(1, 2)) & scenes.output.finite
        if usable.all():
            return scenes, actions
        for row in np.flatnonzero(~usable).tolist():
            what = f"plan {scenes.replans[row]}" if scenes.output.finite[row] else "the scene after its reset"
            self._end(scenes, row, "error", f"{what} is not finite", partial(take_rows, scenes.sim, [row]))
        return take_rows(scenes, usable), actions[usable]

    def _simulate(self, sim: SimState, actions: np.ndarray) -> tuple[list[SimState], StepOutput]:
        """Execute a chunk: the states that are needed of it, the last one at the end, and outputs (A, K, ...)."""
        return run_last_states(self._backend, sim, actions, self._states_per_chunk)

    def _advance(self, before: Scenes, actions: np.ndarray) -> Scenes:
        """Execute a chunk, end the episodes that are over and return the scenes that go on."""
        states, output = self._simulate(before.sim, actions)
        outcome = chunk_outcome(output, before.steps, self._max_steps)
        scenes = advance_scenes(before, states[-1], output, outcome.steps)
        for recorder in self._recorders:
            recorder.on_steps(
                StepBatch(scenes.episode, actions, output, outcome.steps, states if self._needs_states else [])
            )
        for row in np.flatnonzero(outcome.ended).tolist():
            status: Status = "timeout"
            error = None
            if outcome.diverged[row]:
                status, error = "error", f"the physics is not finite after step {scenes.steps[row]}"
            elif outcome.success[row]:
                status = "success"
            elif outcome.failure[row]:
                status = "failure"

            def last_state(row: int = row) -> SimState:
                """The state at the end of the episode lies within the chunk: step there again."""
                count = outcome.steps[row]
                start = take_rows(before.sim, [row])
                return run_steps(self._backend, start, actions[[row], :count])[0][-1] if count else start

            self._end(scenes, row, status, error, last_state)
        if outcome.ended.any():
            scenes, states = take_rows((scenes, states), ~outcome.ended)
        if self._frames and len(scenes.episode):
            newest = states[-self._frames_per_chunk :]
            scenes = with_images(scenes, self._frames.next(scenes.observations["images"], newest))
        return scenes

    def _end(
        self, scenes: Scenes, row: int, status: Status, error: str | None, last_state: Callable[[], SimState]
    ) -> None:
        """Write the record of an episode that is over, and give its slot free."""
        steps, start = int(scenes.steps[row]), int(scenes.start_step[row])
        record = EpisodeRecord(
            episode=int(scenes.episode[row]),
            seed=self._seed,
            env_slot=int(scenes.slot[row]),
            status=status,
            steps=steps,
            start_step=start,
            end_step=start + steps - 1,
            return_=float(scenes.total_reward[row]),
            max_reward=float(scenes.max_reward[row]) if steps else 0.0,
            success_step=steps - 1 if status == "success" else None,
            replans=int(scenes.replans[row]),
            max_ik_error=float(scenes.max_ik_error[row]),
            error=error,
        )
        self._slot_clock[record.env_slot] += steps
        self._finished += 1
        self._successes += status == "success"
        self._result.control_steps += steps
        self._on_record(replace(record, artifacts=self._artifacts(record, last_state)))

    def _artifacts(self, record: EpisodeRecord, last_state: Callable[[], SimState]) -> dict[str, str]:
        """What the recorders leave of an episode."""
        started = time.perf_counter()
        artifacts: dict[str, str] = {}
        for recorder in self._recorders:
            what = f"episode {record.episode}"
            artifacts |= self._capture(recorder, what, partial(recorder.finish, record, last_state)) or {}
        self._result.capture_s += time.perf_counter() - started
        return artifacts

    def _capture(self, recorder: Recorder, what: str, work: Callable[[], T]) -> T | None:
        """Let a recorder work; a capture that fails costs the artifact, never the episode."""
        try:
            return work()
        except Exception as error:  # whatever a renderer, an encoder or a disk can raise
            self._result.capture_errors.append(f"{what}, {recorder.name}: {error}")
            return None
