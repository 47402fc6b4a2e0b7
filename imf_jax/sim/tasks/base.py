"""Interface of a task: objects, a reset distribution, staged rewards. Everything is pure and batched over scenes.

The per-step functions use only operators and methods that numpy and JAX arrays share, or take the array module from
the arrays they are given, so that C MuJoCo (numpy) and the compiled backends (JAX) evaluate the very same code.
"""

from types import ModuleType
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import mujoco
import numpy as np

Array = jax.Array | np.ndarray


class TaskObservation(NamedTuple):
    """Observation of B scenes for their task.

    Attributes:
        objects: (B, n_objects, 7) poses, position [m] and quaternion wxyz in the world frame.
        touch: bool (B, n_objects, 2, 2) contact of an object with a finger (side left/right, finger 1/2).
        opening: (B, 2) gripper openings [m].
    """

    objects: Array
    touch: Array
    opening: Array


class TaskResult(NamedTuple):
    """Result of a control step of B scenes: reward (B,), stage (B,), success (B,), failure (B,)."""

    reward: Array
    stage: Array
    success: Array
    failure: Array


class Task(Protocol):
    """A manipulation task.

    Attributes:
        name: as on command lines.
        max_steps: control steps after which an episode times out.
        objects: names of the free bodies, in the order of `TaskObservation.objects`.
        stages: names of the stages 1..n, in order; the reward of a step is the highest stage that holds.
        env_state_dim: length of the scene state a state policy observes.
    """

    name: str
    max_steps: int
    objects: tuple[str, ...]
    stages: tuple[str, ...]
    env_state_dim: int

    def add_objects(self, spec: mujoco.MjSpec) -> dict[str, tuple[str, ...]]:
        """Add the free bodies to a scene; returns their collision geoms (see `scene.build_scene`)."""
        ...

    def sample(self, key: jax.Array) -> jax.Array:
        """Initial object poses of one scene, float32 (n_objects, 7), a pure function of the key."""
        ...

    def start(self, batch: int, xp: ModuleType) -> Any:
        """The progress pytree of `batch` fresh scenes, in numpy or jax.numpy."""
        ...

    def evaluate(self, progress: Any, observation: TaskObservation) -> tuple[Any, TaskResult]:
        """Evaluate the scenes after one control step."""
        ...

    def env_state(self, observation: TaskObservation) -> Array:
        """The scene state (B, env_state_dim) a state policy observes."""
        ...


def array_module(array: Array) -> ModuleType:
    """The array module of an array: numpy, or jax.numpy for JAX arrays and tracers."""
    return np if isinstance(array, np.ndarray) else jnp
