"""Kinematics of serial arms against MuJoCo, and what happens to poses that cannot be reached."""

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

from imf_jax.errors import ArgumentError
from imf_jax.sim import kinematics

pytestmark = pytest.mark.optimized

JOINTS = [[f"{side}{i}" for i in range(6)] for side in ("a", "b")]
HANDS = ["a_hand", "b_hand"]
REST = np.tile([0.1, -0.5, 0.9, 0.2, 0.4, -0.1], (2, 1))
TOOL = (0.05, 0.01, -0.02)


def arm_xml(name: str, base: str) -> str:
    """A six-joint arm: hinges about slanted axes too, off the body's origin, fixed bodies between, a tilted hand."""
    axes = ["0 0 1", "0 1 0", "0.1 1 0", "1 0 0.2", "0 1 0", "1 0 0"]
    xml = f'<body name="{name}_hand" pos=".03 0 .01" euler="10 20 30"><geom size=".01"/>' + "</body>"
    for i in reversed(range(6)):
        joint = f'<joint name="{name}{i}" axis="{axes[i]}" pos="0 0 {0.01 * i}" range="-115 115"/>'
        body = f'<body pos="0.1 0 0.1" euler="0 {5 * i} 0">{joint}<geom size=".02"/>{xml}</body>'
        xml = f'<body pos="0 0.01 0.02">{body}</body>' if i == 3 else body
    return f'<body {base}><geom size=".02"/>{xml}</body>'


def compile_scene(extra: str = "") -> mujoco.MjModel:
    body = arm_xml("a", 'pos="0 .3 0"') + arm_xml("b", 'pos=".4 -.3 .1" euler="0 0 170"')
    return mujoco.MjModel.from_xml_string(f"<mujoco><worldbody>{body}{extra}</worldbody></mujoco>")


@pytest.fixture(scope="module")
def model() -> mujoco.MjModel:
    return compile_scene()


@pytest.fixture(scope="module")
def arms(model: mujoco.MjModel) -> kinematics.SerialArms:
    return kinematics.serial_arms(model, JOINTS, HANDS, REST, TOOL)


@pytest.fixture(scope="module")
def solve():
    return jax.jit(kinematics.inverse_kinematics, static_argnames=("max_step", "iterations", "posture_gain"))


