"""Export demonstrations (HDF5, one file per episode) as a LeRobot dataset, one picture in memory at a time."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py

from imf_jax.config import require
from imf_jax.data.episodes import IMAGES as HDF5_IMAGES
from imf_jax.data.episodes import READ_ERRORS, Episode, list_episodes, read_episode
from imf_jax.data.lerobot import features as names
from imf_jax.data.lerobot.features import Feature, robot_features
from imf_jax.data.lerobot.writer import LeRobotWriter
from imf_jax.errors import ArgumentError, UserError, one_line
from imf_jax.files import read_failure
from imf_jax.spaces import RobotSpaces


class UnusableDemonstration(UserError):
    """One demonstration cannot be exported; the others can."""


@dataclass(frozen=True)
class ExportSummary:
    """Result of an export: episodes and frames written, and one line for each episode that was left out."""

    episodes: int
    frames: int
    refused: tuple[str, ...]


def export_demonstrations(
    source: Path,
    target: Path,
    *,
    spaces_of: Callable[[str], RobotSpaces | None] = lambda task: None,
    cameras: tuple[str, ...] | None = None,
    on_episode: Callable[[int, int], None] = lambda done, total: None,
) -> ExportSummary:
    """Write a folder of demonstrations as a LeRobot dataset.

    Args:
        source: folder of demonstrations. The first one that can be read decides about cameras, sizes and frame rate.
        target: the dataset; must not exist or be empty.
        spaces_of: the robot of a task, for demonstrations that do not describe theirs.
        cameras: whose pictures are exported; None for all.
        on_episode: called with the number of files that were read, and of all.

    Raises:
        ArgumentError: the target is taken, or there are no pictures of a camera.
        UserError: the source holds no demonstration that can be read, or the disk is full.
    """
    paths = list_episodes(source)
    refused: list[str] = []
    writer: LeRobotWriter | None = None
    try:
        for done, path in enumerate(paths):
            on_episode(done, len(paths))
            try:
                episode = _read(path)
                spaces = episode.spaces or spaces_of(episode.task)
                if spaces is None:
                    raise UnusableDemonstration(
                        f"{path} does not describe its robot, and task {episode.task} is not known"
                    )
                fps, features = _form(path, episode, spaces, cameras)
                if writer is None:
                    writer = LeRobotWriter.create(target, features, fps, robot_type=spaces.name)
                if (fps, features) != (writer.fps, writer.recorded):
                    raise UnusableDemonstration(
                        f"{path}: has other cameras, sizes, scene state or control rate than the first episode"
                    )
                constants = {names.SUCCESS: episode.success, names.SEED: episode.seed, names.SCENE: episode.episode}
                writer.add_episode(episode.task, _frames(path, episode, features), constants)
            except (UnusableDemonstration, ArgumentError) as error:
                if writer is None and isinstance(error, ArgumentError):
                    raise  # the first demonstration tells whether the arguments fit
                refused.append(str(error))
        on_episode(len(paths), len(paths))
        if writer is None:
            raise UserError(f"{source} holds no demonstration that can be exported; the first: {refused[0]}")
        return ExportSummary(writer.num_episodes, writer.num_frames, tuple(refused))
    finally:
        if writer is not None:
            writer.finish()


def _read(path: Path) -> Episode:
    try:
        return read_episode(path)
    except UserError as error:
        raise UnusableDemonstration(str(error)) from error


def _form(
    path: Path, episode: Episode, spaces: RobotSpaces, cameras: tuple[str, ...] | None
) -> tuple[int, dict[str, Feature]]:
    """Frames per second and features of a demonstration."""
    fps = round(episode.control_hz)
    if fps < 1 or abs(fps - episode.control_hz) > 1e-6:
        raise UnusableDemonstration(
            f"{path}: control_hz is {episode.control_hz}, but LeRobot counts whole frames per second"
        )
    with _opened(path) as file:
        stored = file.get(HDF5_IMAGES, {})
        found = {camera: (*data.shape, data.dtype.name) for camera, data in stored.items()}
    wanted = tuple(found) if cameras is None else cameras
    absent = [camera for camera in wanted if camera not in found]
    require(
        not absent, f"{path} has no pictures of {absent}; it has {sorted(found) or 'none'}, choose --cameras of these"
    )
    for camera in wanted:
        if len(found[camera]) != 5 or (found[camera][0], *found[camera][3:]) != (len(episode), 3, "uint8"):
            raise UnusableDemonstration(
                f"{path}: pictures of {camera!r} are {found[camera]}, expected ({len(episode)}, H, W, 3, 'uint8')"
            )
    sizes = {camera: (int(found[camera][1]), int(found[camera][2])) for camera in wanted}
    return fps, robot_features(spaces, sizes, episode.env_state.shape[1])


def _frames(path: Path, episode: Episode, features: dict[str, Feature]) -> Iterator[dict[str, Any]]:
    cameras = [name for name in features if name.startswith(names.IMAGES)]
    with _opened(path) as file:
        pictures = {name: file[f"{HDF5_IMAGES}/{name.removeprefix(names.IMAGES)}"] for name in cameras}
        for step in range(len(episode)):
            frame: dict[str, Any] = {
                names.STATE: episode.state[step],
                names.ACTION: episode.action[step],
                names.REWARD: episode.reward[step],
                names.INTERVENTION: False,
            }
            if names.ENV_STATE in features:
                frame[names.ENV_STATE] = episode.env_state[step]
            try:
                frame |= {name: data[step] for name, data in pictures.items()}
            except READ_ERRORS as error:
                damage = f"pictures of step {step} cannot be read ({one_line(error)}); remove the file"
                raise UnusableDemonstration(str(read_failure(path, error, damage))) from error
            yield frame


@contextmanager
def _opened(path: Path) -> Iterator[h5py.File]:
    try:
        with h5py.File(path, "r") as file:
            yield file
    except READ_ERRORS as error:
        damage = f"cannot be read as a demonstration ({one_line(error)}); remove the file"
        raise UnusableDemonstration(str(read_failure(path, error, damage))) from error
