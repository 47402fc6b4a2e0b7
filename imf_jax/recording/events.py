"""Events of a scene that are worth keeping, detected as its control steps come."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from imf_jax.config.recording import EventName
from imf_jax.recording.base import Frame
from imf_jax.rollout.episode import Status

DROP_STEPS = 5
"""Control steps for which a lifted object must have been lost to count as dropped: contacts flicker."""

STALL_DISTANCE = 0.005
"""Hands that stay within this distance of an earlier position count as standing still [m]."""

AT_END: dict[Status, EventName] = {"timeout": "failure", "error": "non_finite"}
"""Events at the end of an episode: time ran out, or physics or a plan was not finite."""


@dataclass(frozen=True)
class EventRules:
    """Rules that define the events.

    Attributes:
        events: the events to detect.
        reward_jump: change of the reward from one step to the next.
        stall_steps: control steps without any motion of the hands.
        lifted_stage: stage from which on an object is off the table.
        position: where the object is that must not leave the picture, (3,) [m] from a scene state (E,).
        in_view: test whether a point (3,) [m] is on the picture. Only for `out_of_view`.
    """

    events: tuple[EventName, ...]
    reward_jump: float = 2.0
    stall_steps: int = 50
    lifted_stage: int = 2
    position: Callable[[np.ndarray], Any] = lambda env_state: env_state[:3]
    in_view: Callable[[np.ndarray], bool] | None = None


class EventDetector:
    """Detects the events of one scene."""

    def __init__(self, rules: EventRules) -> None:
        self._rules = rules
        self._reward: float | None = None
        self._was_lifted, self._lost_for = False, 0
        self._resting_at: np.ndarray | None = None
        self._still_for = 0
        self._was_in_view = True

    def update(self, frame: Frame) -> tuple[EventName, ...]:
        """Detect the events that begin with this step, each once and not for as long as it lasts."""
        found: dict[EventName, bool] = {
            "success": bool(frame.after.success),
            "failure": bool(frame.after.failure) and not bool(frame.after.success),
            "drop": self._drop(int(frame.after.stage)),
            "stall": self._stall(np.asarray(frame.after.end_effector)[:, :3]),
            "reward_jump": self._jump(float(frame.after.reward)),
            "out_of_view": self._leaves_view(np.asarray(frame.after.env_state)),
        }
        return tuple(name for name in self._rules.events if found.get(name))

    def _drop(self, stage: int) -> bool:
        if stage >= self._rules.lifted_stage:
            self._was_lifted, self._lost_for = True, 0
            return False
        self._lost_for += self._was_lifted
        if self._lost_for < DROP_STEPS:
            return False
        self._was_lifted, self._lost_for = False, 0
        return True

    def _stall(self, hands: np.ndarray) -> bool:
        if self._resting_at is None or np.linalg.norm(hands - self._resting_at, axis=1).max() > STALL_DISTANCE:
            self._resting_at, self._still_for = hands, 0
            return False
        self._still_for += 1
        return self._still_for == self._rules.stall_steps

    def _jump(self, reward: float) -> bool:
        before, self._reward = self._reward, reward
        return before is not None and abs(reward - before) >= self._rules.reward_jump

    def _leaves_view(self, env_state: np.ndarray) -> bool:
        if self._rules.in_view is None:
            return False
        was, self._was_in_view = self._was_in_view, self._rules.in_view(self._rules.position(env_state))
        return was and not self._was_in_view
