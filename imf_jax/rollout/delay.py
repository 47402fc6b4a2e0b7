"""Execution with latency: a plan takes time, and meanwhile the robot follows the plan before.

Latency is counted in control steps, so it is part of the experiment and not of the machine it runs on. Every k control
steps (`replan_every`) a chunk is planned from the observation at that time t. It takes over at t + d (`delay_steps`),
with the action it has for that time, and stays until the next chunk does; what is left of it then is dropped. A delay
beyond k means that several plans are under way at once, as when they are made elsewhere.

Until the first chunk of an episode takes over, the hands stay where they are. As nothing moves meanwhile, that chunk
begins with its first action when it takes over, and plans that are made until then are not executed: they would begin
the motion a second time.

A chunk of H actions has H - obs_horizon + 1 for now and later. Where k + d is more, it runs out before the next one
takes over: then the hands stay at its last action ("hold"), or go on by its last increment ("continue").

With a prefix the plan is given the d actions that are executed meanwhile, and the new chunk continues them, as in
training-time real-time chunking (Black et al., "Training-Time Action Conditioning for Efficient Real-Time Chunking",
2025); the policy must be trained for it, see `imf_jax.models.objectives.paths.given_prefix`. The first plan of an
episode is given none, and neither is one that is made while, or right after, another planner acts.

With guidance the plan is drawn to what the plan before it has to say about the same steps, as in real-time chunking
(Black et al., "Real-Time Execution of Action Chunking Flow Policies", 2025): fully where that is executed until it
takes over, and less and less after that. Any policy with a velocity can be guided.

A policy with `delay_training` makes its chunks for the time at which they take over: they begin d steps after the
observation, and do not run out.
"""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from typing_extensions import override

from imf_jax.chunks import advance, join, place, require_within_chunk
from imf_jax.config import ExecutionConfig, PolicyConfig, require
from imf_jax.models.objectives.paths import Guide, from_step, prefix_mask
from imf_jax.models.policy import Policy, Prefix
from imf_jax.rollout.plan_program import ChunkProgram, KeptChunks, PlanProgram, PolicyProgram
from imf_jax.rollout.planner import PolicyPlanner
from imf_jax.sim.backends.base import StepOutput
from imf_jax.sim.robots.base import hold

Array = jax.Array


class DelayedWeights(NamedTuple):
    """Arguments that differ between runs of one compiled program.

    Attributes:
        policy: weights of the policy.
        delay_steps: int32 scalar d; one program serves every delay.
    """

    policy: Any
    delay_steps: Array | np.int32


class Timeline(NamedTuple):
    """Planned actions of B scenes, as far as they are known.

    Attributes:
        actions: float32 (B, L, A), aligned with the next observation: index obs_horizon - 1 is the next control step,
            those before it are past.
        executed: bool (B,) the last plan was executed until now; False before the first plan.
        rest: int32 (B,) control steps until the first chunk takes over, 0 from then on; -1 before it is planned.
        kept: notes of the last plan, see `ChunkProgram.kept`.
    """

    actions: Array
    executed: Array
    rest: Array
    kept: KeptChunks

    def interrupted(self, by_other: Array, at_rest: Array, command: Array) -> "Timeline":
        """Timeline at a plan, corrected where it was not followed.

        Args:
            by_other: bool (B,) another planner acts; what is planned goes on, but it is not what is executed.
            at_rest: bool (B,) no planner acted in the last step: begin anew and hold the last command until a new plan
                takes over. The measured pose would not do: it does not press on what a gripper holds.
            command: float32 (B, A) the last command.
        """
        actions = jnp.where(at_rest[:, None, None], command[:, None], self.actions)
        rest = jnp.where(at_rest, -1, jnp.where(by_other, 0, self.rest))
        return Timeline(actions, self.executed & ~by_other & ~at_rest, rest, self.kept)


