"""The scripted expert in the closed loop, as the reference that a policy is read beside."""

from dataclasses import dataclass

import jax
import numpy as np

from imf_jax.rollout.planner import Observations
from imf_jax.sim.backends.base import StepOutput
from imf_jax.sim.blocks import in_blocks
from imf_jax.sim.expert import ExpertState, get_expert


@dataclass(frozen=True)
class ExpertProgram:
    """The scripted expert of a task as a `PlanProgram`: one control step per plan, its memory is an `ExpertState`."""

    task: str
    obs_horizon: int = 1
    num_action_steps: int = 1
    cameras: tuple[str, ...] = ()

    def start(self, output: StepOutput) -> ExpertState:
        """See `PlanProgram`."""
        return get_expert(self.task).start(output)

    def plan(
        self,
        weights: tuple[()],
        memory: ExpertState,
        observations: dict[str, jax.Array],
        output: StepOutput,
        seed: jax.Array,
        episodes: jax.Array,
        replans: jax.Array,
    ) -> tuple[jax.Array, ExpertState]:
        """See `PlanProgram`."""
        memory, action = get_expert(self.task).act(memory, output)
        return action[:, None], memory

    def bytes_per_scene(self) -> int:
        """See `PlanProgram`."""
        return 4096


class ExpertPlanner:
    """Plans one control step at a time with a task's scripted expert, whose memory it keeps per episode.

    Args:
        task: name of the task.

    Raises:
        ArgumentError: the task has no expert.
    """

    obs_horizon = 1
    num_action_steps = 1
    rows = 1
    cameras: tuple[str, ...] = ()

    def __init__(self, task: str) -> None:
        expert = get_expert(task)
        self.program, self.weights = ExpertProgram(task), ()
        self._start = jax.jit(expert.start)
        self._act = jax.jit(expert.act)
        self._episodes: list[int] = []
        self._memory: ExpertState | None = None

    def plan(
        self, observations: Observations, output: StepOutput, seed: int, episodes: np.ndarray, replans: np.ndarray
    ) -> np.ndarray:
        """See `Planner.plan`."""
        memory, action = in_blocks(self._act, self._recall(output, episodes, replans == 0), output)
        self._episodes, self._memory = episodes.tolist(), memory
        return action[:, None]

    def _recall(self, output: StepOutput, episodes: np.ndarray, fresh: np.ndarray) -> ExpertState:
        """The memory of the scenes that run now: that of the last call, or a new one where an episode has begun."""
        row_of = {episode: row for row, episode in enumerate(self._episodes)}
        rows = np.array([row_of.get(episode, 0) for episode in episodes.tolist()])
        if self._memory is None:
            return in_blocks(self._start, output)
        known = jax.tree.map(lambda leaf: leaf[rows], self._memory)
        if not fresh.any():
            return known
        started = in_blocks(self._start, output)

        def choose(new: np.ndarray, old: np.ndarray) -> np.ndarray:
            return np.where(fresh.reshape(-1, *[1] * (new.ndim - 1)), new, old)

        return jax.tree.map(choose, started, known)
