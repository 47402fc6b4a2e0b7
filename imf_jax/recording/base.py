"""Base class of strategies, and the recorder that feeds them: setup, on_step for every control step, finish.

A strategy never changes what happens in a rollout. It is a capture like any other: its frames come through the bounded
queue of `imf_jax.rollout.capture`, and it works in that queue's thread.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from typing_extensions import override

from imf_jax.rollout.episode import EpisodeRecord
from imf_jax.rollout.recorders.base import Recorder, ResetBatch, StepBatch
from imf_jax.sim.backends.base import StepOutput

INTERVENTION = "intervention"
"""Note of a planner: bool (B, K), a corrector acted instead of the policy."""


class Frame(NamedTuple):
    """Control step of one scene: the observation before it, the command, the observation after it.

    Attributes:
        scene: index of the episode of the rollout.
        step: control step of the scene, from 0.
        before: output before the step, leaves (...) of one scene; pictures are rendered at `before.qpos`.
        action: float32 (A,) as commanded.
        after: output after the step.
        intervention: the corrector chose the action.
    """

    scene: int
    step: int
    before: StepOutput
    action: np.ndarray
    after: StepOutput
    intervention: bool = False

    @property
    def num_bytes(self) -> int:
        """Memory of the frame [bytes]."""
        return int(self.action.nbytes + sum(np.asarray(leaf).nbytes for leaf in (*self.before, *self.after)))


class Strategy:
    """Base class of strategies, which only counts; the others record.

    `setup`, then for the scenes, in any order and side by side: `on_step` ..., `on_end`; at last `finish`.

    Attributes:
        name: its name on the command line.
    """

    name = "base"

    @property
    def failed(self) -> str | None:
        """Reason why the strategy cannot go on, which ends the rollout; None while it can."""
        return None

    def setup(self, qpos: np.ndarray) -> None:
        """Compile, for scenes at `qpos` (nq,); may be called again before the next rollout."""

    def on_step(self, frames: Sequence[Frame]) -> None:
        """Handle executed control steps; frames of one scene come in order."""

    def on_end(self, record: EpisodeRecord) -> None:
        """Handle the end of an episode."""

    def on_lost(self, scene: int) -> None:
        """Handle the loss of frames of a scene; nothing of it that is still open may be kept."""

    def abandon(self) -> None:
        """Give up the strategy because it hangs: nothing that is open may be kept. Called as `Recorder.abandon`."""

    def finish(self) -> None:
        """Finish the recording, also one that was stopped early."""

    def wants_to_stop(self) -> bool:
        """True once the strategy needs no more frames. Called from another thread."""
        return self.failed is not None

    def bytes_per_scene(self, max_steps: int) -> int:
        """Largest memory [bytes] held for a running scene."""
        return 0


class StrategyRecorder(Recorder):
    """Feeds a strategy from a rollout; see `imf_jax.rollout.recorders.base.Recorder`."""

    def __init__(self, strategy: Strategy) -> None:
        self.name = strategy.name
        self._strategy = strategy
        self._newest: dict[int, StepOutput] = {}
        self._steps: dict[int, int] = {}

    @override
    def setup(self, qpos: np.ndarray) -> None:
        self._strategy.setup(qpos)

    @override
    def bytes_per_episode(self, max_steps: int) -> int:
        return self._strategy.bytes_per_scene(max_steps)

    @override
    def on_reset(self, reset: ResetBatch) -> None:
        """Keep the first observation of each scene."""
        for row, scene in enumerate(reset.episodes.tolist()):
            self._newest[scene] = jax.tree.map(lambda leaf, row=row: np.array(leaf[row]), reset.output)
            self._steps[scene] = 0

    @override
    def on_steps(self, steps: StepBatch) -> None:
        """Pass frames on; an observation belongs to the step after it, so all are shifted by one."""
        frames: list[Frame] = []
        intervened = steps.notes.get(INTERVENTION)
        for row, (scene, count) in enumerate(zip(steps.episodes.tolist(), steps.count.tolist(), strict=True)):
            for k in range(count):
                after = StepOutput(*(np.array(leaf[row, k]) for leaf in steps.output))
                frames.append(
                    Frame(
                        scene,
                        self._steps[scene],
                        self._newest[scene],
                        np.array(steps.actions[row, k]),
                        after,
                        intervened is not None and bool(intervened[row, k]),
                    )
                )
                self._newest[scene] = after
                self._steps[scene] += 1
        if frames and self._strategy.failed is None:
            self._strategy.on_step(frames)

    @override
    def finish(self, record: EpisodeRecord) -> dict[str, str]:
        self._forget(record.episode)
        if self._strategy.failed is None:
            self._strategy.on_end(record)
        return {}

    @override
    def discard(self, episode: int) -> None:
        self._forget(episode)
        self._strategy.on_lost(episode)

    @override
    def close(self) -> None:
        """Do nothing: a strategy outlives a rollout, its `finish` comes later."""

    @override
    def abandon(self) -> None:
        self._strategy.abandon()

    def _forget(self, scene: int) -> None:
        self._newest.pop(scene, None)
        self._steps.pop(scene, None)