@dataclass(frozen=True)
class DelayedProgram(PlanProgram):
    """Policy whose plans come late, as a `PlanProgram`; see the module. Its memory is a `Timeline`.

    Attributes:
        policy: plans the chunks.
        replan_every: control steps k between two plans.
        extrapolate: where a chunk runs out, go on by its last increment; else stay at its last action.
        blend_steps: actions within which an old chunk goes over into a new one.
        prefix: the policy is given the actions that are executed until its plan takes over.
        guidance: largest weight with which a plan is drawn to the plan before it; 0 for none.
    """

    policy: ChunkProgram
    replan_every: int
    extrapolate: bool = False
    blend_steps: int = 0
    prefix: bool = False
    guidance: float = 0.0

    @property
    @override
    def obs_horizon(self) -> int:
        return self.policy.obs_horizon

    @property
    @override
    def num_action_steps(self) -> int:
        """Control steps until the next plan is made."""
        return self.replan_every

    @property
    @override
    def cameras(self) -> tuple[str, ...]:
        return self.policy.cameras

    @override
    def start(self, output: StepOutput) -> Timeline:
        """Start a timeline without a plan: the hands stay where they are."""
        stay = hold(self.policy.spaces, output.state, output.end_effector)
        # As long as a chunk that begins when it comes, as late as it can.
        longest = 2 * self.policy.pred_horizon - self.obs_horizon + self.policy.delay_training
        actions = jnp.repeat(stay[:, None], longest, axis=1)
        rest = jnp.full(len(actions), -1, jnp.int32)
        return Timeline(actions, jnp.zeros(len(actions), bool), rest, self.policy.start(output))

    @override
    def plan(
        self,
        weights: DelayedWeights,
        memory: Timeline,
        observations: dict[str, Array],
        output: StepOutput,
        seed: Array,
        episodes: Array,
        replans: Array,
    ) -> tuple[Array, Timeline]:
        now = self.obs_horizon - 1
        start = now + weights.delay_steps
        policy, horizon = self.policy, self.policy.pred_horizon
        prefix = guide = delay = None
        first = memory.rest < 0
        if self.prefix:
            known = jnp.where(memory.executed, start, 0)
            prefix = Prefix(memory.actions[:, :horizon], prefix_mask(known, horizon))
        # Steps after the observation at which the chunk begins, as the policy is told: as far as it has learned it.
        begin = jnp.where(first, 0, jnp.minimum(weights.delay_steps, policy.delay_training)).astype(jnp.int32)
        if policy.delay_training:
            delay = begin
        if self.guidance:
            guide = self._guide(weights.delay_steps, memory, begin)
        chunk = policy.chunk(weights.policy, observations, seed, episodes, replans, prefix, delay=delay, guide=guide)
        placed = jnp.where(first, weights.delay_steps, begin)
        new = place(chunk, placed, memory.actions.shape[1], policy.spaces, extrapolate=self.extrapolate)
        joined = join(memory.actions, new, start, policy.spaces, self.blend_steps)
        timeline = jnp.where((memory.rest > 0)[:, None, None], memory.actions, joined)
        actions = timeline[:, now : now + self.replan_every]
        # A plan that cannot be used ends its episode now, not when its turn would come.
        usable = jnp.isfinite(chunk[:, now:]).all(axis=(1, 2), keepdims=True)
        after = advance(timeline, self.replan_every, self.policy.spaces, extrapolate=self.extrapolate)
        rest = jnp.maximum(jnp.where(first, weights.delay_steps, memory.rest) - self.replan_every, 0)
        memory = Timeline(after, jnp.ones(len(after), bool), rest, policy.kept(chunk, placed))
        return jnp.where(usable, actions, jnp.nan), memory

    @override
    def notes(self, memory: Timeline) -> dict[str, Array]:
        return dict(memory.kept)

    def _guide(self, delay_steps: Array | np.int32, memory: Timeline, begin: Array) -> Guide:
        """Guide of chunks that begin `begin`, int32 (B,), steps after their observation."""
        now, horizon = self.obs_horizon - 1, self.policy.pred_horizon
        known = horizon - now + begin[:, None] - self.replan_every
        share = guide_weights(jnp.arange(memory.actions.shape[1]) - now, delay_steps, known)
        weight = jnp.where(memory.executed[:, None], share, 0.0)
        actions, weight = (from_step(values, begin, horizon) for values in (memory.actions, weight))
        return Guide(actions, weight, np.float32(self.guidance))

    @override
    def plan_error(self, episode: int, replan: int) -> str | None:
        return self.policy.plan_error(episode, replan)

    @override
    def chunk_bytes(self) -> int:
        return self.policy.chunk_bytes()

    @override
    def bytes_per_scene(self) -> int:
        return self.policy.bytes_per_scene()

    @override
    def encoder_bytes(self, num_scenes: int) -> int:
        return self.policy.encoder_bytes(num_scenes)


