"""Closed loop on the host: observe, plan, execute a chunk, replace finished scenes, again.

Nothing that an episode experiences depends on which other episodes run beside it: scenes and noise come from keys of
(seed, episode), plans from fixed rows of fixed batches (`PolicyPlanner`), physics from a backend whose rows are
independent. Only `env_slot`, `start_step` and `end_step` of a record tell where and when it ran.

Backends that live on an accelerator have a loop of their own: `imf_jax.rollout.compiled`.
"""

from collections.abc import Callable, Sequence

import jax
import numpy as np

from imf_jax import seeds
from imf_jax.rollout.capture import QUEUE_BYTES
from imf_jax.rollout.episode import EpisodeRecord, Status
from imf_jax.rollout.episode_log import EpisodeLog, RolloutProgress, RolloutResult
from imf_jax.rollout.frames import FrameReader
from imf_jax.rollout.outcome import chunk_outcome, episode_status, unplannable_error
from imf_jax.rollout.planner import ProgramPlanner
from imf_jax.rollout.recorders.base import Recorder, ResetBatch, StepBatch
from imf_jax.rollout.scenes import (
    Scenes,
    advance_scenes,
    join_rows,
    run_chunk,
    start_scenes,
    take_rows,
    with_images,
)
from imf_jax.rollout.schedule import EpisodeQueue
from imf_jax.rollout.timing import NO_CLOCK, StageClock
from imf_jax.seeds import scene_keys
from imf_jax.sim.backends.base import Backend, SimState, StepOutput


