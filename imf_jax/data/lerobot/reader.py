"""Read LeRobot v3.0 datasets: their form first, then episodes one at a time. Nothing in them is executed."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from imf_jax.data.lerobot import layout
from imf_jax.data.lerobot.features import Feature, feature_from_json
from imf_jax.data.lerobot.statistics import NAMES, Statistics
from imf_jax.errors import UserError
from imf_jax.video import probe_video, read_frames


@dataclass(frozen=True)
class EpisodeRow:
    """Where an episode is.

    Attributes:
        index: its number.
        length: its frames.
        tasks: what was done in it.
        first_frame: number of its first frame in the dataset.
        data: file with its rows, relative to the folder.
        videos: feature -> file with its pictures, relative to the folder, and their first time in it [s].
        statistics: feature -> its statistics; empty if the dataset has none.
        numbers: of the files that it is in, as `layout.file_path` counts: "data", "episodes", each video feature.
    """

    index: int
    length: int
    tasks: tuple[str, ...]
    first_frame: int
    data: Path
    videos: dict[str, tuple[Path, float]]
    statistics: dict[str, Statistics]
    numbers: dict[str, int]


@dataclass(frozen=True)
class Dataset:
    """A dataset that was opened but not read.

    Attributes:
        folder: where it is.
        fps: frames per second.
        robot_type: name of the robot; empty if unknown.
        features: of every frame, in their order.
        tasks: by number.
        episodes: by number, all that are complete.
        total_episodes: what `info.json` says; smaller than the number of episodes after a kill between two files.
        paths: templates of the files with rows and with pictures, in the folder.
    """

    folder: Path
    fps: int
    robot_type: str
    features: dict[str, Feature]
    tasks: tuple[str, ...]
    episodes: tuple[EpisodeRow, ...]
    total_episodes: int
    paths: tuple[str, str]

    @property
    def cameras(self) -> tuple[str, ...]:
        """Features that are pictures."""
        return tuple(name for name, feature in self.features.items() if feature.dtype == "video")

    @property
    def num_frames(self) -> int:
        """Frames of all episodes."""
        return sum(episode.length for episode in self.episodes)

    def columns(self, episode: EpisodeRow) -> dict[str, np.ndarray]:
        """Everything but the pictures of an episode: feature -> (T, D).

        Raises:
            UserError: its rows cannot be read, are not as many as they should be, or lack a feature.
        """
        path = self.folder / episode.data
        try:
            table = pq.read_table(path, filters=[("episode_index", "=", episode.index)])
        except (OSError, pa.ArrowException) as error:
            raise _bad(path, f"cannot be read ({_line(error)})") from None
        if len(table) != episode.length:
            raise _bad(path, f"has {len(table)} rows of episode {episode.index}, expected {episode.length}")
        columns = {}
        for name, feature in self.features.items():
            if feature.dtype == "video":
                continue
            if name not in table.column_names:
                raise _bad(path, f"has no column {name!r}")
            columns[name] = _matrix(path, name, feature, table.column(name))
        return columns

    def pictures(self, episode: EpisodeRow, camera: str, start: int = 0, count: int | None = None) -> Iterator[Any]:
        """Pictures of an episode, uint8 (H, W, 3) each.

        Args:
            episode: which.
            camera: feature with the pictures.
            start: first frame.
            count: frames; None for all that follow.

        Raises:
            UserError: the video cannot be read or ends too early.
        """
        path, began = episode.videos[camera]
        count = episode.length - start if count is None else count
        for _, picture in read_frames(self.folder / path, began + start / self.fps, count, self.fps):
            yield picture

    def problems(self, episode: EpisodeRow) -> list[str]:
        """What is wrong with an episode, one line each: rows, values that are not finite, videos."""
        found = []
        try:
            for name, values in self.columns(episode).items():
                if values.dtype.kind == "f" and not np.isfinite(values).all():
                    found.append(f"{name} is not finite at frame {int(np.argwhere(~np.isfinite(values))[0][0])}")
        except UserError as error:
            found.append(str(error))
        for camera, (path, began) in episode.videos.items():
            try:
                video = probe_video(self.folder / path)
            except UserError as error:
                found.append(str(error))
                continue
            height, width, _ = self.features[camera].shape
            needed = round(began * self.fps) + episode.length
            if (video.height, video.width) != (height, width):
                found.append(f"{path}: pictures are {video.height}x{video.width}, info.json says {height}x{width}")
            if video.num_frames < needed:
                found.append(f"{path}: has {video.num_frames} frames, expected at least {needed}")
        return found


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
        info = json.loads(path.read_text(encoding="utf-8"))
        version = info["codebase_version"]
        if not str(version).startswith("v3."):
            raise UserError(
                f"{folder}: LeRobot dataset of version {version}; let lerobot convert it to {layout.VERSION}"
            )
        features = {name: feature_from_json(name, values) for name, values in info["features"].items()}
        fps = int(info["fps"])
        data_path, video_path = str(info["data_path"]), str(info.get("video_path") or "")
        total, robot_type = int(info["total_episodes"]), str(info.get("robot_type") or "")
        if fps < 1:
            raise ValueError("fps must be positive")
    except FileNotFoundError:
        raise UserError(f"{folder} holds no {layout.INFO}; give the folder of a LeRobot dataset") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _bad(path, f"is damaged ({_line(error)})") from None
    cameras = [name for name, feature in features.items() if feature.dtype == "video"]
    episodes = []
    for file in sorted(folder.glob("meta/episodes/*/*.parquet")):
        try:
            rows = pq.read_table(file).to_pylist()
            for row in rows:
                episodes.append(_episode(row, cameras, data_path, video_path))
        except (OSError, pa.ArrowException, KeyError, TypeError, ValueError, IndexError) as error:
            raise _bad(file, f"is damaged ({_line(error)})") from None
    if [episode.index for episode in episodes] != list(range(len(episodes))):
        raise _bad(folder / "meta/episodes", "does not count its episodes from 0 without gaps")
    tasks = _tasks(folder / layout.TASKS) if episodes else ()
    return Dataset(folder, fps, robot_type, features, tasks, tuple(episodes), total, (data_path, video_path))


def _episode(row: dict[str, Any], cameras: list[str], data_path: str, video_path: str) -> EpisodeRow:
    def place(prefix: str) -> dict[str, int]:
        return {name: int(row[f"{prefix}/{name}"]) for name in ("chunk_index", "file_index")}

    places = {"data": place("data"), "episodes": place("meta/episodes")}
    places |= {camera: place(f"videos/{camera}") for camera in cameras}
    statistics: dict[str, Statistics] = {}
    for key, value in row.items():
        if key.startswith("stats/"):
            name, statistic = key.removeprefix("stats/").rsplit("/", 1)
            statistics.setdefault(name, {})[statistic] = np.asarray(value)
    return EpisodeRow(
        index=int(row["episode_index"]),
        length=int(row["length"]),
        tasks=tuple(row["tasks"]),
        first_frame=int(row["dataset_from_index"]),
        data=_inside(data_path.format(**places["data"])),
        videos={
            camera: (
                _inside(video_path.format(video_key=camera, **places[camera])),
                float(row[f"videos/{camera}/from_timestamp"]),
            )
            for camera in cameras
        },
        statistics={name: values for name, values in statistics.items() if set(NAMES) <= set(values)},
        numbers={
            name: where["chunk_index"] * layout.FILES_PER_CHUNK + where["file_index"] for name, where in places.items()
        },
    )


def _inside(path: str) -> Path:
    """A path of a dataset, which must not lead out of its folder."""
    relative = Path(path)
    if relative.is_absolute() or ".." in relative.parts:
        raise ValueError(f"path {path!r} leads out of the dataset")
    return relative


def _tasks(path: Path) -> tuple[str, ...]:
    try:
        rows = pq.read_table(path).to_pylist()
        name = "task" if rows and "task" in rows[0] else "__index_level_0__"
        return tuple(str(row[name]) for row in sorted(rows, key=lambda row: int(row["task_index"])))
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
        raise _bad(path, f"is damaged ({_line(error)})") from None


def _matrix(path: Path, name: str, feature: Feature, column: pa.ChunkedArray) -> np.ndarray:
    """A column as an array (T, D)."""
    try:
        values = np.array(column.to_pylist(), np.dtype(feature.dtype)).reshape(len(column), -1)
    except (TypeError, ValueError) as error:
        raise _bad(path, f"column {name!r} does not hold {feature} ({_line(error)})") from None
    if values.shape[1:] != feature.shape:
        raise _bad(path, f"column {name!r} has {values.shape[1]} entries per frame, expected {feature}")
    return values


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _bad(path: Path, what: str) -> UserError:
    return UserError(f"{path}: {what}; the dataset is damaged, restore that file or record again")
