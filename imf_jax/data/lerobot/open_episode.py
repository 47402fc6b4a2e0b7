"""An episode that is being recorded: rows in memory, pictures in their videos."""

import shutil
import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from imf_jax.config import require
from imf_jax.data.lerobot.checks import checked_value
from imf_jax.data.lerobot.statistics import PictureHistogram
from imf_jax.errors import ArgumentError
from imf_jax.video import VideoEncoder

if TYPE_CHECKING:
    from imf_jax.data.lerobot.writer import LeRobotWriter

OPEN = ".open"
"""Folder in a dataset in which episodes grow."""


class OpenEpisode:
    """An episode that is being recorded; made by `LeRobotWriter.open_episode`."""

    def __init__(self, writer: "LeRobotWriter", task: str) -> None:
        self.task = task
        self._writer = writer
        self._folder = writer.folder / OPEN / uuid.uuid4().hex
        self._columns: dict[str, list[np.ndarray]] = {}
        self._videos: dict[str, VideoEncoder] = {}
        self._histograms: dict[str, PictureHistogram] = {}
        self._closed = False
        self._length = 0
        self._row_bytes = 0
        with writer.writing():
            self._folder.mkdir(parents=True)
        for name, feature in writer.recorded.items():
            if feature.dtype == "video":
                height, width, _ = feature.shape
                self._videos[name] = VideoEncoder(self._folder / f"{name}.mp4", height, width, writer.fps)
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
        checked = {name: checked_value(step, name, self._writer.features[name], frame[name]) for name in wanted}
        for name, values in checked.items():
            if name in self._videos:
                self._videos[name].add(values)
                self._histograms[name].add(values)
            else:
                self._columns[name].append(values)
        self._length += 1

    def save(self, constants: Mapping[str, ArrayLike] | None = None) -> int:
        """Make the episode part of the dataset.

        Args:
            constants: the features that are per episode.

        Returns:
            its number in the dataset.

        Raises:
            ArgumentError: the episode is empty, or a constant is absent, unknown or of another type.
            UserError: the disk is full; the dataset stays as it was.
        """
        self._require_open()
        features = self._writer.recorded
        constants = constants or {}
        wanted = [name for name, feature in features.items() if feature.per_episode]
        require(self._length > 0, "an episode without frames cannot be saved; discard it")
        require(set(constants) == set(wanted), f"an episode is saved with {wanted}, not with {sorted(constants)}")
        columns = {name: np.stack(values) for name, values in self._columns.items()}
        for name in wanted:
            value = checked_value("episode", name, features[name], constants[name])
            columns[name] = np.broadcast_to(value, (self._length, *value.shape))
        self._closed = True
        for video in self._videos.values():
            video.close()
        pictures = {name: histogram.result() for name, histogram in self._histograms.items()}
        files = {name: video.path for name, video in self._videos.items()}
        number = self._writer.commit(self.task, self._length, columns, pictures, files)
        self._remove()
        return number

    def discard(self) -> None:
        """Forget the episode; does nothing if it is saved or discarded already."""
        if not self._closed:
            self._closed = True
            for video in self._videos.values():
                video.abort()
            self._remove()

    def abandon(self) -> None:
        """Give up an episode that another thread may be writing: no more is added and it cannot be saved. Its encoders
        are left to that thread, its files to `LeRobotWriter.finish`."""
        self._closed = True
        self._writer.forget(self)

    def _remove(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
        self._writer.forget(self)

    def _require_open(self) -> None:
        if self._closed:
            raise ArgumentError("the episode is saved or discarded already; open another one")
