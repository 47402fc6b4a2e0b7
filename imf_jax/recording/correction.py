"""Policy under supervision: the scripted expert takes over where the policy goes wrong, then gives control back.

As in HG-DAgger (Kelly et al. 2019) the corrector drives whole stretches, not single actions: a policy that predicts
chunks learns from stretches. It intervenes by a rule on the episode (`distance`, `no_progress`) or by a draw (`beta`,
the schedule of DAgger, Ross et al. 2011). It works one control step at a time, in both loops and on every backend.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from typing_extensions import override

from imf_jax import seeds
from imf_jax.recording.base import INTERVENTION
from imf_jax.rollout.delay import Timeline
from imf_jax.rollout.plan_program import PlanProgram
from imf_jax.rollout.planner import ProgramPlanner
from imf_jax.seeds import noise_keys
from imf_jax.sim.backends.base import StepOutput
from imf_jax.sim.batching import keep_rows
from imf_jax.sim.robots.base import hold
from imf_jax.sim.tasks import get_expert, get_task
from imf_jax.spaces import RobotSpaces

Array = jax.Array

MEMORY = 0.9
"""Share of the disagreement that is kept from one control step to the next: it is averaged over about 0.2 s."""

AGREEMENT = 0.5
"""The expert gives control back when the disagreement is below this share of the one at which it intervenes."""

RESTART_STEPS = 150
"""An expert that is stuck for so many control steps of a correction starts its plan over, 3 s."""

_BETA_STREAM = 1
"""Folded into the key of a plan's noise, for the draws of `beta`."""


class Mode(IntEnum):
    """Source of the action: the policy, a pause (the last command is held), the corrector."""

    AUTONOMOUS = 0
    PAUSED = 1
    CORRECTING = 2


def next_mode(mode: Array, wanted: Array) -> Array:
    """Compute the modes after a control step, int32 (B,): one step towards the wanted one.

    Control never goes from the policy to the corrector directly, or back: in the pause between them the one that takes
    over reads the poses of the hands, so that it goes on from there.

    Args:
        mode: int32 (B,) values of `Mode`.
        wanted: bool (B,) the corrector should act; else the policy.
    """
    return jnp.where(wanted, jnp.minimum(mode + 1, Mode.CORRECTING), jnp.maximum(mode - 1, Mode.AUTONOMOUS))


@dataclass(frozen=True)
class InterventionRules:
    """Rules for the interventions of the expert.

    Attributes:
        distance: largest distance between the actions of policy and expert, averaged over about 0.2 s; None turns
            the rule off. In the units of the action: positions and openings [m], joints [rad].
        no_progress_steps: control steps without a higher stage of the task; None turns the rule off.
        beta: share of the stretches that the expert drives; 0 turns the rule off.
        correction_steps: shortest correction, and length of the stretches of `beta` [control steps].
    """

    distance: float | None = None
    no_progress_steps: int | None = None
    beta: float = 0.0
    correction_steps: int = 25


class Supervision(NamedTuple):
    """Memory of the supervision of B scenes.

    Attributes:
        policy: memory of the policy's program.
        chunk: float32 (B, K, A) its last plan.
        cursor: int32 (B,) index of the next of these actions; K requests a new plan.
        plans: int32 (B,) plans of the policy so far.
        expert: memory of the expert, which is updated also while it does not act.
        mode: int32 (B,) mode of the last step, see `Mode`.
        corrected: int32 (B,) control steps of the running correction.
        disagreement: float32 (B, D) averaged difference of the actions, see `difference`.
        best_stage: int32 (B,) highest stage so far.
        stale: int32 (B,) control steps since it rose.
        command: float32 (B, A) the last action.
    """

    policy: Any
    chunk: Array
    cursor: Array
    plans: Array
    expert: Any
    mode: Array
    corrected: Array
    disagreement: Array
    best_stage: Array
    stale: Array
    command: Array


