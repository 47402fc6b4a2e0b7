"""A robot under a policy whose plans come late: one call per control step, plans in threads of their own."""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any

import numpy as np

from imf_jax.client.execution import ChunkExecutor
from imf_jax.config import require
from imf_jax.errors import UserError

Plan = Callable[[dict[str, Any]], np.ndarray]
"""(observation) -> actions (N, A), such as `PolicyClient.plan`; used by one thread at a time."""


class RobotRunner:
    """Observation in, action out, at the rate of the robot; a plan that is under way never keeps it waiting.

    With a delay of 0 each plan is waited for, as a robot does that stands still meanwhile. A plan that fails is left
    out: the robot goes on with what is planned, until the executor's watchdog stops it.

    Args:
        planners: functions that plan, each used by one thread at a time; one for each plan that can be under way.
        executor: says which action is executed when.
        obs_horizon: observations that the policy reads; `PolicyClient.metadata` of our servers says how many.
        prefix: tell the policy as `prefix` what is commanded from obs_horizon - 1 steps before its observation until
            its chunk takes over; it must be trained for it.

    A plan is told as `delay` when its chunk begins, where the executor has `delay_training`.

    Attributes:
        executor: as given.
        skipped: plans that did not begin because all planners were busy.
        failed: plans that failed.
        last_error: what the last one of these said.
    """

    def __init__(
        self, planners: Sequence[Plan], executor: ChunkExecutor, *, obs_horizon: int = 1, prefix: bool = False
    ) -> None:
        every, delay = executor.replan_every, executor.delay_steps
        require(not prefix or 1 <= delay <= every, f"prefix needs a delay of 1 to replan_every ({every}), not {delay}")
        self.executor, self._prefix = executor, prefix
        self._commands: deque[np.ndarray] = deque(maxlen=obs_horizon - 1)
        self._free = deque(planners)
        self._threads = ThreadPoolExecutor(max(1, len(planners)), thread_name_prefix="plan")
        self._history: deque[dict[str, np.ndarray]] = deque(maxlen=obs_horizon)
        self._ended: SimpleQueue[tuple[int, int, Plan, Future[np.ndarray]]] = SimpleQueue()
        self._episode = 0
        self.skipped = self.failed = 0
        self.last_error = ""

    def start(self, hold: np.ndarray) -> None:
        """Begin an episode: `hold`, float32 (A,), is commanded until the first chunk takes over."""
        self._episode += 1  # chunks of plans that are still under way are not for this one
        self._history.clear()
        self._commands.extend([np.asarray(hold, np.float32)] * (self._commands.maxlen or 0))
        self.executor.start(hold)

    def act(self, observation: Mapping[str, Any]) -> np.ndarray:
        """The action, float32 (A,), of this control step.

        Args:
            observation: of this control step, as the server names it; arrays and numbers get an axis of time in front,
                obs_horizon long, oldest first, unless obs_horizon is 1.
        """
        seen = {name: np.asarray(value) if _is_number(value) else value for name, value in observation.items()}
        self._history.extend([seen] * (1 if self._history else self._history.maxlen or 1))
        self._take_ended(wait=False)
        if self.executor.plan_due and self._begin() and self.executor.delay_steps == 0:
            self._take_ended(wait=True)
        action = self.executor.next_action()
        self._commands.append(action)
        return action

    def close(self) -> None:
        """Wait for the plans that are under way, and end their threads."""
        self._threads.shutdown()

    def __enter__(self) -> "RobotRunner":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _begin(self) -> bool:
        if not self._free:
            self.skipped += 1
            return False
        told = self._told()
        plan, step, episode = self._free.popleft(), self.executor.begin_plan(), self._episode
        future = self._threads.submit(plan, self._observation() | told)
        future.add_done_callback(lambda done: self._ended.put((episode, step, plan, done)))
        return True

    def _take_ended(self, *, wait: bool) -> None:
        """Give the chunks that have come to the executor; `wait`: for one at least."""
        while wait or not self._ended.empty():
            episode, step, plan, done = self._ended.get()
            self._free.append(plan)
            wait = False
            try:
                chunk = done.result()
                if episode == self._episode:
                    self.executor.add(step, chunk)
            except (UserError, OSError, ValueError) as error:
                if episode == self._episode:
                    self.executor.drop(step)
                self.failed += 1
                self.last_error = str(error)

    def _told(self) -> dict[str, Any]:
        """What a plan that begins now is told of its delay and of what is executed meanwhile."""
        told: dict[str, Any] = {}
        if self.executor.delay_training:
            told["delay"] = self.executor.begin_steps
        if self._prefix:
            ahead = self.executor.ahead(self.executor.delay_steps)
            none = np.zeros((0, self.executor.spaces.action_dim), np.float32)
            told["prefix"] = none if ahead is None else np.concatenate([*(row[None] for row in self._commands), ahead])
        return told

    def _observation(self) -> dict[str, Any]:
        """The newest observations, oldest first."""
        newest = self._history[-1]
        if self._history.maxlen == 1:
            return dict(newest)
        return {
            name: np.stack([seen[name] for seen in self._history]) if isinstance(value, np.ndarray) else value
            for name, value in newest.items()
        }


def _is_number(value: Any) -> bool:
    return isinstance(value, np.ndarray | np.generic | int | float | list | tuple)