class Rollout:
    """One rollout of a planner on a backend; `run` it once.

    Args:
        backend: the simulator.
        planner: chooses the actions.
        episodes: distinct episode indices, at least one; their order has no influence on any result.
        seed: seed of the scenes, as made by `split_seed`.
        max_steps: control steps after which an episode is a timeout.
        num_envs: scenes simulated at once, at most.
        on_record: receives each record when its episode ends, from one thread at a time.
        recorders: captures to feed, from a thread of their own; closed at the end.
        on_progress: called after every chunk.
        should_stop: asked before every plan; True ends the rollout early.
        queue_bytes: largest size of the recorders' queue [bytes].
        clock: measures the stages of the loop.
    """

    def __init__(
        self,
        backend: Backend,
        planner: ProgramPlanner,
        episodes: Sequence[int],
        *,
        seed: int,
        max_steps: int,
        num_envs: int,
        on_record: Callable[[EpisodeRecord], None],
        recorders: Sequence[Recorder] = (),
        on_progress: Callable[[RolloutProgress], None] | None = None,
        should_stop: Callable[[], bool] = lambda: False,
        queue_bytes: int = QUEUE_BYTES,
        clock: StageClock | None = None,
    ) -> None:
        self._backend = backend
        self._planner = planner
        self._seed = seed
        self._max_steps = max_steps
        self._frames = FrameReader(backend, planner.cameras, planner.obs_horizon) if planner.cameras else None
        self._on_progress = on_progress
        self._should_stop = should_stop
        self._recorded = bool(recorders)
        self._clock, self._stages = clock, clock or NO_CLOCK
        planner.clock = self._stages
        self._queue = EpisodeQueue(episodes, planner.rows)
        keys = np.asarray(seeds.key_data(scene_keys(seed, episodes)))
        self._keys = dict(zip(episodes, keys, strict=True))
        self._slots = np.arange(min(num_envs, len(episodes)))
        self._log = EpisodeLog(
            len(episodes),
            seed=seed,
            max_steps=max_steps,
            num_envs=len(self._slots),
            on_record=on_record,
            recorders=recorders,
            queue_bytes=queue_bytes,
        )

    def run(self) -> RolloutResult:
        """Run all episodes to their end, or until asked to stop."""
        try:
            with self._stages.measure_compilation():
                self._warm_up()
                self._log.start()
                if self._clock:
                    self._clock.start(self._log.captures.waited_s)
                self._loop()
        except BaseException:
            self._log.abandon()
            raise
        self._log.close(self._on_progress)
        result = self._log.result
        result.frames_rendered = self._frames.rendered if self._frames else 0
        return result

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
                self._on_progress(self._log.progress(int(scenes.steps.sum())))

    def _reset(self, episodes: Sequence[int]) -> tuple[SimState, StepOutput]:
        sim, output = self._backend.reset(np.stack([self._keys[episode] for episode in episodes]))
        return sim, jax.tree.map(np.asarray, output)

    def _plan(self, scenes: Scenes) -> np.ndarray:
        with self._stages.stage("inference_ms"):
            return self._planner.plan(scenes.observations, scenes.output, self._seed, scenes.episode, scenes.replans)

    def _warm_up(self) -> None:
        """Compile: plan and execute one chunk of the first scenes and drop the result. It has no side effects."""
        episodes = list(self._keys)[: len(self._slots)]
        sim, output = self._reset(episodes)
        indices = np.array(episodes)
        scenes = start_scenes(indices, indices, sim, output, self._planner.obs_horizon)
        if self._frames:  # pictures of one scene do for all
            images = self._frames.first(output.qpos[:1])
            scenes = with_images(scenes, np.repeat(images, len(episodes), axis=0))
            self._frames.rendered = 0
        actions = self._plan(scenes)
        if np.isfinite(actions).all():
            run_chunk(self._backend, sim, actions)
        self._log.captures.setup(np.asarray(output.qpos[0]))

    def _admit(self, scenes: Scenes | None) -> Scenes | None:
        """Start pending episodes in the free slots; None if nothing runs and nothing is left."""
        busy = scenes.slot if scenes is not None else np.zeros(0, np.int64)
        free = np.setdiff1d(self._slots, busy)
        active = scenes.episode if scenes is not None else np.zeros(0, np.int64)
        episodes = self._queue.take(len(free), active)
        if not episodes:
            return scenes if len(active) else None
        sim, output = self._reset(episodes)
        started = start_scenes(np.array(episodes), free[: len(episodes)], sim, output, self._planner.obs_horizon)
        if self._frames:
            with self._stages.stage("obs_read_ms"):
                started = with_images(started, self._frames.first(output.qpos))
        self._log.captures.reset(ResetBatch(started.episode, output))
        return started if scenes is None or not len(active) else join_rows(scenes, started)

    def _drop_unplannable(self, scenes: Scenes, actions: np.ndarray) -> tuple[Scenes, np.ndarray]:
        """End the scenes without a finite plan, so that no other scene is affected."""
        usable = np.isfinite(actions).all(axis=(1, 2)) & scenes.output.finite
        if usable.all():
            return scenes, actions
        for row in np.flatnonzero(~usable).tolist():
            replan, finite = int(scenes.replans[row]), bool(scenes.output.finite[row])
            reason = self._planner.plan_error(int(scenes.episode[row]), replan)
            self._end(scenes, row, "error", unplannable_error(replan, finite, reason))
        return take_rows(scenes, usable), actions[usable]

    def _advance(self, before: Scenes, actions: np.ndarray) -> Scenes:
        """Execute a chunk, end the episodes that have ended and return the scenes that go on."""
        with self._stages.stage("env_step_ms"):
            sim, output = run_chunk(self._backend, before.sim, actions)
        outcome = chunk_outcome(output, before.steps, self._max_steps)
        self._log.simulated(actions.shape[0] * actions.shape[1], live=int(outcome.steps.sum()))
        with self._stages.stage("obs_read_ms"):
            scenes = advance_scenes(before, sim, output, outcome.steps)
            going = self._going_on(scenes, output, outcome.ended)
        timing = {}
        if self._clock:
            call = self._clock.end_call(int(outcome.steps.sum()), self._log.captures.waited_s)
            timing = {name: np.full(len(scenes.episode), value) for name, value in call.items()}
        if self._recorded:
            self._log.captures.steps(
                StepBatch(scenes.episode, actions, output, outcome.steps, timing, self._planner.notes(scenes.episode))
            )
        for row in np.flatnonzero(outcome.ended).tolist():
            status, error = episode_status(
                diverged=bool(outcome.diverged[row]),
                success=bool(outcome.success[row]),
                failure=bool(outcome.failure[row]),
                steps=int(scenes.steps[row]),
            )
            self._end(scenes, row, status, error)
        return going

    def _going_on(self, scenes: Scenes, output: StepOutput, ended: np.ndarray) -> Scenes:
        """Scenes whose episode has not ended, with the pictures of the next plan. `output`: leaves (A, K, ...)."""
        qpos = output.qpos
        if ended.any():
            scenes, qpos = take_rows((scenes, qpos), ~ended)
        if self._frames and len(scenes.episode):
            scenes = with_images(scenes, self._frames.next(scenes.observations["images"], qpos))
        return scenes

    def _end(self, scenes: Scenes, row: int, status: Status, error: str | None) -> None:
        """Write the record of an episode that has ended, and free its slot."""
        self._log.end(
            episode=int(scenes.episode[row]),
            slot=int(scenes.slot[row]),
            status=status,
            error=error,
            steps=int(scenes.steps[row]),
            total_reward=float(scenes.total_reward[row]),
            max_reward=float(scenes.max_reward[row]),
            max_stage=int(scenes.max_stage[row]),
            replans=int(scenes.replans[row]),
            max_ik_error=float(scenes.max_ik_error[row]),
            overflow_steps=int(scenes.overflow_steps[row]),
        )
