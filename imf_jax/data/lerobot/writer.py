"""Write LeRobot v3.0 datasets frame by frame, so that a killed recording loses no finished episode.

    with LeRobotWriter.create(folder, robot_features({"front": (256, 256)}), fps=50) as writer:
        episode = writer.open_episode("transfer")           # any number may be open at once, one per scene
        episode.add({"observation.state": state, "action": action, ...})     # pictures go to the encoder at once
        writer.save(episode, {"success": True, "seed": 0, "scene": 7})       # or episode.discard()

An episode grows in a folder of its own, `.open/`. Saving it moves its files into place, each under a new name, and then
writes its row in `meta/episodes/`: with that row it exists. Totals and statistics are written last; if the process
dies before, readers see the episodes that were counted, and `resume` counts the others.

Episodes are independent of each other: each may be fed and saved by a thread of its own, which encodes in parallel.
"""

import fcntl
import os
import shutil
import threading
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import reduce
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from imf_jax.config import require
from imf_jax.data.lerobot import layout
from imf_jax.data.lerobot.checks import require_free_space, require_settings
from imf_jax.data.lerobot.features import FRAME_FEATURES, Feature, differences
from imf_jax.data.lerobot.open_episode import FinishedEpisode, OpenEpisode
from imf_jax.data.lerobot.reader import is_dataset, open_dataset
from imf_jax.data.lerobot.statistics import Statistics, column_statistics, merge
from imf_jax.data.lerobot.tables import EpisodeRow
from imf_jax.errors import ArgumentError, UserError
from imf_jax.files import PARTIAL, put_in_place, write_json

LOCK = ".lock"

OPEN = ".open"
"""Folder in a dataset in which episodes grow."""

SAVING_SECONDS = 10.0
"""Seconds for which the end of a recording waits for an episode that another thread is saving [s]."""