def pose_of(model: mujoco.MjModel, joints: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Position of the tool (2, 3) and quaternion of the hand (2, 4) by MuJoCo."""
    data = mujoco.MjData(model)
    data.qpos[:12] = np.ravel(joints)
    mujoco.mj_kinematics(model, data)
    ids = [model.body(name).id for name in HANDS]
    return data.xpos[ids] + data.xmat[ids].reshape(2, 3, 3) @ np.array(TOOL), data.xquat[ids]


def test_forward_kinematics_agrees_with_mujoco(model: mujoco.MjModel, arms: kinematics.SerialArms) -> None:
    data = mujoco.MjData(model)
    for joints in np.random.default_rng(0).uniform(-1.9, 1.9, (5, 2, 6)):
        position, rotation, origins, axes = kinematics.forward_kinematics(arms, jnp.asarray(joints, jnp.float32))
        data.qpos[:] = joints.ravel()
        mujoco.mj_kinematics(model, data)
        np.testing.assert_allclose(position, pose_of(model, joints)[0], atol=1e-6)
        hands = [model.body(name).id for name in HANDS]
        np.testing.assert_allclose(np.reshape(rotation, (2, 9)), data.xmat[hands], atol=2e-6)
        np.testing.assert_allclose(np.reshape(origins, (12, 3)), data.xanchor, atol=1e-6)
        np.testing.assert_allclose(np.reshape(axes, (12, 3)), data.xaxis, atol=2e-6)


def test_poses_are_reached_from_the_rest_posture(model, arms, solve) -> None:
    generator = np.random.default_rng(1)
    goals = REST + generator.uniform(-0.4, 0.4, (20, 2, 6))
    poses = [pose_of(model, goal) for goal in goals]
    position, quaternion = (np.array([pose[i] for pose in poses], np.float32) for i in range(2))
    quaternion *= generator.uniform(-2, 2, (20, 2, 1)).astype(np.float32)  # any length, either sign
    start = jnp.broadcast_to(jnp.asarray(REST, jnp.float32), (20, 2, 6))
    joints, distance = solve(arms, start, position, quaternion, max_step=3.0, iterations=10, posture_gain=0.0)
    assert float(distance.max()) < 1e-3
    reached = [pose_of(model, row) for row in np.asarray(joints)]
    np.testing.assert_allclose(np.array([pose[0] for pose in reached]), position, atol=1e-3)
    unit = quaternion / np.linalg.norm(quaternion, axis=-1, keepdims=True)
    dot = np.abs(np.sum(np.array([pose[1] for pose in reached]) * unit, axis=-1))
    np.testing.assert_allclose(dot, 1.0, atol=1e-5)


def test_one_control_step_moves_each_joint_by_the_largest_step_at_most(model, arms, solve) -> None:
    start = jnp.asarray(REST, jnp.float32)
    position, quaternion = pose_of(model, REST + 0.8)
    joints, distance = solve(arms, start, position.astype(np.float32), quaternion.astype(np.float32), max_step=0.06)
    assert float(jnp.abs(joints - start).max()) <= 0.06 + 1e-6
    assert float(distance.min()) > 0.01


def test_a_pose_out_of_reach_keeps_the_joints_within_their_limits(arms, solve) -> None:
    joints = jnp.asarray(REST, jnp.float32)
    far = jnp.full((2, 3), 5.0)
    for _ in range(60):
        joints, distance = solve(arms, joints, far, jnp.array([[1.0, 0, 0, 0]] * 2))
    assert np.isfinite(joints).all()
    assert (joints >= arms.lower).all()
    assert (joints <= arms.upper).all()
    assert float(distance.min()) > 4.0


def test_a_stretched_arm_stays_finite_and_comes_back(model, arms, solve) -> None:
    joints = jnp.zeros((2, 6))  # axes 3 and 5 nearly line up: the arm is singular for turning the hand
    position, quaternion = pose_of(model, REST)
    for _ in range(60):
        joints, distance = solve(arms, joints, position.astype(np.float32), quaternion.astype(np.float32))
    assert float(distance.max()) < 2e-3


@pytest.mark.parametrize("bad", ["position", "quaternion", "zero"])
def test_a_command_that_is_no_pose_keeps_its_arm_only(model, arms, solve, bad: str) -> None:
    start = jnp.asarray(REST, jnp.float32)
    position, quaternion = (part.astype(np.float32) for part in pose_of(model, REST + 0.05))
    if bad == "position":
        position[0, 1] = np.nan
    elif bad == "quaternion":
        quaternion[0, 2] = np.inf
    else:
        quaternion[0] = 0.0
    joints, distance = solve(arms, start, position, quaternion)
    np.testing.assert_array_equal(joints[0], start[0])
    assert np.isinf(distance[0])
    assert float(distance[1]) < 1e-3
    assert float(jnp.abs(joints[1] - start[1]).max()) > 0.01


def test_arms_the_kinematics_do_not_know_are_refused(model: mujoco.MjModel) -> None:
    with pytest.raises(ArgumentError, match=r"check \['a2'\]"):
        kinematics.serial_arms(model, [[name for name in JOINTS[0] if name != "a2"]], HANDS[:1], REST[:1, :5])
    slide = compile_scene('<body name="cart"><joint name="slide" type="slide"/><geom size=".1"/></body>')
    with pytest.raises(ArgumentError, match="'slide' is not a hinge"):
        kinematics.serial_arms(slide, [["slide"]], ["cart"], np.zeros((1, 1)))
