"""The life of a strategy, and how it is fed from a rollout: setup, on_step for every control step, finish.

A strategy never changes what happens in a rollout. It is a capture like any other: what it is told comes through the
bounded queue of `imf_jax.rollout.capture`, and it works in that queue's thread.
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
    """One control step of one scene: what was observed before it, what was commanded, where it led.

    Attributes:
        scene: index of the episode of the rollout.
        step: control step of the scene, from 0.
        before: what was read before the step, leaves (...) of one scene; `before.qpos` is what a picture needs.
        action: float32 (16,) as commanded.
        after: what was read after the step.
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
        """Memory that it takes [bytes]."""
        return int(self.action.nbytes + sum(np.asarray(leaf).nbytes for leaf in (*self.before, *self.after)))


class Strategy:
    """What is done with a rollout. This one counts only; the others record.

    `setup`, then for the scenes, in any order and side by side: `on_step` ..., `on_end`; at last `finish`.

    Attributes:
        name: as on the command line.
    """

    name = "base"

    @property
    def failed(self) -> str | None:
        """Why it cannot go on; the rollout is ended then."""
        return None

    def setup(self, qpos: np.ndarray) -> None:
        """Prepare what takes long, for scenes at `qpos` (nq,); may be called again before the next rollout."""

    def on_step(self, frames: Sequence[Frame]) -> None:
        """Control steps were executed; frames of one scene come in order."""

    def on_end(self, record: EpisodeRecord) -> None:
        """An episode has ended."""

    def on_lost(self, scene: int) -> None:
        """Something of a scene was missed; nothing of it that is still open may be kept."""

    def abandon(self) -> None:
        """It hangs and is given up: nothing that is open may be kept. Called as `Recorder.abandon`."""

    def finish(self) -> None:
        """The recording has finished, or was stopped early."""

    def wants_to_stop(self) -> bool:
        """Has it had enough? Asked from another thread."""
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
        """The first observation of each scene."""
        for row, scene in enumerate(reset.episodes.tolist()):
            self._newest[scene] = jax.tree.map(lambda leaf, row=row: np.array(leaf[row]), reset.output)
            self._steps[scene] = 0

    @override
    def on_steps(self, steps: StepBatch) -> None:
        """An observation belongs to the step after it, so all are shifted by one."""
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
        """A strategy outlives a rollout, its `finish` comes later."""

    @override
    def abandon(self) -> None:
        self._strategy.abandon()

    def _forget(self, scene: int) -> None:
        self._newest.pop(scene, None)
        self._steps.pop(scene, None)
