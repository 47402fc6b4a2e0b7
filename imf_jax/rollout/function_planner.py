"""Planner around any function of the observations: a policy from elsewhere, a controller, a sanity check."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from typing_extensions import override

from imf_jax.rollout.plan_program import PlanProgram
from imf_jax.rollout.planner import ProgramPlanner
from imf_jax.sim.backends.base import StepOutput
from imf_jax.sim.batching import BLOCK_ROWS

Act = Callable[[dict[str, np.ndarray]], np.ndarray]
"""(observations) -> actions (B, num_action_steps, action_dim) or, of one step, (B, action_dim)."""


@dataclass(frozen=True)
class FunctionProgram(PlanProgram):
    """Plans with a function that JAX cannot trace; it is called on the host from both loops.

    Attributes:
        act: the function; its result for a scene must not depend on the other scenes.
        action_dim: numbers of an action.
        obs_horizon, num_action_steps, cameras: see `PlanProgram`.
    """

    act: Act
    action_dim: int
    obs_horizon: int = 1
    num_action_steps: int = 1
    cameras: tuple[str, ...] = ()

    @override
    def plan(
        self,
        weights: tuple[()],
        memory: tuple[()],
        observations: dict[str, jax.Array],
        output: StepOutput,
        seed: jax.Array,
        episodes: jax.Array,
        replans: jax.Array,
    ) -> tuple[jax.Array, tuple[()]]:
        shape = (episodes.shape[0], self.num_action_steps, self.action_dim)

        def call(seen: dict[str, Any]) -> np.ndarray:
            actions = self.act({name: np.asarray(values) for name, values in seen.items()})
            return np.asarray(actions, np.float32).reshape(shape)

        return jax.pure_callback(call, jax.ShapeDtypeStruct(shape, jnp.float32), observations), memory


class FunctionPlanner(ProgramPlanner):
    """Plans with a Python function of the observations, in batches.

    Args:
        act: receives `state` float32 (B, obs_horizon, state_dim) and `env_state` float32 (B, obs_horizon, E), oldest
            first, with cameras also `images` uint8 (B, obs_horizon, C, H, W, 3); returns float32 actions
            (B, num_action_steps, action_dim), or (B, action_dim) if it plans one step.
        action_dim: entries of an action of the robot, `RobotSpaces.action_dim`.
        obs_horizon: observations that it reads.
        num_action_steps: actions that it plans, all of which are executed.
        cameras: names of the cameras C.
        rows: scenes of a call; the last ones may be repetitions.
    """

    def __init__(
        self,
        act: Act,
        *,
        action_dim: int,
        obs_horizon: int = 1,
        num_action_steps: int = 1,
        cameras: tuple[str, ...] = (),
        rows: int = BLOCK_ROWS,
    ) -> None:
        super().__init__(FunctionProgram(act, action_dim, obs_horizon, num_action_steps, cameras), (), rows)
