"""Reader of LeRobot datasets, see `imf_jax.data.lerobot`."""

import hashlib
from collections.abc import Collection, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from imf_jax.data.lerobot.features import ACTION, ENV_STATE, FRAME_FEATURES, IMAGES, STATE
from imf_jax.data.lerobot.layout import STATS
from imf_jax.data.lerobot.maintenance import rewrite_statistics
from imf_jax.data.lerobot.reader import TIMESTAMP, TOLERANCE, open_dataset
from imf_jax.data.readers.base import Column, EpisodeInfo
from imf_jax.data.success import read_label
from imf_jax.errors import UserError

FRAME = "frame_index"

LABELS = ("success", "next.success")
"""Columns that say whether an episode succeeded."""


class LeRobotReader:
    """A LeRobot dataset; see `DatasetReader`. Cameras are called as in LeRobot, with or without their common prefix.

    Args:
        folder: with `meta/info.json`.

    Raises:
        UserError: it is damaged, or of a version that is not supported.
    """

    kind = "LeRobot dataset"
    fixed_size = False
    style = None

    def __init__(self, folder: Path) -> None:
        self.path = folder
        self.dataset = open_dataset(folder)
        self.robot = self.dataset.robot_type

    def __len__(self) -> int:
        return len(self.dataset.episodes)

    @cached_property
    def columns(self) -> dict[str, Column]:
        """Features of numbers, those of several axes in one."""
        found = {}
        for name, feature in self.dataset.features.items():
            if feature.is_picture or name in self.dataset.left_out or name in FRAME_FEATURES:
                continue
            width = int(np.prod(feature.shape, dtype=int))
            names = feature.names if len(feature.names) == width else tuple(f"{name}{i}" for i in range(width))
            found[name] = Column(names)
        return found

    @property
    def roles(self) -> dict[str, tuple[str, ...]]:
        """As LeRobot names them."""
        names = {"action": ACTION, "state": STATE, "env_state": ENV_STATE}
        return {role: (name,) if name in self.columns else () for role, name in names.items()}

    @property
    def cameras(self) -> tuple[str, ...]:
        """Features that are pictures, without their common prefix."""
        return tuple(name.removeprefix(IMAGES) for name in self.dataset.cameras)

    @property
    def tasks(self) -> tuple[str, ...]:
        """Tasks of all episodes, by number."""
        return self.dataset.tasks

    def info(self, index: int) -> EpisodeInfo:
        """Description of an episode, from the table of all and its labels of success."""
        row = self.dataset.episodes[index]
        success = None
        labels = [name for name in LABELS if name in self.columns]
        if labels:
            values = self.dataset.columns(row, labels)
            success = next((known for name in labels if (known := read_label(values[name])) is not None), None)
        return EpisodeInfo(
            f"episode {row.index}", row.index, row.length, row.tasks, success, float(self.dataset.fps), self.cameras
        )

    def read(self, index: int, names: Collection[str]) -> dict[str, np.ndarray]:
        """Columns of an episode, in their own types."""
        episode = self.dataset.episodes[index]
        columns = self.dataset.columns(episode, names)
        return {name: columns[name].reshape(episode.length, -1) for name in names}

    def picture_size(self, index: int, camera: str) -> tuple[int, int]:
        """Height and width, as `info.json` says them."""
        height, width, _ = self.dataset.features[self._feature(camera)].shape
        return height, width

    def pictures(self, index: int, camera: str, start: int = 0, stop: int | None = None) -> Iterator[np.ndarray]:
        """Pictures, each recognised by its own time stamp."""
        row, feature = self.dataset.episodes[index], self._feature(camera)
        return self.dataset.pictures(row, feature, start, (row.length if stop is None else stop) - start)

    def fingerprint(self, cameras: Sequence[str]) -> str:
        """Of where the pictures of every episode are, how large these files are, and three pictures of each camera."""
        digest, sizes = hashlib.sha256(), {}
        for camera in cameras:
            feature = self._feature(camera)
            for row in self.dataset.episodes:
                path, began = row.videos.get(feature, (row.data, 0.0))
                if path not in sizes:
                    try:
                        sizes[path] = (self.path / path).stat().st_size
                    except OSError as error:
                        raise UserError(f"{self.path / path}: cannot be read ({error.strerror}); restore it") from None
                digest.update(repr((camera, row.index, row.length, path.as_posix(), began, sizes[path])).encode())
            for place in sorted({0, len(self) // 2, len(self) - 1}):
                for picture in self.pictures(place, camera, 0, 1):
                    digest.update(picture.tobytes())
        return digest.hexdigest()

    def check_statistics(self, found: Any) -> None:
        """Nothing: training uses the statistics of the rows themselves."""

    def write_statistics(self) -> tuple[dict[str, dict[str, Any]], Path]:
        """Write `meta/stats.json`."""
        return rewrite_statistics(self.path), self.path / STATS

    def problems(self, index: int) -> list[str]:
        """Of rows, values that are not finite, frames that are missing, and pictures."""
        row = self.dataset.episodes[index]
        found = self.dataset.problems(row)
        if FRAME in self.dataset.features and not found:
            frames = self.dataset.columns(row, [FRAME])[FRAME].ravel()
            if (wrong := frames != np.arange(row.length)).any():
                found.append(
                    f"{row.data}: episode {row.index} does not count its frames from 0 without gaps (row "
                    f"{int(np.argmax(wrong))} is frame {int(frames[np.argmax(wrong)])})"
                )
        return found

    def dataset_problems(self) -> list[str]:
        """Episodes that are not counted."""
        dataset, found = self.dataset, []
        if dataset.total_episodes != len(dataset.episodes):
            found.append(
                f"info.json counts {dataset.total_episodes} episodes, there are {len(dataset.episodes)}; "
                "a recording was cut off, resuming it counts them again"
            )
        if not dataset.episodes:
            found.append("the dataset has no episode")
        return found

    def notes(self) -> list[str]:
        """What is not supported, other frame rates, and episodes that were cut."""
        dataset = self.dataset
        found = [f"not supported and left out: {name}, {what}" for name, what in dataset.left_out.items()]
        off_rate = [row.index for index, row in enumerate(dataset.episodes) if self._off_rate(index)]
        if off_rate:
            found.append(
                f"info.json says {dataset.fps:g} frames per second, but the time stamps of {len(off_rate)} episodes "
                f"are others (the first: episode {off_rate[0]})"
            )
        if cut := sum(episode.cut for episode in dataset.episodes):
            found.append(f"{cut} of {len(dataset.episodes)} episodes are cut: they end before what they hold was over")
        return found

    def timestamps(self, index: int) -> np.ndarray | None:
        """Times of the steps of an episode, float64 (T,) [s]; None if there are none."""
        if TIMESTAMP not in self.dataset.features:
            return None
        columns = self.dataset.columns(self.dataset.episodes[index], [TIMESTAMP])
        return columns[TIMESTAMP][:, 0].astype(np.float64) if TIMESTAMP in columns else None

    def _off_rate(self, index: int) -> bool:
        try:
            times = self.timestamps(index)
        except UserError:
            return False  # a problem of the episode
        if times is None:
            return False
        late = times - times[0] - np.arange(len(times)) / self.dataset.fps
        return bool(np.abs(late).max() > TOLERANCE / self.dataset.fps)

    def _feature(self, camera: str) -> str:
        for name in (camera, IMAGES + camera):
            if name in self.dataset.cameras:
                return name
        raise UserError(
            f"{self.path}: there are no pictures of camera {camera!r} (cameras: {', '.join(self.cameras) or 'none'})"
        )
