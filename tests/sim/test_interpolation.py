"""Servo commands between two actions: evenly spaced joint targets, hands on a straight line, records once a step."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest

from imf_jax.errors import ArgumentError
from imf_jax.seeds import scene_keys
from imf_jax.sim.backends.mjx import MjxBackend
from imf_jax.sim.backends.native import NativeBackend
from imf_jax.sim.backends.task_scene import TaskScene
from imf_jax.sim.backends.warp import WarpBackend
from imf_jax.sim.robots.diana.control import MAX_JOINT_STEP, forward_kinematics
from imf_jax.sim.robots.diana.model import READY


def commands(last: np.ndarray, joints: np.ndarray, count: int) -> list:
    """Commands as they are before they are put in the order of the servos."""
    recorded = SimpleNamespace(controls=lambda targets, openings: (targets, openings))
    return TaskScene.commands(recorded, last, joints, "openings", count)


def test_commands_are_evenly_spaced_and_end_at_the_action() -> None:
    last, joints = np.zeros((2, 14)), np.full((2, 14), 0.05)
    found = commands(last, joints, 5)
    np.testing.assert_allclose([targets[0, 0] for targets, _ in found], [0.01, 0.02, 0.03, 0.04, 0.05])
    assert found[-1][0] is joints
    assert {opening for _, opening in found} == {"openings"}
    assert [targets is joints for targets, _ in commands(last, joints, 1)] == [True]


def test_hands_between_two_actions_are_within_two_millimetres_of_the_straight_line(
    transfer_backend: NativeBackend,
) -> None:
    arms = transfer_backend._parts.robot.arms
    start = np.tile(READY, (100, 2, 1))
    end = start + np.random.default_rng(0).uniform(-MAX_JOINT_STEP, MAX_JOINT_STEP, start.shape)
    place = jax.jit(lambda joints: forward_kinematics(arms, joints)[0])
    first, middle, last = (np.asarray(place(joints.astype(np.float32))) for joints in (start, (start + end) / 2, end))
    assert np.linalg.norm(last - first, axis=-1).max() > 0.04
    assert np.linalg.norm(middle - (first + last) / 2, axis=-1).max() < 2e-3


def test_interpolated_motion_is_smoother_and_recorded_once_a_step(
    transfer_backend: NativeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Towards a pose 4 cm away: the hand starts more slowly and comes to the same place."""
    state, output = transfer_backend.reset(scene_keys(0, np.arange(2)))
    pose = output.end_effector.copy()
    pose[..., 2] += 0.04
    action = np.concatenate([pose, np.full((2, 2, 1), 0.05, np.float32)], axis=-1).reshape(2, 1, 16)
    actions = np.repeat(action, 50, axis=1)
    _, plain = transfer_backend.run_chunk(state, actions)
    monkeypatch.setattr(transfer_backend, "interpolation", 5)
    final, smooth = transfer_backend.run_chunk(state, actions)
    height = [out.end_effector[:, :, 0, 2] - output.end_effector[:, None, 0, 2] for out in (plain, smooth)]
    assert height[1].shape == (2, 50)
    assert (height[1][:, 0] < 0.8 * height[0][:, 0]).all()
    np.testing.assert_allclose(height[1][:, -1], height[0][:, -1], atol=1e-3)
    assert final.step.tolist() == [50, 50]
    again = state
    for k in range(3):
        again, step = transfer_backend.step(again, actions[:, k])
        np.testing.assert_array_equal(step.qpos, smooth.qpos[:, k])


@pytest.mark.parametrize("backend", [NativeBackend, MjxBackend, WarpBackend])
def test_a_count_that_does_not_divide_the_physics_steps_is_refused(backend: Callable[..., Any]) -> None:
    with pytest.raises(ArgumentError, match=r"--action-interpolation 2 does not divide the 5 physics .* 1 or 5"):
        backend("transfer", interpolation=2)
