"""A push on an object."""

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
from typing_extensions import override

from imf_jax import seeds
from imf_jax.sim.perturbations.base import Kick, SceneChanges, ScenePerturbation, object_bodies, require_objects
from imf_jax.sim.tasks.base import Task

SPEED = 1.0
"""Change of velocity at level 1 [m/s]."""

SHARE = 0.25
"""Share of the time limit within which the push happens."""


class Push(ScenePerturbation):
    """v' = v + level 1 m/s (cos a, sin a, 0) of one object, once, before control step t.

    Drawn are the object, the direction a in [0, 2 pi) and t in the first quarter of the task's time limit, all uniform.
    An object that is held is braked by what holds it.
    """

    def __init__(self, task: Task, model: mujoco.MjModel) -> None:
        super().__init__(task, model)
        require_objects("push", task)
        self._dofs = np.array([model.body_dofadr[body] for body in object_bodies(task, model)])

    @override
    def change(
        self, key: jax.Array, level: float, objects: jax.Array, changes: SceneChanges
    ) -> tuple[jax.Array, SceneChanges]:
        which, rest = seeds.split(key)
        when, where = seeds.split(rest)
        dof = jnp.asarray(self._dofs)[seeds.randint(which, (), 0, len(self._dofs))]
        angle = seeds.uniform(where, (), 0.0, 2 * np.pi)
        velocity = level * SPEED * jnp.stack([jnp.cos(angle), jnp.sin(angle)])
        step = seeds.randint(when, (), 0, max(1, int(SHARE * self.task.max_steps)))
        still = jnp.zeros(self.model.nv, jnp.float32)
        return objects, changes._replace(kick=Kick(step, still.at[dof + jnp.arange(2)].set(velocity)))
