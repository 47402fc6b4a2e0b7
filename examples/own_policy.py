"""Evaluate a policy of your own: any function of the observations. Run: python examples/own_policy.py evals/own"""

import sys
from pathlib import Path

import numpy as np

from imf_jax.evaluation.evaluate import EvaluationSettings, Summary, evaluate
from imf_jax.evaluation.setup import EvaluatedPolicy, Setup
from imf_jax.rollout.function_planner import FunctionPlanner
from imf_jax.sim.backends.native import NativeBackend
from imf_jax.sim.robots.diana.model import GRASP_Z, MAX_OPENING

WAITING_LEFT = [0.46, 0.4, 0.32, 1, 0, 0, 0, MAX_OPENING]
"""Position of link7 [m], quaternion wxyz (the gripper points down), gripper opening [m]."""


def reach(observations: dict[str, np.ndarray]) -> np.ndarray:
    """Send the right hand to the box with its gripper closed: it touches the box, and cannot lift it.

    Args:
        observations: `state` float32 (B, 1, 16), joint angles [rad] and openings [m], which it does not use, and
            `env_state` float32 (B, 1, 7), the pose of the box: position [m] and quaternion wxyz.

    Returns:
        float32 (B, 16) actions, per arm like `WAITING_LEFT`.
    """
    env_state = observations["env_state"][:, -1]
    left = np.tile(np.array(WAITING_LEFT, np.float32), (len(env_state), 1))
    position = env_state[:, :3] - np.array([0, 0, GRASP_Z], np.float32)
    return np.concatenate([left, position, env_state[:, 3:], np.zeros_like(position[:, :1])], axis=1)


def main(out: Path, episodes: int = 10) -> Summary:
    backend = NativeBackend("transfer")
    planner = FunctionPlanner(reach, action_dim=backend.task.robot.spaces.action_dim)
    setup = Setup(EvaluatedPolicy(planner, backend.task.name, "reach"), backend)
    summary = evaluate(setup, EvaluationSettings(episodes, num_envs=episodes), out)
    reached = {stage["name"]: f"{stage['n_reached']}/{episodes}" for stage in summary.metrics["stages"]}
    print(f"{summary.headline}\nstages reached: {reached}\nreport: {summary.folder / 'report.html'}")
    return summary


if __name__ == "__main__":
    main(Path(sys.argv[1]))
