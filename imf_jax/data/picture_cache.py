"""Pictures of a dataset in the size that a policy reads, decoded and resized once into a file beside it.

`<dataset>/pictures_<source>_<content>.npy` holds uint8 (N, C, H, W, 3), all steps in order; the first part of its name
tells cameras and size, the second the content of the dataset. Threads decode episodes side by side, and each picture is
written to its place at once, so that memory does not grow with the dataset.
"""

import hashlib
import os
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from imf_jax.cores import usable_cores
from imf_jax.data.pictures import PictureFolder
from imf_jax.errors import UserError
from imf_jax.files import atomic_write

VERSION = 1
"""Raised when pictures are resized otherwise, so that old caches are not used."""

DIGITS = 16

HEADROOM = 0.9
"""Share of the free disk that a cache may take."""


class PictureRows(Protocol):
    """Interface of the pictures of all steps: an array uint8 (N, C, H, W, 3), or what reads its rows from a disk."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, C, H, W, 3)."""
        ...

    def __getitem__(self, rows: Any) -> np.ndarray: ...


class StoredPictures:
    """Pictures in a cache on the disk, of which rows are read as they are asked for.

    Args:
        path: of the cache.

    Raises:
        OSError: it cannot be opened.
        ValueError: it is no array.
    """

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            if np.lib.format.read_magic(file) != (1, 0):
                raise ValueError("it is of another version")
            shape, _, dtype = np.lib.format.read_array_header_1_0(file)
            self._start = file.tell()
        self.shape: tuple[int, ...] = shape
        self._row = int(np.prod(shape[1:]))
        if dtype != np.uint8 or path.stat().st_size != self._start + shape[0] * self._row:
            raise ValueError("it is cut off")
        self._descriptor = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._descriptor)

    def __getitem__(self, rows: Any) -> np.ndarray:
        """Rows of any numbers, int (...), as uint8 (..., C, H, W, 3)."""
        numbers = np.asarray(rows)
        found = np.empty((numbers.size, self._row), np.uint8)
        for place, number in enumerate(numbers.ravel()):
            os.preadv(self._descriptor, [found[place]], self._start + int(number) * self._row)
        return found.reshape(*numbers.shape, *self.shape[1:])


class SomeRows:
    """Some of the rows of pictures, counted anew.

    Args:
        pictures: of all steps.
        rows: int (M,) the steps that are kept.
    """

    def __init__(self, pictures: PictureRows, rows: np.ndarray) -> None:
        self._pictures, self._rows = pictures, rows
        self.shape = (len(rows), *pictures.shape[1:])

    def __getitem__(self, rows: Any) -> np.ndarray:
        """See `PictureRows`."""
        return self._pictures[self._rows[np.asarray(rows)]]


def cached_pictures(
    pictures: PictureFolder, on_progress: Callable[[int], None] = lambda steps: None
) -> tuple[StoredPictures, Path]:
    """The pictures of all steps from their cache, which is made if it is not there.

    Args:
        pictures: what to read.
        on_progress: called with the number of control steps that are written.

    Raises:
        UserError: a picture cannot be read, or the cache cannot be written.
    """
    path = _cache_path(pictures)
    if (stored := _stored(path)) is not None:
        return stored, path
    try:
        for stale in _others(path):
            stale.unlink()
        _require_room(path.parent, pictures)
        with atomic_write(path) as partial:
            _write(partial, pictures, on_progress)
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror}; make the folder writable or free space, or do without the cache "
            "with --picture-disk 0"
        ) from None
    return StoredPictures(path), path


def cache_fits(pictures: PictureFolder, budget: int | None) -> bool:
    """Whether the cache is there or the disk has room for it; `budget`: what it may take [bytes], None for any size."""
    if budget is not None and pictures.num_bytes > budget:
        return False
    path = _cache_path(pictures)
    replaced = sum(stale.stat().st_size for stale in _others(path))
    return _stored(path) is not None or pictures.num_bytes <= _room(path.parent) + replaced


def _cache_path(pictures: PictureFolder) -> Path:
    source = _hash(VERSION, pictures.sources, pictures.image_size)
    content = _hash(pictures.fingerprint, pictures.num_steps)
    folder = pictures.directory if pictures.directory.is_dir() else pictures.directory.parent
    return folder / f"pictures_{source}_{content}.npy"


def _stored(path: Path) -> StoredPictures | None:
    """A cache, or None where it is not there or damaged."""
    try:
        return StoredPictures(path)
    except (OSError, ValueError, KeyError):
        return None


def _others(path: Path) -> list[Path]:
    """What a cache replaces: those of the same cameras and size, but of another content, and itself."""
    return list(path.parent.glob(f"{path.stem.rpartition('_')[0]}_*.npy"))


def _write(path: Path, pictures: PictureFolder, on_progress: Callable[[int], None]) -> None:
    shape = (pictures.num_steps, *pictures.step_shape)
    size = int(np.prod(shape[2:]))
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        file.flush()
        start = file.tell()
        os.ftruncate(file.fileno(), start + int(np.prod(shape)))

        def put(step: int, camera: int, picture: np.ndarray) -> None:
            place = step * len(pictures.cameras) + camera
            os.pwrite(file.fileno(), np.ascontiguousarray(picture).data, start + place * size)

        _decode(pictures, put, on_progress)


def decoded_pictures(pictures: PictureFolder, on_progress: Callable[[int], None] = lambda steps: None) -> np.ndarray:
    """The pictures of all steps decoded into main memory, uint8 (N, C, H, W, 3), without a cache.

    Args:
        pictures: what to read; they fit in memory.
        on_progress: called with the number of control steps that are decoded.

    Raises:
        UserError: a picture cannot be read.
    """
    found = np.empty((pictures.num_steps, *pictures.step_shape), np.uint8)

    def put(step: int, camera: int, picture: np.ndarray) -> None:
        found[step, camera] = picture

    _decode(pictures, put, on_progress)
    return found


def _decode(
    pictures: PictureFolder, put: Callable[[int, int, np.ndarray], None], on_progress: Callable[[int], None]
) -> None:
    """Decode all pictures, episodes side by side; threads call `put` with step, camera and picture."""
    firsts = np.cumsum([0, *pictures.steps])

    def decode(index: int) -> int:
        for c in range(len(pictures.cameras)):
            for step, picture in enumerate(pictures.read_camera(index, c), int(firsts[index])):
                put(step, c, picture)
        return pictures.steps[index]

    with ThreadPoolExecutor(usable_cores()) as pool:
        tasks = [pool.submit(decode, index) for index in range(len(pictures.steps))]
        try:
            done = 0
            for task in as_completed(tasks):
                done += task.result()
                on_progress(done)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _require_room(folder: Path, pictures: PictureFolder) -> None:
    free = _room(folder)
    if pictures.num_bytes > free:
        raise UserError(
            f"pictures of {pictures.directory} take {pictures.num_bytes / 1e9:.1f} GB at {pictures.image_size} pixels, "
            f"but {folder} has room for {free / 1e9:.1f} GB; use fewer cameras, a smaller image size, or another disk"
        )


def _room(folder: Path) -> float:
    """What a cache may take on the disk of a folder [bytes]."""
    status = os.statvfs(folder)
    return HEADROOM * status.f_bavail * status.f_frsize


def _hash(*parts: Any) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:DIGITS]