class LeRobotWriter:
    """Writes a dataset; see the module. Make it with `create` or `resume`, end it with `finish` or as a context.

    Attributes:
        folder: the dataset.
        recorded: the features that the caller gives.
        features: those, and what the format itself wants.
        fps: frames per second.
        num_episodes: saved so far.
        num_frames: of the saved episodes.
        repaired: what `resume` had to mend, one line each.
    """

    def __init__(self, folder: Path, features: Mapping[str, Feature], fps: int, robot_type: str) -> None:
        self.folder = folder
        self.features = {**features, **FRAME_FEATURES}
        self.recorded = dict(features)
        self.fps = fps
        self.robot_type = robot_type
        self.num_episodes = 0
        self.num_frames = 0
        self.repaired: list[str] = []
        self._tasks: list[str] = []
        self._statistics: dict[str, Statistics] = {}
        self._open: list[OpenEpisode] = []
        self._numbers = dict.fromkeys(["data", "episodes", *self._cameras()], 0)
        self._lock = -1
        self._saving = threading.Lock()
        self._abandoned = False

    @classmethod
    def create(cls, folder: Path, features: Mapping[str, Feature], fps: int, *, robot_type: str) -> "LeRobotWriter":
        """Start a dataset.

        Args:
            folder: must not exist or be empty.
            features: of every frame, see `robot_features`.
            fps: frames per second.
            robot_type: name of the robot.

        Raises:
            ArgumentError: the folder is taken, or a setting cannot be used.
            UserError: the disk is nearly full or cannot be written.
        """
        require_settings(features, fps)
        require(
            not is_dataset(folder),
            f"{folder} already holds a dataset; choose another folder, or resume the recording in it",
        )
        require(not folder.exists() or folder.is_dir(), f"{folder} is a file; choose a folder for the dataset")
        taken = folder.is_dir() and any(path.name != LOCK for path in folder.iterdir())
        require(not taken, f"{folder} is not empty; choose another folder for the dataset")
        require_free_space(folder)
        writer = cls(folder, features, fps, robot_type)
        with writer.writing():
            (folder / "meta").mkdir(parents=True, exist_ok=True)
        writer._take_lock()
        writer._write_totals()
        return writer

    @classmethod
    def resume(
        cls, folder: Path, features: Mapping[str, Feature], fps: int, *, keep: int | None = None
    ) -> "LeRobotWriter":
        """Go on with a dataset; what a killed recording left behind is removed or counted first, see `repaired`.

        Args:
            folder: a dataset.
            features: of every frame; the same as those of the dataset.
            fps: likewise.
            keep: episodes to keep, of a dataset that was recorded here; those behind them are removed, to be recorded
                again. All by default.

        Raises:
            ArgumentError: there is no dataset, or it has other features or frames per second; both are named.
            UserError: it is damaged or being written by another process, or the disk is nearly full.
        """
        require_settings(features, fps)
        require(is_dataset(folder), f"{folder} holds no dataset to resume; create it first")
        dataset = open_dataset(folder)
        found = {name: feature for name, feature in dataset.features.items() if name not in FRAME_FEATURES}
        unlike = differences(found, features)
        if dataset.fps != fps:
            unlike.insert(0, f"fps is {dataset.fps} in the dataset and {fps} in the recording")
        require(not unlike, f"{folder} cannot be resumed: {'; '.join(unlike)}; record into another folder")
        standard = (layout.DATA, layout.VIDEO if dataset.cameras else dataset.paths[1])
        require(
            dataset.paths == standard, f"{folder} names its files otherwise and cannot be resumed; record elsewhere"
        )
        require_free_space(folder)
        writer = cls(folder, {name: features[name] for name in found}, fps, dataset.robot_type)
        writer._take_lock()
        try:
            kept, total = dataset.episodes[:keep], dataset.total_episodes
            if len(kept) < len(dataset.episodes):
                writer._remove(dataset.episodes[len(kept) :])
                total = min(total, len(kept))
            writer._take_over(kept, list(dataset.tasks), total)
        except BaseException:
            writer._release_lock()
            raise
        return writer

    def open_episode(self, task: str) -> OpenEpisode:
        """Begin an episode; any number may be open at once, they are numbered in the order in which they are saved.

        Args:
            task: what is done in it.
        """
        if self._is_over():
            raise ArgumentError(f"the recording into {self.folder} is finished; resume it to go on")
        folder = self.folder / OPEN / uuid.uuid4().hex
        with self.writing():
            folder.mkdir(parents=True)
        episode = OpenEpisode(folder, self.recorded, self.fps, task)
        self._open = [*(other for other in self._open if not other.closed), episode]
        return episode

    def save(self, episode: OpenEpisode, constants: Mapping[str, ArrayLike] | None = None, *, cut: bool = False) -> int:
        """Make an episode part of the dataset.

        Args:
            episode: made by `open_episode`.
            constants: the features that are per episode.
            cut: it ends before what it holds was over; a column of `meta/episodes/` says so.

        Returns:
            its number in the dataset.

        Raises:
            ArgumentError: the episode is empty, or a constant is absent, unknown or of another type.
            UserError: the disk is full; the dataset stays as it was.
        """
        number = self._commit(episode.finish(constants), cut=cut)
        episode.remove()
        return number

    def add_episode(
        self, task: str, frames: Iterable[Mapping[str, ArrayLike]], constants: Mapping[str, ArrayLike] | None = None
    ) -> int:
        """Record a whole episode, see `OpenEpisode`; returns its number."""
        episode = self.open_episode(task)
        try:
            for frame in frames:
                episode.add(frame)
            return self.save(episode, constants)
        finally:
            episode.discard()

    def finish(self) -> None:
        """Discard what is still open and let others write; does nothing the second time."""
        for episode in list(self._open):
            episode.discard()
        # As long as another thread hangs while it saves, nobody else may write; the end of the process unlocks, too.
        if self._lock >= 0 and self._saving.acquire(timeout=SAVING_SECONDS):
            shutil.rmtree(self.folder / OPEN, ignore_errors=True)
            self._release_lock()
            self._saving.release()

    def abandon(self) -> None:
        """Give up all episodes that are open and begin or save no other; `finish` comes next."""
        self._abandoned = True
        for episode in list(self._open):
            episode.abandon()

    def __enter__(self) -> "LeRobotWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.finish()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Turn a failure of the file system into one line for the user."""
        try:
            yield
        except OSError as error:
            reason = error.strerror or str(error)
            raise UserError(
                f"cannot write the dataset {self.folder} ({reason}); the {self.num_episodes} episodes in it are whole, "
                "free space and resume it"
            ) from None

    def _commit(self, finished: FinishedEpisode, *, cut: bool) -> int:
        """Put a finished episode in its place."""
        with self._saving:
            if self._is_over():
                raise UserError(
                    f"an episode came too late for {self.folder}, whose recording has finished; it is not kept"
                )
            episode = self.num_episodes
            tasks = self._tasks if finished.task in self._tasks else [*self._tasks, finished.task]
            counted = np.arange(finished.length)[:, None]
            columns = {
                **finished.columns,
                "timestamp": (counted / self.fps).astype(np.float32),
                "frame_index": counted,
                "episode_index": np.full_like(counted, episode),
                "index": self.num_frames + counted,
                "task_index": np.full_like(counted, tasks.index(finished.task)),
            }
            statistics = {
                name: finished.pictures[name] if name in finished.pictures else column_statistics(columns[name])
                for name in self.features
            }
            row = self._row(episode, finished.task, finished.length)
            with self.writing():
                for name, video in finished.videos.items():
                    path = self.folder / layout.file_path(layout.VIDEO, self._numbers[name], name)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    put_in_place(video, path)
                table = layout.frames_table(self.features, columns)
                layout.write_table(self.folder / layout.file_path(layout.DATA, self._numbers["data"]), table)
                if tasks is not self._tasks:
                    layout.write_table(self.folder / layout.TASKS, layout.tasks_table(tasks))
                row_path = self.folder / layout.file_path(layout.EPISODES, self._numbers["episodes"])
                layout.write_table(row_path, layout.episode_table(row, statistics, cut=cut))
            self._count(finished.length, tasks, statistics)
            self._write_totals()
            return episode

    def _is_over(self) -> bool:
        return self._abandoned or self._lock < 0

    def _cameras(self) -> list[str]:
        return [name for name, feature in self.features.items() if feature.dtype == "video"]

    def _row(self, episode: int, task: str, length: int) -> dict[str, Any]:
        row: dict[str, Any] = {"episode_index": episode, "tasks": [task], "length": length}
        row |= {"dataset_from_index": self.num_frames, "dataset_to_index": self.num_frames + length}
        places = {"data": "data", "episodes": "meta/episodes"}
        places |= {camera: f"videos/{camera}" for camera in self._cameras()}
        for name, prefix in places.items():
            chunk, file = divmod(self._numbers[name], layout.FILES_PER_CHUNK)
            row |= {f"{prefix}/chunk_index": chunk, f"{prefix}/file_index": file}
        for camera in self._cameras():
            row |= {f"videos/{camera}/from_timestamp": 0.0, f"videos/{camera}/to_timestamp": length / self.fps}
        return row

    def _count(self, length: int, tasks: list[str], statistics: dict[str, Statistics]) -> None:
        self.num_episodes += 1
        self.num_frames += length
        self._tasks = tasks
        self._statistics = merge([self._statistics, statistics]) if self._statistics else statistics
        self._numbers = {name: number + 1 for name, number in self._numbers.items()}

    def _write_totals(self) -> None:
        totals = (self.num_episodes, self.num_frames, len(self._tasks))
        with self.writing():
            if self._statistics:
                layout.write_statistics(self.folder, self._statistics)
            write_json(self.folder / layout.INFO, layout.info_json(self.features, self.fps, self.robot_type, *totals))

    def _remove(self, episodes: tuple[EpisodeRow, ...]) -> None:
        """Remove the last episodes, newest first and its row before its frames: a kill leaves what `resume` mends."""
        with self.writing():
            for episode in reversed(episodes):
                (self.folder / layout.file_path(layout.EPISODES, episode.numbers["episodes"])).unlink()
                for path in (episode.data, *(video for video, _ in episode.videos.values())):
                    (self.folder / path).unlink(missing_ok=True)
        self.repaired.append(f"removed the last {len(episodes)} episodes, which are recorded again")

    def _take_over(self, episodes: tuple[EpisodeRow, ...], tasks: list[str], total: int) -> None:
        """Continue after these episodes, and mend what a killed recording left behind."""
        for episode in episodes:
            for path in (episode.data, *(video for video, _ in episode.videos.values())):
                if not (self.folder / path).is_file():
                    raise UserError(f"{self.folder / path} of episode {episode.index} is absent; restore that file")
        self.num_episodes = len(episodes)
        self.num_frames = sum(episode.length for episode in episodes)
        self._tasks = tasks
        self._numbers = {
            name: max((episode.numbers[name] for episode in episodes), default=-1) + 1 for name in self._numbers
        }
        if episodes:
            with_statistics = [episode.statistics for episode in episodes]
            if any(set(part) != set(self.features) for part in with_statistics):
                raise UserError(f"{self.folder}: episodes lack statistics, so it cannot be resumed; record elsewhere")
            self._statistics = reduce(lambda merged, part: merge([merged, part]), with_statistics)
        if (self.folder / OPEN).exists():
            shutil.rmtree(self.folder / OPEN, ignore_errors=True)
            self.repaired.append("removed episodes that were not saved")
        with self.writing():
            files = {layout.file_path(layout.EPISODES, episode.numbers["episodes"]) for episode in episodes}
            older = sum(layout.add_cut_column(self.folder / path) for path in sorted(files))
        if older:
            self.repaired.append(f"added the column {layout.CUT} to {older} files of meta/episodes that are older")
        for path in self._orphans():
            path.unlink()
            self.repaired.append(f"removed {path.relative_to(self.folder)}, which belongs to no episode")
        if total != self.num_episodes:
            self.repaired.append(f"counted {self.num_episodes} episodes where info.json said {total}")
        self._write_totals()

    def _orphans(self) -> list[Path]:
        """Files that were put in place for an episode that has no row."""
        found = list(self.folder.glob(f"**/.*{PARTIAL}"))
        for name, number in self._numbers.items():
            template = {"data": layout.DATA, "episodes": layout.EPISODES}.get(name, layout.VIDEO)
            path = self.folder / layout.file_path(template, number, name)
            found += [path] if path.exists() else []
        return found

    def _take_lock(self) -> None:
        with self.writing():
            self._lock = os.open(self.folder / LOCK, os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock)
            self._lock = -1
            raise UserError(f"another process is recording into {self.folder}; wait or choose another folder") from None

    def _release_lock(self) -> None:
        (self.folder / LOCK).unlink(missing_ok=True)
        os.close(self._lock)
        self._lock = -1
