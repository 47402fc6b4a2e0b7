"""What a capture sees of a rollout, and the buffer that most captures keep per episode."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import jax
import numpy as np

from imf_jax.rollout.episode import EpisodeRecord
from imf_jax.rollout.writers import EPISODES
from imf_jax.sim.backends.base import SimState, StepOutput


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ResetBatch:
    """Scenes that have just started.

    Attributes:
        episodes: int64 (B,) their episode indices.
        output: what was read after the reset, numpy leaves (B, ...).
    """

    episodes: np.ndarray
    output: StepOutput


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class StepBatch:
    """The K control steps between two replans of A scenes.

    Attributes:
        episodes: int64 (A,) episode of each row.
        actions: float32 (A, K, 16) commanded actions as planned.
        output: what was read after each step, numpy leaves (A, K, ...).
        count: int64 (A,) how many of the K steps belong to the episode; rows past it must be ignored.
        states: K simulation states of A scenes, one after each step; empty unless a recorder asks for them.
    """

    episodes: np.ndarray
    actions: np.ndarray
    output: StepOutput
    count: np.ndarray
    states: Sequence[SimState]


class Recorder(Protocol):
    """A capture. Every method is called from the rollout loop: setup, then per episode reset, steps ..., finish.

    Attributes:
        name: how messages call the capture.
        needs_states: ask for `StepBatch.states`; the loop then steps the backend one control step at a time.
    """

    name: str
    needs_states: bool

    def setup(self, state: SimState) -> None:
        """Compile what `finish` will need, on any state (batch of 1); called once, before the clock starts."""
        ...

    def on_reset(self, reset: ResetBatch) -> None:
        """Episodes have started."""
        ...

    def on_steps(self, steps: StepBatch) -> None:
        """Control steps were executed."""
        ...

    def finish(self, record: EpisodeRecord, last_state: Callable[[], SimState]) -> dict[str, str]:
        """An episode has ended.

        Args:
            record: its record, still without artifacts.
            last_state: makes the simulation state (batch of 1) after the episode's last step.

        Returns:
            kind of artifact -> path relative to the evaluation folder, for what was written.
        """
        ...

    def close(self) -> None:
        """The rollout is over; called also when it was interrupted or failed."""
        ...


class OnlyEpisodes:
    """Feeds a recorder with some episodes only.

    Args:
        recorder: the capture.
        episodes: the episodes it shall see.
    """

    def __init__(self, recorder: Recorder, episodes: Sequence[int]) -> None:
        self.name = recorder.name
        self.needs_states = recorder.needs_states
        self._recorder = recorder
        self._episodes = np.unique(np.asarray(episodes, np.int64))

    def setup(self, state: SimState) -> None:
        """See `Recorder`."""
        self._recorder.setup(state)

    def on_reset(self, reset: ResetBatch) -> None:
        """See `Recorder`."""
        rows = np.isin(reset.episodes, self._episodes)
        if rows.any():
            self._recorder.on_reset(jax.tree.map(lambda leaf: leaf[rows], reset))

    def on_steps(self, steps: StepBatch) -> None:
        """See `Recorder`."""
        rows = np.isin(steps.episodes, self._episodes)
        if rows.any():
            self._recorder.on_steps(jax.tree.map(lambda leaf: leaf[rows], steps))

    def finish(self, record: EpisodeRecord, last_state: Callable[[], SimState]) -> dict[str, str]:
        """See `Recorder`."""
        return self._recorder.finish(record, last_state) if record.episode in self._episodes else {}

    def close(self) -> None:
        """See `Recorder`."""
        self._recorder.close()


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
        parts = self._parts.pop(episode)
        return {name: np.concatenate([part[name] for part in parts]) for name in (parts[0] if parts else ())}


def episode_folder(episode: int) -> str:
    """Folder of an episode's artifacts, relative to the evaluation folder."""
    return f"{EPISODES}/ep_{episode:06d}"
