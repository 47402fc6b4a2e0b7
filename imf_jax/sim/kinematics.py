"""Kinematics of serial arms with hinge joints about any axes: forward, and inverse by damped least squares.

Several arms with the same number of joints are computed together (axis `arms`). All functions are pure JAX, batched
over leading axes and unrolled over the joints. The constants are read from a compiled MuJoCo model.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
from jaxtyping import Array, Float

from imf_jax.errors import ArgumentError

ITERATIONS = 4
"""Newton steps per control step; from a warm start 0.06 rad away the error left is below 0.1 mm."""

DAMPING = 0.02
"""Damping of the least squares, in the units of the task error (metres, and radians times `ROTATION_SCALE`)."""

ROTATION_SCALE = 0.3
"""Weight of one radian of orientation error against one metre of position error [m/rad]."""

POSTURE_GAIN = 0.05
"""Share of the way back to the ready posture taken per iteration, in the null space of the hand's pose."""

MAX_JOINT_STEP = 0.06
"""Largest change of a commanded joint angle per control step [rad]: 3 rad/s at 50 Hz."""


class SerialArms(NamedTuple):
    """Kinematic constants of arms that stand still in the world. A joint's frame sits on its axis at angle 0.

    Attributes:
        offset: (arms, joints, 3) origin of each joint's frame in the frame before it, the first in the world [m].
        rotation: (arms, joints, 3, 3) orientation of each joint's frame in the frame before it at angle 0.
        axis: (arms, joints, 3) unit axis of each joint in its own frame.
        tool_offset: (arms, 3) origin of the end effector in the frame of the last joint [m].
        tool_rotation: (arms, 3, 3) orientation of the end effector in the frame of the last joint.
        lower, upper: (arms, joints) joint limits [rad]; infinite where the model has none.
        rest: (arms, joints) angles that inverse kinematics prefers where the pose leaves a choice [rad].
    """

    offset: Float[Array, "arms joints 3"]
    rotation: Float[Array, "arms joints 3 3"]
    axis: Float[Array, "arms joints 3"]
    tool_offset: Float[Array, "arms 3"]
    tool_rotation: Float[Array, "arms 3 3"]
    lower: Float[Array, "arms joints"]
    upper: Float[Array, "arms joints"]
    rest: Float[Array, "arms joints"]


def serial_arms(
    model: mujoco.MjModel,
    joints: Sequence[Sequence[str]],
    effectors: Sequence[str],
    rest: Float[np.ndarray, "arms joints"],
    tool: Sequence[float] = (0.0, 0.0, 0.0),
) -> SerialArms:
    """Read the kinematic constants of arms from a compiled model.

    Args:
        model: the scene.
        joints: per arm the names of its joints, from the base to the hand.
        effectors: per arm the name of the body that is its end effector.
        rest: preferred joint angles [rad], see `SerialArms`.
        tool: the point that inverse kinematics places, in the frame of the end effector's body [m].

    Raises:
        ArgumentError: for a joint that is not a hinge or has a reference angle, and where the named joints are not all
            joints between the world and the end effector.
    """
    rows = [_read_arm(model, names, effector, tool) for names, effector in zip(joints, effectors, strict=True)]
    constants = [np.stack(parts) for parts in zip(*rows, strict=True)]
    return SerialArms(*(jnp.asarray(part, jnp.float32) for part in (*constants, rest)))


def _read_arm(
    model: mujoco.MjModel, names: Sequence[str], effector: str, tool: Sequence[float]
) -> tuple[np.ndarray, ...]:
    """The constants of one arm in the order of `SerialArms`, without `rest`."""
    ids = [model.joint(name).id for name in names]
    for name, joint in zip(names, ids, strict=True):
        if model.jnt_type[joint] != mujoco.mjtJoint.mjJNT_HINGE:
            raise ArgumentError(f"joint '{name}' is not a hinge; the kinematics of serial arms know hinges only")
    if np.any(model.qpos0[model.jnt_qposadr[ids]]):
        raise ArgumentError(f"a joint of '{effector}' has a reference angle (`ref`) that is not zero; remove it")
    at_zero = mujoco.MjData(model)
    mujoco.mj_kinematics(model, at_zero)
    body = model.body(effector).id
    chain = set()
    parent = body
    while parent:
        chain |= set(range(model.body_jntadr[parent], model.body_jntadr[parent] + model.body_jntnum[parent]))
        parent = model.body_parentid[parent]
    if chain != set(ids):
        missing = sorted(model.joint(joint).name for joint in chain.symmetric_difference(ids))
        raise ArgumentError(f"the joints between the world and '{effector}' are not those named; check {missing}")

    position, orientation = np.zeros(3), np.eye(3)
    offsets, rotations, axes = [], [], []
    for joint in ids:
        frame = at_zero.xmat[model.jnt_bodyid[joint]].reshape(3, 3)
        anchor = at_zero.xanchor[joint]
        offsets.append(orientation.T @ (anchor - position))
        rotations.append(orientation.T @ frame)
        axes.append(model.jnt_axis[joint])
        position, orientation = anchor, frame
    hand = at_zero.xmat[body].reshape(3, 3)
    point = at_zero.xpos[body] + hand @ np.asarray(tool)
    limited = model.jnt_limited[ids].astype(bool)
    return (
        np.array(offsets),
        np.array(rotations),
        np.array(axes),
        orientation.T @ (point - position),
        orientation.T @ hand,
        np.where(limited, model.jnt_range[ids, 0], -np.inf),
        np.where(limited, model.jnt_range[ids, 1], np.inf),
    )


