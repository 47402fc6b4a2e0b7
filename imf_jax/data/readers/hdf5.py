"""Reader of demonstrations in the layout of this project, see `imf_jax.data.episodes`."""

import hashlib
import json
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from imf_jax.config import PictureStyle, from_dict
from imf_jax.data.episodes import (
    ENV_STATE_UNIT,
    IMAGES,
    READ_ERRORS,
    Episode,
    list_episodes,
    read_episode,
)
from imf_jax.data.readers.base import Column, EpisodeInfo
from imf_jax.data.statistics import COLUMNS, FILE, DatasetStatistics, check_statistics, write_statistics
from imf_jax.errors import UserError, one_line
from imf_jax.files import read_failure

COLLECTION = "collection.json"
"""Settings of a collection of demonstrations, in its folder."""

REWARD = "reward"
"""Column of the reward after each command."""

BLOCK = 64
"""Pictures that are read at once."""


class Hdf5Reader:
    """A folder of demonstrations; see `DatasetReader`.

    Args:
        folder: with `episode_*.hdf5`.

    Raises:
        UserError: it holds none.
    """

    kind = "HDF5 demonstrations"
    fixed_size = True
    tasks = None
    robot = ""

    def __init__(self, folder: Path) -> None:
        self.path = folder
        self._paths = tuple(list_episodes(folder))
        self._last: tuple[int, Episode] | None = None

    def __len__(self) -> int:
        return len(self._paths)

    @cached_property
    def columns(self) -> dict[str, Column]:
        """Columns of the first episode that can be read."""
        episode = self._first()
        spaces = episode.spaces
        widths = {key: getattr(episode, name).shape[1] for key, name in COLUMNS.items()}
        names = {key: tuple(f"{key}{i}" for i in range(width)) for key, width in widths.items()} | {REWARD: (REWARD,)}
        units = {"env_state": ENV_STATE_UNIT}
        if spaces:
            names |= {"action": spaces.action_names, "qpos": spaces.state_names}
            units |= {"action": spaces.action_text, "qpos": spaces.state_text}
        return {key: Column(names[key], units.get(key, "")) for key in names}

    @property
    def roles(self) -> dict[str, tuple[str, ...]]:
        """The same in all files."""
        return {role: (key,) for key, role in COLUMNS.items()}

    @property
    def cameras(self) -> tuple[str, ...]:
        """Cameras of the first episode."""
        return self.info(0).cameras

    @property
    def style(self) -> PictureStyle | None:
        """As the collection of these demonstrations noted."""
        return recorded_style(self.path)

    def info(self, index: int) -> EpisodeInfo:
        """Description of an episode, whose columns are read and checked too."""
        episode, path = self._episode(index), self._paths[index]
        with _opened(path, "pictures cannot be read ({}); remove the file") as file:
            cameras = tuple(file.get(IMAGES, {}))
        return EpisodeInfo(
            path.name, episode.episode, len(episode), (episode.task,), episode.success, episode.control_hz, cameras,
            episode.spaces,
        )  # fmt: skip

    def read(self, index: int, names: Collection[str]) -> dict[str, np.ndarray]:
        """Columns of an episode, float32."""
        episode = self._episode(index)
        steps = len(episode)
        return {key: getattr(episode, COLUMNS.get(key, key)).reshape(steps, -1) for key in names}

    def timestamps(self, index: int) -> None:
        """None: steps are equally spaced."""

    def picture_size(self, index: int, camera: str) -> tuple[int, int]:
        """Height and width; the first and the last picture are read too, which shows that the file is whole."""
        path = self._paths[index]
        with _opened(path, "pictures cannot be read ({})") as file:
            data = _camera(path, file, camera)
            for step in (0, -1):
                data[step]
            return int(data.shape[1]), int(data.shape[2])

    def pictures(self, index: int, camera: str, start: int = 0, stop: int | None = None) -> Iterator[np.ndarray]:
        """Pictures, `BLOCK` of them read at once."""
        path = self._paths[index]
        with _opened(path, "the pictures cannot be read ({}); collect it again") as file:
            data = _camera(path, file, camera)
            stop = len(data) if stop is None else stop
            for first in range(start, stop, BLOCK):
                yield from data[first : min(first + BLOCK, stop)]

    def fingerprint(self, cameras: Sequence[str]) -> str:
        """Of the shape of all pictures, the bytes that they take in the file, compressed, and three of each camera."""
        digest = hashlib.sha256()
        for path in self._paths:
            with _opened(path, "pictures cannot be read ({}); collect it again") as file:
                for camera in cameras:
                    data = _camera(path, file, camera)
                    digest.update(repr((data.name, data.shape, data.id.get_storage_size())).encode())
                    for step in (0, len(data) // 2, len(data) - 1):
                        digest.update(data[step].tobytes())
        return digest.hexdigest()

    def check_statistics(self, found: DatasetStatistics) -> None:
        """Refuse a `stats.json` that does not fit."""
        check_statistics(self.path, found)

    def write_statistics(self) -> tuple[dict[str, dict[str, Any]], Path]:
        """Write `stats.json`."""
        return write_statistics(self.path).arrays, self.path / FILE

    def problems(self, index: int) -> list[str]:
        """None: an episode whose description can be read has been checked."""
        return []

    def dataset_problems(self) -> list[str]:
        """None."""
        return []

    def notes(self) -> list[str]:
        """None."""
        return []

    def _first(self) -> Episode:
        for index in range(len(self) - 1):
            try:
                return self._episode(index)
            except UserError:
                continue  # whoever reads that episode says so
        return self._episode(len(self) - 1)

    def _episode(self, index: int) -> Episode:
        if self._last is None or self._last[0] != index:
            self._last = index, read_episode(self._paths[index])
        return self._last[1]


def recorded_style(directory: Path) -> PictureStyle | None:
    """How the pictures in a folder of demonstrations were drawn; None if nobody says so, as in imported ones."""
    try:
        settings = json.loads((directory / COLLECTION).read_text(encoding="utf-8"))
        visual = {"visual": settings["visual"]} if "visual" in settings else {}  # older versions had whole meshes only
        return from_dict(PictureStyle, {"renderer": settings["renderer"], **visual})
    except (OSError, ValueError, TypeError, KeyError, UserError):
        return None


def _camera(path: Path, file: h5py.File, camera: str) -> h5py.Dataset:
    """The pictures of a camera.

    Raises:
        UserError: there are none, or of another form.
    """
    data = file.get(f"{IMAGES}/{camera}")
    if not isinstance(data, h5py.Dataset):
        has = ", ".join(file.get(IMAGES, {})) or "none"
        raise UserError(f"{path}: there are no pictures of camera {camera!r} (cameras: {has})")
    steps = len(file["action"])
    if data.dtype != np.uint8 or data.ndim != 4 or data.shape[0] != steps or data.shape[3] != 3 or 0 in data.shape:
        raise UserError(
            f"{path}: pictures of camera {camera!r} are {data.dtype} {data.shape}, expected uint8 ({steps}, H, W, 3)"
        )
    return data


@contextmanager
def _opened(path: Path, damage: str) -> Iterator[h5py.File]:
    """An opened file; what HDF5 raises over it becomes one line. `damage` names it, with {} for the reason."""
    try:
        with h5py.File(path, "r") as file:
            yield file
    except READ_ERRORS as error:
        raise read_failure(path, error, damage.format(one_line(error))) from error
