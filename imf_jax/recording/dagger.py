"""DAgger: the expert corrects the policy, and its corrections are recorded, or the whole episodes around them.

Every frame of a correction is kept. None is thinned out, and a correction that is still going on when the rollout ends
is kept up to there.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, NamedTuple

import numpy as np
from typing_extensions import override

from imf_jax.data.lerobot.features import IMAGES
from imf_jax.data.lerobot.open_episode import OpenEpisode
from imf_jax.recording.base import Frame
from imf_jax.recording.recording import Recording, RecordingStrategy
from imf_jax.recording.spool import PictureSpool
from imf_jax.rollout.episode import EpisodeRecord

OnSegment = Callable[[list[Frame], dict[str, np.ndarray], bool], None]
"""Receives the frames of each recorded segment, their recorded pictures (camera -> uint8 (T, H, W, 3), gone when it
returns), and whether its scene succeeded within it."""


class _Segment(NamedTuple):
    """Open segment; frames and pictures are kept only for training."""

    episode: OpenEpisode
    frames: list[Frame]
    pictures: PictureSpool


class DaggerStrategy(RecordingStrategy):
    """Records the corrections of the expert.

    Args:
        recording: the dataset.
        save: corrections only, each an episode of the dataset; or whole episodes, in which the column `intervention`
            marks the frames in which the expert acted.
        on_segment: also receives each segment, for training.
        cameras: of the recorded ones, those whose pictures it receives.

    Attributes:
        corrections: corrections so far.
        frames: frames in which the expert acted.
    """

    name = "dagger"

    def __init__(
        self,
        recording: Recording,
        *,
        save: Literal["corrections", "episodes"],
        on_segment: OnSegment | None = None,
        cameras: tuple[str, ...] = (),
    ) -> None:
        super().__init__(recording)
        self._save_episodes = save == "episodes"
        self._on_segment, self._cameras = on_segment, cameras
        self._open: dict[int, _Segment] = {}
        self._correcting: set[int] = set()
        self.corrections = 0
        self.frames = 0

    @override
    def on_step(self, frames: Sequence[Frame]) -> None:
        wanted = frames if self._save_episodes else [frame for frame in frames if frame.intervention]
        filled = self._recording.filled(wanted)
        for frame in frames:
            self._count(frame)
            if not (self._save_episodes or frame.intervention):
                self._close(frame.scene, success=False)
                continue
            _, values = next(filled)
            if frame.scene not in self._open:
                self._begin(frame.scene)
            segment = self._open[frame.scene]
            self._recording.add(segment.episode, values)
            if self._on_segment is not None:
                segment.frames.append(frame)
                with self._spooling():
                    for camera in self._cameras:
                        segment.pictures.add(camera, values[IMAGES + camera])

    @override
    def on_end(self, record: EpisodeRecord) -> None:
        self._close(record.episode, success=record.status == "success")
        self._correcting.discard(record.episode)

    @override
    def on_lost(self, scene: int) -> None:
        if scene in self._open:
            segment = self._open.pop(scene)
            segment.episode.discard()
            segment.pictures.close()
        self._correcting.discard(scene)

    @override
    def finish(self) -> None:
        """Keep the corrections that were going on, marked as cut, but no unfinished episodes."""
        for scene in list(self._open):
            if self.failed is None and not self._save_episodes:
                self._close(scene, success=False, cut=True)
            else:
                self.on_lost(scene)

    @override
    def bytes_per_scene(self, max_steps: int) -> int:
        """Memory [bytes] of the frames, held only for training, about 1 KiB each; their pictures are on disk."""
        return 1024 * max_steps if self._on_segment is not None else 0

    def _count(self, frame: Frame) -> None:
        if frame.intervention:
            self.corrections += frame.scene not in self._correcting
            self.frames += 1
            self._correcting.add(frame.scene)
        else:
            self._correcting.discard(frame.scene)

    def _begin(self, scene: int) -> None:
        episode = self._recording.open()
        with self._spooling():
            self._open[scene] = _Segment(episode, [], PictureSpool(self._recording.writer.folder, self._cameras))

    def _close(self, scene: int, *, success: bool, cut: bool = False) -> None:
        if scene not in self._open:
            return
        segment = self._open.pop(scene)
        with segment.pictures:
            self._recording.save(segment.episode, scene, success=success, cut=cut)
            if self._on_segment is not None:
                with self._spooling():
                    pictures = segment.pictures.arrays()
                self._on_segment(segment.frames, pictures, success)

    @contextmanager
    def _spooling(self) -> Iterator[None]:
        """End the recording if pictures cannot be kept."""
        try:
            yield
        except OSError as error:
            raise self._recording.fail(error) from None