def forward_kinematics(
    arms: SerialArms, joints: Float[Array, "*batch arms joints"]
) -> tuple[
    Float[Array, "*batch arms 3"],
    Float[Array, "*batch arms 3 3"],
    Float[Array, "*batch arms joints 3"],
    Float[Array, "*batch arms joints 3"],
]:
    """Pose of the end effectors and the joint axes.

    Args:
        arms: their kinematic constants.
        joints: (..., arms, joints) joint angles [rad].

    Returns:
        end effector position (..., arms, 3) [m] and rotation matrix (..., arms, 3, 3) in the world frame, and per joint
        a point on its axis (..., arms, joints, 3) [m] and its unit axis (..., arms, joints, 3) in the world frame.
    """
    batch = joints.shape[:-1]
    position = jnp.zeros((*batch, 3), joints.dtype)
    rotation = jnp.broadcast_to(jnp.eye(3, dtype=joints.dtype), (*batch, 3, 3))
    origins, axes = [], []
    for i in range(joints.shape[-1]):
        position = position + rotate(rotation, arms.offset[:, i])
        rotation = matrix_product(rotation, arms.rotation[:, i])
        origins.append(position)
        axes.append(rotate(rotation, arms.axis[:, i]))
        rotation = matrix_product(rotation, _turn(arms.axis[:, i], joints[..., i]))
    position = position + rotate(rotation, arms.tool_offset)
    rotation = matrix_product(rotation, arms.tool_rotation)
    return position, rotation, jnp.stack(origins, axis=-2), jnp.stack(axes, axis=-2)


def inverse_kinematics(
    arms: SerialArms,
    start: Float[Array, "*batch arms joints"],
    position: Float[Array, "*batch arms 3"],
    quaternion: Float[Array, "*batch arms 4"],
    *,
    max_step: float = MAX_JOINT_STEP,
    iterations: int = ITERATIONS,
    posture_gain: float = POSTURE_GAIN,
) -> tuple[Float[Array, "*batch arms joints"], Float[Array, "*batch arms"]]:
    """Joint angles near `start` whose end effector poses are as near to the commanded ones as one control step allows.

    Damped least squares with the posture as a secondary objective: dq = J^T (J J^T + d^2 I)^-1 (e - J n) + n with
    n = posture_gain (q_rest - q). Angles stay within the joint limits and within `max_step` of `start`. A command
    with a non-finite entry keeps its arm at `start`.

    Args:
        arms: their kinematic constants.
        start: (..., arms, joints) joint angles to start from [rad].
        position: (..., arms, 3) commanded positions [m].
        quaternion: (..., arms, 4) commanded orientations, wxyz, of any length but zero.
        max_step: largest change of a joint angle [rad].
        iterations: Newton steps.
        posture_gain: share of the way back to the rest posture taken per iteration. Of use to arms with more than six
            joints; with six or fewer it only biases the pose near singularities.

    Returns:
        joint angles (..., arms, joints) [rad] and the distance (..., arms) [m] between commanded and reached
        position; infinite for a non-finite command.
    """
    norm = jnp.sqrt(jnp.sum(quaternion * quaternion, axis=-1, keepdims=True))
    usable = jnp.isfinite(position).all(-1) & jnp.isfinite(norm[..., 0]) & (norm[..., 0] > 1e-6)
    identity = jnp.array([1.0, 0.0, 0.0, 0.0], start.dtype)
    target = quaternion_to_matrix(jnp.where(usable[..., None], quaternion / jnp.maximum(norm, 1e-6), identity))
    position = jnp.where(usable[..., None], position, 0.0)
    lower = jnp.maximum(arms.lower, start - max_step)
    upper = jnp.minimum(arms.upper, start + max_step)

    def newton(_: int, joints: Float[Array, "*batch arms joints"]) -> Float[Array, "*batch arms joints"]:
        posture = posture_gain * (arms.rest - joints)
        step = damped_step(forward_kinematics(arms, joints), position, target, posture)
        return jnp.clip(joints + step, lower, upper)

    joints = jax.lax.fori_loop(0, iterations, newton, start)
    joints = jnp.where(usable[..., None], joints, start)
    hand = forward_kinematics(arms, joints)[0]
    distance = jnp.sqrt(jnp.sum((position - hand) ** 2, axis=-1))
    return joints, jnp.where(usable, distance, jnp.inf)


