"""Scripted expert in the closed loop, the reference that a policy is compared with."""

from dataclasses import dataclass
from typing import Any

import jax
from typing_extensions import override

from imf_jax.rollout.plan_program import PlanProgram
from imf_jax.rollout.planner import ProgramPlanner
from imf_jax.sim.backends.base import StepOutput
from imf_jax.sim.batching import BLOCK_ROWS
from imf_jax.sim.tasks import get_expert


@dataclass(frozen=True)
class ExpertProgram(PlanProgram):
    """Scripted expert of a task as a `PlanProgram`: one control step per plan, its memory is the expert's."""

    task: str
    obs_horizon: int = 1
    num_action_steps: int = 1
    cameras: tuple[str, ...] = ()

    @override
    def start(self, output: StepOutput) -> Any:
        return get_expert(self.task).start(output)

    @override
    def plan(
        self,
        weights: tuple[()],
        memory: Any,
        observations: dict[str, jax.Array],
        output: StepOutput,
        seed: jax.Array,
        episodes: jax.Array,
        replans: jax.Array,
    ) -> tuple[jax.Array, Any]:
        memory, action = get_expert(self.task).act(memory, output)
        return action[:, None], memory


class ExpertPlanner(ProgramPlanner):
    """Plans one control step at a time with a task's scripted expert.

    Args:
        task: name of the task.

    Raises:
        ArgumentError: the task has no expert.
    """

    def __init__(self, task: str) -> None:
        get_expert(task)  # an unknown task is refused now
        super().__init__(ExpertProgram(task), (), BLOCK_ROWS)
