"""The experts of the ALOHA scenes in a kinematic toy world, and with the physics."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

from imf_jax.seeds import scene_keys
from imf_jax.sim.backends.native import NativeBackend
from imf_jax.sim.experts import aloha_common as common
from imf_jax.sim.experts.aloha_insertion import MEET, TOUCH, TOUCHING, AlohaInsertionExpert
from imf_jax.sim.experts.aloha_transfer import CUBE_HALF_SIZE, AlohaTransferExpert
from imf_jax.sim.kinematics import SerialArms, forward_kinematics
from imf_jax.sim.robots.aloha.model import START_ARM
from imf_jax.sim.tasks import get_expert

pytestmark = pytest.mark.optimized

CUBES = np.array([[[0.05, 0.42, 0.02]], [[0.18, 0.57, 0.02]]])
PAIRS = np.array([[[0.12, 0.43, 0.01], [-0.18, 0.55, 0.022]], [[0.19, 0.59, 0.01], [-0.11, 0.45, 0.022]]])
"""Positions of the objects in the order of `env_state`."""


class Output(NamedTuple):
    state: np.ndarray
    env_state: np.ndarray
    end_effector: np.ndarray


@pytest.fixture(scope="module")
def arms() -> SerialArms:
    return common.aloha_arms()


class ToyWorld:
    """Joints follow their targets with a lag; a closed gripper takes the object between its fingers along."""

    def __init__(self, arms: SerialArms, positions: np.ndarray, widths: np.ndarray) -> None:
        count, objects = positions.shape[:2]
        self.joints = np.tile(START_ARM, (count, 2, 1))
        self.gripper = np.full((count, 2), 0.1)
        self.objects = np.concatenate([positions, np.tile(common.UPRIGHT, (count, objects, 1))], axis=-1)
        self.widths = widths  # (2,) gripper of each hand on its object
        self.hand_of = [0] if objects == 1 else [1, 0]
        self.fk = jax.jit(lambda joints: forward_kinematics(arms, joints)[:2])

    def hands(self) -> np.ndarray:
        position, rotation = self.fk(jnp.asarray(self.joints, jnp.float32))
        quaternion = np.zeros((*position.shape[:2], 4))
        for index in np.ndindex(*quaternion.shape[:2]):
            mujoco.mju_mat2Quat(quaternion[index], np.asarray(rotation[index], float).ravel())
        return np.concatenate([position, quaternion], axis=-1)

    def output(self) -> Output:
        state = np.concatenate([self.joints, self.gripper[..., None]], axis=-1).reshape(len(self.joints), 14)
        flat = self.objects.reshape(len(state), -1)
        return Output(state.astype(np.float32), flat.astype(np.float32), self.hands().astype(np.float32))

    def step(self, action: np.ndarray) -> None:
        command = np.asarray(action, float).reshape(-1, 2, 7)
        before = self.hands()
        self.joints += 0.3 * (command[..., :6] - self.joints)
        after = self.hands()
        for i in range(self.objects.shape[1]):
            sides = [1, 0] if self.objects.shape[1] == 1 else [self.hand_of[i]]
            for side in sides:
                touching = np.linalg.norm(self.objects[:, i, :3] - before[:, side, :3], axis=-1) < 0.17
                held = touching & (self.gripper[:, side] <= self.widths[side] + 1e-6)
                parts = [common.poses(jnp.asarray(rows)) for rows in (after[:, side], before[:, side])]
                moved = common.compose(
                    parts[0], common.compose(common.inverse(parts[1]), common.poses(jnp.asarray(self.objects[:, i])))
                )
                moved = np.concatenate([moved.position, moved.quaternion], axis=-1)
                self.objects[:, i] = np.where(held[:, None], moved, self.objects[:, i])
                if held.any():
                    break
        self.gripper += 0.3 * (command[..., 6] - self.gripper)
        self.gripper = np.maximum(self.gripper, self.widths)


def play(expert, world: ToyWorld, steps: int):
    """Phases (steps, B), actions (steps, B, 14) and the last state of an episode in the toy world."""
    act = jax.jit(expert.act)
    state = expert.start(world.output())
    phases, actions = [], []
    for _ in range(steps):
        state, action = act(state, world.output())
        world.step(np.asarray(action))
        phases.append(np.asarray(state.phase))
        actions.append(np.asarray(action))
    return np.array(phases), np.array(actions), state


@pytest.fixture(scope="module")
def transfer(arms: SerialArms):
    world = ToyWorld(arms, CUBES, np.full(2, common.gripper_at(CUBE_HALF_SIZE)))
    return (*play(AlohaTransferExpert(), world, 220), world)


@pytest.fixture(scope="module")
def insertion(arms: SerialArms):
    world = ToyWorld(arms, PAIRS, np.array(TOUCHING))
    return (*play(AlohaInsertionExpert(), world, 160), world)


def test_transfer_goes_through_its_phases_and_the_right_hand_lets_go(transfer) -> None:
    phases, _, _, world = transfer
    assert (np.diff(phases, axis=0) >= 0).all()
    assert (phases[-1] == AlohaTransferExpert.phases - 1).all()
    np.testing.assert_array_less(0.9, world.gripper[:, 1])
    np.testing.assert_array_less(0.1, world.objects[:, 0, 2])  # the left hand holds it in the air


def test_insertion_brings_the_peg_to_the_pin(insertion) -> None:
    phases, _, _, world = insertion
    assert (np.diff(phases, axis=0) >= 0).all()
    peg, socket = (common.poses(jnp.asarray(world.objects[:, i])) for i in range(2))
    relative = common.compose(common.inverse(socket), peg).position
    assert (relative[:, 0] < TOUCH).all()  # nothing stops it in this world
    np.testing.assert_allclose(relative[:, 1:], 0.0, atol=0.003)
    np.testing.assert_allclose(socket.position, np.tile(MEET, (2, 1)), atol=0.01)


@pytest.mark.parametrize("task", ["transfer", "insertion"])
def test_actions_are_smooth_and_within_the_limits(task: str, arms: SerialArms, request) -> None:
    actions = request.getfixturevalue(task)[1].reshape(-1, 2, 2, 7)
    assert np.isfinite(actions).all()
    joints, gripper = actions[..., :6], actions[..., 6]
    assert (joints >= np.asarray(arms.lower) - 1e-6).all()
    assert (joints <= np.asarray(arms.upper) + 1e-6).all()
    assert (gripper >= 0.0).all()
    assert (gripper <= 1.0).all()
    assert np.abs(np.diff(gripper, axis=0)).max() <= common.GRIP_SPEED + 1e-6
    assert np.abs(np.diff(joints, axis=0)).max() < 2.5 * common.SPEED
    assert np.abs(np.diff(joints, n=2, axis=0)).max() < 6 * common.ACCELERATION


def test_an_expert_continues_from_the_action_of_another_policy(arms: SerialArms, transfer) -> None:
    _, _, state, world = transfer
    expert = AlohaTransferExpert()
    action = np.full((2, 14), 0.25, np.float32)
    action[0, [1, 6]] = [9.0, 1.5]
    state = expert.anchor(state, jnp.asarray(action))
    np.testing.assert_array_equal(state.velocity, 0.0)
    np.testing.assert_array_equal(state.gripper, [[1.0, 0.25], [0.25, 0.25]])
    assert float(state.joints[0, 0, 1]) == float(arms.upper[0, 1])
    _, after = jax.jit(expert.act)(state, world.output())
    lead = np.append(common.MAX_LEAD, common.GRIP_SPEED)
    change = np.abs(np.asarray(after).reshape(2, 2, 7)[1] - 0.25)
    assert (change <= lead + common.ACCELERATION + 1e-6).all()


@pytest.mark.parametrize("task", ["transfer", "insertion"])
def test_an_empty_hand_begins_again(task: str, request) -> None:
    _, _, state, world = request.getfixturevalue(task)
    expert = {"transfer": AlohaTransferExpert, "insertion": AlohaInsertionExpert}[task]()
    output = world.output()
    robot = output.state.copy()
    robot[1, 6] = 0.1  # the left hand of scene 1 has closed on nothing
    state, _ = jax.jit(expert.act)(state, output._replace(state=robot))
    assert int(state.phase[0]) > 0
    assert int(state.phase[1]) == 0
    assert int(state.waited[1]) == 0


def test_poses_compose_as_transformations_do() -> None:
    rows = np.random.default_rng(0).normal(size=(2, 5, 7)).astype(np.float32)
    rows[..., 3:] /= np.linalg.norm(rows[..., 3:], axis=-1, keepdims=True)
    a, b = (common.poses(jnp.asarray(part)) for part in rows)
    neutral = common.compose(a, common.inverse(a))
    np.testing.assert_allclose(neutral.position, 0.0, atol=1e-5)
    np.testing.assert_allclose(neutral.quaternion, np.tile(common.UPRIGHT, (5, 1)), atol=1e-6)
    product, position = np.zeros(4), np.zeros(3)
    for i in range(5):
        mujoco.mju_mulPose(position, product, rows[0, i, :3], rows[0, i, 3:], rows[1, i, :3], rows[1, i, 3:])
        np.testing.assert_allclose(common.compose(a, b).position[i], position, atol=1e-5)
        np.testing.assert_allclose(common.compose(a, b).quaternion[i], product, atol=1e-5)
    # A hand carries what it holds to the goal.
    goal = common.carry(a, b, common.Pose(b.position + 1.0, b.quaternion))
    np.testing.assert_allclose(goal.position, a.position + 1.0, atol=1e-5)


@pytest.mark.parametrize("task", ["aloha-transfer", "aloha-insertion"])
def test_the_expert_succeeds_in_the_scene(task: str) -> None:
    backend, expert = NativeBackend(task), get_expert(task)
    act = jax.jit(expert.act)
    state, output = backend.reset(scene_keys(0, range(4)))
    memory, succeeded = expert.start(output), np.zeros(4, bool)
    for _ in range(250):
        memory, action = act(memory, output)
        state, output = backend.step(state, np.asarray(action))
        succeeded |= np.asarray(output.success)
    assert succeeded.all()
