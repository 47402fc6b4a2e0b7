"""A policy that costs what it costs and commands recorded actions: free air and contact measured alike.

The hands of an untrained policy wander in free air, where physics is cheaper than with a box in the grippers. So the
expert's actions are recorded and commanded in place of those that the network computes.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from typing_extensions import override

from imf_jax.benchmark.components import SEED
from imf_jax.benchmark.rollouts import MeasuredPolicy
from imf_jax.models.policy import Policy
from imf_jax.rollout.plan_program import KeptChunks, PolicyProgram
from imf_jax.rollout.planner import PolicyPlanner
from imf_jax.seeds import scene_keys
from imf_jax.sim.backends.base import StepOutput
from imf_jax.sim.backends.native import NativeBackend
from imf_jax.sim.tasks import get_expert

Weights = tuple[nnx.State, jax.Array]


@dataclass(frozen=True)
class ReplayProgram(PolicyProgram):
    """Program of a policy that plans as ever; what is executed are the recorded actions, wherever its own are finite.

    Its weights are those of the policy, and the actions, float32 (E, R, K, A), of R plans of the episodes 0 .. E - 1.
    """

    @override
    def plan(
        self,
        weights: Weights,
        memory: KeptChunks,
        observations: dict[str, jax.Array],
        output: StepOutput | None,
        seed: jax.Array,
        episodes: jax.Array,
        replans: jax.Array,
    ) -> tuple[jax.Array, KeptChunks]:
        own, recorded = weights
        actions, memory = super().plan(own, memory, observations, output, seed, episodes, replans)
        return jnp.where(jnp.isfinite(actions), recorded[episodes, replans], actions), memory


def replaying_planner(actions: np.ndarray, policy: Policy, rows: int) -> PolicyPlanner:
    """A planner of `rows` rows with a `ReplayProgram` of `actions`, float32 (E, T, A), T a multiple of a plan."""

    def execute(program: PolicyProgram, weights: nnx.State) -> tuple[ReplayProgram, Weights]:
        plans = actions.reshape(len(actions), -1, program.num_action_steps, actions.shape[-1])
        return ReplayProgram(**vars(program)), (weights, jnp.asarray(plans))

    return PolicyPlanner(policy, rows, execute)


def replaying(measured_policy: MeasuredPolicy, actions: np.ndarray, label: str) -> MeasuredPolicy:
    """The policy with recorded `actions`, see `replaying_planner`; `label`: where its hands are, for tables."""
    planner: Any = partial(replaying_planner, actions)
    return MeasuredPolicy(f"{measured_policy.label}, {label}", measured_policy.policy, planner, measured_policy.task)


def actions_in_contact(task: str, count: int, steps: int) -> np.ndarray:
    """Record what the expert commands until one stage is left, and holds from then on: the objects are in the hands.

    Of `transfer` both hands hold the box, so no episode ends. Recorded on `native`, whatever is measured.

    Args:
        task: name of a task with an expert.
        count: episodes 0 .. count - 1 of the benchmark's seed.
        steps: control steps of each.

    Returns:
        float32 (count, steps, A).
    """
    backend, expert = NativeBackend(task, visual="primitive"), get_expert(task)
    act = jax.jit(expert.act)
    state, output = backend.reset(scene_keys(SEED, range(count)))
    memory = expert.start(output)
    actions: list[np.ndarray] = []
    arrived = np.zeros(count, bool)
    for _ in range(steps):
        memory, action = act(memory, output)
        wanted = np.asarray(action)
        actions.append(np.where(arrived[:, None], actions[-1], wanted) if actions else wanted)
        state, output = backend.step(state, actions[-1])
        arrived |= np.asarray(output.stage) >= len(backend.task.stages) - 1
    return np.stack(actions, axis=1)
