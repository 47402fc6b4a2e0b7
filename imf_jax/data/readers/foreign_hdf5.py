"""What readers of HDF5 files by others share: columns are all datasets of numbers with a row per step.

Nothing in such a file is trusted: no link is followed, nothing huge is unpacked.
"""

import hashlib
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from imf_jax.data.act_pictures import JpegOrder, find_camera, iterate_pictures
from imf_jax.data.act_reader import labelled_success
from imf_jax.data.compressed import LARGEST_SIDE
from imf_jax.data.episodes import READ_ERRORS
from imf_jax.data.readers.base import Column, EpisodeInfo
from imf_jax.data.untrusted_hdf5 import Refused, find_dataset, find_node, require_size
from imf_jax.errors import UserError, one_line
from imf_jax.files import read_failure

DEPTH = 3
"""Groups within groups in which columns are looked for."""


class Place(NamedTuple):
    """Where an episode is: a group of a file."""

    name: str
    number: int
    path: Path
    group: str


class ForeignHdf5Reader:
    """HDF5 files by others; see `DatasetReader`. Subclasses say where episodes, actions and cameras are.

    Args:
        path: of the dataset, for messages.
        places: of its episodes.
        jpeg_order: of the channels of compressed pictures.

    Attributes:
        action: column of the actions, which also tells the number of steps.
        hz: control steps per second by the convention of the format; None without one.
    """

    kind: str
    action: str
    robot = ""
    fixed_size = False
    style = None
    tasks: tuple[str, ...] | None = ()
    hz: float | None = None

    def __init__(self, path: Path, places: Sequence[Place], jpeg_order: JpegOrder = "opencv") -> None:
        self.path = path
        self.places = tuple(places)
        self._jpeg_order = jpeg_order

    def __len__(self) -> int:
        return len(self.places)

    def camera_keys(self, group: h5py.Group, steps: int) -> dict[str, str]:
        """Cameras of an episode -> keys of their pictures in its group."""
        raise NotImplementedError

    @property
    def roles(self) -> dict[str, tuple[str, ...]]:
        """Role -> its columns."""
        raise NotImplementedError

    def entry_names(self, name: str, width: int) -> tuple[str, ...]:
        """Names of the entries of a column."""
        return tuple(f"{name}{i}" for i in range(width))

    @cached_property
    def columns(self) -> dict[str, Column]:
        """Columns of the first episode that can be read."""
        for index in range(len(self)):
            try:
                with self._opened(index) as (group, steps):
                    widths = dict(_widths(group, steps))
                    return {name: Column(self.entry_names(name, width)) for name, width in sorted(widths.items())}
            except UserError:
                if index + 1 == len(self):
                    raise
        return {}

    @cached_property
    def cameras(self) -> tuple[str, ...]:
        """Cameras of the first episode that can be read."""
        for index in range(len(self)):
            try:
                return self.info(index).cameras
            except UserError:
                if index + 1 == len(self):
                    raise
        return ()

    def info(self, index: int) -> EpisodeInfo:
        """Description of an episode."""
        place = self.places[index]
        with self._opened(index) as (group, steps):
            success, cameras = labelled_success(group, steps, []), tuple(self.camera_keys(group, steps))
        return EpisodeInfo(place.name, place.number, steps, (), success, self.hz, cameras)

    def read(self, index: int, names: Collection[str]) -> dict[str, np.ndarray]:
        """Columns of an episode, in their own types."""
        with self._opened(index) as (group, steps):
            return {name: _values(group, name, steps) for name in names}

    def timestamps(self, index: int) -> None:
        """None: the formats have none."""

    def picture_size(self, index: int, camera: str) -> tuple[int, int]:
        """Height and width of the first picture."""
        height, width, _ = next(self.pictures(index, camera, 0, 1)).shape
        return height, width

    def pictures(self, index: int, camera: str, start: int = 0, stop: int | None = None) -> Iterator[np.ndarray]:
        """Pictures, raw or compressed."""
        with self._opened(index) as (group, steps):
            keys = self.camera_keys(group, steps)
            if camera not in keys:
                raise Refused(f"there are no pictures of camera {camera!r} (cameras: {', '.join(keys) or 'none'})")
            yield from iterate_pictures(group, keys[camera], steps, self._jpeg_order, start, stop)

    def fingerprint(self, cameras: Sequence[str]) -> str:
        """Of the form of all pictures, the bytes that they take, and the first of each camera and episode."""
        digest = hashlib.sha256(self._jpeg_order.encode())
        for index, place in enumerate(self.places):
            for camera in cameras:
                with self._opened(index) as (group, steps):
                    data = find_camera(group, self.camera_keys(group, steps).get(camera, camera), steps)
                    digest.update(repr((place.name, camera, data.shape, data.id.get_storage_size())).encode())
                digest.update(next(self.pictures(index, camera, 0, 1)).tobytes())
        return digest.hexdigest()

    def check_statistics(self, found: Any) -> None:
        """Nothing: the formats store none."""

    def write_statistics(self) -> tuple[dict[str, dict[str, Any]], Path]:
        """Refused: the formats store none."""
        raise UserError(f"{self.path}: {self.kind} store no statistics; training computes them by itself")

    def problems(self, index: int) -> list[str]:
        """None besides what `info`, `read` and `picture_size` raise."""
        return []

    def dataset_problems(self) -> list[str]:
        """None."""
        return []

    def notes(self) -> list[str]:
        """None."""
        return []

    @contextmanager
    def _opened(self, index: int) -> Iterator[tuple[h5py.Group, int]]:
        """The group of an episode and its steps; what is wrong becomes one line with the name of the file."""
        place = self.places[index]
        where = f"{place.path}: {place.group}: " if place.group else f"{place.path}: "
        try:
            with h5py.File(place.path, "r") as file:
                group = find_node(file, place.group) if place.group else file
                if not isinstance(group, h5py.Group):
                    raise Refused("there is no such episode")
                action = find_dataset(group, self.action)
                if action is None or action.ndim != 2 or 0 in action.shape:
                    raise Refused(f"'{self.action}' is missing or has no steps")
                yield group, len(action)
        except Refused as error:
            raise UserError(f"{where}{error}") from None
        except READ_ERRORS as error:
            raise read_failure(place.path, error, f"cannot be read ({one_line(error)}); restore it") from error