def damped_step(
    kinematics: tuple[Array, Array, Array, Array],
    position: Float[Array, "*batch arms 3"],
    target: Float[Array, "*batch arms 3 3"],
    posture: Float[Array, "*batch arms joints"],
) -> Float[Array, "*batch arms joints"]:
    """One step of damped least squares: J^T (J J^T + d^2 I)^-1 (e - J n) + n.

    Args:
        kinematics: pose of the end effectors and the joint axes, see `forward_kinematics`.
        position: (..., arms, 3) commanded positions [m].
        target: (..., arms, 3, 3) commanded orientations.
        posture: (..., arms, joints) the secondary objective n [rad].

    Returns:
        changes (..., arms, joints) of the joint angles [rad].
    """
    hand, rotation, origins, axes = kinematics
    rotation_error = 0.5 * sum(cross(rotation[..., :, k], target[..., :, k]) for k in range(3))
    error = jnp.concatenate([position - hand, ROTATION_SCALE * rotation_error], axis=-1)
    linear = cross(axes, hand[..., None, :] - origins)
    jacobian = jnp.concatenate([linear, ROTATION_SCALE * axes], axis=-1)  # (..., joints, 6), transposed
    residual = error - jnp.sum(jacobian * posture[..., None], axis=-2)
    gram = jnp.sum(jacobian[..., :, None] * jacobian[..., None, :], axis=-3)
    solution = solve_positive(gram + DAMPING**2 * jnp.eye(6, dtype=posture.dtype), residual)
    return jnp.sum(jacobian * solution[..., None, :], axis=-1) + posture


def _turn(axis: Float[Array, "arms 3"], angle: Float[Array, "*batch arms"]) -> Float[Array, "*batch arms 3 3"]:
    """Rotation matrices about unit axes (Rodrigues' formula): I + sin(a) K + (1 - cos(a)) K K."""
    x, y, z = axis[..., 0], axis[..., 1], axis[..., 2]
    zero = jnp.zeros_like(x)
    skew = jnp.stack([zero, -z, y, z, zero, -x, -y, x, zero], axis=-1).reshape(*axis.shape, 3)
    square = axis[..., :, None] * axis[..., None, :] - jnp.eye(3, dtype=axis.dtype)
    sin, versine = jnp.sin(angle)[..., None, None], 1 - jnp.cos(angle)[..., None, None]
    return jnp.eye(3, dtype=axis.dtype) + sin * skew + versine * square


def quaternion_to_matrix(quaternion: Float[Array, "*batch 4"]) -> Float[Array, "*batch 3 3"]:
    """Rotation matrices (..., 3, 3) of unit quaternions (..., 4), wxyz."""
    w, x, y, z = (quaternion[..., i] for i in range(4))
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return jnp.stack([jnp.stack(row, axis=-1) for row in rows], axis=-2)


def cross(a: Float[Array, "*batch 3"], b: Float[Array, "*batch 3"]) -> Float[Array, "*batch 3"]:
    """Cross products (..., 3)."""
    ax, ay, az = a[..., 0], a[..., 1], a[..., 2]
    bx, by, bz = b[..., 0], b[..., 1], b[..., 2]
    return jnp.stack([ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx], axis=-1)


def rotate(matrix: Float[Array, "*batch 3 3"], vector: Float[Array, "*#batch 3"]) -> Float[Array, "*batch 3"]:
    """Matrices (..., 3, 3) times vectors (..., 3)."""
    return jnp.sum(matrix * vector[..., None, :], axis=-1)


def matrix_product(a: Float[Array, "*batch 3 3"], b: Float[Array, "*#batch 3 3"]) -> Float[Array, "*batch 3 3"]:
    """Products (..., 3, 3) of matrices."""
    return jnp.sum(a[..., :, :, None] * b[..., None, :, :], axis=-2)


def solve_positive(matrix: Float[Array, "*batch n n"], vector: Float[Array, "*batch n"]) -> Float[Array, "*batch n"]:
    """Solve small symmetric positive definite systems (..., n, n) x = (..., n) by Cholesky, unrolled over n.

    A library call per 6x6 system costs more than the arithmetic; unrolled, XLA vectorises over the batch.
    """
    n = vector.shape[-1]
    lower: dict[tuple[int, int], jax.Array] = {}
    inverse_diagonal = []
    for i in range(n):
        for j in range(i + 1):
            total = matrix[..., i, j]
            for k in range(j):
                total = total - lower[i, k] * lower[j, k]
            if i == j:
                inverse_diagonal.append(jax.lax.rsqrt(total))
            lower[i, j] = total * inverse_diagonal[j]
    forward: list[jax.Array] = []
    for i in range(n):
        total = vector[..., i]
        for k in range(i):
            total = total - lower[i, k] * forward[k]
        forward.append(total * inverse_diagonal[i])
    solution: list[jax.Array] = [forward[0]] * n
    for i in reversed(range(n)):
        total = forward[i]
        for k in range(i + 1, n):
            total = total - lower[k, i] * solution[k]
        solution[i] = total * inverse_diagonal[i]
    return jnp.stack(solution, axis=-1)
