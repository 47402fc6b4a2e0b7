"""Actions that reach the servos late."""

from collections.abc import Mapping
from dataclasses import dataclass

import jax.numpy as jnp
from typing_extensions import override

from imf_jax.rollout.perturbations.base import Array, PerturbedProgram
from imf_jax.rollout.plan_program import PlanProgram
from imf_jax.sim.backends.base import StepOutput
from imf_jax.sim.robots.base import hold


@dataclass(frozen=True)
class ControlDelay(PerturbedProgram):
    """The action of control step t is executed in control step t + level; until then the robot stays where it is.

    The planner does not know: nothing of it is compensated, unlike plans that come late (`imf_jax.rollout.delay`),
    whose actions are those for the time at which they take over. Its own memory is float32 (B, delay, A), the actions
    under way.

    Attributes:
        delay: the level [control steps].
    """

    delay: int = 0

    @classmethod
    @override
    def settings(cls, program: PlanProgram, level: float, fovy: Mapping[str, float]) -> tuple[int]:
        return (int(level),)

    @override
    def begin(self, output: StepOutput) -> Array:
        stay = hold(self.spaces, output.state, output.end_effector)
        return jnp.repeat(stay[:, None], self.delay, axis=1)

    @override
    def act(self, keys: Array, steps: Array, level: Array, actions: Array, own: Array) -> tuple[Array, Array]:
        under_way = jnp.concatenate([own, actions], axis=1)
        return under_way[:, : actions.shape[1]], under_way[:, actions.shape[1] :]
