"""Read LeRobot datasets (v3.0, v2.x): their form first, then episodes one at a time. Nothing in them is executed."""

import json
import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from imf_jax.data.lerobot import layout
from imf_jax.data.lerobot.features import Feature, feature_from_json, unsupported
from imf_jax.data.lerobot.rows import RowReader, damaged, picture_of, values_of
from imf_jax.data.lerobot.tables import EpisodeRow, read_episodes
from imf_jax.errors import UserError, one_line
from imf_jax.video import probe_video, read_frames

TIMESTAMP = "timestamp"

TOLERANCE = 0.25
"""By how much the time stamp of a picture may differ from that of its row, as a share of the time between frames."""


@dataclass(frozen=True)
class Dataset:
    """A dataset that was opened but not read.

    Attributes:
        folder: where it is.
        fps: frames per second; not always a whole number.
        robot_type: name of the robot; empty if unknown.
        features: of every frame, in their order.
        left_out: those that are not supported, and what they hold.
        tasks: by number.
        episodes: by number, all that are complete.
        total_episodes: what `info.json` says; smaller than the number of episodes after a kill between two files.
        paths: templates of the files with rows and with pictures, in the folder.
        rows: reads the files with rows.
    """

    folder: Path
    fps: float
    robot_type: str
    features: dict[str, Feature]
    left_out: dict[str, str]
    tasks: tuple[str, ...]
    episodes: tuple[EpisodeRow, ...]
    total_episodes: int
    paths: tuple[str, str]
    rows: RowReader = field(default_factory=RowReader, compare=False, repr=False)

    @property
    def cameras(self) -> tuple[str, ...]:
        """Features that are pictures in colours."""
        return tuple(n for n, feature in self.features.items() if feature.is_picture and n not in self.left_out)

    @property
    def num_frames(self) -> int:
        """Frames of all episodes."""
        return sum(episode.length for episode in self.episodes)

    def columns(self, episode: EpisodeRow, names: Collection[str] | None = None) -> dict[str, np.ndarray]:
        """Read everything but the pictures of an episode: feature -> (T, D), or (T, ...) where it has several axes.

        Args:
            episode: which.
            names: of the features; None for all.

        Raises:
            UserError: its rows cannot be read, are not as many as they should be, or lack a feature.
        """
        path = self.folder / episode.data
        found = [n for n, feature in self.features.items() if not feature.is_picture and n not in self.left_out]
        wanted = [name for name in found if names is None or name in names]
        table = self.rows.read(path, episode.index, episode.length, wanted)
        return {name: values_of(path, name, self.features[name], table) for name in wanted}

    def pictures(self, episode: EpisodeRow, camera: str, start: int = 0, count: int | None = None) -> Iterator[Any]:
        """Pictures of an episode, uint8 (H, W, 3) each.

        Args:
            episode: which.
            camera: feature with the pictures.
            start: first frame.
            count: frames; None for all that follow.

        Raises:
            UserError: they cannot be read, or one is absent.
        """
        frames = slice(start, episode.length if count is None else start + count)
        if self.features[camera].dtype == "image":
            path = self.folder / episode.data
            cells = self.rows.read(path, episode.index, episode.length, [camera])
            if camera not in cells.column_names:
                raise damaged(path, f"has no column {camera!r}")
            for frame, cell in enumerate(cells.column(camera)[frames], start):
                yield picture_of(self.folder, f"{path}: {camera} at frame {frame}", cell.as_py())
            return
        path = self.folder / episode.videos[camera][0]
        times = self._timestamps(self.columns(episode, [TIMESTAMP]), episode.length)[frames]
        times = times + self._begin(episode, camera, probe_video(path).start)
        if len(times):
            yield from read_frames(path, times.tolist(), TOLERANCE / self.fps)

    def problems(self, episode: EpisodeRow) -> list[str]:
        """Problems of an episode, one line each: rows, values that are not finite, pictures."""
        found = []
        try:
            columns = self.columns(episode)
            for name, values in columns.items():
                if values.dtype.kind == "f" and not np.isfinite(values).all():
                    found.append(f"{name} is not finite at frame {int(np.argwhere(~np.isfinite(values))[0][0])}")
        except UserError as error:
            found.append(str(error))
            columns = {}
        last = self._timestamps(columns, episode.length)[-1]
        for camera in self.cameras:
            try:
                found += self._picture_problems(episode, camera, last)
            except UserError as error:
                found.append(str(error))
        return found

    def _picture_problems(self, episode: EpisodeRow, camera: str, last: float) -> Iterator[str]:
        """Sizes and ends of the pictures of a camera; nothing but the first stored picture is decoded."""
        path = episode.videos[camera][0] if camera in episode.videos else episode.data
        if camera in episode.videos:
            video = probe_video(self.folder / path)
            size, needed = (video.height, video.width), self._begin(episode, camera, video.start) + last
            if video.end is not None and needed > video.end - 0.5 / self.fps:
                yield f"{path}: ends at {video.end:.3f} s, but the episode needs a frame at {needed:.3f} s"
        else:
            size = next(self.pictures(episode, camera, count=1)).shape[:2]
        height, width, _ = self.features[camera].shape
        if size != (height, width):
            yield f"{path}: pictures are {size[0]}x{size[1]}, info.json says {height}x{width}"

    def _timestamps(self, columns: dict[str, np.ndarray], length: int) -> np.ndarray:
        """Times of the frames of an episode since it began, float64 (T,) [s]."""
        if TIMESTAMP in columns:
            return columns[TIMESTAMP][:, 0].astype(np.float64)
        return np.arange(length) / self.fps

    def _begin(self, episode: EpisodeRow, camera: str, start: float) -> float:
        """When an episode begins on the clock of its video, whose first frame is at `start` [s].

        Episodes count from the zero of that clock, as LeRobot reads them; if the first one begins before the first
        frame, they count from that frame.
        """
        path, began = episode.videos[camera]
        tolerance = TOLERANCE / self.fps
        if abs(start) <= tolerance:
            return began
        first = min(row.videos[camera][1] for row in self.episodes if row.videos[camera][0] == path)
        if abs(first - start) <= tolerance:
            return began
        if abs(first) <= tolerance:
            return start + began
        raise UserError(
            f"{self.folder / path}: the first frame is at {start:.3f} s, the first episode begins at {first:.3f} s; "
            "encode the video again, because it cannot be told which frames are meant"
        )


