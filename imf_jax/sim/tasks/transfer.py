"""Transfer: the right arm picks up a long box and hands it to the left arm in the air."""

from types import ModuleType
from typing import NamedTuple

import jax
import jax.numpy as jnp
import mujoco

from imf_jax import seeds
from imf_jax.sim.tasks.base import (
    Array,
    ObjectGeoms,
    TableTask,
    TaskObservation,
    TaskResult,
    array_module,
    highest_stage,
)

BOX_HALF_SIZE = (0.02, 0.13, 0.025)
"""Half extents of the box [m]: long enough that two grippers fit side by side. Ours."""

BOX_MASS = 0.15  # [kg]

START_X = (0.40, 0.50)
START_Y = (-0.42, -0.22)
START_YAW = (-0.3, 0.3)
"""Start of the box on the table: centre [m] and rotation about z [rad], uniform. Ours."""

LIFT_HEIGHT = 0.03
"""The box counts as lifted when its centre is this much above where it rests [m]."""

HOLD_STEPS = 10
"""Control steps the left arm must hold the box alone for success (0.2 s)."""

WORKSPACE = ((-0.15, 0.95), (-0.8, 0.8))
"""Outside this part of the table (x, y) [m] the box is lost."""


class TransferProgress(NamedTuple):
    """Control steps in a row, (B,), for which the left arm has held the box alone."""

    held: Array


class Transfer(TableTask):
    """Staged reward per control step.

    1 touched by the right hand, 2 lifted by it, 3 touched by the left hand while lifted, 4 held by the left hand alone.
    """

    name = "transfer"
    max_steps = 700
    objects: tuple[str, ...] = ("box",)
    stages: tuple[str, ...] = ("right_touch", "lift", "left_touch", "left_hold")
    env_state_dim = 7
    contact_slots, constraint_rows = 32, 192  # the expert needs at most 16 and 98
    expert = "imf_jax.sim.experts.transfer:TransferExpert"

    def add_objects(self, spec: mujoco.MjSpec) -> ObjectGeoms:
        """Add the box; see `Task`."""
        box = spec.worldbody.add_body(name="box", pos=[0.45, -0.3, BOX_HALF_SIZE[2]])
        box.add_freejoint(name="box_joint")
        box.add_geom(
            name="box",
            type=mujoco.mjtGeom.mjGEOM_BOX,
            size=list(BOX_HALF_SIZE),
            mass=BOX_MASS,
            rgba=[0.16, 0.45, 0.70, 1.0],
            contype=0,
            conaffinity=0,
        )
        return {"box": ("box",)}

    def sample(self, key: jax.Array) -> jax.Array:
        """Initial pose of the box, float32 (1, 7): flat on the table, at a random place and yaw."""
        low = jnp.array([START_X[0], START_Y[0], START_YAW[0]], jnp.float32)
        high = jnp.array([START_X[1], START_Y[1], START_YAW[1]], jnp.float32)
        x, y, yaw = seeds.uniform(key, (3,), low, high)
        zero = jnp.zeros((), jnp.float32)
        pose = jnp.stack([x, y, zero + BOX_HALF_SIZE[2], jnp.cos(yaw / 2), zero, zero, jnp.sin(yaw / 2)])
        return pose[None]

    def start(self, batch: int, xp: ModuleType) -> TransferProgress:
        """Progress of `batch` fresh scenes: the box has not been held yet."""
        return TransferProgress(held=xp.zeros(batch, xp.int32))

    def evaluate(self, progress: TransferProgress, observation: TaskObservation) -> tuple[TransferProgress, TaskResult]:
        """Stage, reward, success and failure after one control step.

        Success: the left arm alone has held the box for `HOLD_STEPS`. Failure: the box has left `WORKSPACE`.
        """
        xp = array_module(observation.objects)
        position = observation.objects[:, 0, :3]
        touch = observation.touch[:, 0]
        left, right = touch[:, 0], touch[:, 1]
        lifted = position[:, 2] > BOX_HALF_SIZE[2] + LIFT_HEIGHT
        by_left, by_right = left.any(-1), right.any(-1)
        holds = [by_right, by_right & lifted, by_left & lifted, left.all(-1) & ~by_right & lifted]
        stage = highest_stage(holds)
        held = xp.where(stage == len(holds), progress.held + 1, 0).astype(xp.int32)
        (x_low, x_high), (y_low, y_high) = WORKSPACE
        x, y = position[:, 0], position[:, 1]
        lost = (x < x_low) | (x > x_high) | (y < y_low) | (y > y_high)
        success = held >= HOLD_STEPS
        return TransferProgress(held), TaskResult(stage.astype(xp.float32), stage, success, lost & ~success)
