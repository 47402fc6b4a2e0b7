"""Noise of demonstrations on any robot: positions, rotations about the world's vertical axis, joints; no grippers."""

import jax.numpy as jnp
import numpy as np
from transfer_task import ARM, SPACES

from imf_jax.recording.demonstrator import disturb, noise_scales
from imf_jax.sim.robots.diana.control import quaternion_to_matrix


def test_scales_follow_the_parts_of_the_action() -> None:
    assert noise_scales(SPACES, 0.1, 0.2, 0.3) == [0.1, 0.1, 0.1, 0.2] * 2
    assert noise_scales(ARM, 0.1, 0.2, 0.3) == [0.3] * 4


def test_tilted_hands_turn_about_the_vertical_axis_of_the_world() -> None:
    random = np.random.default_rng(0)
    action = random.normal(size=(20, 16)).astype(np.float32)
    for place in SPACES.quaternions:
        action[:, place] /= np.linalg.norm(action[:, place], axis=1, keepdims=True)
    noise = random.normal(0, 0.3, (20, 8)).astype(np.float32)
    disturbed = np.asarray(disturb(jnp.asarray(action), jnp.asarray(noise), SPACES))
    for hand, place in enumerate(SPACES.quaternions):
        yaw = noise[:, 4 * hand + 3]
        for before, after, angle in zip(action[:, place], disturbed[:, place], yaw, strict=True):
            cos, sin = np.cos(angle), np.sin(angle)
            turn = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
            expected = turn @ np.asarray(quaternion_to_matrix(jnp.asarray(before)))
            np.testing.assert_allclose(quaternion_to_matrix(jnp.asarray(after)), expected, atol=1e-5)
        moved = disturbed[:, 8 * hand : 8 * hand + 3] - action[:, 8 * hand : 8 * hand + 3]
        np.testing.assert_allclose(moved, noise[:, 4 * hand : 4 * hand + 3], atol=1e-6)
        np.testing.assert_array_equal(disturbed[:, 8 * hand + 7], action[:, 8 * hand + 7])  # the gripper


def test_joints_are_disturbed_one_by_one_and_grippers_never() -> None:
    action = jnp.asarray([[0.1, 0.2, 0.3, 0.9, 0.5]])
    noise = jnp.asarray([[0.01, 0.02, 0.03, 0.04]])
    np.testing.assert_allclose(disturb(action, noise, ARM), [[0.11, 0.22, 0.33, 0.9, 0.54]], atol=1e-6)
