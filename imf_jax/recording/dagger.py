"""DAgger: the expert corrects the policy, and what it did is recorded: the corrections, or the episodes around them.

Every frame of a correction is kept. None is thinned out, and a correction that is still going on when the rollout ends
is kept as far as it went.
"""

from collections.abc import Callable, Sequence
from typing import Literal

from imf_jax.data.lerobot.open_episode import OpenEpisode
from imf_jax.recording.base import Frame
from imf_jax.recording.recording import Recording, RecordingStrategy
from imf_jax.rollout.episode import EpisodeRecord

OnPiece = Callable[[list[Frame], bool], None]
"""Receives the frames of each recorded piece, and whether its scene succeeded within it."""


class DaggerStrategy(RecordingStrategy):
    """Records corrections.

    Args:
        recording: the dataset.
        save: corrections only, each an episode of the dataset; or whole episodes, in which the column `intervention`
            says who acted.
        on_piece: also gets what is recorded, for training.

    Attributes:
        corrections: corrections so far.
        frames: frames in which the expert acted.
    """

    name = "dagger"

    def __init__(
        self, recording: Recording, *, save: Literal["corrections", "episodes"], on_piece: OnPiece | None = None
    ) -> None:
        super().__init__(recording)
        self._save_episodes = save == "episodes"
        self._on_piece = on_piece
        self._open: dict[int, tuple[OpenEpisode, list[Frame]]] = {}
        self._correcting: set[int] = set()
        self.corrections = 0
        self.frames = 0

    def on_step(self, frames: Sequence[Frame]) -> None:
        """See `Strategy`."""
        wanted = frames if self._save_episodes else [frame for frame in frames if frame.intervention]
        filled = self._recording.filled(wanted)
        for frame in frames:
            self._count(frame)
            if not (self._save_episodes or frame.intervention):
                self._close(frame.scene, success=False)
                continue
            _, values = next(filled)
            if frame.scene not in self._open:
                self._open[frame.scene] = self._recording.open(), []
            episode, kept = self._open[frame.scene]
            self._recording.add(episode, values)
            if self._on_piece is not None:
                kept.append(frame)

    def on_end(self, record: EpisodeRecord) -> None:
        """See `Strategy`."""
        self._close(record.episode, success=record.status == "success")
        self._correcting.discard(record.episode)

    def on_lost(self, scene: int) -> None:
        """See `Strategy`."""
        if scene in self._open:
            self._open.pop(scene)[0].discard()
        self._correcting.discard(scene)

    def finish(self) -> None:
        """See `Strategy`: corrections that were going on are kept, marked as cut; unfinished episodes are not."""
        for scene in list(self._open):
            if self.failed is None and not self._save_episodes:
                self._close(scene, success=False, cut=True)
            else:
                self.on_lost(scene)

    def bytes_per_scene(self, max_steps: int) -> int:
        """See `Strategy`: frames are held only for training, about 1 KiB each."""
        return 1024 * max_steps if self._on_piece is not None else 0

    def _count(self, frame: Frame) -> None:
        if frame.intervention:
            self.corrections += frame.scene not in self._correcting
            self.frames += 1
            self._correcting.add(frame.scene)
        else:
            self._correcting.discard(frame.scene)

    def _close(self, scene: int, *, success: bool, cut: bool = False) -> None:
        if scene not in self._open:
            return
        episode, frames = self._open.pop(scene)
        self._recording.save(episode, scene, success=success, cut=cut)
        if self._on_piece is not None:
            self._on_piece(frames, success)
