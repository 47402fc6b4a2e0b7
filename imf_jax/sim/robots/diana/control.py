"""End-effector control: a command for both hands becomes joint targets by damped least-squares inverse kinematics.

Action, float32 (..., 16): left arm then right arm, each position xyz [m], quaternion wxyz, gripper opening [m] of
that arm's link7 in the world frame. All functions are pure JAX and batched over leading axes.

A pose out of reach is clamped: joint angles stay within their limits and move at most `MAX_JOINT_STEP` per control
step, the hand goes as near as it can, and the remaining distance is reported. A command with a non-finite entry
keeps the arm where it is. The result is always finite.
"""

from typing import NamedTuple

import jax.numpy as jnp
import mujoco
import numpy as np
from jaxtyping import Array, Float

from imf_jax.sim.kinematics import (
    ITERATIONS,
    MAX_JOINT_STEP,
    POSTURE_GAIN,
    damped_step,
    matrix_product,
    quaternion_to_matrix,
    rotate,
)
from imf_jax.sim.robots.diana.model import MAX_OPENING, READY, SIDES


class ArmModel(NamedTuple):
    """Kinematic constants of both arms (leading axis: left, right), read from the compiled model.

    Attributes:
        base: (2, 3) position of the arm base in the world [m]; the bases are not rotated.
        offset: (2, 7, 3) origin of each link in its parent [m].
        rotation: (2, 7, 3, 3) orientation of each link in its parent at joint angle 0.
        axis_sign: (2, 7) +1 or -1: joints turn about +z or -z of their link.
        lower, upper: (2, 7) joint limits [rad].
    """

    base: Float[Array, "2 3"]
    offset: Float[Array, "2 7 3"]
    rotation: Float[Array, "2 7 3 3"]
    axis_sign: Float[Array, "2 7"]
    lower: Float[Array, "2 7"]
    upper: Float[Array, "2 7"]


def arm_model(model: mujoco.MjModel) -> ArmModel:
    """Read the kinematic constants of both arms from a compiled scene."""

    def rotation(quat: Float[np.ndarray, "4"]) -> Float[np.ndarray, "3 3"]:
        matrix = np.zeros(9)
        mujoco.mju_quat2Mat(matrix, quat)
        return matrix.reshape(3, 3)

    bodies = [[model.body(f"{side}_link{i + 1}").id for i in range(7)] for side in SIDES]
    joints = [[model.joint(f"{side}_j{i + 1}").id for i in range(7)] for side in SIDES]
    constants = (
        [model.body(f"{side}_base_link").pos for side in SIDES],
        model.body_pos[bodies],
        [[rotation(model.body_quat[body]) for body in row] for row in bodies],
        model.jnt_axis[joints][..., 2],
        model.jnt_range[joints][..., 0],
        model.jnt_range[joints][..., 1],
    )
    return ArmModel(*(jnp.asarray(np.array(constant), jnp.float32) for constant in constants))


def forward_kinematics(
    arms: ArmModel, joints: Float[Array, "*batch 2 7"]
) -> tuple[
    Float[Array, "*batch 2 3"], Float[Array, "*batch 2 3 3"], Float[Array, "*batch 2 7 3"], Float[Array, "*batch 2 7 3"]
]:
    """Pose of link7 and the joint axes of both arms.

    Args:
        arms: their kinematic constants.
        joints: (..., 2, 7) joint angles [rad].

    Returns:
        link7 position (..., 2, 3) [m] and rotation matrix (..., 2, 3, 3) in the world frame, and per joint its
        origin (..., 2, 7, 3) [m] and unit axis (..., 2, 7, 3) in the world frame.
    """
    batch = joints.shape[:-1]
    position = jnp.broadcast_to(arms.base, (*batch, 3))
    rotation = jnp.broadcast_to(jnp.eye(3, dtype=joints.dtype), (*batch, 3, 3))
    origins, axes = [], []
    for i in range(7):
        position = position + rotate(rotation, arms.offset[:, i])
        rotation = matrix_product(rotation, arms.rotation[:, i])
        axis = rotation[..., :, 2] * arms.axis_sign[:, i, None]
        angle = joints[..., i] * arms.axis_sign[:, i]
        cos, sin = jnp.cos(angle)[..., None], jnp.sin(angle)[..., None]
        x, y, z = rotation[..., :, 0], rotation[..., :, 1], rotation[..., :, 2]
        # As three arrays they would be 25 launches fewer per control step on a GPU, but XLA's CPU compiler did
        # not come to an end in eight minutes with seven joints that nothing divides.
        rotation = jnp.stack([cos * x + sin * y, cos * y - sin * x, z], axis=-1)
        origins.append(position)
        axes.append(axis)
    return position, rotation, jnp.stack(origins, axis=-2), jnp.stack(axes, axis=-2)


