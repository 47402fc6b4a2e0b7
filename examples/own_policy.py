"""Evaluate a policy of your own: any function of the observations. Run: python examples/own_policy.py evals/own"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np

from imf_jax.evaluation.evaluate import EvaluationSettings, Summary, evaluate
from imf_jax.evaluation.setup import Candidate, Setup
from imf_jax.rollout.planner import PlanProgram, ProgramPlanner
from imf_jax.sim.backends.native import NativeBackend
from imf_jax.sim.scene import GRASP_Z, MAX_OPENING

WAITING_LEFT = [0.46, 0.4, 0.32, 1, 0, 0, 0, MAX_OPENING]
"""Position of link7 [m], quaternion wxyz (the gripper points down), gripper opening [m]."""


def reach(state: np.ndarray, env_state: np.ndarray) -> np.ndarray:
    """Send the right hand to the box with its gripper closed: it touches the box, and cannot lift it.

    Args:
        state: float32 (B, 16) joint angles [rad] and gripper openings [m], which this policy does not use.
        env_state: float32 (B, 7) pose of the box, position [m] and quaternion wxyz.

    Returns:
        float32 (B, 16) actions, per arm like `WAITING_LEFT`.
    """
    left = np.tile(np.array(WAITING_LEFT, np.float32), (len(state), 1))
    position = env_state[:, :3] - np.array([0, 0, GRASP_Z], np.float32)
    return np.concatenate([left, position, env_state[:, 3:], np.zeros_like(position[:, :1])], axis=1)


@dataclass(frozen=True)
class FunctionProgram(PlanProgram):
    """Plans one control step at a time with a function (state, env_state) -> action on numpy arrays."""

    act: Callable[[np.ndarray, np.ndarray], np.ndarray]
    obs_horizon: int = 1
    num_action_steps: int = 1
    cameras: tuple[str, ...] = ()

    def plan(self, weights, memory, observations, output, seed, episodes, replans):  # type: ignore[no-untyped-def]
        seen = observations["state"][:, -1], observations["env_state"][:, -1]
        return jax.pure_callback(self.act, jax.ShapeDtypeStruct((len(seen[0]), 16), np.float32), *seen)[:, None], memory


def main(out: Path, episodes: int = 10) -> Summary:
    planner = ProgramPlanner(FunctionProgram(reach), weights=(), rows=episodes)
    setup = Setup(Candidate(planner, "transfer", "reach"), NativeBackend("transfer"))
    summary = evaluate(setup, EvaluationSettings(episodes, num_envs=episodes), out)
    reached = {stage["name"]: f"{stage['n_reached']}/{episodes}" for stage in summary.metrics["stages"]}
    print(f"{summary.headline}\nstages reached: {reached}\nreport: {summary.folder / 'report.html'}")
    return summary


if __name__ == "__main__":
    main(Path(sys.argv[1]))
