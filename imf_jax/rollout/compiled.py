"""Run the compiled closed loop over many episodes.

Episodes start together in batches of `num_envs`. One that has ended is frozen until the last of its batch has: shapes
never change, and nothing is compiled twice. Between two calls of the program the host only reads a few
counters per scene and, if something is captured, the outputs of the chunks.

Rounding may depend on the number of scenes per device; the same number gives the same records every time, however many
devices there are.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from imf_jax import seeds
from imf_jax.config import require
from imf_jax.rollout.capture import QUEUE_BYTES
from imf_jax.rollout.episode import EpisodeRecord, Status
from imf_jax.rollout.episode_log import EpisodeLog, RolloutProgress, RolloutResult
from imf_jax.rollout.loop_program import EpisodeBatch, EpisodeStats, LoopProgram, Trajectory
from imf_jax.rollout.outcome import episode_status, unplannable_error
from imf_jax.rollout.planner import ProgramPlanner
from imf_jax.rollout.recorders.base import Recorder, ResetBatch, StepBatch
from imf_jax.rollout.timing import NO_CLOCK, StageClock
from imf_jax.seeds import scene_keys
from imf_jax.sim.backends.mjx_base import DeviceBackend

CALL_STEPS = 40
"""Control steps per call of the program, about; the host learns of finished episodes that often."""


def replans_per_call(max_steps: int, chunk: int, call_steps: int) -> int:
    """Plans per call so that calls take about `call_steps` control steps and little runs past the end of an episode."""
    total = math.ceil(max_steps / chunk)
    wanted = min(total, max(1, round(call_steps / chunk)))
    near = range(max(1, wanted * 2 // 3), wanted * 3 // 2 + 1)
    return min(near, key=lambda replans: (math.ceil(total / replans) * replans, abs(replans - wanted)))


class CompiledRollout:
    """One rollout of a planner on a compiled backend; `run` it once. Arguments as of `imf_jax.rollout.engine.Rollout`.

    Args:
        devices: the devices of this process that share the scenes, those of the backend; its first one by default.
        call_steps: control steps per call of the program, about.
        clock: measures the calls of the program; its stages cannot be separated.

    Raises:
        ArgumentError: the devices do not divide the scenes.
    """

    def __init__(
        self,
        backend: DeviceBackend,
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
        devices: Sequence[Any] | None = None,
        call_steps: int = CALL_STEPS,
        clock: StageClock | None = None,
    ) -> None:
        devices = devices or jax.local_devices()[:1]
        require(
            num_envs % len(devices) == 0,
            f"{num_envs} scenes cannot be shared by {len(devices)} devices; let --num-envs be a multiple of --devices",
        )
        self._program, self._weights = planner.program, planner.weights
        self._episodes, self._seed, self._num_envs = list(episodes), np.uint32(seed), num_envs
        chunk = self._program.num_action_steps
        replans = replans_per_call(max_steps, chunk, call_steps)
        self._calls = math.ceil(max_steps / (replans * chunk))
        self._frames_per_call = num_envs * len(self._program.cameras) * replans * min(chunk, self._program.obs_horizon)
        self._loop = LoopProgram(
            backend,
            self._program,
            max_steps=max_steps,
            replans=replans,
            traced=bool(recorders),
            devices=devices,
        )
        self._constants = self._loop.constants(num_envs)
        self._on_progress, self._should_stop = on_progress, should_stop
        self._clock = clock
        self._log = EpisodeLog(
            len(self._episodes),
            seed=seed,
            max_steps=max_steps,
            num_envs=num_envs,
            on_record=on_record,
            recorders=recorders,
            queue_bytes=queue_bytes,
        )

    def run(self) -> RolloutResult:
        """Run all episodes to their end, or until asked to stop."""
        log = self._log
        try:
            with (self._clock or NO_CLOCK).measure_compilation():
                self._warm_up()
                log.start()
                if self._clock:
                    self._clock.start(log.captures.waited_s)
                for episodes in self._batches():
                    if not self._run_batch(episodes):
                        break
        except BaseException:
            log.abandon()
            raise
        log.close(self._on_progress)
        return log.result

    def _batches(self) -> Iterator[np.ndarray]:
        """Episodes of each batch, uint32 (B,) and fewer in the last one."""
        for first in range(0, len(self._episodes), self._num_envs):
            yield np.array(self._episodes[first : first + self._num_envs], np.uint32)

    def _begin(self, episodes: np.ndarray) -> tuple[np.ndarray, EpisodeBatch]:
        """Start a batch: all its rows, of which those past the episodes are padding that never runs."""
        rows = np.minimum(np.arange(self._num_envs), len(episodes) - 1)
        keys = np.asarray(seeds.key_data(scene_keys(int(self._seed), episodes[rows])))
        return episodes[rows], self._loop.begin(self._constants, keys, np.arange(self._num_envs) < len(episodes))

    def _warm_up(self) -> None:
        """Compile by running the beginning of the first batch and dropping the result."""
        rows, batch = self._begin(next(self._batches()))
        qpos = np.asarray(batch.output.qpos[0])
        jax.block_until_ready(self._loop.advance(self._constants, self._weights, self._seed, rows, batch))
        self._log.captures.setup(qpos)

    def _run_batch(self, episodes: np.ndarray) -> bool:
        """Run episodes to their end; False if asked to stop before."""
        count = len(episodes)
        rows, batch = self._begin(episodes)
        self._log.captures.reset(
            ResetBatch(episodes.astype(np.int64), jax.tree.map(lambda leaf: np.asarray(leaf)[:count], batch.output))
        )
        self._log.result.frames_rendered += self._num_envs * len(self._program.cameras)
        running = np.ones(count, bool)
        steps = 0
        for _ in range(self._calls):
            if self._should_stop():
                return False
            batch, trajectory = self._loop.advance(self._constants, self._weights, self._seed, rows, batch)
            self._log.result.frames_rendered += self._frames_per_call
            stats, finite = jax.tree.map(lambda leaf: leaf[:count], jax.device_get((batch.stats, batch.output.finite)))
            timing: dict[str, float | int] = {}
            if self._clock:  # what was read of the stats has been computed, and the rest of the program with it
                timing = self._clock.end_call(int(stats.steps.sum()) - steps, self._log.captures.waited_s)
                steps = int(stats.steps.sum())
            if trajectory:
                self._feed_recorders(episodes, jax.tree.map(lambda leaf: np.asarray(leaf)[:count], trajectory), timing)
            for row in np.flatnonzero(running & ~stats.running).tolist():
                self._end(row, int(episodes[row]), stats, finite=bool(finite[row]))
            running = stats.running
            if self._on_progress:
                self._on_progress(self._log.progress(int(stats.steps[running].sum())))
            if not running.any():
                break
        return True

    def _feed_recorders(self, episodes: np.ndarray, trajectory: Trajectory, timing: dict[str, float | int]) -> None:
        """Feed the recorders as the host loop does, chunk by chunk."""
        for replan in range(trajectory.live.shape[1]):
            live = trajectory.live[:, replan]
            if live.any():
                chunk = jax.tree.map(lambda leaf, live=live, replan=replan: leaf[live, replan], trajectory)
                count = chunk.counted.astype(np.int64)
                times = {name: np.full(len(count), value) for name, value in timing.items()}
                self._log.captures.steps(
                    StepBatch(episodes[live].astype(np.int64), chunk.actions, chunk.output, count, times, chunk.notes)
                )

    def _end(self, row: int, episode: int, stats: EpisodeStats, *, finite: bool) -> None:
        steps, replans = int(stats.steps[row]), int(stats.replans[row])
        status: Status = "error"
        error: str | None = unplannable_error(replans, finite)
        if not stats.unplannable[row]:
            status, error = episode_status(
                diverged=bool(stats.diverged[row]),
                success=bool(stats.success[row]),
                failure=bool(stats.failure[row]),
                steps=steps,
            )
        self._log.end(
            episode=episode,
            slot=row,
            status=status,
            error=error,
            steps=steps,
            total_reward=float(stats.total_reward[row]),
            max_reward=float(stats.max_reward[row]),
            max_stage=int(stats.max_stage[row]),
            replans=replans,
            max_ik_error=float(stats.max_ik_error[row]),
            overflow_steps=int(stats.overflow_steps[row]),
        )
