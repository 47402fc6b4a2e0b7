"""Base class and inputs of recorders, and the buffer that most of them keep per episode."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jax
import numpy as np
from typing_extensions import override

from imf_jax.rollout.episode import EpisodeRecord
from imf_jax.sim.backends.base import Backend, StepOutput


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ResetBatch:
    """Scenes that have just started.

    Attributes:
        episodes: int64 (B,) their episode indices.
        output: output after the reset, numpy leaves (B, ...).
    """

    episodes: np.ndarray
    output: StepOutput


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class StepBatch:
    """K control steps between two replans of A scenes.

    Attributes:
        episodes: int64 (A,) episode of each row.
        actions: float32 (A, K, D) commanded actions as planned.
        output: output after each step, numpy leaves (A, K, ...).
        count: int64 (A,) how many of the K steps belong to the episode; rows past it must be ignored.
        timing: figures of `imf_jax.rollout.timing.StageClock.end_call` of these steps, (A,); empty without a clock.
        notes: notes of the planner about the actions, name -> (A, K, ...); most planners have none.
    """

    episodes: np.ndarray
    actions: np.ndarray
    output: StepOutput
    count: np.ndarray
    timing: dict[str, np.ndarray] = field(default_factory=dict)
    notes: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class RecorderContext:
    """Context of recorders: what they need to know besides their settings in `imf_jax.config.CaptureConfig`.

    Attributes:
        folder: the evaluation folder.
        backend: the simulator.
        num_envs: scenes simulated at once.
        num_episodes: only the first so many episodes are captured; all by default.
        chunk_bytes: memory [bytes] of the chunks that the planner notes, per control step.
    """

    folder: Path
    backend: Backend
    num_envs: int
    num_episodes: int | None = None
    chunk_bytes: float = 0.0


class Recorder:
    """Base class of captures.

    Its methods are called from one thread: setup, then per episode reset, steps ..., the end, finish or discard, at
    last close. Only `abandon` comes from another one. Subclasses override what they need; by default nothing happens.

    Attributes:
        name: name of the capture in messages.
    """

    name: str

    def setup(self, qpos: np.ndarray) -> None:
        """Compile, for any scene at `qpos` (nq,); called once, before the clock starts."""

    def bytes_per_episode(self, max_steps: int) -> int:
        """Largest memory [bytes] held for a running episode of `max_steps` control steps."""
        return 0

    def on_reset(self, reset: ResetBatch) -> None:
        """Handle the start of episodes."""

    def on_steps(self, steps: StepBatch) -> None:
        """Handle executed control steps."""

    def on_ended(self, episodes: Sequence[int]) -> None:
        """Handle the end of episodes that are finished next: what is faster for several at once is made here.

        They are at most as many as there are cores, of those that wait, so that memory does not grow with the queue.
        """

    def finish(self, record: EpisodeRecord) -> dict[str, str]:
        """Finish an episode that has ended.

        Args:
            record: its record, still without artifacts.

        Returns:
            kind of artifact -> path relative to the evaluation folder, for each file that was written.
        """
        return {}

    def discard(self, episode: int) -> None:
        """Discard an episode of which something was missed; nothing of it may be left."""

    def close(self) -> None:
        """Close the recorder at the end of a rollout, also of one that was interrupted or failed."""

    def abandon(self) -> None:
        """Give up the capture because it hangs: nothing that is open may be kept.

        Another thread calls this, perhaps while one of the other methods runs: it only takes a note. Should the method
        that hangs return after all, `close` follows.
        """


class OnlyEpisodes(Recorder):
    """Feeds a recorder with some episodes only.

    Args:
        recorder: the capture.
        episodes: the episodes it shall see.
    """

    def __init__(self, recorder: Recorder, episodes: Sequence[int]) -> None:
        self.name = recorder.name
        self._recorder = recorder
        self._episodes = np.unique(np.asarray(episodes, np.int64))

    @override
    def setup(self, qpos: np.ndarray) -> None:
        self._recorder.setup(qpos)

    @override
    def bytes_per_episode(self, max_steps: int) -> int:
        return self._recorder.bytes_per_episode(max_steps)

    @override
    def on_reset(self, reset: ResetBatch) -> None:
        rows = np.isin(reset.episodes, self._episodes)
        if rows.any():
            self._recorder.on_reset(jax.tree.map(lambda leaf: leaf[rows], reset))

    @override
    def on_steps(self, steps: StepBatch) -> None:
        rows = np.isin(steps.episodes, self._episodes)
        if rows.any():
            self._recorder.on_steps(jax.tree.map(lambda leaf: leaf[rows], steps))

    @override
    def on_ended(self, episodes: Sequence[int]) -> None:
        if captured := [episode for episode in episodes if episode in self._episodes]:
            self._recorder.on_ended(captured)

    @override
    def finish(self, record: EpisodeRecord) -> dict[str, str]:
        return self._recorder.finish(record) if record.episode in self._episodes else {}

    @override
    def discard(self, episode: int) -> None:
        if episode in self._episodes:
            self._recorder.discard(episode)

    @override
    def close(self) -> None:
        self._recorder.close()

    @override
    def abandon(self) -> None:
        self._recorder.abandon()


class EpisodeBuffer:
    """Arrays that grow step by step, one set per running episode."""

    def __init__(self) -> None:
        self._parts: dict[int, list[dict[str, np.ndarray]]] = {}

    def start(self, episode: int) -> None:
        """Begin an episode with nothing in it."""
        self._parts[episode] = []

    def append(self, episode: int, **arrays: np.ndarray) -> None:
        """Add steps; every array has the time axis first. The arrays are copied."""
        self._parts[episode].append({name: np.array(array) for name, array in arrays.items()})

    def pop(self, episode: int) -> dict[str, np.ndarray]:
        """Remove an episode and return its arrays, joined along time; empty if nothing was appended."""
        parts = self._parts.pop(episode, [])
        return {name: np.concatenate([part[name] for part in parts]) for name in (parts[0] if parts else ())}


def episode_folder(episode: int) -> str:
    """Folder of an episode's artifacts, relative to the evaluation folder."""
    return f"{EPISODES}/ep_{episode:06d}"


EPISODES = "episodes"
