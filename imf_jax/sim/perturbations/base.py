"""Perturbations of scenes: other starts, other physical properties, a push. Pure functions of (seed, episode, level).

What a perturbation draws follows from the key of the scene and its own name (`imf_jax.seeds.perturbation_key`), so that
it depends neither on other scenes nor on other perturbations, and the scene is otherwise the one of that key.
"""

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import mujoco
import numpy as np

from imf_jax import seeds
from imf_jax.config import require
from imf_jax.config.perturbation import PERTURBATIONS, active
from imf_jax.sim.arrays import Array
from imf_jax.sim.tasks.base import Task


class Kick(NamedTuple):
    """Sudden change of velocity, of one scene or, with a leading axis, of B scenes.

    Attributes:
        step: int32 () control step before which it happens; the first one is 0.
        velocity: float32 (nv,) what is added to the generalised velocities.
    """

    step: Any
    velocity: Any


class SceneChanges(NamedTuple):
    """Changes of a scene that last for its episode; of one scene or, with a leading axis, of B scenes.

    Attributes:
        factors: field of the model -> float32 factors of its entries. They may have fewer axes than the field: the
            first ones.
        kick: a sudden change of velocity, if there is one.
    """

    factors: dict[str, Any]
    kick: Kick | None = None

    def scale(self, field: str, factor: jax.Array) -> "SceneChanges":
        """The same with another factor of a field on top of those that there are."""
        there = self.factors.get(field, jnp.ones(1, jnp.float32))
        axes = max(there.ndim, factor.ndim)
        both = _with_axes(there, axes) * _with_axes(factor, axes)
        return self._replace(factors=self.factors | {field: both})


def scaled(nominal: Array, factors: Array) -> Array:
    """A field of the model in B scenes.

    Args:
        nominal: (n, ...) as it is in all of them.
        factors: (B, n) or with more axes, see `SceneChanges`.

    Returns:
        (B, n, ...).
    """
    return _with_axes(factors, nominal.ndim + 1) * nominal


def _with_axes(values: Array, axes: int) -> Array:
    """The same with further axes at the end, of length 1."""
    return values.reshape(*values.shape, *([1] * (axes - values.ndim)))


class ScenePerturbation(ABC):
    """A perturbation of scenes.

    Args:
        task: of the scenes.
        model: the compiled scene.

    Raises:
        ArgumentError: the task does not have what is perturbed.
    """

    def __init__(self, task: Task, model: mujoco.MjModel) -> None:
        self.task, self.model = task, model

    @abstractmethod
    def change(
        self, key: jax.Array, level: float, objects: jax.Array, changes: SceneChanges
    ) -> tuple[jax.Array, SceneChanges]:
        """Change one scene; traceable.

        Args:
            key: its random numbers.
            level: of the perturbation, above 0.
            objects: float32 (n, 7) poses of the objects at the start.
            changes: those of other perturbations.

        Returns:
            the poses, and all changes.
        """


def object_bodies(task: Task, model: mujoco.MjModel) -> list[int]:
    """Ids of the bodies of a task's objects, in their order."""
    return [model.body(name).id for name in task.objects]


def require_objects(name: str, task: Task) -> None:
    """Refuse a task without objects.

    Args:
        name: of the perturbation.
        task: the task.

    Raises:
        ArgumentError: there are none.
    """
    require(bool(task.objects), f"--perturb {name}: task {task.name!r} has no objects")


def per_object(roots: np.ndarray, bodies: Sequence[int]) -> Callable[[jax.Array], jax.Array]:
    """Spread factors of the n objects over N entries of a model, 1 for those that belong to no object.

    Args:
        roots: (N,) id of the first body of the tree that each entry belongs to.
        bodies: ids of the n objects.

    Returns:
        a function (n,) -> (N,), float32.
    """
    belongs = roots[:, None] == np.array(bodies)
    index = np.where(belongs.any(axis=1), belongs.argmax(axis=1), len(bodies))

    def spread(factors: jax.Array) -> jax.Array:
        return jnp.append(factors, jnp.float32(1))[index]

    return spread


def log_uniform(key: jax.Array, level: float, base: float, shape: tuple[int, ...] = ()) -> jax.Array:
    """Factors base^u, u uniform in [-level, level], float32."""
    return jnp.float32(base) ** (level * seeds.uniform(key, shape, -1.0, 1.0))


class ScenePerturbations:
    """All perturbations of the scenes of a backend.

    Args:
        perturb: name -> level; those that do not concern scenes, or have level 0, are left out.
        task: of the scenes.
        model: the compiled scene.

    Raises:
        ArgumentError: the task does not have what one of them perturbs.
    """

    def __init__(self, perturb: Mapping[str, float], task: Task, model: mujoco.MjModel) -> None:
        self._perturbations = [
            (name, level, load_perturbation(name)(task, model))
            for name, level in active(perturb).items()
            if PERTURBATIONS[name].of_scene
        ]

    def __bool__(self) -> bool:
        return bool(self._perturbations)

    def change(self, key: jax.Array, objects: jax.Array) -> tuple[jax.Array, SceneChanges]:
        """Change one scene; traceable.

        Args:
            key: of the scene.
            objects: float32 (n, 7) poses of the objects at the start.
        """
        changes = SceneChanges({})
        for name, level, perturbation in self._perturbations:
            objects, changes = perturbation.change(seeds.perturbation_key(key, name), level, objects, changes)
        return objects, changes


def load_perturbation(name: str) -> Any:
    """The class of a perturbation, by its name."""
    module, _, kind = PERTURBATIONS[name].place.partition(":")
    return getattr(importlib.import_module(module), kind)
