"""What the two tasks of ALOHA share: their scenes, cameras and control rate are those of the package `gym-aloha`.

Reward is the stage, 0 to 4, as in that package and in ACT (Zhao et al. 2023). Success is that the last stage holds for
0.2 s; published rates count an episode that reached it at any time, which is the last row of the table of stages.
"""

from abc import abstractmethod
from types import ModuleType
from typing import NamedTuple

import jax
import jax.numpy as jnp
import mujoco
from typing_extensions import override

from imf_jax import seeds
from imf_jax.sim.arrays import Array, array_module
from imf_jax.sim.robots import Visual
from imf_jax.sim.robots.aloha import ALOHA_PAIR
from imf_jax.sim.robots.aloha.model import load_scene
from imf_jax.sim.tasks.base import ObjectGeoms, Task, TaskObservation, TaskResult, highest_stage

HOLD_STEPS = 10
"""Control steps for which the last stage must hold for success (0.2 s). Ours."""

START_Z = 0.05
"""Height at which objects start, from where they fall onto the table [m]."""


class AlohaProgress(NamedTuple):
    """Control steps in a row, (B,), for which the last stage has held."""

    held: Array


class AlohaTask(Task):
    """A task of ALOHA. 400 control steps as in ACT; the package itself stops after 300.

    Attributes:
        scene: file of the scene in the package.
        object_geoms: collision geoms of each object whose touch counts.
        start_ranges: per object the ranges of x and y at the start [m].
    """

    robot = ALOHA_PAIR
    max_steps = 400
    physics_dt, substeps = 0.002, 10
    cameras = ("top", "angle", "front_close", "left_pillar", "right_pillar", *ALOHA_PAIR.cameras)
    picture_camera = "angle"
    scene: str
    object_geoms: ObjectGeoms
    start_ranges: tuple[tuple[tuple[float, float], tuple[float, float]], ...]

    @override
    def make_spec(self, visual: Visual) -> tuple[mujoco.MjSpec, ObjectGeoms]:
        """Load the scene of the package; it has one look."""
        return load_scene(self.scene), self.object_geoms

    @override
    def sample(self, key: jax.Array) -> jax.Array:
        """Initial object poses, float32 (n_objects, 7): uniform positions, not rotated."""
        ranges = jnp.array(self.start_ranges, jnp.float32)  # (n, 2, 2)
        xy = seeds.uniform(key, ranges.shape[:2], ranges[..., 0], ranges[..., 1])
        rest = jnp.array([START_Z, 1.0, 0.0, 0.0, 0.0], jnp.float32)
        return jnp.concatenate([xy, jnp.broadcast_to(rest, (len(self.objects), 5))], axis=1)

    @override
    def start(self, batch: int, xp: ModuleType) -> AlohaProgress:
        return AlohaProgress(held=xp.zeros(batch, xp.int32))

    @abstractmethod
    def holds(self, observation: TaskObservation) -> list[Array]:
        """Whether the stages 1 to 4 hold, bool (B,) each."""

    @override
    def evaluate(self, progress: AlohaProgress, observation: TaskObservation) -> tuple[AlohaProgress, TaskResult]:
        xp = array_module(observation.objects)
        holds = self.holds(observation)
        stage = highest_stage(holds)
        held = xp.where(stage == len(holds), progress.held + 1, 0).astype(xp.int32)
        success = held >= HOLD_STEPS
        return AlohaProgress(held), TaskResult(stage.astype(xp.float32), stage, success, success & False)
