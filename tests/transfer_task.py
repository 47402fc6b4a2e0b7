"""The task `transfer` for tests: its spaces, observations made by hand, and another robot."""

import numpy as np

from imf_jax.sim.tasks import TaskObservation, get_task
from imf_jax.spaces import Part, RobotSpaces

SPACES: RobotSpaces = get_task("transfer").robot.spaces
"""Action and state of two Diana 7 arms, 16 entries each."""

ARM = RobotSpaces(
    name="arm",
    action=(Part("arm", 3, "joint", "rad"), Part("gripper", 1, "gripper", ""), Part("base", 1, "joint", "m")),
    state=(Part("base", 1, "joint", "m"), Part("arm", 3, "joint", "rad"), Part("gripper", 1, "gripper", "")),
    effectors=("wrist",),
    effector_names=("arm",),
)
"""For contrast a robot that is commanded by joints; its state has another order."""

ENV_STATE_DIM = get_task("transfer").env_state_dim


def observe(objects: np.ndarray, touch: np.ndarray, contacts: np.ndarray | None = None) -> TaskObservation:
    """An observation of B scenes.

    Args:
        objects: (B, n, 7) poses.
        touch: bool (B, n, 2, 2), see `TaskObservation`.
        contacts: bool (B, K); none by default.
    """
    count = len(objects)
    contacts = np.zeros((count, 0), bool) if contacts is None else contacts
    return TaskObservation(objects, touch, contacts, np.zeros((count, SPACES.state_dim), np.float32))
