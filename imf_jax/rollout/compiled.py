"""Run the compiled closed loop over many episodes.

`num_envs` scenes run at once. Between two calls of the program the next episodes take the rows of those that have
ended; once none is left and what still runs fits in a quarter of the rows, it goes on in a program of that size (on
accelerators). Nothing else changes a shape, and all is compiled before the loop. Besides, the host only reads a few
counters per scene and, if something is captured, the outputs of the chunks.

An episode is a function of (seed, episode) up to rounding, which may depend on the number of rows per device and on its
row. On a CPU the same call gives the same records to the bit. On CUDA it need not: MuJoCo Warp orders contacts as they
come, and XLA may choose other kernels in another process.
"""

import math
from collections.abc import Callable, Sequence
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
from imf_jax.rollout.schedule import RowSchedule
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


TAIL_SHARE = 4
"""The program for the tail has one row in so many. With fewer rows it would come late: where four of five episodes
succeed after 140 of 700 steps, more than half of those that run at any time are timeouts."""

TAIL_STEPS = 100_000
"""Control steps over all scenes that it must be able to save; compiling it takes about as long as simulating fewer."""


def tail_rows(num_envs: int, max_steps: int, devices: Sequence[Any]) -> int:
    """Rows of the program for the tail, a multiple of the devices; 0 for none.

    There is none where it does not pay, and none on CPUs: rounding depends on the number of rows there and on nothing
    else, so that resumed and reordered episodes would no longer be equal to the bit.
    """
    rows = math.ceil(num_envs / (TAIL_SHARE * len(devices))) * len(devices)
    pays = (num_envs - rows) * max_steps >= TAIL_STEPS
    return rows if pays and devices[0].platform != "cpu" else 0


class CompiledRollout:
    """One rollout of a planner on a compiled backend; `run` it once. Arguments as of `imf_jax.rollout.engine.Rollout`.

    Args:
        devices: the devices of this process that share the scenes, those of the backend; its first one by default.
        call_steps: control steps per call of the program, about.
        clock: measures the calls of the program; its stages cannot be separated.
        refill: give the row of an episode that has ended to the next one at once. Without it, episodes start together
            and wait for the last one, as benchmarks compare.

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
        refill: bool = True,
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
        self._steps_per_call = replans * chunk
        self._frames_per_scene = len(self._program.cameras) * replans * min(chunk, self._program.obs_horizon)
        self._refill, self._recorded = refill, bool(recorders)
        self._tail = tail_rows(num_envs, max_steps, devices) if refill else 0
        self._loop = LoopProgram(
            backend,
            self._program,
            max_steps=max_steps,
            replans=replans,
            traced=bool(recorders),
            devices=devices,
        )
        self._constants = {count: self._loop.constants(count) for count in {num_envs, self._tail} - {0}}
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
                self._run_episodes()
        except BaseException:
            log.abandon()
            raise
        log.close(self._on_progress)
        return log.result

    def _run_episodes(self) -> None:
        rows = self._rows()
        batch = self._fill(rows, None)
        while rows.running.any() and not self._should_stop():
            batch = self._advance(rows, batch)
            if rows.fits(self._tail):
                batch = self._loop.gather(rows.gather(self._tail), batch)
            else:
                batch = self._fill(rows, batch)

    def _rows(self) -> RowSchedule:
        return RowSchedule(self._episodes, self._num_envs, refill=self._refill)

    def _begin(self, rows: RowSchedule, fresh: np.ndarray) -> EpisodeBatch:
        """Start the episodes of all rows, of which only the `fresh` ones (B,) run."""
        keys = np.asarray(seeds.key_data(scene_keys(int(self._seed), rows.episodes)))
        return self._loop.begin(self._constants[len(keys)], keys, fresh)

    def _warm_up(self) -> None:
        """Compile by running the beginning of the first batch and dropping the result."""
        rows = self._rows()
        fresh = rows.fill()
        batch = self._begin(rows, fresh)
        qpos = np.asarray(batch.output.qpos[0])
        if len(self._episodes) > self._num_envs:
            batch = self._loop.refill(fresh, self._begin(rows, fresh), batch)
        batch, _ = self._call(rows, batch)
        if self._tail:
            batch = self._loop.gather(rows.gather(self._tail), batch)
            batch, _ = self._call(rows, batch)
        jax.block_until_ready(batch)
        self._log.captures.setup(qpos)

    def _call(self, rows: RowSchedule, batch: EpisodeBatch | None) -> tuple[EpisodeBatch, Trajectory | None]:
        """One call of the program; it takes the memory of `batch`."""
        count = len(rows.episodes)
        return self._loop.advance(self._constants[count], self._weights, self._seed, rows.episodes, batch)

    def _fill(self, rows: RowSchedule, batch: EpisodeBatch | None) -> EpisodeBatch | None:
        """Start pending episodes in the free rows of `batch`, None before the first."""
        fresh = rows.fill()
        if not fresh.any():
            return batch
        started = self._begin(rows, fresh)
        self._log.result.frames_rendered += self._num_envs * len(self._program.cameras)
        if self._recorded:
            output = jax.tree.map(lambda leaf: np.asarray(leaf)[fresh], started.output)
            self._log.captures.reset(ResetBatch(rows.episodes[fresh].astype(np.int64), output))
        return started if batch is None else self._loop.refill(fresh, started, batch)

    def _advance(self, rows: RowSchedule, batch: EpisodeBatch | None) -> EpisodeBatch:
        """Make one call of the program, and end the episodes that have ended."""
        batch, trajectory = self._call(rows, batch)
        # Copies, fetched at once: the next call reuses the memory of the batch.
        stats, finite = jax.tree.map(np.array, jax.device_get((batch.stats, batch.output.finite)))
        steps = int((stats.steps - rows.steps).sum())
        self._log.result.frames_rendered += len(rows.episodes) * self._frames_per_scene
        self._log.simulated(len(rows.episodes) * self._steps_per_call, live=steps)
        timing: dict[str, float | int] = {}
        if self._clock:  # what was read of the stats has been computed, and the rest of the program with it
            timing = self._clock.end_call(steps, self._log.captures.waited_s)
        if trajectory:
            self._feed_recorders(rows.episodes, jax.tree.map(np.asarray, trajectory), timing)
        for row in np.flatnonzero(rows.running & ~stats.running).tolist():
            self._end(row, rows, stats, finite=bool(finite[row]))
        rows.running, rows.steps = stats.running, stats.steps.astype(np.int64)
        if self._on_progress:
            self._on_progress(self._log.progress(int(rows.steps[rows.running].sum())))
        return batch

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

    def _end(self, row: int, rows: RowSchedule, stats: EpisodeStats, *, finite: bool) -> None:
        steps, replans = int(stats.steps[row]), int(stats.replans[row])
        status: Status = "error"
        error: str | None
        if stats.unplannable[row]:
            reason = self._program.plan_error(int(rows.episodes[row]), replans)
            error = unplannable_error(replans, finite, reason)
        else:
            status, error = episode_status(
                diverged=bool(stats.diverged[row]),
                success=bool(stats.success[row]),
                failure=bool(stats.failure[row]),
                steps=steps,
            )
        self._log.end(
            episode=int(rows.episodes[row]),
            slot=int(rows.slots[row]),
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
