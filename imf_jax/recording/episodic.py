"""Episodic: every scene becomes one episode of a dataset, from its reset to its end."""

from collections.abc import Sequence

from typing_extensions import override

from imf_jax.data.lerobot.open_episode import OpenEpisode
from imf_jax.recording.base import Frame
from imf_jax.recording.recording import Recording, RecordingStrategy
from imf_jax.rollout.episode import EpisodeRecord


class EpisodicStrategy(RecordingStrategy):
    """Records whole episodes; one that has not ended when the rollout ends is not recorded."""

    name = "episodic"

    def __init__(self, recording: Recording) -> None:
        super().__init__(recording)
        self._open: dict[int, OpenEpisode] = {}

    @override
    def on_step(self, frames: Sequence[Frame]) -> None:
        for frame, values in self._recording.filled(frames):
            if frame.scene not in self._open:
                self._open[frame.scene] = self._recording.open()
            self._recording.add(self._open[frame.scene], values)

    @override
    def on_end(self, record: EpisodeRecord) -> None:
        """Save the episode; one that ended before its first step leaves nothing."""
        episode = self._open.pop(record.episode, None)
        if episode is not None:
            self._recording.save(episode, record.episode, success=record.status == "success")

    @override
    def on_lost(self, scene: int) -> None:
        episode = self._open.pop(scene, None)
        if episode is not None:
            episode.discard()

    @override
    def finish(self) -> None:
        for scene in list(self._open):
            self.on_lost(scene)
