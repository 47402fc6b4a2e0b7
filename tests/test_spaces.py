"""Parts of actions and states: where they are, what their entries are called, and what is refused."""

import json
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from transfer_task import ARM, SPACES

from imf_jax.chunks import join, same_hemisphere, unit_quaternions
from imf_jax.errors import UserError
from imf_jax.recording.correction import difference, distance
from imf_jax.sim.robots.base import hold
from imf_jax.spaces import Part, RobotSpaces


def test_parts_follow_each_other() -> None:
    assert (ARM.action_dim, ARM.state_dim, ARM.quaternions) == (5, 5, ())
    assert [place for _, place in ARM.action_parts] == [slice(0, 3), slice(3, 4), slice(4, 5)]
    assert (SPACES.action_dim, SPACES.state_dim) == (16, 16)
    assert SPACES.quaternions == (slice(3, 7), slice(11, 15))
    assert [part.kind for part, _ in SPACES.state_parts] == ["joint", "gripper"] * 2


def test_names_of_entries() -> None:
    assert ARM.action_names == ("arm1", "arm2", "arm3", "gripper", "base")
    entries = ("x", "y", "z", "qw", "qx", "qy", "qz", "gripper")
    assert SPACES.action_names == tuple(f"{side}_{name}" for side in ("left", "right") for name in entries)
    assert SPACES.state_names[8:] == (*(f"right_joint{i}" for i in range(1, 8)), "right_gripper")
    hand = Part("hand", 3, "position", "m")
    turn = Part("hand", 4, "quaternion", "")
    assert hand.entry_names() == ("hand_x", "hand_y", "hand_z")
    assert turn.entry_names() == ("hand_qw", "hand_qx", "hand_qy", "hand_qz")


@pytest.mark.parametrize("spaces", [ARM, SPACES], ids=["arm", "pair"])
def test_json_gives_it_back(spaces: RobotSpaces) -> None:
    text = json.dumps(spaces.to_json())
    again = RobotSpaces.from_json(json.loads(text))
    assert again == spaces
    assert hash(again) == hash(spaces), "programs are compiled once per robot"


@pytest.mark.parametrize(
    "part",
    [
        Part("arm", 0, "joint", "rad"),
        Part("arm", 3, "quaternion", ""),
        Part("arm", 2, "joint", "rad", entries=("one",)),
        Part("arm", 2, "joint", "rad", low=(0.0,)),
        Part("arm", 2, "joint", "rad", high=(0.0, 1.0, 2.0)),
        Part("arm", 2, "position", "m"),
        Part("arm", 4, "position", "m", entries=("x", "y", "z", "t")),
        Part("arm", 1, "joint", "rad", effector=1),
    ],
    ids=["empty", "quaternion", "entries", "low", "high", "position", "four", "effector"],
)
def test_parts_that_do_not_add_up_are_refused(part: Part) -> None:
    with pytest.raises(UserError, match="part 'arm' of robot 'arm'"):
        RobotSpaces.from_json(replace(ARM, action=(part,)).to_json())


def test_fields_that_are_missing_or_unknown_are_refused() -> None:
    for values in ({}, ARM.to_json() | {"legs": 2}, ARM.to_json() | {"action": 3}, ARM.to_json() | {"name": 5}):
        with pytest.raises(UserError):
            RobotSpaces.from_json(values)
    kind = ARM.to_json()
    kind["action"][0]["kind"] = "leg"
    with pytest.raises(UserError, match="kind"):
        RobotSpaces.from_json(kind)


def test_a_robot_without_quaternions_is_left_alone() -> None:
    action = np.random.default_rng(0).normal(size=(2, 4, 5)).astype(np.float32)
    np.testing.assert_array_equal(unit_quaternions(jnp.asarray(action), ARM), action)
    np.testing.assert_array_equal(same_hemisphere(jnp.asarray(action), -action, ARM), action)
    joined = join(jnp.asarray(action), -jnp.asarray(action), 0, ARM, blend_steps=1)
    np.testing.assert_allclose(joined[:, 0], 0 * action[:, 0], atol=1e-7)


def test_joints_are_held_where_they_are_measured_whatever_the_order() -> None:
    state = jnp.asarray([[0.5, 0.1, 0.2, 0.3, 0.9]])
    np.testing.assert_allclose(hold(ARM, state, jnp.zeros((1, 1, 7))), [[0.1, 0.2, 0.3, 0.9, 0.5]])


def test_actions_are_compared_part_by_part() -> None:
    one, other = np.zeros((2, 1, 5), np.float32)
    other[0] = [0.1, -0.3, 0.2, 0.05, 0.0]
    assert float(distance(difference(jnp.asarray(one), jnp.asarray(other), ARM), ARM)[0]) == pytest.approx(0.3)
    one, other = np.zeros((2, 1, 16), np.float32)
    other[0, [0, 1, 3, 7, 15]] = [0.3, 0.4, 5.0, 0.1, -0.6]  # positions by length, quaternions not at all
    assert float(distance(difference(jnp.asarray(one), jnp.asarray(other), SPACES), SPACES)[0]) == pytest.approx(0.6)