def guide_weights(step: Array, delay: Array | np.int32 | int, known: Array | int) -> Array:
    """Weight with which a new plan is drawn to the plan before it, in [0, 1], as real-time chunking sets it.

    Args:
        step: int32, control steps from now on; negative ones are past.
        delay: steps that the plan before is executed still.
        known: steps that the plan before plans still.

    Returns:
        float32 of the shape of `step`: 1 before `delay`; then c (e^c - 1) / (e - 1) with c falling evenly, and 0 from
        `known` on.
    """
    share = jnp.clip((known - step) / jnp.maximum(known - delay + 1, 1), 0.0, 1.0)
    return jnp.where(step < delay, 1.0, share * jnp.expm1(share) / jnp.expm1(1.0))


def require_execution(execution: ExecutionConfig, policy: PolicyConfig) -> None:
    """Refuse what a policy cannot execute.

    Args:
        execution: the requested execution.
        policy: its configuration.

    Raises:
        ArgumentError: names the flag.
    """
    horizons = f"pred_horizon {policy.pred_horizon} - obs_horizon {policy.obs_horizon}"
    every, delay = execution.replan_every or policy.num_action_steps, execution.delay_steps
    if policy.delay_training:
        horizons += f" + delay_training {policy.delay_training}"
    require_within_chunk(policy.chunk_steps, every, delay, execution.blend_steps, horizons, policy.delay_training)
    problem = policy.objective.guidance_problem
    require(not execution.guidance or problem is None, f"--guidance {problem}")
    if execution.prefix:
        require_prefix(policy.prefix_training, every, delay)


def require_prefix(prefix_training: int, every: int, delay: int) -> None:
    """Refuse to give a policy the actions that are executed while it plans, where it cannot be.

    Args:
        prefix_training: delays that it was trained for.
        every: control steps between two plans.
        delay: control steps from the observation to the takeover.

    Raises:
        ArgumentError: names the flag.
    """
    require(prefix_training > 0, "--prefix needs a policy trained for it; train one with --prefix-training")
    require(
        delay <= prefix_training,
        f"--prefix: the policy was trained for delays up to --prefix-training {prefix_training}, not for "
        f"--delay-steps {delay}",
    )
    require(
        delay <= every,
        f"--prefix: with --delay-steps {delay} and --replan-every {every} a plan would begin before the actions it is "
        "given are known; the delay must not be longer",
    )


def longest_delay(policy: PolicyConfig) -> int:
    """Longest delay of a plan that a policy can have: nothing of its chunk is left for a longer one [control steps]."""
    return policy.chunk_steps - 1 + policy.delay_training


def policy_planner(
    policy: Policy, plan_batch: int, execution: ExecutionConfig, *, keep_chunks: bool = False
) -> PolicyPlanner:
    """Make a planner whose plans reach the robot as `execution` says; for both loops and every backend.

    Args:
        policy: a trained policy.
        plan_batch: rows of a planning batch on the host.
        execution: latency and its remedies. `action_interpolation` is up to the backend.
        keep_chunks: note each chunk as it was planned, see `ChunkProgram`.

    Raises:
        ArgumentError: the policy cannot be executed so; names the flag.
    """
    require_execution(execution, policy.config)

    def execute(program: PolicyProgram, weights: nnx.State) -> tuple[PlanProgram, Any]:
        every = execution.replan_every or program.num_action_steps
        return executed(replace(program, num_action_steps=every, keep_chunks=keep_chunks), weights, execution)

    return PolicyPlanner(policy, plan_batch, execute)


def executed(program: ChunkProgram, weights: Any, execution: ExecutionConfig) -> tuple[PlanProgram, Any]:
    """The program and weights whose plans reach the robot as `execution` says; `num_action_steps` is the interval."""
    if execution.inference == "sync":
        return program, weights
    extrapolate = execution.on_empty == "continue"
    every, blend = program.num_action_steps, execution.blend_steps
    delayed = DelayedProgram(program, every, extrapolate, blend, execution.prefix, execution.guidance)
    return delayed, DelayedWeights(weights, np.int32(execution.delay_steps))
