"""Contacts with more or less friction."""

import jax
from typing_extensions import override

from imf_jax.sim.perturbations.base import SceneChanges, ScenePerturbation, log_uniform


class Friction(ScenePerturbation):
    """Sliding, torsional and rolling friction of all contacts times one 2^u per scene, u uniform in [-level, level]."""

    @override
    def change(
        self, key: jax.Array, level: float, objects: jax.Array, changes: SceneChanges
    ) -> tuple[jax.Array, SceneChanges]:
        factor = log_uniform(key, level, 2.0, (1,))  # the same for all geoms and pairs
        return objects, changes.scale("geom_friction", factor).scale("pair_friction", factor)