def _widths(group: h5py.Group, steps: int, prefix: str = "", depth: int = DEPTH) -> Iterator[tuple[str, int]]:
    """Names and widths of the datasets of numbers with a row per step."""
    for name in group:
        link = group.get(name, getlink=True)
        if not isinstance(link, h5py.HardLink):
            continue
        node = group[name]
        if isinstance(node, h5py.Group):
            if depth:
                yield from _widths(node, steps, f"{prefix}{name}/", depth - 1)
            continue
        try:
            dataset = find_dataset(group, name)
        except Refused:
            continue
        if dataset is not None and dataset.dtype.kind in "fiub" and dataset.ndim in (1, 2) and len(dataset) == steps:
            width = dataset.shape[1] if dataset.ndim == 2 else 1
            if 0 < width <= LARGEST_SIDE and not _is_bytes(dataset):
                yield f"{prefix}{name}", width


def _is_bytes(dataset: h5py.Dataset) -> bool:
    """Whether rows are compressed pictures, padded with zeros."""
    return dataset.ndim == 2 and dataset.dtype.kind in "ui" and dataset.dtype.itemsize == 1


def _values(group: h5py.Group, name: str, steps: int) -> np.ndarray:
    dataset = find_dataset(group, name)
    if dataset is None:
        raise Refused(f"'{name}' is missing")
    if dataset.dtype.kind not in "fiub" or dataset.ndim not in (1, 2) or len(dataset) != steps:
        raise Refused(f"'{name}' is {dataset.dtype} {dataset.shape}, expected numbers ({steps}, D)")
    require_size(dataset)
    return np.asarray(dataset[()]).reshape(steps, -1)
