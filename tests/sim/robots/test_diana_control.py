"""Forward and inverse kinematics against MuJoCo, and what happens to poses that cannot be reached."""

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

from imf_jax.sim.backends.native import NativeBackend
from imf_jax.sim.robots.diana import DIANA_PAIR, control
from imf_jax.sim.robots.diana.model import READY

pytestmark = pytest.mark.optimized

DOWN = np.array([1.0, 0.0, 0.0, 0.0])


@pytest.fixture(scope="module")
def arms(transfer_backend: NativeBackend) -> control.ArmModel:
    return control.arm_model(transfer_backend.model)


@pytest.fixture(scope="module")
def solve():
    return jax.jit(control.inverse_kinematics)


def ready() -> jax.Array:
    return jnp.tile(jnp.asarray(READY, jnp.float32), (2, 1))


def settle(solve, arms: control.ArmModel, position: np.ndarray, quaternion: np.ndarray, steps: int = 60):
    joints = ready()
    for _ in range(steps):
        joints, distance = solve(arms, joints, jnp.asarray(position, jnp.float32), jnp.asarray(quaternion, jnp.float32))
    return joints, distance


def test_forward_kinematics_agrees_with_mujoco(transfer_backend: NativeBackend, arms: control.ArmModel) -> None:
    model = transfer_backend.model
    robot = DIANA_PAIR.bind(model)
    data = mujoco.MjData(model)
    for row in np.random.default_rng(0).uniform(-1.5, 1.5, (5, 2, 7)):
        data.qpos[robot.qpos[:14]] = row.ravel()
        mujoco.mj_kinematics(model, data)
        position, rotation, _, _ = control.forward_kinematics(arms, jnp.asarray(row, jnp.float32))
        np.testing.assert_allclose(position, data.xpos[robot.effectors], atol=1e-6)
        np.testing.assert_allclose(np.reshape(rotation, (2, 9)), data.xmat[robot.effectors], atol=1e-6)


def test_reachable_poses_are_reached_with_their_orientation(solve, arms: control.ArmModel) -> None:
    yaw = 0.4
    quaternion = np.array([np.cos(yaw / 2), 0.0, 0.0, np.sin(yaw / 2)])
    position = np.array([[0.45, 0.25, 0.25], [0.42, -0.3, 0.2]])
    joints, distance = settle(solve, arms, position, np.stack([quaternion, -quaternion]))
    assert float(distance.max()) < 1e-3
    reached, rotation, _, _ = control.forward_kinematics(arms, joints)
    np.testing.assert_allclose(reached, position, atol=1e-3)
    np.testing.assert_allclose(
        rotation, np.stack([control.quaternion_to_matrix(jnp.asarray(quaternion))] * 2), atol=5e-3
    )


def test_quaternions_need_not_be_unit_length(solve, arms: control.ArmModel) -> None:
    position = jnp.array([[0.45, 0.3, 0.3], [0.45, -0.3, 0.3]])
    quaternion = jnp.tile(jnp.asarray(DOWN, jnp.float32), (2, 1))
    one, _ = solve(arms, ready(), position, quaternion)
    scaled, _ = solve(arms, ready(), position, 7.0 * quaternion)
    np.testing.assert_allclose(one, scaled, atol=1e-6)


def test_poses_out_of_reach_are_clamped_and_reported(solve, arms: control.ArmModel) -> None:
    far = np.array([[3.0, 0.25, 0.25], [0.45, -0.3, 0.25]])
    joints, distance = settle(solve, arms, far, np.stack([DOWN, DOWN]), steps=150)
    assert np.isfinite(joints).all()
    assert float(distance[0]) > 1.5  # the Diana 7 reaches less than 1.3 m
    assert float(distance[1]) < 1e-3  # the other arm is not disturbed
    assert (np.asarray(joints) >= np.asarray(arms.lower) - 1e-6).all()
    assert (np.asarray(joints) <= np.asarray(arms.upper) + 1e-6).all()


def test_joints_move_at_most_their_speed_limit(solve, arms: control.ArmModel) -> None:
    position = jnp.array([[0.45, -0.2, 0.5], [0.3, 0.2, 0.5]])
    joints, distance = solve(arms, ready(), position, jnp.tile(jnp.asarray(DOWN, jnp.float32), (2, 1)))
    assert float(jnp.abs(joints - ready()).max()) <= control.MAX_JOINT_STEP + 1e-6
    assert float(distance.min()) > 0.05


@pytest.mark.parametrize(
    ("position", "quaternion"),
    [
        ([np.nan, 0.3, 0.3], DOWN),
        ([0.45, np.inf, 0.3], DOWN),
        ([0.45, 0.3, 0.3], [np.nan, 0, 0, 0]),
        ([0.45, 0.3, 0.3], [0, 0, 0, 0]),
    ],
)
def test_an_unusable_command_keeps_the_arm_and_is_reported(solve, arms: control.ArmModel, position, quaternion) -> None:
    positions = jnp.array([position, [0.45, -0.3, 0.3]], jnp.float32)
    quaternions = jnp.array([quaternion, DOWN], jnp.float32)
    joints, distance = solve(arms, ready(), positions, quaternions)
    np.testing.assert_array_equal(joints[0], ready()[0])
    assert np.isinf(distance[0])
    assert np.isfinite(distance[1])


def test_grippers_are_clipped_to_their_travel(arms: control.ArmModel) -> None:
    pose = np.array([0.45, 0.3, 0.3, 1, 0, 0, 0])
    for command, opening in ((-1.0, 0.0), (0.03, 0.03), (1.0, control.MAX_OPENING), (np.nan, control.MAX_OPENING)):
        action = jnp.asarray(np.concatenate([pose, [command], pose * [1, -1, 1, 1, 1, 1, 1], [0.05]]), jnp.float32)
        _, openings, _ = control.action_to_targets(arms, ready().reshape(14), action)
        np.testing.assert_allclose(openings, [opening, 0.05], atol=1e-7)
