"""Sentry: record everything, unattended, scene after scene, until a limit is reached or a stop is requested.

A recording that goes on for hours must not hang on one file: an episode of the dataset that has grown too large is
saved and the next one begins with the very next frame. The rollout is not affected, so the memory of the
policy is kept across the cut.
"""

from collections.abc import Sequence

from typing_extensions import override

from imf_jax.data.lerobot.open_episode import OpenEpisode
from imf_jax.recording.base import Frame
from imf_jax.recording.recording import Recording, RecordingStrategy, segment_bytes
from imf_jax.rollout.episode import EpisodeRecord


class SentryStrategy(RecordingStrategy):
    """Records continuously. A scene is one episode of the dataset, or several where it was cut.

    The column `success` is true if the scene succeeded within the segment; segments that end before their scene are
    marked as cut.

    Args:
        recording: the dataset.
        shard_bytes: measured size at which an episode of the dataset is cut [bytes].
        max_bytes: measured size of all together at which it stops [bytes]; None for no limit.
    """

    name = "sentry"

    def __init__(self, recording: Recording, *, shard_bytes: int, max_bytes: int | None = None) -> None:
        super().__init__(recording)
        self._shard_bytes, self._max_bytes = shard_bytes, max_bytes
        self._open: dict[int, OpenEpisode] = {}
        self._total = 0

    @override
    def on_step(self, frames: Sequence[Frame]) -> None:
        for frame, values in self._recording.filled(frames):
            # Only now: had the episode ended with the frame before, its segment would not be cut.
            if frame.scene in self._open and self._size(frame.scene) >= self._shard_bytes:
                self._save(frame.scene, success=False, cut=True)
            if frame.scene not in self._open:
                self._open[frame.scene] = self._recording.open()
            self._recording.add(self._open[frame.scene], values)
        self._total = self._recording.num_bytes + sum(self._size(scene) for scene in self._open)

    @override
    def on_end(self, record: EpisodeRecord) -> None:
        if record.episode in self._open:
            self._save(record.episode, success=record.status == "success", cut=False)

    @override
    def on_lost(self, scene: int) -> None:
        episode = self._open.pop(scene, None)
        if episode is not None:
            episode.discard()

    @override
    def finish(self) -> None:
        """Save the recordings of running scenes too, marked as cut."""
        for scene in list(self._open):
            if self.failed is None:
                self._save(scene, success=False, cut=True)
            else:
                self.on_lost(scene)

    @override
    def wants_to_stop(self) -> bool:
        return super().wants_to_stop() or (self._max_bytes is not None and self._total >= self._max_bytes)

    def _size(self, scene: int) -> int:
        episode = self._open[scene]
        return segment_bytes(episode.num_bytes, len(episode), self._recording.writer.recorded)

    def _save(self, scene: int, *, success: bool, cut: bool) -> None:
        self._recording.save(self._open.pop(scene), scene, success=success, cut=cut)
