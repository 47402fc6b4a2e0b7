"""An episode that is being recorded: rows in memory, pictures in their videos."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from imf_jax.config import require
from imf_jax.data.lerobot.checks import checked_value
from imf_jax.data.lerobot.features import Feature
from imf_jax.data.lerobot.statistics import PictureHistogram, Statistics
from imf_jax.errors import ArgumentError
from imf_jax.video import VideoEncoder


class FinishedEpisode(NamedTuple):
    """An episode that is complete but not yet in its place.

    Attributes:
        task: what is done in it.
        length: its frames N.
        columns: feature -> (N, ...), without pictures and without what the format itself wants.
        pictures: camera -> statistics of its pictures.
        videos: camera -> its video.
    """

    task: str
    length: int
    columns: dict[str, np.ndarray]
    pictures: dict[str, Statistics]
    videos: dict[str, Path]


class OpenEpisode:
    """An episode that is being recorded; made by `LeRobotWriter.open_episode`.

    Args:
        folder: a folder of its own, in which its videos grow.
        features: of every frame, and those that are per episode.
        fps: frames per second.
        task: what is done in it.

    Attributes:
        closed: it is finished, discarded or abandoned; no more can be added.
    """

    def __init__(self, folder: Path, features: Mapping[str, Feature], fps: int, task: str) -> None:
        self.task = task
        self.closed = False
        self._folder = folder
        self._features = features
        self._columns: dict[str, list[np.ndarray]] = {}
        self._videos: dict[str, VideoEncoder] = {}
        self._histograms: dict[str, PictureHistogram] = {}
        self._length = 0
        self._row_bytes = 0
        for name, feature in features.items():
            if feature.dtype == "video":
                height, width, _ = feature.shape
                self._videos[name] = VideoEncoder(folder / f"{name}.mp4", height, width, fps)
                self._histograms[name] = PictureHistogram()
            elif not feature.per_episode:
                self._columns[name] = []
                self._row_bytes += np.dtype(feature.dtype).itemsize * feature.shape[0]

    def __len__(self) -> int:
        return self._length

    @property
    def num_bytes(self) -> int:
        """Size so far, measured: encoded pictures and rows [bytes]."""
        return sum(video.num_bytes for video in self._videos.values()) + self._length * self._row_bytes

    def add(self, frame: Mapping[str, ArrayLike]) -> None:
        """Append a frame.

        Args:
            frame: every feature that is not per episode: (D,), a scalar where D is 1, or uint8 (H, W, 3).

        Raises:
            ArgumentError: a feature is absent or unknown, or has another shape or type.
            UserError: a value is not finite, or the disk is full.
        """
        self._require_open()
        wanted = [*self._columns, *self._videos]
        if set(frame) != set(wanted):
            absent, unknown = sorted(set(wanted) - set(frame)), sorted(set(frame) - set(wanted))
            raise ArgumentError(f"frame {self._length}: absent {absent}, unknown {unknown}; give exactly {wanted}")
        step = f"frame {self._length}"
        checked = {name: checked_value(step, name, self._features[name], frame[name]) for name in wanted}
        for name, values in checked.items():
            if name in self._videos:
                self._videos[name].add(values)
                self._histograms[name].add(values)
            else:
                self._columns[name].append(values)
        self._length += 1

    def finish(self, constants: Mapping[str, ArrayLike] | None = None) -> FinishedEpisode:
        """Complete the episode and its videos; `remove` its folder once they are in their place.

        Args:
            constants: the features that are per episode.

        Raises:
            ArgumentError: the episode is empty, or a constant is absent, unknown or of another type.
            UserError: the disk is full.
        """
        self._require_open()
        constants = constants or {}
        wanted = [name for name, feature in self._features.items() if feature.per_episode]
        require(self._length > 0, "an episode without frames cannot be saved; discard it")
        require(set(constants) == set(wanted), f"an episode is saved with {wanted}, not with {sorted(constants)}")
        columns = {name: np.stack(values) for name, values in self._columns.items()}
        for name in wanted:
            value = checked_value("episode", name, self._features[name], constants[name])
            columns[name] = np.broadcast_to(value, (self._length, *value.shape))
        self.closed = True
        for video in self._videos.values():
            video.close()
        pictures = {name: histogram.result() for name, histogram in self._histograms.items()}
        videos = {name: video.path for name, video in self._videos.items()}
        return FinishedEpisode(self.task, self._length, columns, pictures, videos)

    def discard(self) -> None:
        """Forget the episode; does nothing if it is closed already."""
        if not self.closed:
            self.closed = True
            for video in self._videos.values():
                video.abort()
            self.remove()

    def abandon(self) -> None:
        """Give up an episode that another thread may be writing: no more is added and it cannot be finished.

        Its encoders are left to that thread, its files to `LeRobotWriter.finish`.
        """
        self.closed = True

    def remove(self) -> None:
        """Remove its folder, with what is still in it."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _require_open(self) -> None:
        if self.closed:
            raise ArgumentError("the episode is saved or discarded already; open another one")
