"""The closed loop as one compiled program: observe, plan, a chunk of control steps, again, for all scenes at once.

Scenes start together in waves of `num_envs`. A scene whose episode is over is frozen until the last one of its wave is:
shapes never change, and nothing is compiled twice. Between two calls of the program the host only reads a few
counters per scene and, if something is captured, the outputs of the chunks.

As on the host, what happens in an episode follows from keys of (seed, episode). Rounding may depend on the number of
scenes per device; the same number gives the same records every time, however many devices there are.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from imf_jax.config import require
from imf_jax.rollout.capture import QUEUE_BYTES
from imf_jax.rollout.delay import hold
from imf_jax.rollout.engine import unplannable, verdict
from imf_jax.rollout.episode import EpisodeRecord, Status, scene_keys
from imf_jax.rollout.ledger import Ledger, RolloutProgress, RolloutResult
from imf_jax.rollout.planner import CompiledPlanner, PlanProgram
from imf_jax.rollout.recorders.base import Recorder, ResetBatch, StepBatch
from imf_jax.rollout.timing import NO_CLOCK, StageClock
from imf_jax.sim.backends.base import Array, SimState, StepOutput
from imf_jax.sim.backends.device import DeviceBackend
from imf_jax.sim.blocks import keep_rows

CALL_STEPS = 40
"""Control steps per call of the program, about; the host hears of finished episodes that often."""

AXIS = "scenes"


@runtime_checkable
class AnnotatingProgram(Protocol):
    """A `PlanProgram` that says more about its plans than their actions."""

    def notes(self, memory: Any) -> dict[str, jax.Array]:
        """Name -> values (B, K, ...) about the actions of the last plan, of its memory after it."""
        ...


class Tally(NamedTuple):
    """What the record of an episode needs; every field is (B,).

    Attributes:
        running: bool the episode is not over.
        success, failure, diverged, unplannable: bool how it ended; a timeout if none of them.
        steps, replans, overflow_steps: int32; total_reward, max_reward, max_ik_error: float32; see `EpisodeRecord`.
    """

    running: jax.Array
    success: jax.Array
    failure: jax.Array
    diverged: jax.Array
    unplannable: jax.Array
    steps: jax.Array
    replans: jax.Array
    overflow_steps: jax.Array
    total_reward: jax.Array
    max_reward: jax.Array
    max_ik_error: jax.Array


class Wave(NamedTuple):
    """B scenes on the device; every leaf has the leading axis B.

    Attributes:
        sim: state of the simulation.
        output: what was read last.
        observations: what the next plan reads, see `imf_jax.rollout.planner.Observations`.
        memory: what the planner remembers.
        tally: what happened so far.
    """

    sim: SimState
    output: StepOutput
    observations: dict[str, jax.Array]
    memory: Any
    tally: Tally


class Trace(NamedTuple):
    """What captures read of R replans of K control steps.

    Attributes:
        actions: float32 (B, R, K, 16) as planned.
        output: leaves (B, R, K, ...).
        counted: int32 (B, R) how many of the K steps belong to the episode.
        live: bool (B, R) the episode was running and had a plan.
        notes: what the program says about the actions besides, name -> (B, R, K, ...).
    """

    actions: jax.Array
    output: StepOutput
    counted: jax.Array
    live: jax.Array
    notes: dict[str, jax.Array]


class LoopProgram:
    """The compiled functions of a rollout: `begin` a wave, then `advance` it again and again.

    Args:
        backend: the simulator.
        program: the planner.
        max_steps: control steps after which an episode is a timeout.
        replans: plans per call of `advance`.
        traced: return a `Trace` of each call.
        devices: the devices that share the scenes in equal parts.
    """

    def __init__(
        self,
        backend: DeviceBackend,
        program: PlanProgram,
        *,
        max_steps: int,
        replans: int,
        traced: bool,
        devices: Sequence[Any],
    ) -> None:
        self._backend, self._program = backend, program
        self._max_steps, self._replans, self._traced = max_steps, replans, traced
        everywhere, sharded = PartitionSpec(), PartitionSpec(AXIS)
        share = partial(jax.shard_map, mesh=Mesh(np.array(devices), (AXIS,)), out_specs=sharded, check_vma=False)
        self.begin = jax.jit(share(self._begin, in_specs=(sharded, sharded)))
        self.advance = jax.jit(
            share(self._advance, in_specs=(everywhere, everywhere, sharded, sharded)), donate_argnums=3
        )

    def _begin(self, keys: jax.Array, running: jax.Array) -> Wave:
        """Start scenes. `keys`: uint32 (B, 2) key data; `running`: bool (B,), False for padding."""
        sim, output = self._backend.reset(jax.random.wrap_key_data(keys, impl="threefry2x32"))
        horizon = self._program.obs_horizon

        def repeat(first: Array) -> jax.Array:
            return jnp.repeat(first[:, None], horizon, axis=1)

        observations = {"state": repeat(output.state), "env_state": repeat(output.env_state)}
        if self._program.cameras:
            observations["images"] = repeat(self._backend.pictures(jnp.asarray(output.qpos), self._program.cameras))
        never, zero, none = (jnp.zeros(running.shape, kind) for kind in (bool, jnp.int32, jnp.float32))
        tally = Tally(
            running=running,
            success=never,
            failure=never,
            diverged=never,
            unplannable=never,
            steps=zero,
            replans=zero,
            overflow_steps=zero,
            total_reward=none,
            max_reward=none - jnp.inf,
            max_ik_error=none,
        )
        return Wave(sim, output, observations, self._program.start(output), tally)

    def _advance(
        self, weights: Any, seed: jax.Array, episodes: jax.Array, wave: Wave
    ) -> tuple[Wave, Trace | tuple[()]]:
        """Make `replans` plans and execute them. `seed`: uint32 scalar; `episodes`: uint32 (B,)."""

        def replan(wave: Wave, _: None) -> tuple[Wave, Trace | tuple[()]]:
            return self._replan(weights, seed, episodes, wave)

        wave, trace = jax.lax.scan(replan, wave, length=self._replans)
        return wave, jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), trace)

    def _replan(self, weights: Any, seed: jax.Array, episodes: jax.Array, wave: Wave) -> tuple[Wave, Trace | tuple[()]]:
        program, tally = self._program, wave.tally
        planned, memory = program.plan(
            weights, wave.memory, wave.observations, wave.output, seed, episodes, tally.replans
        )
        usable = jnp.isfinite(planned).all(axis=(1, 2)) & wave.output.finite
        live = tally.running & usable
        tally = tally._replace(
            running=live,
            unplannable=tally.unplannable | (tally.running & ~usable),
            replans=tally.replans + live,
        )
        # What is planned for a scene that is over is not executed, but it must not be harmful either.
        actions = jnp.where(usable[:, None, None], planned, hold(wave.output)[:, None])
        start = wave._replace(tally=tally, memory=keep_rows(live, memory, wave.memory))
        end, (output, counted) = jax.lax.scan(self._control_step, start, jnp.swapaxes(actions, 0, 1))
        end = end._replace(observations=self._observe(wave.observations, output, end.tally.running))
        if not self._traced:
            return end, ()
        by_scene = partial(jax.tree.map, lambda leaf: jnp.swapaxes(leaf, 0, 1))
        notes = program.notes(memory) if isinstance(program, AnnotatingProgram) else {}
        return end, Trace(actions, by_scene(output), counted.sum(axis=0, dtype=jnp.int32), live, notes)

    def _control_step(self, wave: Wave, action: jax.Array) -> tuple[Wave, tuple[StepOutput, jax.Array]]:
        """One control step of the running scenes; the others stay as they are."""
        tally = wave.tally
        sim, output = self._backend.step(wave.sim, action)
        live = tally.running
        counted = live & output.finite
        success, failure = counted & output.success, counted & output.failure & ~output.success
        timeout = tally.steps + 1 >= self._max_steps
        tally = Tally(
            running=counted & ~success & ~failure & ~timeout,
            success=tally.success | success,
            failure=tally.failure | failure,
            diverged=tally.diverged | (live & ~output.finite),
            unplannable=tally.unplannable,
            steps=tally.steps + counted,
            replans=tally.replans,
            overflow_steps=tally.overflow_steps + (counted & output.overflow),
            total_reward=tally.total_reward + jnp.where(counted, output.reward, 0.0),
            max_reward=jnp.where(counted, jnp.maximum(tally.max_reward, output.reward), tally.max_reward),
            max_ik_error=jnp.where(
                counted, jnp.maximum(tally.max_ik_error, output.ik_error.max(axis=-1)), tally.max_ik_error
            ),
        )
        after = wave._replace(
            sim=keep_rows(live, sim, wave.sim), output=keep_rows(live, output, wave.output), tally=tally
        )
        return after, (after.output, counted)

    def _observe(self, past: dict[str, jax.Array], output: StepOutput, running: jax.Array) -> dict[str, jax.Array]:
        """What the next plan reads, after outputs with leading axes (K, B)."""
        horizon = self._program.obs_horizon
        newest = {"state": output.state[-horizon:], "env_state": output.env_state[-horizon:]}
        if self._program.cameras:
            # One call of the renderer per moment: its number of scenes is fixed.
            newest["images"] = jax.lax.map(
                lambda qpos: self._backend.pictures(qpos, self._program.cameras), output.qpos[-horizon:]
            )

        def join(name: str) -> jax.Array:
            new = jnp.swapaxes(newest[name], 0, 1)
            return jnp.concatenate([past[name], new], axis=1)[:, -horizon:]

        return keep_rows(running, {name: join(name) for name in past}, past)


def replans_per_call(max_steps: int, chunk: int, call_steps: int) -> int:
    """Plans per call so that calls take about `call_steps` control steps and little runs past the end of an episode."""
    total = math.ceil(max_steps / chunk)
    wanted = min(total, max(1, round(call_steps / chunk)))
    near = range(max(1, wanted * 2 // 3), wanted * 3 // 2 + 1)
    return min(near, key=lambda replans: (math.ceil(total / replans) * replans, abs(replans - wanted)))


class CompiledRollout:
    """One rollout of a planner on a compiled backend; `run` it once. Arguments as of `imf_jax.rollout.engine.Rollout`.

    Args:
        devices: the devices that share the scenes.
        call_steps: control steps per call of the program, about.
        clock: measures the calls of the program; its stages cannot be told apart.

    Raises:
        ArgumentError: the devices do not divide the scenes.
    """

    def __init__(
        self,
        backend: DeviceBackend,
        planner: CompiledPlanner,
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
        devices = devices or jax.devices()[:1]
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
        self._on_progress, self._should_stop = on_progress, should_stop
        self._clock = clock
        self._ledger = Ledger(
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
        ledger = self._ledger
        try:
            with (self._clock or NO_CLOCK).measure_compilation():
                self._warm_up()
                ledger.start()
                if self._clock:
                    self._clock.start(ledger.captures.waited_s)
                for episodes in self._waves():
                    if not self._run_wave(episodes):
                        break
        except BaseException:
            ledger.abandon()
            raise
        ledger.close(self._on_progress)
        return ledger.result

    def _waves(self) -> Iterator[np.ndarray]:
        """The episodes of each wave, uint32 (B,) and fewer in the last one."""
        for first in range(0, len(self._episodes), self._num_envs):
            yield np.array(self._episodes[first : first + self._num_envs], np.uint32)

    def _begin(self, episodes: np.ndarray) -> tuple[np.ndarray, Wave]:
        """Start a wave: all its rows, of which those past the episodes are padding that never runs."""
        rows = np.minimum(np.arange(self._num_envs), len(episodes) - 1)
        keys = np.asarray(jax.random.key_data(scene_keys(int(self._seed), episodes[rows])))
        return episodes[rows], self._loop.begin(keys, np.arange(self._num_envs) < len(episodes))

    def _warm_up(self) -> None:
        """Compile by running the beginning of the first wave, for nothing."""
        rows, wave = self._begin(next(self._waves()))
        qpos = np.asarray(wave.output.qpos[0])
        jax.block_until_ready(self._loop.advance(self._weights, self._seed, rows, wave))
        self._ledger.captures.setup(qpos)

    def _run_wave(self, episodes: np.ndarray) -> bool:
        """Run episodes to their end; False if asked to stop before."""
        count = len(episodes)
        rows, wave = self._begin(episodes)
        self._ledger.captures.reset(
            ResetBatch(episodes.astype(np.int64), jax.tree.map(lambda leaf: np.asarray(leaf)[:count], wave.output))
        )
        self._ledger.result.frames_rendered += self._num_envs * len(self._program.cameras)
        running = np.ones(count, bool)
        steps = 0
        for _ in range(self._calls):
            if self._should_stop():
                return False
            wave, trace = self._loop.advance(self._weights, self._seed, rows, wave)
            self._ledger.result.frames_rendered += self._frames_per_call
            tally = jax.tree.map(lambda leaf: np.asarray(leaf)[:count], wave.tally)
            told: dict[str, float | int] = {}
            if self._clock:  # what was read of the tally has been computed, and the rest of the program with it
                told = self._clock.end_call(int(tally.steps.sum()) - steps, self._ledger.captures.waited_s)
                steps = int(tally.steps.sum())
            if trace:
                self._hand_on(episodes, jax.tree.map(lambda leaf: np.asarray(leaf)[:count], trace), told)
            for row in np.flatnonzero(running & ~tally.running).tolist():
                self._end(row, int(episodes[row]), tally, finite=bool(np.asarray(wave.output.finite[row])))
            running = tally.running
            if self._on_progress:
                self._on_progress(self._ledger.progress(int(tally.steps[running].sum())))
            if not running.any():
                break
        return True

    def _hand_on(self, episodes: np.ndarray, trace: Trace, told: dict[str, float | int]) -> None:
        """Give the captures what they would have been given chunk by chunk."""
        for replan in range(trace.live.shape[1]):
            live = trace.live[:, replan]
            if live.any():
                chunk = jax.tree.map(lambda leaf, live=live, replan=replan: leaf[live, replan], trace)
                count = chunk.counted.astype(np.int64)
                timing = {name: np.full(len(count), value) for name, value in told.items()}
                self._ledger.captures.steps(
                    StepBatch(episodes[live].astype(np.int64), chunk.actions, chunk.output, count, timing, chunk.notes)
                )

    def _end(self, row: int, episode: int, tally: Tally, *, finite: bool) -> None:
        steps, replans = int(tally.steps[row]), int(tally.replans[row])
        status: Status = "error"
        error: str | None = unplannable(replans, finite)
        if not tally.unplannable[row]:
            status, error = verdict(
                diverged=bool(tally.diverged[row]),
                success=bool(tally.success[row]),
                failure=bool(tally.failure[row]),
                steps=steps,
            )
        self._ledger.end(
            episode=episode,
            slot=row,
            status=status,
            error=error,
            steps=steps,
            total_reward=float(tally.total_reward[row]),
            max_reward=float(tally.max_reward[row]),
            replans=replans,
            max_ik_error=float(tally.max_ik_error[row]),
            overflow_steps=int(tally.overflow_steps[row]),
        )
