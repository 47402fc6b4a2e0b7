"""Objects that are heavier or lighter."""

import jax
import mujoco
from typing_extensions import override

from imf_jax.sim.perturbations.base import (
    SceneChanges,
    ScenePerturbation,
    log_uniform,
    object_bodies,
    per_object,
    require_objects,
)
from imf_jax.sim.tasks.base import Task


class ObjectMass(ScenePerturbation):
    """Mass and inertia of each object times 2^u, u uniform in [-level, level]: at level 1 from half to double."""

    def __init__(self, task: Task, model: mujoco.MjModel) -> None:
        super().__init__(task, model)
        require_objects("object-mass", task)
        bodies = object_bodies(task, model)
        self._of_body = per_object(model.body_rootid, bodies)
        self._of_dof = per_object(model.body_rootid[model.dof_bodyid], bodies)

    @override
    def change(
        self, key: jax.Array, level: float, objects: jax.Array, changes: SceneChanges
    ) -> tuple[jax.Array, SceneChanges]:
        factors = log_uniform(key, level, 2.0, (len(objects),))
        body, dof = self._of_body(factors), self._of_dof(factors)
        for field in ("body_mass", "body_inertia", "body_subtreemass"):
            changes = changes.scale(field, body)
        # What MuJoCo derives of masses for the softness of constraints.
        return objects, changes.scale("body_invweight0", 1 / body).scale("dof_invweight0", 1 / dof)
