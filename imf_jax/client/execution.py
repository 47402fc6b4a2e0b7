"""Which action of which chunk a robot executes when plans take time; see `imf_jax.rollout.delay` for the rules.

Time is counted in control steps. Every `replan_every` steps a plan may begin from the observation of that step t; its
chunk takes over at t + `delay_steps`, or when it comes if that is later, with the action it has for that step.

The robot waits for the first chunk of an episode, which therefore begins with its first action; no other plan begins
meanwhile. The same chunks give the same actions as the async engine of the evaluation.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from imf_jax.chunks import advance, join, place, require_within_chunk
from imf_jax.config import require
from imf_jax.spaces import RobotSpaces


@dataclass
class _Plan:
    """A plan that is under way, or whose place a later chunk may still need.

    Attributes:
        step: control step of its observation.
        begin: steps after that at which its chunk begins.
        before: float32 (1, L, A) what was planned from this step on without it.
        start: steps after that at which it takes over.
        chunk: float32 (1, L, A) its actions from this step on, None until they have come.
    """

    step: int
    begin: int
    before: np.ndarray
    start: int = 0
    chunk: np.ndarray | None = None


class ChunkExecutor:
    """Queue of planned actions of one robot: chunks in at any time, one action out per control step.

    Args:
        spaces: action of the robot; says where quaternions are.
        chunk_steps: actions N of a chunk: for the step of the observation and later.
        replan_every: control steps between two plans.
        delay_steps: control steps from an observation to the takeover of its chunk; longer than a plan takes.
        blend_steps: actions within which an old chunk goes over into a new one, linearly.
        on_empty: what to do when a chunk runs out: stay at its last action, or go on by its last increment.
        watchdog_steps: control steps without a planned action after which the robot stops; never by default.
        delay_training: steps by which chunks of the policy can begin later than their observation; a plan is then told
            `begin_steps`.

    Attributes:
        step: control steps executed.
        late: chunks that came too late to be of use.
        stopped: the watchdog has stopped the robot; it stays at its last command until `start`.

    Raises:
        ArgumentError: the settings reach beyond the chunk; names the setting.
    """

    def __init__(
        self,
        spaces: RobotSpaces,
        chunk_steps: int,
        *,
        replan_every: int,
        delay_steps: int = 0,
        blend_steps: int = 0,
        on_empty: Literal["hold", "continue"] = "hold",
        watchdog_steps: int | None = None,
        delay_training: int = 0,
    ) -> None:
        require(replan_every >= 1, f"--replan-every {replan_every} must be at least 1")
        require(min(delay_steps, blend_steps) >= 0, "--delay-steps and --blend-steps must not be negative")
        require(watchdog_steps is None or watchdog_steps >= 1, "watchdog_steps must be at least 1")
        require(on_empty == "hold" or chunk_steps > 1, "--on-empty continue needs chunks of at least 2 actions")
        horizon = f"chunk of {chunk_steps} - 1"
        require_within_chunk(chunk_steps, replan_every, delay_steps, blend_steps, horizon, delay_training)
        self.spaces, self.chunk_steps = spaces, chunk_steps
        self.replan_every, self.delay_steps, self.delay_training = replan_every, delay_steps, delay_training
        self._blend_steps, self._extrapolate, self._watchdog_steps = blend_steps, on_empty == "continue", watchdog_steps
        self.start(np.zeros(spaces.action_dim, np.float32))

    def start(self, hold: np.ndarray) -> None:
        """Begin an episode: `hold`, float32 (A,), is commanded until the first chunk takes over."""
        self._command = self._action(hold, (self.spaces.action_dim,))
        # As long as a first chunk, which begins when it comes.
        length = self.chunk_steps + max(self.delay_steps, self.replan_every) + self.delay_training
        self._timeline = np.repeat(self._command[None, None], length, axis=1)
        self._origin = self.step = self.late = self._planned_until = 0
        self._moves_at: int | None = None
        self._plans: list[_Plan] = []
        self.stopped = False

    @property
    def plan_due(self) -> bool:
        """True before the steps at which a plan may begin, until it has."""
        begun = bool(self._plans) and self._plans[-1].step == self.step
        waits = bool(self._plans) if self._moves_at is None else self.step < self._moves_at
        return self.step == self._origin and not begun and not waits and not self.stopped

    @property
    def begin_steps(self) -> int:
        """Steps after its observation at which the chunk of a plan that begins now begins; 0 for the first chunk."""
        return 0 if self._moves_at is None else min(self.delay_steps, self.delay_training)

    def ahead(self, steps: int) -> np.ndarray | None:
        """What is commanded in the next `steps` steps as far as is known, float32 (steps, A); None before any plan."""
        if self._moves_at is None:
            return None
        first = self.step - self._origin
        planned: np.ndarray = self._timeline[0, first : first + steps]
        return planned.copy()

    @property
    def starved_steps(self) -> int:
        """Control steps executed since the last planned action."""
        return max(0, self.step - self._planned_until)

    def begin_plan(self) -> int:
        """Note that a plan begins from the observation of this step; returns its number for `add`.

        Raises:
            ArgumentError: none is due.
        """
        require(self.plan_due, f"no plan is due at step {self.step}; ask plan_due before")
        self._plans.append(_Plan(self.step, self.begin_steps, self._timeline))
        return self.step

    def drop(self, plan: int) -> None:
        """Forget a plan that has failed. As long as the robot waits for its first chunk, another one may begin then."""
        self._plans = [known for known in self._plans if known.step != plan or known.chunk is not None]

    def add(self, plan: int, chunk: np.ndarray) -> bool:
        """Take the chunk of a plan.

        Args:
            plan: its number.
            chunk: float32 (N, A); the first action is for the step of the observation, or `begin_steps` later.

        Returns:
            False if it comes too late to be of use, or after the watchdog has stopped the robot.

        Raises:
            ArgumentError: it has another shape, or is not finite.
        """
        chunk = self._action(chunk, (self.chunk_steps, self.spaces.action_dim))
        found = next((known for known in self._plans if known.step == plan and known.chunk is None), None)
        start = max(self.delay_steps, self.step - plan)
        first = self._moves_at is None
        if self.stopped or found is None or (start >= found.begin + self.chunk_steps and not first):
            self.late += 1
            return False
        if first:
            if start > self.delay_steps:
                found.step, found.before, start = self._origin, self._timeline, self.step - self._origin
            self._moves_at = found.step + start
        begin = start if first else found.begin
        ends = found.step + self.chunk_steps + begin
        length, extrapolate = self._timeline.shape[1], self._extrapolate
        found.start = start
        found.chunk = place(chunk[None], begin, length, self.spaces, extrapolate=extrapolate)
        self._rebuild()
        self._planned_until = max(self._planned_until, ends)
        return True

    def next_action(self) -> np.ndarray:
        """The action of this control step, float32 (A,); the next call is for the next one."""
        if self._watchdog_steps is not None and self.starved_steps >= self._watchdog_steps:
            self.stopped = True
        if not self.stopped:
            self._command = self._timeline[0, self.step - self._origin]
        self.step += 1
        if self.step == self._origin + self.replan_every:
            self._timeline, self._origin = self._advanced(self._timeline), self.step
            if self._moves_at is not None:
                self._plans = [plan for plan in self._plans if plan.step + plan.begin + self.chunk_steps > self.step]
        return self._command.copy()

    def _rebuild(self) -> None:
        """Plan anew from the oldest plan whose chunk has not come, as if all chunks had been known in time."""
        known = {plan.step: plan for plan in self._plans}
        timeline = self._plans[0].before
        for origin in range(self._plans[0].step, self._origin + 1, self.replan_every):
            plan = known.get(origin)
            if plan is not None:
                plan.before = timeline
                if plan.chunk is not None:
                    timeline = join(timeline, plan.chunk, plan.start, self.spaces, self._blend_steps)
            if origin < self._origin:
                timeline = self._advanced(timeline)
        self._timeline = timeline
        while self._plans and self._plans[0].chunk is not None and self._plans[0].step < self._origin:
            del self._plans[0]

    def _advanced(self, timeline: np.ndarray) -> np.ndarray:
        later: np.ndarray = advance(timeline, self.replan_every, self.spaces, extrapolate=self._extrapolate)
        return later

    def _action(self, values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        values = np.asarray(values, np.float32)
        require(values.shape == shape, f"actions of shape {values.shape} came where {shape} is needed")
        require(bool(np.isfinite(values).all()), "actions came that are not finite")
        return values
