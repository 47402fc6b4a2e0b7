"""Servos that answer more or less strongly than those of the demonstrations."""

import jax
import mujoco
from typing_extensions import override

from imf_jax.config import require
from imf_jax.sim.perturbations.base import SceneChanges, ScenePerturbation, log_uniform
from imf_jax.sim.tasks.base import Task


class ServoGain(ScenePerturbation):
    """Gain and bias of each servo times its own 2^u, u uniform in [-level, level]: stiffness and damping together.

    Limits of forces and torques stay.
    """

    def __init__(self, task: Task, model: mujoco.MjModel) -> None:
        super().__init__(task, model)
        require(model.nu > 0, f"--perturb servo-gain: the robot of task {task.name!r} has no servos")

    @override
    def change(
        self, key: jax.Array, level: float, objects: jax.Array, changes: SceneChanges
    ) -> tuple[jax.Array, SceneChanges]:
        factor = log_uniform(key, level, 2.0, (self.model.nu,))
        return objects, changes.scale("actuator_gainprm", factor).scale("actuator_biasprm", factor)