def inverse_kinematics(
    arms: ArmModel,
    start: Float[Array, "*batch 2 7"],
    position: Float[Array, "*batch 2 3"],
    quaternion: Float[Array, "*batch 2 4"],
) -> tuple[Float[Array, "*batch 2 7"], Float[Array, "*batch 2"]]:
    """Joint targets whose link7 poses are as near to the commanded ones as one control step allows.

    Damped least squares with the posture as a secondary objective: dq = J^T (J J^T + d^2 I)^-1 (e - J n) + n with
    n = POSTURE_GAIN (q_ready - q).

    Args:
        arms: their kinematic constants.
        start: (..., 2, 7) joint targets of the previous control step [rad].
        position: (..., 2, 3) commanded positions [m].
        quaternion: (..., 2, 4) commanded orientations, wxyz, of any length but zero.

    Returns:
        joint targets (..., 2, 7) [rad] and the distance (..., 2) [m] between commanded and reached position.
    """
    usable = jnp.isfinite(position).all(-1) & jnp.isfinite(quaternion).all(-1)
    norm = jnp.sqrt(jnp.sum(quaternion * quaternion, axis=-1, keepdims=True))
    usable &= norm[..., 0] > 1e-6
    identity = jnp.array([1.0, 0.0, 0.0, 0.0], start.dtype)
    quaternion = jnp.where(usable[..., None], quaternion / jnp.maximum(norm, 1e-6), identity)
    position = jnp.where(usable[..., None], position, 0.0)
    target = quaternion_to_matrix(quaternion)
    ready = jnp.asarray(READY, start.dtype)
    lower = jnp.maximum(arms.lower, start - MAX_JOINT_STEP)
    upper = jnp.minimum(arms.upper, start + MAX_JOINT_STEP)

    joints = start
    for _ in range(ITERATIONS):
        posture = POSTURE_GAIN * (ready - joints)
        step = damped_step(forward_kinematics(arms, joints), position, target, posture)
        joints = jnp.clip(joints + step, lower, upper)
    joints = jnp.where(usable[..., None], joints, start)
    hand = forward_kinematics(arms, joints)[0]
    distance = jnp.sqrt(jnp.sum((position - hand) ** 2, axis=-1))
    return joints, jnp.where(usable, distance, jnp.inf)


def action_to_targets(
    arms: ArmModel, joint_target: Float[Array, "*batch 14"], action: Float[Array, "*batch 16"]
) -> tuple[Float[Array, "*batch 14"], Float[Array, "*batch 2"], Float[Array, "*batch 2"]]:
    """Turn the command of one control step into servo targets.

    Args:
        arms: their kinematic constants.
        joint_target: (..., 14) joint targets of the previous control step [rad].
        action: (..., 16) command, see the module.

    Returns:
        joint targets (..., 14) [rad], gripper openings (..., 2) [m] within 0..MAX_OPENING (NaN opens), and the
        distance (..., 2) [m] by which a pose out of reach was clamped; inf for a non-finite command.
    """
    batch = joint_target.shape[:-1]
    command = action.reshape(*batch, 2, 8)
    joints, distance = inverse_kinematics(
        arms, joint_target.reshape(*batch, 2, 7), command[..., 0:3], command[..., 3:7]
    )
    opening = jnp.clip(jnp.nan_to_num(command[..., 7], nan=MAX_OPENING), 0.0, MAX_OPENING)
    return joints.reshape(*batch, 14), opening, distance
