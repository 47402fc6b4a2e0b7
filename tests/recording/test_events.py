"""Each event is found when it happens, once, and only if it is asked for."""

from typing import Any

import numpy as np
import pytest

from imf_jax.recording.base import Frame
from imf_jax.recording.events import DROP_STEPS, EventDetector, EventRules
from imf_jax.sim.backends.base import StepOutput

ALL = ("success", "failure", "drop", "stall", "reward_jump", "out_of_view")


def frame(step: int, *, hand: float | None = None, **values: Any) -> Frame:
    moving = 0.01 * step if hand is None else hand
    content = {
        "state": np.zeros(16), "env_state": np.zeros(7), "end_effector": np.full((2, 7), moving), "reward": 0.0,
        "stage": 0, "success": False, "failure": False, "finite": True, "ik_error": np.zeros(2), "qpos": np.zeros(3),
        "overflow": False,
    }  # fmt: skip
    after = StepOutput(**{name: np.asarray(value) for name, value in (content | values).items()})
    return Frame(0, step, after, np.zeros(16), after)


def found(frames: list[Frame], **settings: Any) -> list[tuple[int, str]]:
    detector = EventDetector(EventRules(**({"events": ALL} | settings)))
    return [(f.step, event) for f in frames for event in detector.update(f)]


def test_nothing_happens() -> None:
    assert found([frame(step, reward=step // 10) for step in range(40)]) == []


def test_success_and_failure() -> None:
    assert found([frame(0), frame(1, success=True, failure=True)]) == [(1, "success")]
    assert found([frame(0), frame(1, failure=True)]) == [(1, "failure")]
    assert found([frame(0), frame(1, success=True)], events=("failure",)) == []


def test_a_drop_is_a_lifted_object_that_stays_lost() -> None:
    stages = [0, 1, 2, 3, 1, 3, *[1] * DROP_STEPS, 0, 0]
    events = found([frame(step, stage=stage) for step, stage in enumerate(stages)])
    assert events == [(5 + DROP_STEPS, "drop")], "a flickering contact is none, and one drop is one event"


def test_a_task_says_from_which_stage_on_an_object_is_lifted() -> None:
    frames = [frame(step, stage=stage) for step, stage in enumerate([2, *[1] * DROP_STEPS, 0])]
    assert [event for _, event in found(frames)] == ["drop"]
    assert found(frames, lifted_stage=3) == []


def test_a_stall_is_told_once_until_the_hands_move() -> None:
    hands = [0.0] * 7 + [1.0] * 7
    events = found([frame(step, hand=hand) for step, hand in enumerate(hands)], stall_steps=4)
    assert events == [(4, "stall"), (11, "stall")]


@pytest.mark.parametrize("change", [2.0, -2.5])
def test_a_reward_jumps_either_way(change: float) -> None:
    rewards = [3.0, 4.0, 4.0 + change, 4.0 + change]
    events = found([frame(step, reward=reward) for step, reward in enumerate(rewards)])
    assert events == [(2, "reward_jump")]


def test_an_object_leaves_the_picture() -> None:
    x = [0.0, 2.0, 2.0, 0.0, 2.0]
    frames = [frame(step, env_state=np.full(7, value)) for step, value in enumerate(x)]
    assert found(frames, in_view=lambda point: point[0] < 1) == [(1, "out_of_view"), (4, "out_of_view")]
    second = {"in_view": lambda point: point[0] < 1, "position": lambda env_state: 0.1 * env_state[:3]}
    assert found(frames, **second) == [], "the object that the task follows stays in the picture"