@dataclass(frozen=True)
class CorrectedProgram(PlanProgram):
    """Policy and its corrector as a `PlanProgram` of one control step per plan.

    Attributes:
        policy: plans chunks; called whenever a scene has used one up.
        task: whose expert corrects.
        rules: the rules for interventions.
    """

    policy: PlanProgram
    task: str
    rules: InterventionRules
    num_action_steps: int = 1

    @property
    @override
    def obs_horizon(self) -> int:
        return self.policy.obs_horizon

    @property
    @override
    def cameras(self) -> tuple[str, ...]:
        return self.policy.cameras

    @override
    def start(self, output: StepOutput) -> Supervision:
        count, length = output.state.shape[0], self.policy.num_action_steps
        zero = jnp.zeros(count, jnp.int32)
        return Supervision(
            policy=self.policy.start(output),
            chunk=jnp.zeros((count, length, self._spaces.action_dim), jnp.float32),
            cursor=zero + length,
            plans=zero,
            expert=get_expert(self.task).start(output),
            mode=zero + Mode.AUTONOMOUS,
            corrected=zero,
            disagreement=jnp.zeros((count, _compared_dim(self._spaces)), jnp.float32),
            best_stage=zero,
            stale=zero,
            command=hold(self._spaces, output.state, output.end_effector).astype(jnp.float32),
        )

    @override
    def plan(
        self,
        weights: Any,
        memory: Supervision,
        observations: dict[str, Array],
        output: StepOutput,
        seed: Array,
        episodes: Array,
        replans: Array,
    ) -> tuple[Array, Supervision]:
        due = memory.cursor >= self.policy.num_action_steps

        def replan(memory: Supervision) -> Supervision:
            plans, before = memory.plans.astype(replans.dtype), memory.policy
            if isinstance(before, Timeline):
                correcting, paused = memory.mode == Mode.CORRECTING, memory.mode == Mode.PAUSED
                before = before.interrupted(correcting, paused, memory.command)
            chunk, after = self.policy.plan(weights, before, observations, output, seed, episodes, plans)
            planned = memory._replace(
                policy=after, chunk=chunk, cursor=jnp.zeros_like(memory.cursor), plans=memory.plans + 1
            )
            return keep_rows(due, planned, memory)

        memory = jax.lax.cond(due.any(), replan, lambda memory: memory, memory)
        action, memory = self._supervise(memory, output, seed, episodes, replans)
        return action[:, None], memory

    def notes(self, memory: Supervision) -> dict[str, Array]:
        """Notes about the last plan, leaves (B, 1): bool, the expert acted."""
        return {INTERVENTION: (memory.mode == Mode.CORRECTING)[:, None]}

    @override
    def bytes_per_scene(self) -> int:
        return self.policy.bytes_per_scene() + 4096

    @override
    def encoder_bytes(self, num_scenes: int) -> int:
        return self.policy.encoder_bytes(num_scenes)

    @property
    def _spaces(self) -> RobotSpaces:
        return get_task(self.task).robot.spaces

    def _supervise(
        self, memory: Supervision, output: StepOutput, seed: Array, episodes: Array, step: Array
    ) -> tuple[Array, Supervision]:
        """Supervise one control step: the next memory and the commanded actions (B, A)."""
        expert, rules = get_expert(self.task), self.rules
        proposal = jnp.take_along_axis(memory.chunk, memory.cursor[:, None, None], axis=1)[:, 0]
        ready = self._ready(memory, output)
        acted, correction = expert.act(ready, output)
        new = difference(proposal, correction, self._spaces)
        disagreement = MEMORY * memory.disagreement + (1 - MEMORY) * new
        rose = output.stage > memory.best_stage
        stale = jnp.where(rose, 0, memory.stale + 1)
        was_correcting = memory.mode == Mode.CORRECTING
        wanted = was_correcting & (memory.corrected < rules.correction_steps)
        if rules.distance is not None:
            limit = jnp.where(was_correcting, AGREEMENT * rules.distance, rules.distance)
            wanted |= distance(disagreement, self._spaces) > limit
        if rules.no_progress_steps is not None:
            wanted |= stale >= rules.no_progress_steps
        if rules.beta > 0:
            wanted |= drawn(seed, episodes, step // rules.correction_steps) < rules.beta
        mode = next_mode(memory.mode, wanted)
        correcting, autonomous = mode == Mode.CORRECTING, mode == Mode.AUTONOMOUS
        action = jnp.where(autonomous[:, None], proposal, memory.command)
        action = jnp.where(correcting[:, None], correction, action)
        return action, memory._replace(
            # After a correction the policy plans anew when it acts again.
            cursor=jnp.where(mode == Mode.PAUSED, self.policy.num_action_steps, memory.cursor + 1),
            expert=acted,
            mode=mode,
            corrected=jnp.where(correcting, memory.corrected + 1, 0),
            disagreement=jnp.where((was_correcting & ~correcting)[:, None], 0.0, disagreement),
            best_stage=jnp.maximum(memory.best_stage, output.stage).astype(jnp.int32),
            stale=stale,
            command=action,
        )

    def _ready(self, memory: Supervision, output: StepOutput) -> Any:
        """Prepare the expert to act: it goes on from the last command, and starts over where it has to."""
        correcting, paused = memory.mode == Mode.CORRECTING, memory.mode == Mode.PAUSED
        expert_of_task = get_expert(self.task)
        shadow = expert_of_task.anchor(memory.expert, memory.command)
        expert = keep_rows(correcting, memory.expert, shadow)
        fresh = expert_of_task.anchor(expert_of_task.start(output), memory.command)
        stuck = correcting & (memory.expert.waited > RESTART_STEPS)
        lost = paused & (output.stage == 0) & (memory.best_stage > 0)  # the object is no longer touched
        expert = keep_rows(stuck | lost, fresh, expert)
        return expert._replace(waited=jnp.where(paused, 0, expert.waited))


def difference(one: Array, other: Array, spaces: RobotSpaces) -> Array:
    """Difference of two actions (B, A), float32 (B, D): all parts but quaternions, in their order."""
    apart = one - other
    compared = [apart[:, place] for part, place in spaces.action_parts if part.kind != "quaternion"]
    return jnp.concatenate(compared, axis=-1)


def distance(difference: Array, spaces: RobotSpaces) -> Array:
    """Distance (B,) of two actions: the largest one of the parts of their `difference` (B, D), positions by length."""
    sizes, start = [], 0
    for part in spaces.action:
        if part.kind != "quaternion":
            entries = difference[:, start : start + part.dim]
            size = jnp.linalg.norm(entries, axis=-1) if part.kind == "position" else jnp.abs(entries).max(axis=-1)
            sizes.append(size)
            start += part.dim
    return jnp.stack(sizes, axis=-1).max(axis=-1)


def _compared_dim(spaces: RobotSpaces) -> int:
    return sum(part.dim for part in spaces.action if part.kind != "quaternion")


def drawn(seed: Array, episodes: Array, stretch: Array) -> Array:
    """Draw a number in 0..1 per scene and stretch, a function of (seed, episode, stretch) alone; float32 (B,)."""
    keys = noise_keys(seed, episodes, stretch)
    return jax.vmap(lambda key: seeds.uniform(seeds.fold_in(key, _BETA_STREAM)))(keys)


class CorrectedPlanner(ProgramPlanner):
    """Planner whose policy is corrected; for both loops.

    Args:
        policy: a planner with a program.
        task: whose expert corrects.
        rules: the rules for interventions.
    """

    def __init__(self, policy: ProgramPlanner, task: str, rules: InterventionRules) -> None:
        get_expert(task)  # an unknown task is refused now
        super().__init__(CorrectedProgram(policy.program, task, rules), policy.weights, policy.rows)


def beta_of_round(beta: float, number: int) -> float:
    """Share of the stretches that the expert drives in round 1, 2, ...: beta, beta^2, ... (Ross et al. 2011)."""
    return float(np.clip(beta, 0, 1)) ** number