def is_dataset(folder: Path) -> bool:
    """Whether a folder looks like a LeRobot dataset."""
    return (folder / layout.INFO).is_file()


def open_dataset(folder: Path) -> Dataset:
    """Open a dataset.

    Raises:
        UserError: it is none, of another version, or its form is damaged; the message names the file.
    """
    path = folder / layout.INFO
    try:
        info = json.loads(path.read_text(encoding="utf-8-sig"))
        features = {name: feature_from_json(name, values) for name, values in info["features"].items()}
        reasons = {name: unsupported(feature, info["features"][name]) for name, feature in features.items()}
        left_out = {name: reason for name, reason in reasons.items() if reason is not None}
        fps = float(info["fps"])
        fps = int(fps) if fps.is_integer() else fps
        data_path, video_path = str(info["data_path"]), str(info.get("video_path") or "")
        total, robot_type = int(info["total_episodes"]), str(info.get("robot_type") or "")
        if not 0 < fps < math.inf:  # false for a NaN, too
            raise ValueError("fps must be positive")
        cameras = [name for name, feature in features.items() if feature.dtype == "video" and name not in left_out]
        episodes, tasks = read_episodes(folder, info, cameras)
    except FileNotFoundError:
        raise UserError(f"{folder} holds no {layout.INFO}; give the folder of a LeRobot dataset") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise damaged(path, f"is damaged ({one_line(error)})", error) from None
    return Dataset(folder, fps, robot_type, features, left_out, tasks, tuple(episodes), total, (data_path, video_path))
