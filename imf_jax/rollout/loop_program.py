"""Closed loop as one compiled program: observe, plan, a chunk of control steps, again, for all scenes at once.

What happens in an episode follows from keys of (seed, episode), as on the host. A scene whose episode has ended is
frozen until another one takes its row: shapes never change. `imf_jax.rollout.compiled` runs the program and keeps the
records.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, Int32, Shaped, UInt32

from imf_jax import seeds
from imf_jax.rollout.outcome import step_outcome
from imf_jax.rollout.plan_program import PlanProgram
from imf_jax.sim.backends.base import SimState, StepOutput
from imf_jax.sim.backends.mjx_base import DeviceBackend
from imf_jax.sim.batching import keep_rows
from imf_jax.sim.robots.base import hold

AXIS = "scenes"


class EpisodeStats(NamedTuple):
    """Statistics of running episodes, for their records; every field is (B,).

    Attributes:
        running: bool the episode has not ended.
        success, failure, diverged, unplannable: bool how it ended; a timeout if none of them.
        steps, replans, overflow_steps, max_stage: int32; total_reward, max_reward, max_ik_error: float32; see
            `EpisodeRecord`.
    """

    running: Bool[Array, " B"]
    success: Bool[Array, " B"]
    failure: Bool[Array, " B"]
    diverged: Bool[Array, " B"]
    unplannable: Bool[Array, " B"]
    steps: Int32[Array, " B"]
    replans: Int32[Array, " B"]
    overflow_steps: Int32[Array, " B"]
    max_stage: Int32[Array, " B"]
    total_reward: Float[Array, " B"]
    max_reward: Float[Array, " B"]
    max_ik_error: Float[Array, " B"]


class EpisodeBatch(NamedTuple):
    """Batch of B episodes on the device; every leaf has the leading axis B.

    Attributes:
        sim: state of the simulation.
        output: the newest output.
        observations: input of the next plan, see `imf_jax.rollout.planner.Observations`.
        memory: memory of the planner.
        stats: statistics of the episodes so far.
    """

    sim: SimState
    output: StepOutput
    observations: dict[str, Shaped[Array, "B To ..."]]
    memory: Any
    stats: EpisodeStats


_Carry = tuple[Any, EpisodeBatch]
"""What goes from step to step: data that the backend works on, and the episodes."""


class Trajectory(NamedTuple):
    """Trajectory of R replans of K control steps, for captures.

    Attributes:
        actions: float32 (B, R, K, A) as planned.
        output: leaves (B, R, K, ...).
        counted: int32 (B, R) how many of the K steps belong to the episode.
        live: bool (B, R) the episode was running and had a plan.
        notes: notes of the program about the actions, name -> (B, R, K, ...).
    """

    actions: Float[Array, "B R K A"]
    output: StepOutput
    counted: Int32[Array, "B R"]
    live: Bool[Array, "B R"]
    notes: dict[str, Shaped[Array, "B R K ..."]]


class LoopProgram:
    """Compiled functions of a rollout: `begin` a batch, then `advance` it again and again.

    Both take what `constants` gives for their number of scenes as their first argument. Between two calls `refill` puts
    scenes that have just begun into rows, and `gather` takes rows into a smaller batch, for whose size `advance` is
    compiled once more. Neither computes anything: a scene is the same wherever it begins.

    Args:
        backend: the simulator.
        program: the planner.
        max_steps: control steps after which an episode is a timeout.
        replans: plans per call of `advance`.
        traced: return a `Trajectory` of each call.
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
        self._backend, self._program, self._spaces = backend, program, backend.task.robot.spaces
        self._max_steps, self._replans, self._traced = max_steps, replans, traced
        everywhere, sharded = PartitionSpec(), PartitionSpec(AXIS)
        mesh = Mesh(np.array(devices), (AXIS,))
        self._shares, self._everywhere = len(devices), NamedSharding(mesh, everywhere)
        share = partial(jax.shard_map, mesh=mesh, out_specs=sharded, check_vma=False)
        self.begin = jax.jit(share(self._begin, in_specs=(everywhere, sharded, sharded)))
        self.advance = jax.jit(
            share(self._advance, in_specs=(everywhere, everywhere, everywhere, sharded, sharded)), donate_argnums=4
        )
        # refill(fresh, started, batch): rows of `started` where `fresh` (B,), of `batch` elsewhere.
        self.refill = jax.jit(share(keep_rows, in_specs=(sharded, sharded, sharded)), donate_argnums=2)
        # gather(rows, batch): `rows` (b,) may come from any device. What it gives is placed as `advance` places it, or
        # the second call for this size would be compiled again.
        place = share(lambda batch: batch, in_specs=(sharded,))
        self.gather = jax.jit(lambda rows, batch: place(jax.tree.map(lambda leaf: leaf[rows], batch)))

    def constants(self, num_envs: int) -> Any:
        """Constants of the backend for `num_envs` scenes, on all devices."""
        return jax.device_put(self._backend.constants(num_envs // self._shares), self._everywhere)

    def _begin(self, constants: Any, keys: UInt32[Array, "B 2"], running: Bool[Array, " B"]) -> EpisodeBatch:
        """Start scenes. `keys`: uint32 (B, 2) key data; `running`: bool (B,), False for padding."""
        data = self._backend.allocate(constants, len(keys))
        sim, output = self._backend.start(constants, data, seeds.typed_keys(keys))
        horizon = self._program.obs_horizon

        def repeat(first: Shaped[Array | np.ndarray, "B ..."]) -> Shaped[Array, "B To ..."]:
            return jnp.repeat(first[:, None], horizon, axis=1)

        observations = {"state": repeat(output.state), "env_state": repeat(output.env_state)}
        if self._program.cameras:
            pictures = self._backend.pictures(constants, data, jnp.asarray(output.qpos), self._program.cameras)
            observations["images"] = repeat(pictures)
        never, zero, none = (jnp.zeros(running.shape, kind) for kind in (bool, jnp.int32, jnp.float32))
        stats = EpisodeStats(
            running=running,
            success=never,
            failure=never,
            diverged=never,
            unplannable=never,
            steps=zero,
            replans=zero,
            overflow_steps=zero,
            max_stage=zero,
            total_reward=none,
            max_reward=none - jnp.inf,
            max_ik_error=none,
        )
        return EpisodeBatch(sim, output, observations, self._program.start(output), stats)

    def _advance(
        self,
        constants: Any,
        weights: Any,
        seed: UInt32[Array, ""],
        episodes: UInt32[Array, " B"],
        batch: EpisodeBatch,
    ) -> tuple[EpisodeBatch, Trajectory | tuple[()]]:
        """Make `replans` plans and execute them. `seed`: uint32 scalar; `episodes`: uint32 (B,)."""

        def replan(carry: _Carry, _: None) -> tuple[_Carry, Trajectory | tuple[()]]:
            return self._replan(constants, weights, seed, episodes, carry)

        start = self._backend.allocate(constants, len(episodes)), batch
        (_, batch), trajectory = jax.lax.scan(replan, start, length=self._replans)
        return batch, jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), trajectory)

    def _replan(
        self, constants: Any, weights: Any, seed: UInt32[Array, ""], episodes: UInt32[Array, " B"], carry: _Carry
    ) -> tuple[_Carry, Trajectory | tuple[()]]:
        data, batch = carry
        program, stats = self._program, batch.stats
        planned, memory = program.plan(
            weights, batch.memory, batch.observations, batch.output, seed, episodes, stats.replans
        )
        usable = jnp.isfinite(planned).all(axis=(1, 2)) & batch.output.finite
        live = stats.running & usable
        stats = stats._replace(
            running=live,
            unplannable=stats.unplannable | (stats.running & ~usable),
            replans=stats.replans + live,
        )
        # The plan of an episode that has ended is not executed, but it must not be harmful either.
        still = hold(self._spaces, batch.output.state, batch.output.end_effector)
        actions = jnp.where(usable[:, None, None], planned, still[:, None])
        start = batch._replace(stats=stats, memory=keep_rows(live, memory, batch.memory))
        (data, end), (output, counted) = jax.lax.scan(
            partial(self._control_step, constants), (data, start), jnp.swapaxes(actions, 0, 1)
        )
        pictures = partial(self._backend.pictures, constants, data)
        end = end._replace(observations=self._observe(batch.observations, output, end.stats.running, pictures))
        if not self._traced:
            return (data, end), ()
        by_scene = partial(jax.tree.map, lambda leaf: jnp.swapaxes(leaf, 0, 1))
        return (data, end), Trajectory(
            actions, by_scene(output), counted.sum(axis=0, dtype=jnp.int32), live, program.notes(memory)
        )

    def _control_step(
        self, constants: Any, carry: _Carry, action: Float[Array, "B A"]
    ) -> tuple[_Carry, tuple[StepOutput, Bool[Array, " B"]]]:
        """Make one control step of the running scenes; the others stay as they are."""
        data, batch = carry
        stats = batch.stats
        data, sim, output = self._backend.advance(constants, data, batch.sim, action)
        live = stats.running
        counted = live & output.finite
        outcome = step_outcome(output, stats.steps + 1, self._max_steps)
        stats = EpisodeStats(
            running=live & ~outcome.ended,
            success=stats.success | (live & outcome.success),
            failure=stats.failure | (live & outcome.failure),
            diverged=stats.diverged | (live & outcome.diverged),
            unplannable=stats.unplannable,
            steps=stats.steps + counted,
            replans=stats.replans,
            overflow_steps=stats.overflow_steps + (counted & output.overflow),
            max_stage=jnp.where(counted, jnp.maximum(stats.max_stage, output.stage), stats.max_stage).astype(jnp.int32),
            total_reward=stats.total_reward + jnp.where(counted, output.reward, 0.0),
            max_reward=jnp.where(counted, jnp.maximum(stats.max_reward, output.reward), stats.max_reward),
            max_ik_error=jnp.where(
                counted, jnp.maximum(stats.max_ik_error, output.ik_error.max(axis=-1)), stats.max_ik_error
            ),
        )
        after = batch._replace(
            sim=keep_rows(live, sim, batch.sim), output=keep_rows(live, output, batch.output), stats=stats
        )
        return (data, after), (after.output, counted)

    def _observe(
        self,
        past: dict[str, Shaped[Array, "B To ..."]],
        output: StepOutput,
        running: Bool[Array, " B"],
        pictures: Callable[..., Array],
    ) -> dict[str, Shaped[Array, "B To ..."]]:
        """Observations of the next plan, after outputs with leading axes (K, B)."""
        horizon = self._program.obs_horizon
        newest = {"state": output.state[-horizon:], "env_state": output.env_state[-horizon:]}
        if self._program.cameras:
            # One call of the renderer per moment: its number of scenes is fixed.
            newest["images"] = jax.lax.map(lambda qpos: pictures(qpos, self._program.cameras), output.qpos[-horizon:])

        def join(name: str) -> Shaped[Array, "B To ..."]:
            new = jnp.swapaxes(newest[name], 0, 1)
            return jnp.concatenate([past[name], new], axis=1)[:, -horizon:]

        return keep_rows(running, {name: join(name) for name in past}, past)
