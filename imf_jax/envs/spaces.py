"""Spaces of the environments, from the robot and the task; observations under the names that LeRobot reads."""

from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
from gymnasium.spaces import Box, Dict, Space

from imf_jax.config import require
from imf_jax.sim.tasks import Task
from imf_jax.spaces import Part

ObsType = Literal["state", "pixels_agent_pos", "pixels"]
"""What an environment shows: the state of the robot and of the scene, pictures and the state of the robot, pictures."""

LIMITS: dict[str, float] = {"position": np.inf, "quaternion": 1.0, "joint": np.inf, "gripper": np.inf}
"""Largest size of an entry of a part whose robot states none."""


def parts_space(parts: Sequence[Part]) -> Box:
    """Space of the parts of an action or a state, float32 (sum of their entries,), within the limits they state."""
    low = np.concatenate([part.low or np.full(part.dim, -LIMITS[part.kind]) for part in parts])
    high = np.concatenate([part.high or np.full(part.dim, LIMITS[part.kind]) for part in parts])
    return Box(low.astype(np.float32), high.astype(np.float32))


def observation_space(task: Task, obs_type: ObsType, cameras: Sequence[str], image_size: int) -> Dict:
    """Space of an observation.

    Returns:
        of `agent_pos` float32 (S,) and `environment_state` float32 (E,), or `pixels`: name of a camera -> uint8 (H, W,
        3); see `ObsType`.

    Raises:
        ArgumentError: there is no such kind of observation, or a camera is not there or not wanted.
    """
    kinds = get_args(ObsType)
    require(obs_type in kinds, f"obs_type {obs_type!r} is not known; choose one of: {', '.join(kinds)}")
    sees = obs_type != "state"
    require(sees or not cameras, f"obs_type state shows no pictures, so cameras {', '.join(cameras)} would do nothing")
    unknown = [name for name in cameras if name not in task.cameras]
    require(
        not unknown,
        f"task {task.name!r} has no camera {', '.join(map(repr, unknown))}; it has {', '.join(task.cameras)}",
    )
    require(not sees or len(cameras) > 0, f"obs_type {obs_type} needs cameras, of {', '.join(task.cameras)}")
    spaces: dict[str, Space[Any]] = {}
    if sees:
        picture = Box(0, 255, (image_size, image_size, 3), np.uint8)
        spaces["pixels"] = Dict(dict.fromkeys(cameras, picture))
    if obs_type != "pixels":
        # A measured state may lie beyond the limits of what can be commanded.
        spaces["agent_pos"] = Box(-np.inf, np.inf, (task.robot.spaces.state_dim,), np.float32)
    if not sees:
        spaces["environment_state"] = Box(-np.inf, np.inf, (task.env_state_dim,), np.float32)
    return Dict(spaces)
