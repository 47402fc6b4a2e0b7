"""Recording to a dataset: frames become rows and pictures, and a failure ends the recording for good."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from typing_extensions import override

from imf_jax.data.lerobot import features as names
from imf_jax.data.lerobot.features import Feature
from imf_jax.data.lerobot.open_episode import OpenEpisode
from imf_jax.data.lerobot.reader import open_dataset
from imf_jax.data.lerobot.writer import LeRobotWriter
from imf_jax.errors import UserError
from imf_jax.recording.base import Frame, Strategy

RENDER_SCENES = 32
"""Scenes rendered in one call; it bounds the memory of the pictures."""

BITS_PER_PIXEL = 0.1
"""Bits of an encoded picture, about, per pixel and not per channel."""

Render = Callable[[np.ndarray], np.ndarray]
"""Generalised positions (B, nq) -> pictures uint8 (B, C, H, W, 3)."""


class Recording:
    """Writes frames to a dataset.

    Args:
        writer: the dataset.
        task: description of the task.
        seed: seed of the scenes.
        make_render: makes the renderer of the pictures, in the thread that will use it; None without cameras.

    Attributes:
        num_bytes: measured size of the saved episodes [bytes].
        num_cut: saved episodes that are cut.
        failed: reason why nothing is written any more, or None.
    """

    def __init__(
        self, writer: LeRobotWriter, task: str, seed: int, make_render: Callable[[], Render] | None = None
    ) -> None:
        self.writer = writer
        self._task, self._seed = task, seed
        self._make_render = make_render
        self._render: Render | None = None
        self._cameras = [name for name, feature in writer.recorded.items() if feature.dtype == "video"]
        self.num_bytes = self.num_cut = 0
        self.failed: str | None = None

    def setup(self, qpos: np.ndarray) -> None:
        """Render a first picture, which compiles the renderer."""
        if self._render is None and self._make_render is not None:
            self._render = self._make_render()
            self._render(qpos[None])

    def open(self) -> OpenEpisode:
        """Begin an episode of the dataset."""
        try:
            return self.writer.open_episode(self._task)
        except (UserError, OSError) as error:
            raise self.fail(error) from None

    def filled(self, frames: Sequence[Frame]) -> Iterator[tuple[Frame, dict[str, Any]]]:
        """Yield each frame with the values that the dataset keeps of it, pictures included."""
        for first in range(0, len(frames), RENDER_SCENES):
            part = frames[first : first + RENDER_SCENES]
            pictures = self._render(np.stack([frame.before.qpos for frame in part])) if self._render else None
            for row, frame in enumerate(part):
                values = self._row(frame)
                if pictures is not None:
                    values |= dict(zip(self._cameras, pictures[row], strict=True))
                yield frame, values

    def add(self, episode: OpenEpisode, values: dict[str, Any]) -> None:
        """Append the values that `filled` made of a frame."""
        try:
            episode.add(values)
        except (UserError, OSError) as error:
            raise self.fail(error) from None

    def save(self, episode: OpenEpisode, scene: int, *, success: bool, cut: bool = False) -> int:
        """Make an episode part of the dataset; returns its number.

        Args:
            episode: made by `open`.
            scene: the recorded scene.
            success: the scene succeeded within it.
            cut: it ends before its scene or correction does.

        Raises:
            UserError: it could not be saved, and nothing more will be.
        """
        size = episode.num_bytes
        constants = {names.SUCCESS: success, names.SEED: self._seed, names.SCENE: scene}
        try:
            number = self.writer.save(episode, constants, cut=cut)
        except (UserError, OSError) as error:
            raise self.fail(error) from None
        self.num_bytes += size
        self.num_cut += cut
        return number

    def abandon(self) -> None:
        """Give up the open episodes, which another thread may still be writing; nothing more is recorded."""
        self.failed = self.failed or "the recording was stopped: it hung and was given up; is the disk still there?"
        self.writer.abandon()

    def _row(self, frame: Frame) -> dict[str, Any]:
        values: dict[str, Any] = {
            names.STATE: frame.before.state,
            names.ACTION: frame.action,
            names.REWARD: frame.after.reward,
            names.INTERVENTION: frame.intervention,
        }
        if names.ENV_STATE in self.writer.recorded:
            values[names.ENV_STATE] = frame.before.env_state
        return values

    def fail(self, error: Exception) -> UserError:
        """Note that nothing more can be recorded; returns the error to raise."""
        self.failed = self.failed or f"the recording was stopped: {error}"
        return UserError(self.failed)


class RecordingStrategy(Strategy):
    """Base class of strategies with a dataset.

    Args:
        recording: the dataset.
    """

    def __init__(self, recording: Recording) -> None:
        self._recording = recording

    @property
    @override
    def failed(self) -> str | None:
        return self._recording.failed

    @override
    def setup(self, qpos: np.ndarray) -> None:
        """Render a first picture, which compiles the ray tracer."""
        self._recording.setup(qpos)

    @override
    def abandon(self) -> None:
        self._recording.abandon()


def segment_bytes(measured: int, num_frames: int, features: Mapping[str, Feature]) -> int:
    """Estimate the size of an open episode [bytes].

    Args:
        measured: size of the encoded pictures and of the rows [bytes].
        num_frames: frames in it.
        features: of the dataset; they give an estimate of the pictures while the encoder has not returned any.
    """
    rows = num_frames * sum(
        np.dtype(feature.dtype).itemsize * feature.shape[0]
        for feature in features.values()
        if feature.dtype != "video" and not feature.per_episode
    )
    return measured if measured > rows else rows + round(num_frames * estimated_frame_bytes(features))


def estimated_frame_bytes(features: Mapping[str, Feature]) -> float:
    """Estimate the size of the encoded pictures of a frame [bytes]: height x width x bits per pixel, all cameras."""
    shapes = [feature.shape for feature in features.values() if feature.dtype == "video"]
    return sum(height * width * BITS_PER_PIXEL / 8 for height, width, _ in shapes)


def episode_scenes(folder: Path) -> list[tuple[int, int] | None]:
    """Read seed and scene of each episode of a dataset, None where it does not have them.

    Raises:
        UserError: the dataset is damaged.
    """
    found: list[tuple[int, int] | None] = []
    for episode in open_dataset(folder).episodes:
        seed, scene = (episode.statistics.get(name) for name in (names.SEED, names.SCENE))
        found.append(None if seed is None or scene is None else (int(seed["min"][0]), int(scene["min"][0])))
    return found


def recorded_scenes(folder: Path, seed: int) -> set[int]:
    """Scenes of a seed of which a dataset holds frames.

    Raises:
        UserError: the dataset is damaged.
    """
    return {place[1] for place in episode_scenes(folder) if place is not None and place[0] == seed}
