"""Parts of actions and states: where they are, what their entries are called, and what is refused."""

import json
from dataclasses import replace

import pytest
from transfer_task import SPACES

from imf_jax.errors import UserError
from imf_jax.spaces import Part, RobotSpaces

ARM = RobotSpaces(
    name="arm",
    action=(Part("arm", 6, "joint", "rad", low=(-1.0,) * 6, high=(1.0,) * 6), Part("gripper", 1, "gripper", "")),
    state=(Part("arm", 6, "joint", "rad"), Part("gripper", 1, "gripper", "")),
    effectors=("wrist",),
    effector_names=("arm",),
)


def test_parts_follow_each_other() -> None:
    assert (ARM.action_dim, ARM.state_dim, ARM.quaternions) == (7, 7, ())
    assert [place for _, place in ARM.action_parts] == [slice(0, 6), slice(6, 7)]
    assert (SPACES.action_dim, SPACES.state_dim) == (16, 16)
    assert SPACES.quaternions == (slice(3, 7), slice(11, 15))
    assert [part.kind for part, _ in SPACES.state_parts] == ["joint", "gripper"] * 2


def test_names_of_entries() -> None:
    assert ARM.action_names == ("arm1", "arm2", "arm3", "arm4", "arm5", "arm6", "gripper")
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
