"""A task and its scene must fit each other: robots, objects and cameras that do not are refused in one line."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import mujoco
import numpy as np
import pytest
from typing_extensions import override

from imf_jax.errors import ArgumentError
from imf_jax.sim.backends.native import NativeBackend
from imf_jax.sim.backends.task_scene import TaskScene
from imf_jax.sim.robots.diana import DIANA_PAIR, BoundDianaPair, DianaPair
from imf_jax.sim.tasks import ContactPair
from imf_jax.sim.tasks.transfer import Transfer
from imf_jax.spaces import Part


def without_last(name: str) -> Callable[[BoundDianaPair], None]:
    """A robot that forgets its last one of something."""

    def change(robot: BoundDianaPair) -> None:
        setattr(robot, name, getattr(robot, name)[:-1])

    return change


def twice(robot: BoundDianaPair) -> None:
    robot.qpos[1] = robot.qpos[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_last("ctrl"), "robot 'two_diana7' of task 'transfer' commands 17 actuators, but its scene has 18"),
        (without_last("qpos"), "has 17 joint positions, but its scene has 18 besides the 1 objects"),
        (twice, "has 18 joint positions, but its scene has 18 besides"),
        (without_last("effectors"), "robot 'two_diana7' names 2 end effectors, but finds 1 bodies"),
    ],
)
def test_a_robot_whose_parts_do_not_add_up(change: Callable[[Any], None], message: str) -> None:
    class Changed(DianaPair):
        @override
        def bind(self, model: mujoco.MjModel) -> BoundDianaPair:
            robot = BoundDianaPair(model)
            change(robot)
            return robot

    class Task(Transfer):
        robot = Changed()

    with pytest.raises(ArgumentError, match=message) as told:
        NativeBackend(Task())
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"action": (*DIANA_PAIR.spaces.action, Part("lift", 1, "joint", "m"))}, "action .* 17 entries"),
        ({"action": DIANA_PAIR.spaces.action[:-1]}, "action .* 15 entries"),
        ({"state": DIANA_PAIR.spaces.state[:-1]}, "state .* 15 entries"),
    ],
)
def test_a_robot_whose_spaces_are_not_what_it_takes_and_reads(changes: dict[str, Any], message: str) -> None:
    class Changed(DianaPair):
        spaces = replace(DIANA_PAIR.spaces, **changes)

    class Task(Transfer):
        robot = Changed()

    with pytest.raises(ArgumentError, match=message) as told:
        TaskScene(Task(), "primitive")
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"cameras": ("front", "nose")}, "task 'transfer' names the camera 'nose', which its scene does not have"),
        ({"picture_camera": "nose"}, "task 'transfer' names the camera 'nose', which its scene does not have"),
    ],
)
def test_cameras_that_the_scene_does_not_have(attributes: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        TaskScene(type("Task", (Transfer,), attributes)(), "primitive")


def test_an_object_without_a_free_joint() -> None:
    class Task(Transfer):
        @override
        def add_objects(self, spec: mujoco.MjSpec) -> dict[str, tuple[str, ...]]:
            geoms = super().add_objects(spec)
            spec.delete(spec.joint("box_joint"))
            return geoms

    with pytest.raises(ArgumentError, match="object 'box' of task 'transfer' is not a body with a free joint"):
        TaskScene(Task(), "primitive")


def test_contacts_that_a_task_asks_for_are_read() -> None:
    """Box and table, of which the transfer does not ask: true while it rests, false in the air."""

    class Task(Transfer):
        contact_pairs = (ContactPair(("box",), ("table",)), ContactPair(("left_hand",), ("box",)))

    scene = TaskScene(Task(), "primitive")
    data = mujoco.MjData(scene.model)
    for height, touches in ((0.0249, True), (0.3, False)):
        data.qpos[scene.model.joint("box_joint").qposadr[0] + 2] = height
        mujoco.mj_forward(scene.model, data)
        state, observation = scene.read(data.qpos[None], data.sensordata[None])
        assert observation.contacts.tolist() == [[touches, False]]
        np.testing.assert_array_equal(observation.state, state)
    nothing = TaskScene("transfer", "primitive")
    data = mujoco.MjData(nothing.model)
    assert nothing.read(data.qpos[None], data.sensordata[None])[1].contacts.shape == (1, 0)
