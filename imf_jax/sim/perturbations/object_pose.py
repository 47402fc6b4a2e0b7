"""Objects that start outside of the range of their starts in the demonstrations."""

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
from typing_extensions import override

from imf_jax import seeds
from imf_jax.config import require
from imf_jax.sim.perturbations.base import SceneChanges, ScenePerturbation, require_objects
from imf_jax.sim.quaternions import multiply
from imf_jax.sim.tasks.base import Task

SAMPLES = 4096
"""Starts of a task from which its range is measured."""


class ObjectPose(ScenePerturbation):
    """v' = v + level h sign(v - m) for v = x, y [m] and yaw [rad] of each object.

    m is the middle and h half the width of the range of `Task.sample`. At level 1 every object is outside of its range
    in each of the three that vary: h <= |v' - m| <= 2 h. Heights stay. Nothing is drawn.
    """

    def __init__(self, task: Task, model: mujoco.MjModel) -> None:
        super().__init__(task, model)
        require_objects("object-pose", task)
        self._middle, self._half = start_range(task)
        require(
            bool((self._half > 0).any()),
            f"--perturb object-pose: the objects of task {task.name!r} always start at the same pose",
        )

    @override
    def change(
        self, key: jax.Array, level: float, objects: jax.Array, changes: SceneChanges
    ) -> tuple[jax.Array, SceneChanges]:
        away = jnp.where(_start(objects) < self._middle, -1.0, 1.0) * (level * self._half)
        half_yaw, zero = 0.5 * away[:, 2], jnp.zeros(len(objects), jnp.float32)
        turn = jnp.stack([jnp.cos(half_yaw), zero, zero, jnp.sin(half_yaw)], axis=-1)
        moved = [objects[:, :2] + away[:, :2], objects[:, 2:3], multiply(turn, objects[:, 3:])]
        return jnp.concatenate(moved, axis=1), changes


def start_range(task: Task) -> tuple[np.ndarray, np.ndarray]:
    """Middle and half width, float32 (n, 3) each, of x, y [m] and yaw [rad] of the objects over many starts."""
    keys = jax.vmap(lambda number: seeds.fold_in(seeds.make_key(0), number))(jnp.arange(SAMPLES))
    starts = np.asarray(jax.jit(jax.vmap(lambda key: _start(task.sample(key))))(keys))
    low, high = starts.min(axis=0), starts.max(axis=0)
    return (low + high) / 2, (high - low) / 2


def _start(objects: jax.Array) -> jax.Array:
    """x, y and yaw (n, 3) of poses (n, 7)."""
    yaw = 2 * jnp.arctan2(objects[:, 6], objects[:, 3])
    return jnp.concatenate([objects[:, :2], (jnp.mod(yaw + jnp.pi, 2 * jnp.pi) - jnp.pi)[:, None]], axis=1)
