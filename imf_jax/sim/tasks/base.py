"""Interface of a task: robot, objects, a reset distribution, stages, success. Pure and batched over scenes.

The per-step functions use only operators and methods that numpy and JAX arrays share, or take the array module from
the arrays they are given, so that C MuJoCo (numpy) and the compiled backends (JAX) evaluate the very same code.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from types import ModuleType
from typing import Any, NamedTuple

import jax
import mujoco

from imf_jax.sim.arrays import Array, array_module
from imf_jax.sim.robots.base import Robot, Visual
from imf_jax.sim.robots.diana import DIANA_PAIR
from imf_jax.sim.scene import CAMERAS, add_pairs, add_table

ObjectGeoms = dict[str, tuple[str, ...]]
"""Name of an object -> names of its collision geoms."""


class ContactPair(NamedTuple):
    """Two groups of geoms of which a task asks whether they touch."""

    first: tuple[str, ...]
    second: tuple[str, ...]


class TaskObservation(NamedTuple):
    """Observation of B scenes for their task.

    Attributes:
        objects: (B, n_objects, 7) poses, position [m] and quaternion wxyz in the world frame.
        touch: bool (B, n_objects, E, F) contact of an object with finger F of end effector E.
        contacts: bool (B, K) of each of `Task.contact_pairs`.
        state: float32 (B, S) state of the robot.
    """

    objects: Array
    touch: Array
    contacts: Array
    state: Array


class TaskResult(NamedTuple):
    """Result of a control step of B scenes: reward (B,), stage (B,), success (B,), failure (B,)."""

    reward: Array
    stage: Array
    success: Array
    failure: Array


class Task(ABC):
    """A manipulation task. Attributes with a value here are defaults.

    Attributes:
        name: as on command lines.
        robot: the robot that does it.
        objects: names of the free bodies, in the order of `TaskObservation.objects`.
        stages: names of the stages 1..n, in order: what has been achieved.
        lifted_stage: from this stage on an object is off the table; falling below it is a drop.
        followed_object: index of the object that must not be dropped or leave a picture.
        env_state_dim: length of the scene state that a policy which does not see observes.
        other_poses: names of the poses in the scene state after those of the objects.
        max_steps: control steps after which an episode times out.
        physics_dt: physics step [s].
        substeps: physics steps per control step.
        contact_slots: contacts per scene for which a compiled backend with fixed buffers sets memory aside.
        constraint_rows: rows of constraints per scene, likewise.
        position_noise, yaw_noise, joint_noise: largest standard deviations of the noise of demonstrations on positions
            [m], on rotations about the vertical [rad] and on joint targets [rad].
        measures_sizes: success is computed with the sizes of the objects, so that these must not be changed.
        contact_pairs: groups of geoms of which the task asks whether they touch, besides fingers and objects.
        cameras: names of the cameras of the scene.
        picture_camera: the one that pictures of paths and videos show unless another is named.
        expert: class of the scripted expert, or where it is, "package.module:Name"; None without one.
    """

    name: str
    robot: Robot
    objects: tuple[str, ...]
    stages: tuple[str, ...]
    env_state_dim: int
    max_steps: int
    cameras: tuple[str, ...]
    picture_camera: str
    other_poses: tuple[str, ...] = ()
    lifted_stage: int = 2
    followed_object: int = 0
    physics_dt: float = 0.004
    substeps: int = 5
    contact_slots: int = 32
    constraint_rows: int = 192
    position_noise: float = 0.008
    yaw_noise: float = 0.04
    joint_noise: float = 0.01
    measures_sizes: bool = False
    contact_pairs: tuple[ContactPair, ...] = ()
    expert: str | type | None = None

    @property
    def control_dt(self) -> float:
        """Time of a control step [s]."""
        return self.physics_dt * self.substeps

    @abstractmethod
    def make_spec(self, visual: Visual) -> tuple[mujoco.MjSpec, ObjectGeoms]:
        """Make the scene with the robot and the objects, and name the collision geoms of the objects.

        The body of an object carries the object's name, and a free joint.
        """

    @abstractmethod
    def sample(self, key: jax.Array) -> jax.Array:
        """Initial object poses of one scene, float32 (n_objects, 7), a pure function of the key."""

    def start(self, batch: int, xp: ModuleType) -> Any:
        """The progress pytree of `batch` fresh scenes, in numpy or jax.numpy; empty by default."""
        return ()

    @abstractmethod
    def evaluate(self, progress: Any, observation: TaskObservation) -> tuple[Any, TaskResult]:
        """Evaluate the scenes after one control step."""

    def env_state(self, observation: TaskObservation, hands: Array) -> Array:
        """The scene state (B, env_state_dim) that a policy which does not see observes: the poses of all objects.

        Args:
            observation: the scenes.
            hands: (B, E, 7) poses of the end effectors, position [m] and quaternion wxyz.
        """
        objects = observation.objects
        return objects.reshape(objects.shape[0], -1)

    def followed_position(self, env_state: Array) -> Array:
        """Position (..., 3) [m] of the `followed_object` in scene states (..., env_state_dim)."""
        start = 7 * self.followed_object
        return env_state[..., start : start + 3]


class TableTask(Task):
    """A task of a robot at the table of `imf_jax.sim.scene`, by default two Diana 7 arms."""

    robot: Robot = DIANA_PAIR
    cameras: tuple[str, ...] = (*DIANA_PAIR.cameras, *CAMERAS)
    picture_camera: str = "front"

    @abstractmethod
    def add_objects(self, spec: mujoco.MjSpec) -> ObjectGeoms:
        """Add the free bodies to the scene; returns the names of their collision geoms."""

    def make_spec(self, visual: Visual) -> tuple[mujoco.MjSpec, ObjectGeoms]:
        """Make the scene; see `Task`."""
        spec = mujoco.MjSpec()
        spec.modelname = self.robot.spaces.name
        add_table(spec, self.physics_dt)
        self.robot.add_to(spec, visual)
        objects = self.add_objects(spec)
        add_pairs(spec, self.robot, objects)
        return spec, objects


def highest_stage(holds: Sequence[Any]) -> Array:
    """Number of the last stage that holds, int32 (B,), 0 if none. `holds`: bool (B,) of the stages 1, 2, ..."""
    xp = array_module(holds[0])
    stage = xp.zeros(holds[0].shape[0], xp.int32)
    for number, reached in enumerate(holds, start=1):
        stage = xp.where(reached, number, stage).astype(xp.int32)
    return stage


__all__ = [
    "Array",
    "ContactPair",
    "ObjectGeoms",
    "TableTask",
    "Task",
    "TaskObservation",
    "TaskResult",
    "array_module",
    "highest_stage",
]
