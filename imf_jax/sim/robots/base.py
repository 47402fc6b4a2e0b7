"""Interface of a robot: what it is (`Robot`), and how it works in a compiled scene (`BoundRobot`).

Servo targets are J joint targets, which a backend may interpolate within a control step, and G gripper targets, which
are commanded at once. The arrays of every method are batched over scenes.
"""

from abc import ABC, abstractmethod
from typing import Literal

import jax
import jax.numpy as jnp
import mujoco
import numpy as np

from imf_jax.sim.arrays import Array
from imf_jax.spaces import RobotSpaces

Visual = Literal["mesh", "primitive"]
"""Look of a robot: its real surfaces, or capsules, which are smaller and faster to render. Physics is equal."""


class BoundRobot(ABC):
    """A robot in a compiled scene.

    Attributes:
        qpos: (n,) addresses in qpos of all its joints, in the order of `positions`.
        ctrl: (nu,) ids of all its actuators, in the order of `controls`.
        effectors: (E,) ids of the bodies whose poses are measured, in the order of `RobotSpaces.effectors`.
        start_grippers: float32 (G,) gripper targets at the start of an episode.
    """

    qpos: np.ndarray
    ctrl: np.ndarray
    effectors: np.ndarray
    start_grippers: np.ndarray

    @abstractmethod
    def sample(self, key: jax.Array) -> jax.Array:
        """Joint targets and positions at the start of one episode, float32 (J,), a pure function of the key."""

    @abstractmethod
    def positions(self, joints: Array, grippers: Array) -> Array:
        """Generalised positions (B, n) at joint targets (B, J) and gripper targets (B, G); numpy or JAX."""

    @abstractmethod
    def controls(self, joints: Array, grippers: Array) -> Array:
        """Servo commands (B, nu) for joint targets (B, J) and gripper targets (B, G); numpy or JAX."""

    @abstractmethod
    def targets(self, last: jax.Array, action: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Turn the actions of one control step into servo targets.

        Args:
            last: (B, J) joint targets of the control step before.
            action: (B, A) actions, see `RobotSpaces.action`.

        Returns:
            joint targets (B, J) and gripper targets (B, G), always finite and within their limits; and the distance
            (B, E) [m] by which a command was moved to become reachable: inf for one that is not finite.
        """

    @abstractmethod
    def read_state(self, qpos: Array) -> Array:
        """State of the robot, float32 (B, S), see `RobotSpaces.state`, from qpos float32 (B, nq); numpy or JAX."""


class Robot(ABC):
    """A robot.

    Attributes:
        spaces: its name, action, state and end effectors.
        fingers: per end effector, the names of the geoms that grasp.
        cameras: names of the cameras that it carries.
        palms: per end effector, the name of a geom that touches objects without grasping them; or none at all.
        self_pairs: names of the geoms of the robot that can meet each other, in pairs.
    """

    spaces: RobotSpaces
    fingers: tuple[tuple[str, ...], ...]
    cameras: tuple[str, ...] = ()
    palms: tuple[str, ...] = ()
    self_pairs: tuple[tuple[str, str], ...] = ()

    @abstractmethod
    def add_to(self, spec: mujoco.MjSpec, visual: Visual) -> None:
        """Add the robot to a scene; for robots that are found in the scenes of their tasks there is nothing to do.

        Raises:
            UserError: the package with its model is not installed, or has changed.
        """

    @abstractmethod
    def bind(self, model: mujoco.MjModel) -> BoundRobot:
        """Find the robot in a compiled scene."""


def hold(spaces: RobotSpaces, state: Array, end_effector: Array) -> jax.Array:
    """Action (B, A) that leaves the robot where it is.

    Args:
        spaces: of the robot.
        state: (B, S) its state. Joints and grippers of the action are those of the same name.
        end_effector: (B, E, 7) poses, position [m] and quaternion wxyz; quaternions of the action have w >= 0.
    """
    measured = {part.name: place for part, place in spaces.state_parts}
    parts = []
    for part in spaces.action:
        if part.kind == "position":
            parts.append(end_effector[:, part.effector, :3])
        elif part.kind == "quaternion":
            quaternion = end_effector[:, part.effector, 3:]
            # Both signs are the same orientation; this one is that of the demonstrations.
            parts.append(jnp.where(quaternion[..., :1] < 0, -quaternion, quaternion))
        else:
            parts.append(state[:, measured[part.name]])
    return jnp.concatenate(parts, axis=-1)
