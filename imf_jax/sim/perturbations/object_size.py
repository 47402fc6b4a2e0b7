"""Objects that are larger or smaller."""

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
from typing_extensions import override

from imf_jax.config import require
from imf_jax.sim.perturbations.base import (
    SceneChanges,
    ScenePerturbation,
    log_uniform,
    object_bodies,
    require_objects,
)
from imf_jax.sim.quaternions import multiply, rotate
from imf_jax.sim.tasks.base import Task


class ObjectSize(ScenePerturbation):
    """All lengths of all objects times one factor s = 1.25^u, u uniform in [-level, level]: 80 to 125 % at level 1.

    Masses stay, inertias grow with s^2. The lowest point of an object starts at the same height.
    """

    def __init__(self, task: Task, model: mujoco.MjModel) -> None:
        super().__init__(task, model)
        require_objects("object-size", task)
        require(
            not task.measures_sizes,
            f"--perturb object-size: success in task {task.name!r} is measured with the sizes of its objects, which "
            "must stay",
        )
        bodies = object_bodies(task, model)
        self._geoms = [np.flatnonzero(model.geom_bodyid == body) for body in bodies]
        geoms = np.concatenate(self._geoms)
        solid = np.isin(model.geom_type[geoms], (mujoco.mjtGeom.mjGEOM_MESH, mujoco.mjtGeom.mjGEOM_SDF), invert=True)
        single = np.isin(model.body_rootid, bodies).sum() == len(bodies)
        require(
            bool(solid.all() and single),
            f"--perturb object-size: objects of task {task.name!r} are meshes or have moving parts; only single bodies "
            "of boxes, spheres, capsules and the like can be scaled",
        )
        self._is_geom = _mask(model.ngeom, geoms)
        self._is_body = _mask(model.nbody, bodies)
        # Of the six degrees of freedom of a free body the last three are rotations.
        self._turns = _mask(model.nv, [model.body_dofadr[body] + dof for body in bodies for dof in (3, 4, 5)])
        self._is_box = _mask(
            int(model.body_bvhnum.sum()),  # those of meshes come after those of bodies
            [i for b in bodies for i in range(model.body_bvhadr[b], model.body_bvhadr[b] + model.body_bvhnum[b])],
        )

    @override
    def change(
        self, key: jax.Array, level: float, objects: jax.Array, changes: SceneChanges
    ) -> tuple[jax.Array, SceneChanges]:
        size = log_uniform(key, level, 1.25)

        def where(is_changed: np.ndarray, factor: jax.Array) -> jax.Array:
            return jnp.where(is_changed, factor, 1.0).astype(jnp.float32)

        for field in ("geom_size", "geom_pos", "geom_rbound", "geom_aabb"):
            changes = changes.scale(field, where(self._is_geom, size))
        changes = changes.scale("body_ipos", where(self._is_body, size)).scale("bvh_aabb", where(self._is_box, size))
        changes = changes.scale("body_inertia", where(self._is_body, size**2))
        # What MuJoCo derives of masses for the softness of constraints: of translations, which stay, and of rotations.
        turned = where(self._is_body, size**-2)
        changes = changes.scale("body_invweight0", jnp.stack([jnp.ones_like(turned), turned], axis=-1))
        changes = changes.scale("dof_invweight0", where(self._turns, size**-2))
        lowest = jnp.stack([self._lowest(pose, geoms) for pose, geoms in zip(objects, self._geoms, strict=True)])
        return objects.at[:, 2].add((1 - size) * lowest), changes

    def _lowest(self, pose: jax.Array, geoms: np.ndarray) -> jax.Array:
        """Height of an object's lowest point above its origin [m], by the boxes around its geoms."""
        model, turn = self.model, jnp.broadcast_to(pose[3:], (len(geoms), 4))
        middle, half = np.split(model.geom_aabb[geoms].astype(np.float32), 2, axis=1)
        orientation = multiply(turn, model.geom_quat[geoms].astype(np.float32))
        centre = rotate(turn, model.geom_pos[geoms].astype(np.float32)) + rotate(orientation, middle)
        # Heights of the axes of the geoms: the third rows of their rotation matrices.
        axes = [rotate(orientation, jnp.broadcast_to(axis, half.shape)) for axis in np.eye(3, dtype=np.float32)]
        heights = jnp.stack([jnp.abs(axis[:, 2]) for axis in axes], axis=1)
        return (centre[:, 2] - (heights * half).sum(axis=1)).min()


def _mask(count: int, chosen: list[int] | np.ndarray) -> np.ndarray:
    mask = np.zeros(count, bool)
    mask[chosen] = True
    return mask
